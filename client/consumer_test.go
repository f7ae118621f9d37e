package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func newTestConsumer(t *testing.T, cl *Client, opts ...ConsumerOpt) *Consumer {
	t.Helper()
	k, err := cl.NewConsumer(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = k.Close(context.Background()) })
	return k
}

// deadline bounds a test's waits.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// read takes n records by Records and returns their values.
func read(t *testing.T, k *Consumer, n int) []string {
	t.Helper()
	var out []string
	if n == 0 {
		return out
	}
	for r := range k.Records(deadline(t)) {
		out = append(out, string(r.Value))
		if len(out) == n {
			break
		}
	}
	require.NoError(t, k.Err())
	require.Len(t, out, n)
	return out
}

func TestRecordsFromTheStart(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 2)
	c.fill(tp("t", 0), "a", 1000, 7)
	c.fill(tp("t", 1), "b", 1000, 100)
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithFetchMaxPartitionBytes(2000))
	got := map[int32][]string{}
	var kept []*Record
	for r := range k.Records(deadline(t)) {
		require.EqualValues(t, len(got[r.Partition]), r.Offset)
		require.Equal(t, "t", r.Topic)
		require.Equal(t, int64(1000)+r.Offset, r.Timestamp.UnixMilli())
		require.Equal(t, "k", string(r.Key))
		require.EqualValues(t, 1, r.LeaderEpoch)
		got[r.Partition] = append(got[r.Partition], string(r.Value))
		if kept = append(kept, r); len(kept) == 2000 {
			break
		}
	}
	require.Equal(t, numbers("a", 1000), got[0])
	require.Equal(t, numbers("b", 1000), got[1])
	for _, r := range kept { // records are the loop's to keep
		require.Equal(t, fmt.Sprintf("%c-%d", 'a'+r.Partition, r.Offset), string(r.Value))
	}
}

func TestPollDecodesInPlace(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 500, 50)
	k := newTestConsumer(t, newTestClient(t, c), WithPartitions(tp("t", 0)), WithStart(At(25)))
	ctx := deadline(t)
	var got []string
	for len(got) < 475 {
		p, err := k.Poll(ctx)
		require.NoError(t, err)
		before := len(got)
		for part := range p.Partitions() {
			require.Equal(t, tp("t", 0), part.TopicPartition)
			require.EqualValues(t, 500, part.HighWatermark)
			for r := range part.All() {
				got = append(got, string(r.Value))
			}
		}
		require.NoError(t, p.Err())
		require.Equal(t, len(got)-before, p.Len())
		p.Release()
	}
	require.Equal(t, numbers("a", 500)[25:], got)
	at, ok := k.Position(tp("t", 0))
	require.True(t, ok)
	require.EqualValues(t, 500, at)
}

func TestLeavingTheLoopLosesNothing(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 2)
	c.fill(tp("t", 0), "a", 100, 10)
	c.fill(tp("t", 1), "a", 100, 10)
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"))
	seen := map[int32]int64{}
	for range 200 {
		for r := range k.Records(deadline(t)) {
			require.Equal(t, seen[r.Partition], r.Offset)
			seen[r.Partition]++
			break
		}
	}
	require.Equal(t, map[int32]int64{0: 100, 1: 100}, seen)
}

func TestStartPositions(t *testing.T) {
	cases := []struct {
		name  string
		start Offset
		want  int64
	}{
		{"earliest", Earliest(), 5},
		{"latest", Latest(), 20},
		{"offset", At(7), 7},
		{"time", AtTime(time.UnixMilli(1012)), 12},
		{"time past the end", AtTime(time.UnixMilli(9999)), 20},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			c.fill(tp("t", 0), "a", 20, 5)
			c.mu.Lock()
			c.topics["t"][0].start = 5
			c.mu.Unlock()
			k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithStart(tc.start))
			require.Eventually(t, func() bool { _, ok := k.Position(tp("t", 0)); return ok }, 5*time.Second, time.Millisecond)
			c.fill(tp("t", 0), "more", 1, 1)
			for r := range k.Records(deadline(t)) {
				require.Equal(t, tc.want, r.Offset)
				break
			}
		})
	}
}

