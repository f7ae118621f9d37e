package cluster

import (
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/penstock/penstock/cluster/metadata"
)

// MaxVoters bounds the metadata quorum. Every change of metadata waits for a
// majority of it; seven leave room to replace one of five in any order.
const MaxVoters = 7

// Voters are the node ids of the metadata quorum as this node knows it,
// ascending. A voter that never registered is known by the address in the
// configuration, or not at all.
func (n *Node) Voters() []int32 {
	var ids []int32
	for _, s := range n.voters() {
		if id := n.nodeOf(s); id != noNode {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// nodeOf is the node id of a server of the quorum; noNode: not known.
func (n *Node) nodeOf(s raft.Server) int32 {
	if s.ID == serverID(n.storageID) {
		return n.cfg.NodeID
	}
	if storageID, ok := parseServerID(s.ID); ok {
		for b := range n.Image().Brokers() {
			if b.StorageID == storageID {
				return b.NodeID
			}
		}
	}
	for _, v := range n.cfg.Voters {
		if v.Address == string(s.Address) {
			return v.NodeID
		}
	}
	return noNode
}

// votes reports whether this node has a vote in the quorum. The configuration
// file names the voters that founded it; who votes since is for Raft to say.
func (n *Node) votes() bool {
	return slices.ContainsFunc(n.voters(), func(s raft.Server) bool { return s.ID == serverID(n.storageID) })
}

// configurationAt is the newest Raft configuration with the index of its entry,
// so that a change may be bound to it. The library's GetConfiguration tells the
// configuration without its index (the future's Index is always 0, and a
// prevIndex of 0 is no check), so it is looked up where it is kept: in the log,
// or, when no entry since has one, with the newest snapshot.
func (n *Node) configurationAt() (servers []raft.Server, index uint64, err error) {
	first, err := n.store.FirstIndex()
	if err != nil {
		return nil, 0, fmt.Errorf("raft log: %w", err)
	}
	last, err := n.store.LastIndex()
	if err != nil {
		return nil, 0, fmt.Errorf("raft log: %w", err)
	}
	for index := last; index >= first && index > 0; index-- {
		var entry raft.Log
		if err := n.store.GetLog(index, &entry); err != nil {
			return nil, 0, fmt.Errorf("raft log, entry %d: %w", index, err)
		}
		if entry.Type == raft.LogConfiguration {
			return raft.DecodeConfiguration(entry.Data).Servers, index, nil
		}
	}
	metas, err := n.snapshots.List()
	if err != nil {
		return nil, 0, fmt.Errorf("raft snapshots: %w", err)
	}
	if len(metas) == 0 {
		return nil, 0, fmt.Errorf("%w: no raft configuration in the log or a snapshot", ErrDataLost)
	}
	return metas[0].Configuration.Servers, metas[0].ConfigurationIndex, nil
}

// retiredServer reports whether a server's directory was given up.
func retiredServer(im *metadata.Image, s raft.Server) bool {
	id, ok := parseServerID(s.ID)
	if !ok {
		return false
	}
	_, retired := im.Retired(id)
	return retired
}
