package coordinator

import (
	"testing"
	"testing/synctest"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func mustDelete(t *testing.T, c *Coordinator, group string, partitions ...api.TopicPartition) []*api.Error {
	t.Helper()
	errs, err := c.DeleteOffsets(t.Context(), group, partitions)
	if err != nil || len(errs) != len(partitions) {
		t.Fatalf("%v %v", errs, err)
	}
	return errs
}

// Offsets that were deleted are gone, also for the next coordinator, and a commit
// after it counts again.
func TestOffsetsAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		_, err := b.c.DeleteOffsets(t.Context(), "g", []api.TopicPartition{{Topic: "a"}})
		wantCode(t, err, api.CodeUnknownGroup)
		mustCommit(t, b.c, adminCommit("g", 0, 1))
		mustCommit(t, b.c, adminCommit("g", 1, 2))
		mustCommit(t, b.c, adminCommit("g", 2, 3))
		for _, e := range mustDelete(t, b.c, "g", api.TopicPartition{Topic: "a", Partition: 0}, api.TopicPartition{Topic: "a", Partition: 3}, api.TopicPartition{Topic: "a", Partition: 1}) {
			if e != nil {
				t.Fatal(e)
			}
		}
		if e := mustDelete(t, b.c, "g", api.TopicPartition{Topic: "a", Partition: 4})[0]; e == nil || e.Code != api.CodeUnknownPartition {
			t.Fatal(e)
		}
		mustCommit(t, b.c, adminCommit("g", 1, 7))
		for range 2 {
			if p0, p1, p2 := fetchA(t, b.c, "g", 0), fetchA(t, b.c, "g", 1), fetchA(t, b.c, "g", 2); p0 != record.UnknownOffset || p1 != 7 || p2 != 3 {
				t.Fatalf("%d, %d and %d", p0, p1, p2)
			}
			b.close()
			b.c = b.start()
			synctest.Wait()
		}
		b.close()
	})
}

// A deletion that comes while a commit is on its way to the log covers it.
func TestDeletionCoversCommitsOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 1, 1))
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		done := make(chan struct{}, 2)
		go func() {
			mustCommit(t, b.c, adminCommit("g", 0, 5))
			done <- struct{}{}
		}()
		synctest.Wait()
		go func() {
			mustDelete(t, b.c, "g", api.TopicPartition{Topic: "a"})
			done <- struct{}{}
		}()
		synctest.Wait()
		b.log.set(func() { b.log.hold = nil })
		close(hold)
		<-done
		<-done
		if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
			t.Fatalf("it is %d", got)
		}
		b.close()
	})
}

// What members subscribe to stays, in both protocols.
func TestOffsetsOfSubscribedTopicsStay(t *testing.T) {
	both := []api.TopicPartition{{Topic: "a"}, {Topic: "b"}}
	commitBoth := func(t *testing.T, b *bed, group string) {
		t.Helper()
		mustCommit(t, b.c, adminCommit(group, 0, 1))
		ofB := adminCommit(group, 0, 2)
		ofB.Offsets[0].Topic = "b"
		mustCommit(t, b.c, ofB)
	}
	check := func(t *testing.T, b *bed, group string) {
		t.Helper()
		errs := mustDelete(t, b.c, group, both...)
		if errs[0] == nil || errs[0].Code != api.CodeGroupNotEmpty || errs[1] != nil {
			t.Fatalf("%v", errs)
		}
		left, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: group, Partitions: both})
		if err != nil || left[0].Offset != 1 || left[1].Offset != record.UnknownOffset {
			t.Fatalf("%+v %v", left, err)
		}
	}
	t.Run("consumer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			synctest.Wait()
			commitBoth(t, b, "g")
			m := b.member(api.JoinGroup{Group: "g"}).start()
			synctest.Wait()
			check(t, b, "g")
			m.cut()
			b.close()
		})
	})
	t.Run("classic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			synctest.Wait()
			commitBoth(t, b, "g")
			m := &classicMember{b: b}
			together(t, m.join)
			check(t, b, "g") // also while it is to be given something
			b.close()
		})
	})
	t.Run("another protocol type", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			synctest.Wait()
			commitBoth(t, b, "g")
			req := &api.ClassicJoin{
				Group: "g", ClientID: "c", ProtocolType: "connect", SessionTimeout: 10_000, RebalanceTimeout: 60_000,
				Protocols: []api.ClassicProtocol{{Name: "default", Metadata: []byte{1}}},
			}
			if _, err := b.c.JoinClassic(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			_, err := b.c.DeleteOffsets(t.Context(), "g", both)
			wantCode(t, err, api.CodeGroupNotEmpty)
			b.close()
		})
	})
}
