package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// deposed is a cluster of three whose broker 0 leads t-0 by what it knows, the offsets
// 0 to 9, and was replaced by broker 1 since, which has 10 to 19 too.
func deposed(t *testing.T) *fakeCluster {
	t.Helper()
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 5)
	c.brokers[0].cutOff()
	c.move(tp("t", 0), 1)
	c.fill(tp("t", 0), "b", 10, 5)
	return c
}

// startedAt makes a client that knows one broker and asks the others only when it must.
func startedAt(t *testing.T, b *fakeBroker) *Client {
	t.Helper()
	cl, err := New([]string{b.address}, WithRetryBackoff(time.Millisecond, 20*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cl.Close()) })
	return cl
}

func expectNothing(t *testing.T, k *Consumer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := k.Poll(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A replaced leader denies an offset in good faith, to a client that has not heard
// either of the new one.
func TestReplacedLeaderIsNotBelieved(t *testing.T) {
	for _, policy := range []ResetPolicy{ResetEarliest, ResetLatest, ResetError} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			c := deposed(t)
			k := newTestConsumer(t, startedAt(t, c.brokers[0]), WithPartitions(tp("t", 0)), WithStart(At(15)), WithReset(policy))
			require.Equal(t, numbers("b", 10)[5:], read(t, k, 5))
		})
	}
}

// Nor is it while the others cannot be asked: a majority has to say that it leads.
func TestNoVerdictWithoutAMajority(t *testing.T) {
	c := deposed(t)
	c.kill(1)
	c.kill(2)
	k := newTestConsumer(t, startedAt(t, c.brokers[0]), WithPartitions(tp("t", 0)), WithStart(At(15)), WithReset(ResetError))
	expectNothing(t, k)
	c.restart(1)
	require.Equal(t, numbers("b", 10)[5:], read(t, k, 5))
	c.restart(2)
}

// Where the reset policy goes on is looked up with the leader that was asked, which may
// have been replaced by then.
func TestResetByAReplacedLeaderDoesNotCount(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 5)
	denied := make(chan struct{})
	c.onFetch = func(b *fakeBroker, p *fakePartition, offset int64) *pb.Error {
		if b.id != 0 || b.past != nil {
			return nil
		}
		then := *p
		b.past = map[TopicPartition]*fakePartition{p.tp: &then}
		close(denied)
		p.leader, p.epoch = 1, p.epoch+1
		return fakeError(pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, false, false)
	}
	go func() {
		<-denied
		c.fill(tp("t", 0), "b", 10, 5)
	}()
	k := newTestConsumer(t, startedAt(t, c.brokers[0]), WithPartitions(tp("t", 0)), WithStart(At(99)), WithReset(ResetLatest))
	require.Eventually(t, func() bool { at, _ := k.Position(tp("t", 0)); return at != 99 && at >= 0 }, 5*time.Second, time.Millisecond)
	at, _ := k.Position(tp("t", 0))
	require.EqualValues(t, 20, at)
}

// A position that names the leader epoch of what was read before it is not asked for at
// a leader of an older epoch, even inside of what that one has.
func TestPositionNewerThanTheLeader(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 5)
	c.brokers[0].cutOff()
	c.mu.Lock()
	c.topics["t"][0].truncate(5)
	c.mu.Unlock()
	c.move(tp("t", 0), 1)
	c.fill(tp("t", 0), "b", 10, 5)
	k := newTestConsumer(t, startedAt(t, c.brokers[0]), WithPartitions(tp("t", 0)), WithStart(AtEpoch(8, 2)))
	require.Equal(t, numbers("b", 10)[3:], read(t, k, 7))
}

// An epoch that no broker ever heard of does not keep a consumer waiting for ever.
func TestPositionOfAnUnknownEpoch(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 5)
	k := newTestConsumer(t, newTestClient(t, c), WithPartitions(tp("t", 0)), WithStart(AtEpoch(5, 99)), WithReset(ResetError))
	require.Equal(t, numbers("a", 10)[5:], read(t, k, 5))
}