func TestOutOfRange(t *testing.T) {
	for _, tc := range []struct {
		policy ResetPolicy
		want   int64
	}{{ResetEarliest, 5}, {ResetLatest, 20}, {ResetError, -1}} {
		t.Run(fmt.Sprint(tc.policy), func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			c.fill(tp("t", 0), "a", 20, 5)
			c.mu.Lock()
			c.topics["t"][0].start = 5
			c.mu.Unlock()
			k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithStart(At(2)), WithReset(tc.policy))
			ctx := deadline(t)
			if tc.policy == ResetError {
				_, err := k.Poll(ctx)
				require.Equal(t, CodeOffsetOutOfRange, CodeOf(err))
				require.NoError(t, k.Seek(tp("t", 0), At(6)))
				require.Equal(t, "a-6", read(t, k, 1)[0])
				return
			}
			require.Eventually(t, func() bool { at, ok := k.Position(tp("t", 0)); return ok && at == tc.want }, 5*time.Second, time.Millisecond)
		})
	}
}

func TestFollowsTheLeader(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithFetchMaxWait(100*time.Millisecond))
	for i := range 6 {
		c.fill(tp("t", 0), fmt.Sprint(i), 100, 10)
		require.Equal(t, numbers(fmt.Sprint(i), 100), read(t, k, 100))
		if i == 4 {
			c.kill(c.leaderOf(tp("t", 0)))
		}
		c.move(tp("t", 0), int32(i+1)%3)
	}
	c.restart(1)
}

func TestSilentLeaderIsLeft(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 1)
	cl := newTestClient(t, c, WithRequestTimeout(time.Minute)) // that is not waited for
	k := newTestConsumer(t, cl, WithTopics("t"), WithFetchMaxWait(50*time.Millisecond))
	c.fill(tp("t", 0), "a", 10, 10)
	require.Equal(t, numbers("a", 10), read(t, k, 10))
	c.brokers[0].freeze()
	c.move(tp("t", 0), 1)
	c.fill(tp("t", 0), "b", 10, 10)
	require.Equal(t, numbers("b", 10), read(t, k, 10))
}

func TestFetchErrorsAreRetried(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 100, 10)
	n := 0
	c.onFetch = func(*fakeBroker, *fakePartition, int64) *pb.Error {
		if n++; n%2 == 1 {
			return fakeError(pb.ErrorCode_ERROR_CODE_OFFSET_NOT_AVAILABLE, true, false)
		}
		return nil
	}
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithFetchMaxPartitionBytes(100))
	require.Equal(t, numbers("a", 100), read(t, k, 100))
}

func TestUnknownTopicIsAnErrorAndLookedForAgain(t *testing.T) {
	c := newFakeCluster(t, 1)
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("later"))
	for range k.Records(deadline(t)) {
		t.Fatal("a record of no topic")
	}
	require.Equal(t, CodeUnknownTopic, CodeOf(k.Err()))
	c.create("later", 1)
	c.fill(tp("later", 0), "a", 1, 1)
	require.Equal(t, numbers("a", 1), read(t, k, 1))
}

// An idle partition in a long poll must not hold up one that becomes readable.
func TestSlowPollsDoNotHoldUpOthers(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 2)
	c.fill(tp("t", 1), "a", 1000, 1)
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithFetchMaxWait(time.Minute), WithFetchMaxPartitionBytes(200), WithMaxPollBytes(1))
	require.Equal(t, numbers("a", 1000), read(t, k, 1000))
	// At the end there is one long poll of both, and what arrives wakes it.
	fetches := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.fetches
	}
	require.Eventually(t, func() bool {
		before := fetches()
		time.Sleep(4 * shortWait) // nothing can be waited for: the point is that nothing happens
		return fetches() == before
	}, 5*time.Second, time.Millisecond)
	for i := range int32(2) {
		c.fill(tp("t", i), "b", 1, 1)
		require.Equal(t, numbers("b", 1), read(t, k, 1))
	}
}

func TestPrefetchIsBounded(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 4)
	for i := range int32(4) {
		c.fill(tp("t", i), "a", 2000, 10)
	}
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithFetchMaxPartitionBytes(1000), WithFetchMaxBytes(4000), WithPrefetchBytes(3000))
	p, err := k.Poll(deadline(t))
	require.NoError(t, err)
	require.LessOrEqual(t, p.Bytes(), 2*3000+4000)
	k.mu.Lock()
	require.LessOrEqual(t, k.buffered, int64(3000+3*4000))
	k.mu.Unlock()
	p.Release()
	read(t, k, 7000)
}

