package client

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// poll returns the one fetch that is under way at a broker, once it asks for all of parts.
func (c *fakeCluster) poll(broker int32, parts ...TopicPartition) *pb.FetchRequest {
	c.t.Helper()
	var poll *pb.FetchRequest
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := 0
		for req, at := range c.polls {
			if at == broker {
				n++
				poll = req
			}
		}
		return n == 1 && slices.Equal(asksFor(poll), parts)
	}, 5*time.Second, time.Millisecond)
	return poll
}

// underWay reports whether a fetch waits for records still.
func (c *fakeCluster) underWay(poll *pb.FetchRequest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.polls[poll]
	return ok
}

func asksFor(req *pb.FetchRequest) (parts []TopicPartition) {
	for _, p := range req.GetPartitions() {
		parts = append(parts, tp(p.GetTopic(), p.GetPartition()))
	}
	sortPartitions(parts)
	return parts
}

// brokenStreams are the errors of a client's streams.
type brokenStreams struct {
	mu   sync.Mutex // guards errs
	errs []error
}

func (b *brokenStreams) OnConnection(_ string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

func (b *brokenStreams) all() []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.errs)
}

// A rebalance is nothing to a partition that stays: the very fetch that waited for its
// records when another member came waits for them after it, and after it has left, and
// brings the next one.
func TestRebalanceInterruptsNoFetchOfWhatStays(t *testing.T) {
	longPoll := WithFetchMaxWait(time.Minute) // ends by a record, or because it was cut off
	assigned := func(k *Consumer, parts ...TopicPartition) func() bool {
		return func() bool { return slices.Equal(k.Assignment(), parts) }
	}
	t.Run("others go", func(t *testing.T) { // all are fetched in one poll of one broker
		c := newFakeCluster(t, 1)
		c.create("t", 4)
		cl := newTestClient(t, c)
		var ev events
		first := newTestConsumer(t, cl, groupOpts(append(ev.opts("first"), longPoll)...)...)
		before := c.poll(0, tp("t", 0), tp("t", 1), tp("t", 2), tp("t", 3))

		second := newTestConsumer(t, cl, groupOpts()...)
		require.Eventually(t, assigned(second, tp("t", 1), tp("t", 3)), 5*time.Second, time.Millisecond)
		require.Contains(t, ev.all(), "first revoked [t-1 t-3]")
		require.True(t, c.underWay(before), "the fetch was cut off")
		c.fill(tp("t", 0), "stays", 1, 1)
		require.Equal(t, numbers("stays", 1), read(t, first, 1))
		require.False(t, c.underWay(before))
	})
	t.Run("what goes comes back to the same broker's", func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.create("t", 4)
		all := []TopicPartition{tp("t", 0), tp("t", 1), tp("t", 2), tp("t", 3)}
		var broken brokenStreams
		first := newTestConsumer(t, newTestClient(t, c, WithHooks(&broken)), groupOpts(longPoll)...)
		c.poll(0, all...)
		cl := newTestClient(t, c)
		for range 3 {
			second := newTestConsumer(t, cl, groupOpts(longPoll)...)
			require.Eventually(t, assigned(second, tp("t", 1), tp("t", 3)), 5*time.Second, time.Millisecond)
			require.NoError(t, second.Close(deadline(t)))
			require.Eventually(t, assigned(first, all...), 5*time.Second, time.Millisecond)
			c.poll(0, all...)
		}
		c.fill(tp("t", 3), "came", 1, 1)
		require.Equal(t, numbers("came", 1), read(t, first, 1))
		require.Empty(t, broken.all(), "a stream was cut off")
	})
	t.Run("others go and come back", func(t *testing.T) { // they are another broker's
		c := newFakeCluster(t, 2)
		c.create("t", 4)
		cl := newTestClient(t, c)
		first := newTestConsumer(t, cl, groupOpts(longPoll)...)
		c.poll(1, tp("t", 1), tp("t", 3))
		before := c.poll(0, tp("t", 0), tp("t", 2))
		for range 3 {
			second := newTestConsumer(t, cl, groupOpts(longPoll)...)
			require.Eventually(t, assigned(second, tp("t", 1), tp("t", 3)), 5*time.Second, time.Millisecond)
			require.NoError(t, second.Close(deadline(t)))
			require.Eventually(t, assigned(first, tp("t", 0), tp("t", 1), tp("t", 2), tp("t", 3)), 5*time.Second, time.Millisecond)
			require.True(t, c.underWay(before), "the fetch was cut off")
		}
		c.fill(tp("t", 2), "stays", 1, 1)
		require.Equal(t, numbers("stays", 1), read(t, first, 1))
		require.False(t, c.underWay(before))
	})
}
