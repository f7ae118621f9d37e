package cluster

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// Entries for a peer that is away wait for its return; heartbeats say at once
// that it is away.
func TestEntriesWaitForAPeerThatIsAway(t *testing.T) {
	nodes := newNodes(t, 2, 1)
	n := nodes[0].start()
	away, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := raft.ServerAddress(away.Addr().String())
	require.NoError(t, away.Close())

	const id = raft.ServerID("away")
	heartbeat := &raft.AppendEntriesRequest{Term: 1}
	require.True(t, isAbsent(n.trans.AppendEntries(id, address, heartbeat, new(raft.AppendEntriesResponse))))

	entries := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1, PrevLogTerm: 1}
	done := make(chan error, 1)
	go func() { done <- n.trans.AppendEntries(id, address, entries, new(raft.AppendEntriesResponse)) }()
	select {
	case err := <-done:
		t.Fatal("did not wait:", err)
	case <-time.After(2 * absentPoll):
	}
	// Under another address it is no longer waited for here.
	gone := make(chan error, 1)
	go func() { gone <- n.trans.AppendEntries("gone", address, entries, new(raft.AppendEntriesResponse)) }()
	require.Error(t, n.trans.AppendEntries("gone", "127.0.0.1:1", heartbeat, new(raft.AppendEntriesResponse)))
	select {
	case err := <-gone:
		require.True(t, isAbsent(err))
	case <-within(t, 5*time.Second).Done():
		t.Fatal("waits at an address that the peer has left")
	}
	back, err := net.Listen("tcp", string(address))
	require.NoError(t, err)
	conn, err := back.Accept()
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, back.Close())
	// The peer that answered was no node: that failure is Raft's to see.
	select {
	case err := <-done:
		require.NotErrorIs(t, err, net.ErrClosed)
		require.Error(t, err)
	case <-within(t, 5*time.Second).Done():
		t.Fatal("still waiting")
	}
}

// Who sends entries is not held up for ever by answers that nobody takes any more, as
// after a refusal: Raft's own pipeline, where there is one, would be.
func TestNoStandstillBehindARefusal(t *testing.T) {
	nodes := newNodes(t, 2, 1)
	n, peer := nodes[0].start(), nodes[1].start()
	p, err := n.trans.AppendEntriesPipeline(raft.ServerID(peer.StorageID().String()), peer.trans.LocalAddr())
	if errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		return // one request at a time has its own answer
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	sent := make(chan error, 1)
	go func() {
		for range 4 {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1 << 40, PrevLogTerm: 1}, new(raft.AppendEntriesResponse)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		require.NoError(t, err)
	case <-within(t, 5*time.Second).Done():
		t.Fatal("stands still")
	}
}
