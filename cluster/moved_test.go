package cluster

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// moveTo gives nodes new addresses, which each of them knows of all.
func moveTo(t *testing.T, all []*testNode, moved ...*testNode) {
	t.Helper()
	list := slices.Clone(all[0].voters)
	for _, n := range moved {
		n.raftAddr = freeAddress(t)
		for i := range list {
			if list[i].NodeID == n.id {
				list[i].Address = n.raftAddr
			}
		}
	}
	for _, n := range moved {
		n.voters = list
	}
}

// A voter that comes back elsewhere keeps its vote.
func TestVoterMoves(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	leader := controllerOf(t, nodes...)
	moved := without(nodes, leader)[0]
	moved.kill()
	moveTo(t, nodes, moved)
	moved.start().register()
	// What the leader sends to the new address first may end before the entry
	// that names it, and registering asks for no more than the registration.
	want := raft.Server{Suffrage: raft.Voter, ID: serverID(moved.StorageID()), Address: raft.ServerAddress(moved.raftAddr)}
	require.Eventually(t, func() bool { return slices.Contains(moved.configuration(), want) },
		20*time.Second, 10*time.Millisecond, "the moved voter never learns of its own address")
	require.Len(t, moved.configuration(), 3)
	// Its vote counts: without it nobody would be elected now.
	leader.kill()
	moved.mustCreate("after", 2)
}

// Voters that all moved cannot find each other, and say so.
func TestAllVotersMove(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	for _, n := range nodes {
		n.kill()
	}
	moveTo(t, nodes, nodes...)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.SessionTimeout = time.Second }
		n.start()
	}
	for _, n := range nodes {
		select {
		case err := <-n.Failed():
			changed, ok := errors.AsType[*AddressesChangedError](err)
			require.True(t, ok, "%v", err)
			require.Len(t, changed.Known, 3)
			require.Len(t, changed.Configured, 3)
		case <-time.After(20 * time.Second):
			t.Fatal("node waits for ever")
		}
	}
}
