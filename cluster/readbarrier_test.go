package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Behind a read barrier every node knows what was committed before it, by the controller
// and by others.
func TestReadBarrier(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	for i := range 5 {
		name := fmt.Sprintf("t%d", i)
		boss.mustCreate(name, 3)
		for _, n := range nodes {
			require.NoError(t, n.ReadBarrier(within(t, 10*time.Second)))
			require.NotNil(t, n.Image().Topic(name), "node %d", n.id)
		}
	}
}

// A read barrier costs messages: the metadata log is as long as before, on every node.
func TestReadBarrierWritesNothing(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	boss.mustCreate("t", 3)
	written := func() (last [3]uint64) {
		for i, n := range nodes {
			last[i] = n.raft.LastIndex()
		}
		return last
	}
	ctx := within(t, 10*time.Second)
	for before := written(); ; before = written() {
		for range 20 {
			for _, n := range nodes {
				require.NoError(t, n.ReadBarrier(ctx), "there never were sixty in a row without an entry")
			}
		}
		if written() == before {
			return // else something was decided meanwhile, such as that a broker is back
		}
	}
}

// The controller may apply a command later than others do, who act by it then. Who asks
// hears of it all the same.
func TestReadBarrierIsAheadOfTheController(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	other := without(nodes, boss)[0]
	boss.fsm.mu.Lock() // what Raft has to apply there waits for the lock
	created := make(chan error, 1)
	go func() {
		_, err := other.createTopic("t", 3)
		created <- err
	}()
	seen := other.awaitTopic("t")
	index, err := boss.HandleReadIndex(within(t, 10*time.Second), &pb.ReadIndexRequest{})
	behind := boss.fsm.image.Load().Index()
	boss.fsm.mu.Unlock()
	require.NoError(t, err)
	require.Less(t, behind, seen)
	require.GreaterOrEqual(t, index.GetIndex(), seen)
	require.NoError(t, <-created)
}

// awaitTopic waits until a topic is applied, and returns the index of the image with it;
// 0: it was not in time.
func (n *testNode) awaitTopic(name string) uint64 {
	ctx := within(n.t, 15*time.Second)
	for {
		im := n.Image()
		if im.Topic(name) != nil {
			return im.Index()
		}
		select {
		case <-n.Changed(im.Index()):
		case <-ctx.Done():
			return 0
		}
	}
}

// A controller that is cut off from the others still counts as one for a moment, and
// answers heartbeats. It must not answer this.
func TestNoReadBarrierWithoutAQuorum(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.ElectionTimeout = 2 * time.Second } // it counts as one that long
	}
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	require.NoError(t, boss.ReadBarrier(within(t, 10*time.Second)))
	for _, n := range without(nodes, boss) {
		n.kill()
	}
	require.True(t, boss.IsController())
	require.ErrorIs(t, boss.ReadBarrier(within(t, 300*time.Millisecond)), context.DeadlineExceeded)
}

// A controller of an earlier release cannot be asked, and that is not a failure to reach it.
func TestReadBarrierOfAnEarlierRelease(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.old = true
	}
	startAll(nodes...)
	other := without(nodes, controllerOf(t, nodes...))[0]
	require.ErrorIs(t, other.ReadBarrier(within(t, 10*time.Second)), ErrCannotAsk)
}

// However many wait, one question is under way and one is waited for; and nobody is
// answered by a question that began before his own.
func TestReadBarriersShareTheQuestion(t *testing.T) {
	b := &readBarrier{running: true}
	first := b.join()
	require.Same(t, first, b.join())
	require.Same(t, first, b.begin())
	second := b.join()
	require.NotSame(t, first, second, "it had begun")
	require.Same(t, second, b.join())
	require.Same(t, second, b.begin())
	require.Nil(t, b.begin())
	require.False(t, b.running)
}
