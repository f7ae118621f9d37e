package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	// absentPoll is how often a peer that refuses connections is dialled again.
	absentPoll = 50 * time.Millisecond
	// absentPatience is how long that goes on before Raft is told of a failure.
	absentPatience = time.Minute
	// noPipeline is how many requests may be under way: the library takes its pipeline from two on.
	noPipeline = 1
)

// transport is Raft's network transport with three traps taken out.
//
// NetworkTransport would run the heartbeat handler on the goroutine of the
// connection, where it races with the main loop over term and role
// (hashicorp/raft issue 695). With no handler set, heartbeats go through the
// main loop like every other message.
//
// Raft's leader doubles its wait for a follower that fails, up to ten seconds,
// and nothing cuts that wait short: a broker that was away for three seconds
// would hear nothing of its own registration for two more. So entries for a
// peer that cannot be dialled wait here, and leave when it listens again. A peer
// that comes back under another address is Raft's to find: heartbeats always go
// to the address that Raft has now, so they say when waiting at the old one is
// over.
//
// Raft's pipeline to a follower comes to a standstill for ever when the follower
// refuses an entry while two more are on their way: the goroutine that takes answers
// ends, the one that reads them waits for it to take the next, and the one that sends
// waits for the reader, so nobody closes the pipeline. A broker that had restarted at
// that moment heard nothing until the leader changed. One request at a time is enough
// for metadata: it carries all entries that have gathered meanwhile.
//
// And what heartbeats are answered is kept, for read barriers: see confirmations.
type transport struct {
	*raft.NetworkTransport

	followers *confirmations
	closing   context.Context //nolint:containedctx // the stream layer's life, which ends the waiting
	addresses *sync.Map       // raft.ServerID -> raft.ServerAddress of the last heartbeat
}

// SetHeartbeatHandler does nothing, on purpose.
func (transport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntries sends entries, waiting for a peer that is away. Heartbeats fail
// at once: they are how the leader knows that a peer is away.
func (t transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) {
		t.addresses.Store(id, target)
		carried := t.followers.leaving()
		err := t.NetworkTransport.AppendEntries(id, target, args, resp)
		if err == nil && resp.Success {
			t.followers.took(id, args.Term, carried)
		}
		return err
	}
	patience := time.NewTimer(absentPatience)
	defer patience.Stop()
	poll := time.NewTicker(absentPoll)
	defer poll.Stop()
	for {
		err := t.NetworkTransport.AppendEntries(id, target, args, resp)
		if err == nil || !isAbsent(err) || t.moved(id, target) {
			return err
		}
		select {
		case <-t.closing.Done():
			return err
		case <-patience.C:
			return err
		case <-poll.C:
		}
	}
}

func (t transport) moved(id raft.ServerID, from raft.ServerAddress) bool {
	now, known := t.addresses.Load(id)
	return known && now != from
}

// isAbsent reports whether nobody listens where a peer should be.
func isAbsent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// isHeartbeat tells Raft's heartbeats, which carry nothing, from replication.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && args.LeaderCommitIndex == 0
}

func newTransport(l *streamLayer, cfg *Config, logger hclog.Logger) transport {
	return transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: l, MaxPool: 3, Timeout: max(2*cfg.ElectionTimeout, time.Second), Logger: logger,
			MaxRPCsInFlight: noPipeline,
		}),
		followers: newConfirmations(),
		closing:   l.ctx,
		addresses: new(sync.Map),
	}
}
