package coordinator

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// give puts a placeholder in the place of a batch of the log.
func (l *fakeLog) give(tb testing.TB, i int, at time.Time) {
	tb.Helper()
	l.set(func() {
		info, _ := record.Peek(l.batches[i])
		b, err := record.BuildPlaceholder(info.Size, info.BaseOffset, info.NextOffset(), info.Epoch, at.UnixMilli())
		if err != nil {
			tb.Fatal(err)
		}
		l.batches[i] = b
	})
}

func fetchOfA(tb testing.TB, c *Coordinator, group string, partitions ...int32) ([]record.Offset, error) {
	tb.Helper()
	req := &api.FetchOffsets{Group: group}
	for _, p := range partitions {
		req.Partitions = append(req.Partitions, api.TopicPartition{Topic: "a", Partition: p})
	}
	found, err := c.FetchOffsets(tb.Context(), req)
	var out []record.Offset
	for _, o := range found {
		out = append(out, o.Offset)
	}
	return out, err
}

// Where records of a partition were given up, an offset that is known is told, be it an older
// one; that none is committed is not, of any group, until it was set, or would have expired.
func TestOffsetsThatMayBeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("old", 0, 5))
		mustCommit(t, b.c, adminCommit("old", 0, 9))
		mustCommit(t, b.c, adminCommit("gone", 0, 7))
		mustCommit(t, b.c, adminCommit("old", 1, 3))
		if n := b.c.Incomplete(); n != 0 {
			t.Fatalf("%d partitions lack records before any was lost", n)
		}
		b.close()
		b.log.give(t, 1, time.Now())
		b.log.give(t, 2, time.Now())
		b.c = b.start()
		synctest.Wait()
		if n := b.c.Incomplete(); n != 1 {
			t.Errorf("%d partitions lack records", n)
		}
		told := func(want string, group string, partitions ...int32) {
			t.Helper()
			found, err := fetchOfA(t, b.c, group, partitions...)
			if got := fmt.Sprint(found); err != nil || got != want {
				t.Errorf("%s has %s, %v; want %s", group, got, err, want)
			}
		}
		refused := func(group string, partitions ...int32) {
			t.Helper()
			found, err := fetchOfA(t, b.c, group, partitions...)
			if api.CodeOf(err) != api.CodeCoordinatorNotAvailable || !strings.Contains(err.Error(), "penstock group reset "+group) {
				t.Errorf("%s has %v, %v: what it had may have been lost", group, found, err)
			}
		}
		told("[5 3]", "old", 0, 1)
		told("[5 3]", "old") // all there is
		refused("old", 0, 2)
		refused("gone", 0)
		refused("new", 0)
		if _, err := b.c.DescribeGroup(t.Context(), "gone"); api.CodeOf(err) != api.CodeUnknownGroup || !strings.Contains(err.Error(), "given up") {
			t.Errorf("the group that is gone: %v", err)
		}
		if _, err := b.c.ResetOffsets(t.Context(), "gone", adminCommit("gone", 0, 2).Offsets, false); err != nil {
			t.Fatal(err)
		}
		told("[2]", "gone", 0)
		mustCommit(t, b.c, adminCommit("new", 0, 1))
		told("[1]", "new", 0)

		time.Sleep(7*24*time.Hour - time.Hour)
		refused("newer", 0)
		time.Sleep(2 * time.Hour)
		told("[-1]", "newer", 0)
		b.close()
		b.c = b.start()
		synctest.Wait()
		told("[-1]", "newer", 0)
		if n := b.c.Incomplete(); n != 0 {
			t.Errorf("%d partitions lack records that would count", n)
		}
		b.close()
	})
}

// Whichever batch of a group's life is lost, its members come to rest, each partition with one
// of them, and no member is given anything in an epoch behind its own.
func TestGroupsThatLostWhatTheyDecided(t *testing.T) {
	for lost := range 40 {
		done := false
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			synctest.Wait()
			var members []*member
			for range 3 {
				members = append(members, b.member(api.JoinGroup{}).start())
				time.Sleep(5 * time.Second)
			}
			members[0].cut()
			time.Sleep(time.Minute)
			b.close()
			for _, m := range members {
				<-m.done
			}
			n := 0
			b.log.set(func() { n = len(b.log.batches) })
			if done = lost >= n; done {
				return
			}
			b.log.give(t, lost, time.Now())
			b.c = b.start()
			synctest.Wait()
			if d, err := b.c.DescribeGroup(t.Context(), "g"); err == nil {
				for _, m := range d.Members {
					if m.MemberEpoch > d.Epoch {
						t.Errorf("batch %d of %d lost: loaded with a member in epoch %d, the group in %d", lost, n, m.MemberEpoch, d.Epoch)
					}
				}
			}
			for i := range members[1:] {
				m := members[1+i].resume(b.c)
				synctest.Wait()
				select {
				case <-m.done: // it is not known any more
					m = b.member(api.JoinGroup{}).start()
				default:
				}
				members[1+i] = m
			}
			time.Sleep(3 * time.Minute)
			owned := map[int32]int{}
			for _, m := range members[1:] {
				select {
				case <-m.done:
					t.Errorf("batch %d: a member ended: %v", lost, m.err)
				default:
				}
				for _, p := range m.last().Assignment {
					owned[p.Partition]++
				}
			}
			if fmt.Sprint(owned) != "map[0:1 1:1 2:1 3:1]" {
				t.Errorf("batch %d of %d lost: the partitions are with %v", lost, n, owned)
			}
			d, err := b.c.DescribeGroup(t.Context(), "g")
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range d.Members {
				if m.MemberEpoch > d.Epoch {
					t.Errorf("batch %d of %d lost: a member is in epoch %d, the group in %d", lost, n, m.MemberEpoch, d.Epoch)
				}
			}
			for _, m := range members[1:] {
				m.cut()
			}
			b.close()
		})
		if done {
			if lost < 5 {
				t.Fatalf("%d batches in all", lost)
			}
			return
		}
	}
}

// A group whose last epoch was lost goes on in that of its member that is farthest: no epoch
// is given out twice.
func TestAGroupIsNotBehindItsMembers(t *testing.T) {
	lg := &loadedGroup{
		epoch: 3, hash: 1, target: 3, members: map[string]consumergroup.Member{"m": {ID: "m"}, "n": {ID: "n"}},
		currents: map[string]*storedCurrent{"m": {epoch: 5}, "n": {epoch: 2}},
	}
	s := &shard{cfg: &Config{SessionTimeout: time.Minute, RebalanceTimeout: time.Minute}}
	if got := s.stored(lg, nil).Epoch; got != 5 {
		t.Errorf("epoch %d", got)
	}
}
