package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
)

// Of two live members of one static id the newer has the place: the older one's session
// ends with a code of its own, and nothing that it commits is stored.
func TestTwoLiveMembersOfOneStaticID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		older := b.member(api.JoinGroup{InstanceID: "i"}).start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(older, 0, 5))
		owned := older.last().Assignment
		if len(owned) == 0 {
			t.Fatal("it owns nothing")
		}
		newer := b.member(api.JoinGroup{InstanceID: "i"}).start()
		<-older.done
		wantCode(t, older.err, api.CodeFencedInstanceID)
		time.Sleep(time.Second)
		if got := newer.last().Assignment; len(got) != len(owned) {
			t.Fatalf("the newer one has %v, the older one had %v", got, owned)
		}
		late := commitOf(older, 0, 4)
		_, err := b.c.CommitOffsets(t.Context(), late)
		wantCode(t, err, api.CodeUnknownMember) // it names no instance, as calls of gRPC do
		late.InstanceID = "i"
		_, err = b.c.CommitOffsets(t.Context(), late)
		wantCode(t, err, api.CodeFencedInstanceID)
		// With the identity that it had it does not come back, and the newer one stays.
		again := older.resume(b.c)
		<-again.done
		wantCode(t, again.err, api.CodeUnknownMember)
		mustCommit(t, b.c, commitOf(newer, 0, 6))
		if got := fetchA(t, b.c, "g", 0); got != 6 {
			t.Fatal(got)
		}
		newer.cut()
		b.close()
	})
}
