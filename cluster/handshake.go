package cluster

import (
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/penstock/penstock/cluster/metadata"
)

// hello is what this node says on a connection to another's Raft listener.
func (n *Node) hello(p purpose) hello {
	return hello{
		purpose: p, nodeID: n.cfg.NodeID, storageID: n.storageID,
		clusterID: n.ClusterID(), raftAddress: n.cfg.AdvertiseRaft,
	}
}

// answer judges the hello of a node that connected, and says who we are.
func (n *Node) answer(h hello) helloAnswer {
	a := helloAnswer{
		nodeID: n.cfg.NodeID, storageID: n.storageID, clusterID: n.ClusterID(), hasState: n.hasState(),
		raftAddress: n.cfg.AdvertiseRaft, peerAddress: n.cfg.AdvertisePeer,
	}
	a.leaderID, a.leaderAddress = n.raftLeader()
	refuse := func(r refusal, format string, args ...any) helloAnswer {
		a.refusal, a.reason = r, fmt.Sprintf(format, args...)
		return a
	}
	if h.purpose != purposeRaft && h.purpose != purposeIdentity {
		return refuse(refusedPurpose, "unknown purpose %d", h.purpose)
	}
	if h.clusterID != "" && a.clusterID != "" && h.clusterID != a.clusterID {
		return refuse(refusedCluster, "node %d belongs to cluster %s, not %s", a.nodeID, a.clusterID, h.clusterID)
	}
	if known, conflict := n.conflict(h.nodeID, h.storageID, h.raftAddress); conflict {
		a.knownStorageID = known
		return refuse(refusedIdentity, "%v", &IdentityConflictError{NodeID: h.nodeID, Known: known, Found: h.storageID})
	}
	return a
}

// conflict reports whether a node is known with another storage id: as a
// registered broker by its node id, or as a voter by its address; or whether its
// own was given up, when known is zero. Who calls on a peer connection tells no
// raftAddress; it is empty then. A node that
// lost its directory must not vote or store in the place of the one it was: it
// could help to elect a leader that lacks what the old one had acknowledged.
func (n *Node) conflict(nodeID int32, storageID metadata.ID, raftAddress string) (known metadata.ID, conflict bool) {
	im := n.Image()
	if _, retired := im.Retired(storageID); retired {
		return metadata.ID{}, true
	}
	if slices.ContainsFunc(n.configuration(), func(s raft.Server) bool {
		return s.ID == serverID(storageID) && (raftAddress == "" || string(s.Address) == raftAddress)
	}) {
		// It joined, which somebody who knew better allowed: the image of a node that
		// has just started is older than its log.
		return metadata.ID{}, false
	}
	if b := im.Broker(nodeID); b != nil && b.StorageID != storageID && !b.Replaced() {
		return b.StorageID, true
	}
	for _, s := range n.voters() {
		// One that was given up is about to leave the quorum.
		if string(s.Address) == raftAddress && s.ID != serverID(storageID) && !retiredServer(im, s) {
			known, _ = parseServerID(s.ID)
			return known, true
		}
	}
	return metadata.ID{}, false
}

// checkAnswer judges the node that answered at an address that Raft dialled.
func (n *Node) checkAnswer(address string, a helloAnswer) error {
	if ours := n.ClusterID(); ours != "" && a.clusterID != "" && ours != a.clusterID {
		return &ClusterIDMismatchError{Ours: ours, Theirs: a.clusterID, Peer: address}
	}
	for _, s := range n.configuration() {
		if string(s.Address) == address && s.ID != serverID(a.storageID) {
			known, _ := parseServerID(s.ID)
			return &IdentityConflictError{NodeID: a.nodeID, Known: known, Found: a.storageID}
		}
	}
	return nil
}

// mayBeBehind reports whether who refuses this node may not know yet that it belongs
// to the quorum, as its own log says: a node that has just started has an old image,
// with the storage id of the disk that this one's took the place of. One that says
// that this directory was given up knows more, not less.
func (n *Node) mayBeBehind(conflict *IdentityConflictError) bool {
	return !conflict.Known.IsZero() && n.member()
}

// refused turns the refusal of our own hello into an error that ends the node,
// or nil when it may pass.
func (n *Node) refused(address string, a helloAnswer) error {
	switch a.refusal {
	case refusedCluster:
		return &ClusterIDMismatchError{Ours: n.ClusterID(), Theirs: a.clusterID, Peer: address}
	case refusedIdentity:
		return &IdentityConflictError{NodeID: n.cfg.NodeID, Known: a.knownStorageID, Found: n.storageID}
	case accepted, refusedVersion, refusedPurpose:
		return nil
	}
	return nil
}

// raftLeader is the leader that Raft knows: its node id (noNode when only the
// address is known) and its Raft address, empty when there is none.
func (n *Node) raftLeader() (int32, string) {
	address, id := n.raft.LeaderWithID()
	if address == "" {
		return noNode, ""
	}
	if id == serverID(n.storageID) {
		return n.cfg.NodeID, string(address)
	}
	return n.nodeOf(raft.Server{ID: id, Address: address}), string(address)
}

// Controller is the node that this node believes to be the controller.
func (n *Node) Controller() (nodeID int32, ok bool) {
	id, _ := n.raftLeader()
	return id, id != noNode
}

// IsController reports whether this node acts as the controller.
func (n *Node) IsController() bool { return n.term.Load() != nil }

func parseServerID(id raft.ServerID) (metadata.ID, bool) {
	return parseHexID(string(id))
}
