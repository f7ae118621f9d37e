package client

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Another subscription is another join of the same member, which brings along
// what it owns: nothing is given up for it.
func TestSubscribe(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 2)
	c.create("u", 1)
	var ev events
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(ev.opts("k")...)...)
	require.Eventually(t, func() bool { return len(k.Assignment()) == 3 }, 5*time.Second, time.Millisecond)
	require.NoError(t, k.Subscribe("t", "u"))
	var last *pb.JoinGroup
	require.Eventually(t, func() bool {
		c.group.mu.Lock()
		defer c.group.mu.Unlock()
		last = c.group.joins[len(c.group.joins)-1]
		return len(last.GetTopics()) == 2
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, []string{"t", "u"}, last.GetTopics())
	require.Positive(t, last.GetMemberEpoch())
	require.EqualValues(t, 2, last.GetAttachNumber())
	require.Len(t, last.GetOwned(), 3)
	require.False(t, slices.ContainsFunc(ev.all(), func(e string) bool { return e != "k assigned [t-0 t-1 u-0]" }), "%v", ev.all())

	require.Error(t, k.Subscribe())
	require.Error(t, k.Subscribe("t", ""))
	alone := newTestConsumer(t, newTestClient(t, c), WithTopics("t"))
	require.ErrorIs(t, alone.Subscribe("u"), ErrNoGroup)
}

func TestAutoOffsetReset(t *testing.T) {
	for name, tc := range map[string]struct {
		policy ResetPolicy
		want   int64
	}{"earliest": {ResetEarliest, 0}, "latest": {ResetLatest, 20}, "error": {ResetError, -1}} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			c.fill(tp("t", 0), "a", 20, 5)
			k := newTestConsumer(t, newTestClient(t, c), groupOpts(WithAutoOffsetReset(tc.policy))...)
			if tc.policy != ResetError {
				require.Eventually(t, func() bool { at, ok := k.Position(tp("t", 0)); return ok && at == tc.want }, 5*time.Second, time.Millisecond)
				return
			}
			_, err := k.Poll(deadline(t))
			require.Equal(t, CodeOffsetOutOfRange, CodeOf(err))
			require.NoError(t, k.Seek(tp("t", 0), At(6)))
			require.Equal(t, "a-6", read(t, k, 1)[0])
		})
	}
	_, err := newTestClient(t, newFakeCluster(t, 1)).NewConsumer(WithTopics("t"), WithStart(NoStart()))
	require.Error(t, err)
}

// A commit waits for the one before it: an older one that arrived later would
// take the offset back.
func TestCommitsDoNotOvertake(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 100, 10)
	k := newTestConsumer(t, newTestClient(t, c), groupOpts(WithManualCommit())...)
	for r := range k.Records(deadline(t)) {
		if r.Offset == 20 {
			break
		}
	}
	entered, release := make(chan struct{}), make(chan struct{})
	c.group.mu.Lock()
	c.group.onCommit = func(*pb.OffsetCommit) *pb.Error {
		close(entered)
		<-release
		return nil
	}
	c.group.mu.Unlock()
	first := make(chan error, 1)
	go func() { first <- k.CommitRecords(t.Context(), &Record{Topic: "t", Offset: 3}) }()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, k.CommitRecords(ctx, &Record{Topic: "t", Offset: 9}), context.DeadlineExceeded)
	close(release)
	require.NoError(t, <-first)
	c.group.mu.Lock()
	c.group.onCommit = nil
	require.Len(t, c.group.commits, 1, "the second was sent while the first was under way")
	c.group.mu.Unlock()
	require.NoError(t, k.CommitRecords(t.Context(), &Record{Topic: "t", Offset: 9}))
	require.EqualValues(t, 10, c.group.offset(tp("t", 0)))
}