// TestAPollKeepsTheOrderOfAPartition: what does not fit into a poll holds back what
// was fetched after it, for a small piece of the same partition may be among that.
func TestAPollKeepsTheOrderOfAPartition(t *testing.T) {
	k := &Consumer{cfg: consumerConfig{maxPollBytes: 100}, inHand: map[*subscription]int{}}
	first, second := newSubscription(tp("t", 0), At(0), false), newSubscription(tp("t", 1), At(0), false)
	piece := func(s *subscription, from, next int64, bytes int) *chunk {
		return &chunk{sub: s, version: s.version.Load(), from: from, next: next, bytes: bytes}
	}
	k.queue = []*chunk{piece(first, 0, 6, 60), piece(second, 0, 9, 90), piece(second, 9, 10, 10), piece(first, 6, 7, 10)}
	for _, want := range [][]int64{{6}, {9, 10}, {7}} {
		var p Polled
		require.True(t, k.take(&p))
		var got []int64
		for _, ch := range p.chunks {
			got = append(got, ch.next)
		}
		require.Equal(t, want, got)
	}
}

// TestSeekRightAway: partitions that the options name are assigned when NewConsumer
// returns, so a consumer may begin where no option says.
func TestSeekRightAway(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 50, 10)
	k := newTestConsumer(t, newTestClient(t, c), WithPartitions(tp("t", 0)), WithStart(Latest()))
	require.NoError(t, k.Seek(tp("t", 0), At(40)))
	require.Equal(t, numbers("a", 50)[40:], read(t, k, 10))
}

func TestPauseResumeSeek(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 2)
	c.fill(tp("t", 0), "a", 100, 10)
	c.fill(tp("t", 1), "b", 100, 10)
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithStart(Latest()))
	require.Eventually(t, func() bool { _, ok := k.Position(tp("t", 1)); return ok }, 5*time.Second, time.Millisecond)
	k.Pause(tp("t", 1))
	require.NoError(t, k.Seek(tp("t", 0), Earliest()))
	require.NoError(t, k.Seek(tp("t", 1), At(50)))
	require.Equal(t, numbers("a", 100), read(t, k, 100))
	k.Resume(tp("t", 1))
	require.Equal(t, numbers("b", 100)[50:], read(t, k, 50))
	// A seek inside the loop drops the rest of what was fetched.
	require.NoError(t, k.Seek(tp("t", 0), At(0)))
	var got []int64
	for r := range k.Records(deadline(t)) {
		got = append(got, r.Offset)
		if r.Offset == 4 && len(got) == 5 {
			require.NoError(t, k.Seek(tp("t", 0), At(98)))
		}
		if len(got) == 7 {
			break
		}
	}
	require.Equal(t, []int64{0, 1, 2, 3, 4, 98, 99}, got)
	require.ErrorIs(t, k.Seek(tp("t", 9), Earliest()), ErrNotAssigned)
}

func TestDamageIsReportedAndStaysBeforeTheBatch(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 30, 10)
	c.mu.Lock()
	bad := c.topics["t"][0].batches[1].bytes
	bad[len(bad)-1] ^= 1
	c.mu.Unlock()
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"), WithFetchMaxPartitionBytes(1))
	require.Equal(t, numbers("a", 10), read(t, k, 10))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := k.Poll(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "a damaged answer is fetched again")
	require.NoError(t, k.Seek(tp("t", 0), At(20)))
	require.Equal(t, numbers("a", 30)[20:], read(t, k, 10))
}

func TestCloseWhileReading(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	k := newTestConsumer(t, newTestClient(t, c), WithTopics("t"))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range k.Records(t.Context()) {
			t.Error("a record of an empty topic")
		}
		if k.Err() != nil {
			t.Error(k.Err())
		}
	})
	require.NoError(t, k.Close(t.Context()))
	wg.Wait()
	_, err := k.Poll(t.Context())
	require.ErrorIs(t, err, ErrClosed)
}

// events records callbacks in order.
type events struct {
	mu  sync.Mutex
	log []string
}

func (e *events) opts(name string) []ConsumerOpt {
	note := func(what string) func(*Consumer, []TopicPartition) {
		return func(_ *Consumer, parts []TopicPartition) { e.note(name+" "+what, parts) }
	}
	return []ConsumerOpt{OnAssigned(note("assigned")), OnRevoked(note("revoked")), OnLost(note("lost"))}
}

