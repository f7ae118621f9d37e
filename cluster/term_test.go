package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/cluster/metadata"
)

// A controller decides nothing before it has applied what earlier ones did: Raft elects
// whoever has the log, and that may be applied late.
func TestAControllerAppliesTheLogBeforeItDecides(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	old := controllerOf(t, nodes...)
	next := without(nodes, old)[0]
	next.eventually("up to date", func(im *metadata.Image) bool { return im.Index() >= old.Image().Index() })

	// Publishing waits for the lock, and with it all that Raft has to apply.
	next.fsm.mu.Lock()
	locked := true
	unlock := func() {
		if locked {
			next.fsm.mu.Unlock()
			locked = false
		}
	}
	defer unlock()
	old.mustCreate("unseen", 2)
	committed := old.Image().Index()
	require.Less(t, next.Image().Index(), committed)
	quorum := old.raft.GetConfiguration()
	require.NoError(t, quorum.Error())
	servers := quorum.Configuration().Servers
	voter := slices.IndexFunc(servers, func(s raft.Server) bool { return s.Address == raft.ServerAddress(next.raftAddr) })
	require.NoError(t, old.raft.LeadershipTransferToServer(servers[voter].ID, servers[voter].Address).Error())

	deadline := time.Now().Add(15 * time.Second)
	var began *term
	for began == nil {
		require.True(t, time.Now().Before(deadline), "no term began")
		began = next.term.Load()
	}
	// The barrier is the second entry of a term; then all that is left is to apply.
	ready := make(chan uint64, 1)
	go func() {
		<-began.ready
		ready <- next.Image().Index()
	}()
	asked := func() bool { return next.raft.LastIndex() >= committed+2 }
	for !asked() && len(ready) == 0 {
		require.True(t, time.Now().Before(deadline), "the term neither asked for a barrier nor began")
	}
	require.Empty(t, ready, "it acts by the metadata of %d, %d was committed", next.Image().Index(), committed)
	unlock()
	select {
	case at := <-ready:
		require.GreaterOrEqual(t, at, committed)
	case <-time.After(15 * time.Second):
		require.Fail(t, "the term never got ready")
	}
}
