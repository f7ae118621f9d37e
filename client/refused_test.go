package client

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// A member that is refused for good drops what it owned, for others will own it; it says
// so with every Poll, and nothing of it goes on.
func TestRefusedForGoodOwnsNothing(t *testing.T) {
	for _, code := range []pb.ErrorCode{
		pb.ErrorCode_ERROR_CODE_TOO_MANY_SUBSCRIPTIONS, pb.ErrorCode_ERROR_CODE_GROUP_FULL,
		pb.ErrorCode_ERROR_CODE_INCONSISTENT_PROTOCOL, pb.ErrorCode_ERROR_CODE_UNSUPPORTED, pb.ErrorCode_ERROR_CODE_FENCED_INSTANCE_ID,
	} {
		t.Run(Code(code).String(), func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			c.fill(tp("t", 0), "before", 3, 1)
			var ev events
			k := newTestConsumer(t, newTestClient(t, c), groupOpts(append(ev.opts("k"), WithManualCommit())...)...)
			p, err := k.Poll(deadline(t))
			require.NoError(t, err)
			var last Record
			for r := range p.All() {
				last = *r
			}
			c.group.refuse("m1", code)
			require.Eventually(t, func() bool { return slices.Contains(ev.all(), "k lost [t-0]") }, 5*time.Second, time.Millisecond)
			require.Empty(t, k.Assignment())
			c.fill(tp("t", 0), "after", 3, 1)
			for range 3 {
				_, err := k.Poll(deadline(t))
				require.Equal(t, Code(code), CodeOf(err))
			}
			for range k.Records(deadline(t)) {
				t.Error("a record")
			}
			require.Equal(t, Code(code), CodeOf(k.Err()))
			require.Equal(t, Code(code), CodeOf(k.CommitRecords(deadline(t), &last)), "who is in no group commits nothing to it")
			require.Equal(t, Code(code), CodeOf(k.Subscribe("t")))
			require.NoError(t, k.Close(deadline(t)))
			require.EqualValues(t, -1, c.group.offset(tp("t", 0)))
			require.Equal(t, []string{"k assigned [t-0]", "k lost [t-0]"}, ev.all())
		})
	}
}

// A join that is refused for good is an error of every Poll, and of commits.
func TestRefusedBeforeItWasAMember(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.group.mu.Lock()
	c.group.onJoin = func(*pb.JoinGroup) *pb.Error { return fakeError(pb.ErrorCode_ERROR_CODE_GROUP_FULL, false, false) }
	c.group.mu.Unlock()
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(WithManualCommit())...)
	for range 2 {
		_, err := k.Poll(deadline(t))
		require.Equal(t, CodeGroupFull, CodeOf(err))
	}
	require.Equal(t, CodeGroupFull, CodeOf(k.CommitRecords(deadline(t), &Record{Topic: "t", Offset: 3})))
	require.EqualValues(t, -1, c.group.offset(tp("t", 0)), "it must not commit like somebody from outside")
	id, epoch := k.Membership()
	require.Empty(t, id)
	require.EqualValues(t, -1, epoch)
}

// What comes and goes before it was taken over no callback hears of: OnRevoked names
// only what OnAssigned did.
func TestNothingIsRevokedThatWasNotAssigned(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(*Consumer, context.Context) error
		want []string
	}{
		"revoked": {
			func(*Consumer, context.Context) error { return nil },
			[]string{"k assigned [t-0]", "k assigned [t-3]", "k revoked [t-0]"},
		},
		"closed": {(*Consumer).Close, []string{"k assigned [t-0]", "k revoked [t-0]"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			var ev events
			entered, release := make(chan struct{}, 8), make(chan struct{})
			opts := append(ev.opts("k"), OnAssigned(func(_ *Consumer, parts []TopicPartition) {
				ev.note("k assigned", parts)
				entered <- struct{}{}
				<-release
			}))
			k := newTestConsumer(t, newTestClient(t, c), groupOpts(opts...)...)
			<-entered // reconcile waits for the application
			assign := func(epoch int32, parts ...TopicPartition) {
				k.member.update(&pb.SessionResponse{MemberEpoch: epoch, Assignment: &pb.Assignment{Partitions: partitionsOut(parts)}})
			}
			assign(2, tp("t", 0), tp("t", 1), tp("t", 2))
			if name == "revoked" {
				assign(3, tp("t", 3))
			}
			closed := make(chan error, 1)
			go func() { closed <- tc.end(k, deadline(t)) }()
			if name == "closed" {
				require.Eventually(t, func() bool {
					k.member.mu.Lock()
					defer k.member.mu.Unlock()
					return k.member.goodbye != nil
				}, 5*time.Second, time.Millisecond)
			}
			close(release)
			require.NoError(t, <-closed)
			require.Eventually(t, func() bool { return len(ev.all()) >= len(tc.want) }, 5*time.Second, time.Millisecond)
			require.Equal(t, tc.want, ev.all())
			if name == "closed" {
				assign(4, tp("t", 1)) // the coordinator did not know yet
				require.False(t, k.member.step(t.Context()))
				require.Equal(t, tc.want, ev.all())
			}
		})
	}
}