func (e *events) note(what string, parts []TopicPartition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = append(e.log, fmt.Sprint(what, " ", parts))
}

func (e *events) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.log)
}

func groupOpts(extra ...ConsumerOpt) []ConsumerOpt {
	return append([]ConsumerOpt{WithTopics("t"), WithGroup("g"), WithSessionTimeout(300 * time.Millisecond), WithAutoCommit(10 * time.Millisecond)}, extra...)
}

func TestGroupCommitsOnlyWhatWasMovedPast(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 100, 10)
	cl := newTestClient(t, c)
	k := newTestConsumer(t, cl, groupOpts()...)
	require.Equal(t, numbers("a", 100)[:42], read(t, k, 42))
	require.NoError(t, k.Close(t.Context()))
	require.EqualValues(t, 41, c.group.offset(tp("t", 0)), "the loop was left inside record 41")
	require.Equal(t, 1, c.group.leaves)
	// The next member goes on from there; committing counts the record in hand.
	k = newTestConsumer(t, cl, groupOpts()...)
	require.Equal(t, numbers("a", 100)[41:50], read(t, k, 9))
	require.NoError(t, k.Commit(t.Context()))
	require.NoError(t, k.Close(t.Context()))
	require.EqualValues(t, 50, c.group.offset(tp("t", 0)))
}

func TestManualCommit(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 100, 10)
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(WithManualCommit())...)
	var third *Record
	for r := range k.Records(deadline(t)) {
		if r.Offset == 3 {
			third = r
		}
		if r.Offset == 20 {
			break
		}
	}
	require.EqualValues(t, -1, c.group.offset(tp("t", 0)))
	require.NoError(t, k.CommitRecords(t.Context(), third))
	require.EqualValues(t, 4, c.group.offset(tp("t", 0)))
	got, err := k.Committed(t.Context(), tp("t", 0))
	require.NoError(t, err)
	require.EqualValues(t, 4, got[0].Offset)
	require.NoError(t, k.Close(t.Context()))
	require.EqualValues(t, 4, c.group.offset(tp("t", 0)))
}

func TestRebalanceHandsOverAfterTheCommit(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 2)
	c.fill(tp("t", 0), "a", 10, 10)
	cl := newTestClient(t, c)
	var ev events
	first := newTestConsumer(t, cl, groupOpts(ev.opts("first")...)...)
	ctx := deadline(t)
	taken := map[int32]int{}
	for taken[0]+taken[1] < 20 {
		p, err := first.Poll(ctx)
		require.NoError(t, err)
		for r := range p.All() {
			taken[r.Partition]++
		}
		if taken[0] == 10 && taken[1] == 0 {
			c.fill(tp("t", 1), "b", 10, 10)
		}
	}
	require.Equal(t, map[int32]int{0: 10, 1: 10}, taken)

	// The last Poll is still in the application's hands when the second joins.
	second := newTestConsumer(t, cl, groupOpts(ev.opts("second")...)...)
	require.Eventually(t, func() bool { return len(c.group.memberIDs()) == 2 }, 5*time.Second, time.Millisecond)
	require.Never(t, func() bool { return slices.Contains(ev.all(), "first revoked [t-1]") }, 100*time.Millisecond, 10*time.Millisecond)
	pctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err := first.Poll(pctx) // moves past
	require.ErrorIs(t, err, context.DeadlineExceeded)

	require.Eventually(t, func() bool { return slices.Contains(ev.all(), "second assigned [t-1]") }, 5*time.Second, time.Millisecond)
	require.Equal(t, []string{"first assigned [t-0 t-1]", "first revoked [t-1]", "second assigned [t-1]"}, ev.all())
	require.EqualValues(t, 10, c.group.offset(tp("t", 1)), "committed before it was handed over")
	c.fill(tp("t", 1), "c", 5, 1)
	require.Equal(t, numbers("c", 5), read(t, second, 5))
	require.Equal(t, []TopicPartition{tp("t", 0)}, first.Assignment())

	// The second leaves; everything returns to the first.
	require.NoError(t, second.Close(ctx))
	require.Eventually(t, func() bool { return len(first.Assignment()) == 2 }, 5*time.Second, time.Millisecond)
}

