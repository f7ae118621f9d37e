package coordinator

import (
	"testing"
	"testing/synctest"

	"github.com/penstock/penstock/broker/api"
)

// Offsets are told to a member in its own epoch and to whoever is none, not to one that
// was removed or speaks of another time. What a classic group has is told to all.
func TestWhoMayFetchOffsets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		fetch := func(group, member string, epoch int32) error {
			_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{
				Group: group, Partitions: []api.TopicPartition{{Topic: "a"}}, ByMember: true, MemberID: member, MemberEpoch: epoch,
			})
			return err
		}
		wantCode(t, fetch("g", "p", 1), api.CodeNone) // there is no such group, and nothing to tell
		p := &poller{b: b, id: "p"}
		if err := p.beat(t, true); err != nil {
			t.Fatal(err)
		}
		wantCode(t, fetch("g", "p", p.epoch), api.CodeNone)
		wantCode(t, fetch("g", "p", p.epoch+1), api.CodeStaleMemberEpoch)
		wantCode(t, fetch("g", "p", -1), api.CodeStaleMemberEpoch)
		wantCode(t, fetch("g", "q", p.epoch), api.CodeUnknownMember)
		fetchA(t, b.c, "g", 0)
		if d, err := b.c.DescribeGroup(t.Context(), "g"); err != nil || d.Epoch != p.epoch || d.AssignmentEpoch != p.epoch {
			t.Fatalf("%+v %v", d, err)
		}
		if _, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "g", MemberID: "p", MemberEpoch: api.EpochLeave}); err != nil {
			t.Fatal(err)
		}
		wantCode(t, fetch("g", "p", p.epoch), api.CodeUnknownMember)
		b.close()
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := &classicMember{b: b}
		together(t, m.join)
		together(t, m.sync)
		_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g", ByMember: true, MemberID: "q", MemberEpoch: 7})
		wantCode(t, err, api.CodeNone)
		b.close()
	})
}

// The generation -1 says that a commit is of no member, whatever id comes with it: an
// empty group takes it, one with members does not.
func TestCommitsFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		commit := adminCommit("g", 0, 5)
		commit.MemberID, commit.MemberEpoch = "somebody", -1
		mustCommit(t, b.c, commit)
		if got := fetchA(t, b.c, "g", 0); got != 5 {
			t.Fatal(got)
		}
		m := &classicMember{b: b}
		together(t, m.join)
		together(t, m.sync)
		_, err := b.c.CommitOffsets(t.Context(), commit)
		wantCode(t, err, api.CodeUnknownMember)
		commit.MemberID = m.id
		_, err = b.c.CommitOffsets(t.Context(), commit)
		wantCode(t, err, api.CodeIllegalGeneration)
		commit.MemberID = ""
		_, err = b.c.CommitOffsets(t.Context(), commit)
		wantCode(t, err, api.CodeGroupNotEmpty)
		b.close()
	})
}
