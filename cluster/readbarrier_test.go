package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
