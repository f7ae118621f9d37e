package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/penstock/penstock/cluster/metadata"
)

// leaderWatch wakes those who wait for another Raft leader.
type leaderWatch struct {
	raft         *raft.Raft
	observations chan raft.Observation

	mu      sync.Mutex // guards changed
	changed chan struct{}
}

func newLeaderWatch(r *raft.Raft) *leaderWatch {
	return &leaderWatch{raft: r, observations: make(chan raft.Observation, 1), changed: make(chan struct{})}
}

// run ends with ctx. The observer does not block Raft: when it is told of two
// changes at once, one wakes everybody.
func (w *leaderWatch) run(ctx context.Context) {
	observer := raft.NewObserver(w.observations, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	w.raft.RegisterObserver(observer)
	defer w.raft.DeregisterObserver(observer)
	for {
		select {
		case <-w.observations:
			w.wakeAll()
		case <-ctx.Done():
			return
		}
	}
}

func (w *leaderWatch) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

// next returns a channel that is closed at the next change.
func (w *leaderWatch) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// nodeRef is where a node is reached on its peer listener, and who must answer.
type nodeRef struct {
	nodeID    int32
	storageID metadata.ID
	address   string // peer address
}

// controllerFinder finds the controller's peer address. The metadata image
// knows those of registered brokers only, and may hold an old one, so the finder
// asks the leader itself, on its Raft address, and remembers the answer until
// Raft knows another leader or a call failed.
type controllerFinder struct {
	node *Node

	mu     sync.Mutex // guards what follows
	leader string     // Raft address that ref belongs to
	ref    nodeRef
}

// find returns ErrNoController, wrapped, when there is none or it does not say
// where it is.
func (f *controllerFinder) find(ctx context.Context) (nodeRef, error) {
	_, leader := f.node.raftLeader()
	if ref, ok := f.remembered(leader); ok {
		return ref, nil
	}
	if leader == "" {
		// Not in the quorum yet, or cut off from its leader: others may know.
		leader = f.ask(ctx)
		if leader == "" {
			return nodeRef{}, ErrNoController
		}
		if ref, ok := f.remembered(leader); ok {
			return ref, nil
		}
	}
	if leader == f.node.cfg.AdvertiseRaft {
		return nodeRef{nodeID: f.node.cfg.NodeID, storageID: f.node.storageID, address: f.node.cfg.AdvertisePeer}, nil
	}
	a, err := f.node.layer.identify(ctx, leader)
	if err != nil {
		return nodeRef{}, errors.Join(ErrNoController, fmt.Errorf("ask %s for its peer address: %w", leader, err))
	}
	if err := errors.Join(f.node.refused(leader, a), f.node.checkCluster(leader, a)); err != nil {
		return nodeRef{}, err
	}
	if a.peerAddress == "" {
		return nodeRef{}, fmt.Errorf("%w: %s told no peer address", ErrNoController, leader)
	}
	ref := nodeRef{nodeID: a.nodeID, storageID: a.storageID, address: a.peerAddress}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leader, f.ref = leader, ref
	return ref, nil
}

func (f *controllerFinder) remembered(leader string) (nodeRef, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ref, leader != "" && f.leader == leader
}

// ask returns the Raft address of the leader that the voters know, or "".
func (f *controllerFinder) ask(ctx context.Context) string {
	answers := f.node.askVoters(ctx)
	for _, v := range f.node.cfg.Voters {
		a, ok := answers[v.NodeID]
		if !ok || a.leaderAddress == "" {
			continue
		}
		if f.node.refused(v.Address, a) != nil {
			return v.Address // to be asked again, and to give its reason
		}
		return a.leaderAddress
	}
	return ""
}

// forget drops what find returned, so that the next find asks again.
func (f *controllerFinder) forget(ref nodeRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ref == ref {
		f.leader, f.ref = "", nodeRef{}
	}
}
