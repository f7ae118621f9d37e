package client

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// reader is a member that owns partition 0 of t and has read a few records of it.
func reader(t *testing.T, c *fakeCluster, opts ...ConsumerOpt) *Consumer {
	t.Helper()
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 100, 10)
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(append([]ConsumerOpt{WithManualCommit()}, opts...)...)...)
	read(t, k, 5)
	return k
}

func (g *fakeGroup) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// A member commits on its session; by a call when its coordinator takes none there.
func TestCommitOnTheSession(t *testing.T) {
	for name, calls := range map[string]int{"session": 0, "call": 1} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.group.unaryOnly = calls > 0
			k := reader(t, c)
			require.NoError(t, k.Commit(t.Context()))
			require.EqualValues(t, 5, c.group.offset(tp("t", 0)))
			c.group.set(func() {
				require.Equal(t, calls, c.group.calls)
				require.Equal(t, []string{"m1"}, c.group.commits)
			})
		})
	}
}

// A commit whose session ends before the answer is sent again over the next one.
func TestCommitOutlivesItsSession(t *testing.T) {
	c := newFakeCluster(t, 1)
	k := reader(t, c)
	c.group.set(func() { c.group.swallow = 1 })
	require.NoError(t, k.Commit(t.Context()))
	require.EqualValues(t, 5, c.group.offset(tp("t", 0)))
	c.group.set(func() {
		require.Zero(t, c.group.calls)
		require.Len(t, c.group.commits, 2)
		require.Len(t, c.group.joins, 2)
		// The coordinator refuses an epoch of before the partition was given anew.
		require.Equal(t, c.group.epochs[0], c.group.epochs[1], "the epoch is that of the call")
	})
}

// A coordinator that is busy or moves is waited for; other errors are told.
func TestCommitErrorsOnTheSession(t *testing.T) {
	c := newFakeCluster(t, 1)
	k := reader(t, c)
	busy := 1
	c.group.set(func() {
		c.group.onCommit = func(*pb.OffsetCommit) *pb.Error {
			if busy--; busy >= 0 {
				return fakeError(pb.ErrorCode_ERROR_CODE_OVERLOADED, true, false)
			}
			return nil
		}
	})
	require.NoError(t, k.Commit(t.Context()))
	require.EqualValues(t, 5, c.group.offset(tp("t", 0)))
	err := k.CommitRecords(t.Context(), &Record{Topic: "t", Partition: 7, Offset: 3})
	require.Equal(t, CodeStaleMemberEpoch, CodeOf(err))
	c.group.set(func() { require.Zero(t, c.group.calls) })
}

// What is committed after the membership is lost is refused at once, also inside of
// the callback that has to return before the member joins again.
func TestCommitAfterTheLoss(t *testing.T) {
	c := newFakeCluster(t, 1)
	refused := make(chan error, 1)
	reader(t, c, OnLost(func(k *Consumer, _ []TopicPartition) {
		refused <- k.CommitRecords(context.Background(), &Record{Topic: "t", Offset: 50})
	}))
	c.group.fence(c.group.memberIDs()[0])
	select {
	case err := <-refused:
		require.Equal(t, CodeStaleMemberEpoch, CodeOf(err))
	case <-time.After(20 * time.Second):
		require.Fail(t, "the commit waits for a session that waits for it")
	}
	require.EqualValues(t, -1, c.group.offset(tp("t", 0)))
}

// The same when the loss comes while the commit waits for a session.
func TestLossWakesCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember(&Consumer{})
		ctx, cancel := context.WithCancel(t.Context())
		var waits, loses sync.WaitGroup
		waits.Go(func() {
			if line, err := m.attached(ctx); err != nil || line != nil {
				t.Errorf("attached to %v, %v", line, err)
			}
		})
		synctest.Wait()
		loses.Go(func() { m.loseAll(ctx) })
		synctest.Wait()
		waits.Wait()
		cancel()
		loses.Wait()
	})
}

// A consumer without a membership commits by calls.
func TestCommitOfNamedPartitions(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 100, 10)
	k := newTestConsumer(t, newTestClient(t, c), WithGroup("g"), WithPartitions(tp("t", 0)), WithManualCommit())
	read(t, k, 3)
	require.NoError(t, k.Commit(t.Context()))
	require.EqualValues(t, 3, c.group.offset(tp("t", 0)))
	c.group.set(func() { require.Equal(t, 1, c.group.calls) })
}