// truncated cuts t-0 at 10 under a new leader and appends others.
func truncated(c *fakeCluster) {
	c.mu.Lock()
	c.topics["t"][0].truncate(10)
	c.mu.Unlock()
	c.move(tp("t", 0), 1)
	c.fill(tp("t", 0), "new", 15, 5)
}

// The log is long again when the consumer comes, and every offset is in range: what was
// read is gone all the same.
func TestTruncationIsTold(t *testing.T) {
	start := func(t *testing.T, policy ResetPolicy) (*fakeCluster, *Consumer) {
		t.Helper()
		c := newFakeCluster(t, 3)
		c.create("t", 1)
		c.fill(tp("t", 0), "a", 20, 5)
		k := newTestConsumer(t, newTestClient(t, c), WithPartitions(tp("t", 0)), WithReset(policy), WithFetchMaxWait(50*time.Millisecond))
		require.Equal(t, numbers("a", 20), read(t, k, 20))
		return c, k
	}
	for _, policy := range []ResetPolicy{ResetEarliest, ResetLatest} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			c, k := start(t, policy)
			truncated(c)
			require.Equal(t, numbers("new", 15), read(t, k, 15))
		})
	}
	t.Run("error", func(t *testing.T) {
		c, k := start(t, ResetError)
		truncated(c)
		_, err := k.Poll(deadline(t))
		e, ok := errors.AsType[*LogTruncatedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, tp("t", 0), e.TopicPartition)
		require.EqualValues(t, 20, e.Position)
		require.EqualValues(t, 1, e.LeaderEpoch)
		require.EqualValues(t, 10, e.TruncatedTo)
		require.Equal(t, CodeOffsetOutOfRange, CodeOf(err))
		expectNothing(t, k)
		require.NoError(t, k.Seek(tp("t", 0), At(e.TruncatedTo)))
		require.Equal(t, numbers("new", 15), read(t, k, 15))
	})
}

// What was fetched and not taken, and is still in the log, is not passed over.
func TestTruncationBehindTheApplication(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 20, 5)
	k := newTestConsumer(t, newTestClient(t, c), WithPartitions(tp("t", 0)), WithFetchMaxWait(50*time.Millisecond))
	require.Equal(t, numbers("a", 5), read(t, k, 5))
	truncated(c)
	require.Eventually(t, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		s := k.parts[tp("t", 0)]
		return s.leaderEpoch == 2 && s.doubt == nil && s.version.Load() > 1
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, append(numbers("a", 10)[5:], numbers("new", 15)...), read(t, k, 20))
}

// A group notices what happened while no member was there, for it has committed the
// epoch with the offset.
func TestTruncationBetweenMembers(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 20, 5)
	cl := newTestClient(t, c)
	k := newTestConsumer(t, cl, groupOpts()...)
	require.Equal(t, numbers("a", 20), read(t, k, 20))
	require.NoError(t, k.Commit(t.Context()))
	require.NoError(t, k.Close(t.Context()))
	truncated(c)
	k = newTestConsumer(t, cl, groupOpts()...)
	require.Equal(t, numbers("new", 15), read(t, k, 15))
}

// Ends are not taken from a broker that has yet to hear that it leads anew.
func TestListOffsetsNamesTheEpoch(t *testing.T) {
	c := deposed(t)
	c.move(tp("t", 0), 0) // it has not heard of that
	cl := startedAt(t, c.brokers[1])
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := cl.Admin().ListOffsets(ctx, Latest(), tp("t", 0))
	require.Error(t, err)
	c.brokers[0].heal()
	found, err := cl.Admin().ListOffsets(deadline(t), Latest(), tp("t", 0))
	require.NoError(t, err)
	require.EqualValues(t, 20, found[0].Offset)
}
