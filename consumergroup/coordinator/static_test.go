package coordinator

import (
	"slices"
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

// A static member that asks request by request (KIP-848) is restarted under a new member
// id: it has the place of the one before, whether that one left for a while or lives on,
// and nobody else notices. The older one hears of it whatever it says: told that it is not
// known, it would join anew and take the place back, and so on.
func TestStaticMembersThatAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		settle := func(all ...*poller) {
			t.Helper()
			for range 3 {
				for _, p := range all {
					must(p.beat(t, false))
				}
			}
		}
		other := &poller{b: b, id: "o"}
		first := &poller{b: b, id: "p1", instance: "i"}
		must(first.beat(t, true))
		must(other.beat(t, true))
		settle(first, other)
		place, theirs := first.owned, other.owned
		if len(place) != 2 || len(theirs) != 2 {
			t.Fatalf("%v and %v", place, theirs)
		}
		takesOver := func(id string) *poller {
			t.Helper()
			p := &poller{b: b, id: id, instance: "i"}
			must(p.beat(t, true))
			settle(p, other)
			if !slices.Equal(p.owned, place) || !slices.Equal(other.owned, theirs) {
				t.Fatalf("%s has %v of %v, the other one %v of %v", id, p.owned, place, other.owned, theirs)
			}
			return p
		}

		second := takesOver("p2") // while the first lives
		for _, full := range []bool{false, true} {
			wantCode(t, first.beat(t, full), api.CodeFencedInstanceID)
		}
		_, err := b.c.CommitOffsets(t.Context(), &api.CommitOffsets{
			Group: "g", MemberID: "p1", InstanceID: "i", MemberEpoch: first.epoch, Offsets: []api.OffsetCommit{{TopicPartition: place[0].TopicPartition, Offset: 3}},
		})
		wantCode(t, err, api.CodeFencedInstanceID)
		for _, epoch := range []int32{api.EpochLeave, api.EpochLeaveStatic} {
			first.epoch = epoch
			wantCode(t, first.beat(t, false), api.CodeFencedInstanceID)
		}
		settle(second, other)

		second.epoch = api.EpochLeaveStatic
		must(second.beat(t, false))
		if second.epoch != api.EpochLeaveStatic {
			t.Fatalf("the answer to a leave carries epoch %d", second.epoch)
		}
		settle(other)
		third := takesOver("p3")
		wantCode(t, second.beat(t, false), api.CodeFencedInstanceID)

		// The place is kept for a session, no longer.
		third.epoch = api.EpochLeaveStatic
		must(third.beat(t, false))
		for range 5 {
			time.Sleep(3 * time.Second)
			must(other.beat(t, false))
		}
		if settle(other); len(other.owned) != 4 {
			t.Fatalf("the place is kept: %v", other.owned)
		}
		fourth := &poller{b: b, id: "p4", instance: "i"}
		must(fourth.beat(t, true))
		settle(other, fourth)
		if len(fourth.owned) != 2 || len(other.owned) != 2 {
			t.Fatalf("%v and %v", fourth.owned, other.owned)
		}
		// Who leaves for good keeps none.
		fourth.epoch = api.EpochLeave
		must(fourth.beat(t, false))
		if settle(other); len(other.owned) != 4 {
			t.Fatalf("the place is kept: %v", other.owned)
		}
		wantCode(t, (&poller{b: b, id: "p4", instance: "i", epoch: 7}).beat(t, false), api.CodeUnknownMember)
		wantCode(t, (&poller{b: b, id: "o", instance: "i", epoch: other.epoch}).beat(t, false), api.CodeUnknownMember)
		b.close()
	})
}