func TestFencedMemberLosesEverythingAndJoinsAgain(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 1)
	var ev events
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(append(ev.opts("k"), WithManualCommit())...)...)
	require.Equal(t, numbers("a", 10), read(t, k, 10))
	c.group.fence(c.group.memberIDs()[0])
	require.Eventually(t, func() bool { return len(ev.all()) == 3 }, 5*time.Second, time.Millisecond)
	require.Equal(t, []string{"k assigned [t-0]", "k lost [t-0]", "k assigned [t-0]"}, ev.all())
	require.Equal(t, numbers("a", 10), read(t, k, 10), "nothing was committed")
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	last := c.group.joins[len(c.group.joins)-1]
	require.Zero(t, last.GetMemberEpoch())
	require.Empty(t, last.GetOwned())
}

func TestCoordinatorMovesAndTheMemberKeepsItsPartitions(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 1)
	var ev events
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(ev.opts("k")...)...)
	require.Equal(t, numbers("a", 10), read(t, k, 10))
	c.group.mu.Lock()
	c.group.coordinator = 1 // the old one says nothing
	c.group.mu.Unlock()
	require.Eventually(t, func() bool {
		c.group.mu.Lock()
		defer c.group.mu.Unlock()
		return len(c.group.joins) == 2
	}, 5*time.Second, time.Millisecond)
	c.group.mu.Lock()
	again := c.group.joins[1]
	c.group.mu.Unlock()
	require.NotZero(t, again.GetMemberEpoch())
	require.Greater(t, again.GetAttachNumber(), c.group.joins[0].GetAttachNumber())
	require.Len(t, again.GetOwned(), 1)
	require.NoError(t, k.Commit(t.Context()))
	require.Equal(t, []string{"k assigned [t-0]"}, ev.all(), "no rebalance")
}

func TestStaticMemberDoesNotLeave(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(WithInstanceID("i"))...)
	require.Eventually(t, func() bool { return len(k.Assignment()) == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, k.Close(t.Context()))
	require.Zero(t, c.group.leaves)
	require.Len(t, c.group.memberIDs(), 1)
}

func TestAssignedConsumerKeepsOffsetsInAGroup(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 1)
	cl := newTestClient(t, c)
	opts := []ConsumerOpt{WithPartitions(tp("t", 0)), WithGroup("g"), WithManualCommit()}
	k := newTestConsumer(t, cl, opts...)
	require.Equal(t, numbers("a", 10)[:5], read(t, k, 5))
	require.NoError(t, k.Commit(t.Context()))
	require.NoError(t, k.Close(t.Context()))
	k = newTestConsumer(t, cl, opts...)
	require.Equal(t, numbers("a", 10)[5:], read(t, k, 5))
	none := newTestConsumer(t, cl, WithTopics("t"))
	require.ErrorIs(t, none.Commit(t.Context()), ErrNoGroup)
}

func TestMembership(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 1)
	cl := newTestClient(t, c)
	type membership struct {
		id    string
		epoch int32
	}
	assigned := make(chan membership, 2)
	k := newTestConsumer(t, cl, groupOpts(OnAssigned(func(k *Consumer, _ []TopicPartition) {
		id, epoch := k.Membership()
		assigned <- membership{id, epoch}
	}))...)
	first := <-assigned
	require.Equal(t, []string{first.id}, c.group.memberIDs())
	require.EqualValues(t, 1, first.epoch)
	c.group.fence(first.id)
	again := <-assigned
	require.Greater(t, again.epoch, first.epoch, "every assignment has a later epoch")
	require.NoError(t, k.Close(t.Context()))

	alone := newTestConsumer(t, cl, WithPartitions(tp("t", 0)))
	id, epoch := alone.Membership()
	require.Empty(t, id)
	require.EqualValues(t, -1, epoch)
}

// Topics by pattern are the broker's to match: the client sends it, with its rack.
func TestPatternAndRackReachTheCoordinator(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := newTestClient(t, c, WithRack("r1"))
	newTestConsumer(t, cl, WithGroup("g"), WithTopicPattern("orders-.*"))
	require.Eventually(t, func() bool { return len(c.group.memberIDs()) == 1 }, 5*time.Second, time.Millisecond)
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	require.Equal(t, "orders-.*", c.group.joins[0].GetTopicPattern())
	require.Equal(t, "r1", c.group.joins[0].GetRack())
	require.Empty(t, c.group.joins[0].GetTopics())
}
