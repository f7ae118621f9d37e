package metadata

import (
	"cmp"
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Bounds of staged registrations: a node has one at a time; when there are too
// many, the one that waited longest for its next chunk is forgotten, and its
// broker, told so, starts again.
const (
	maxStagings      = 64
	maxStagingChunks = 256
)

// staging collects the chunks of a registration until the final one.
type staging struct {
	id     ID
	index  uint64 // of the newest chunk
	chunks []*metav1.RegisterBroker
}

// registration is one whole registration.
type registration struct {
	broker   *Broker
	clean    bool
	replicas map[replicaKey]*metav1.RecoveredReplica // never iterated
	topics   map[ID]bool                             // of the replicas
}

type replicaKey struct {
	topic     ID
	partition int32
}

func (im *Image) registerBroker(c *metav1.RegisterBroker) *Error {
	storage, ok := ParseID(c.GetStorageId())
	switch {
	case c.GetNodeId() < 0:
		return Errorf(CodeInvalidArgument, "node.id %d: must be 0 or greater", c.GetNodeId())
	case !ok:
		return Errorf(CodeInvalidArgument, "storage id %.16x of node %d: must be 16 bytes that are not all zero", c.GetStorageId(), c.GetNodeId())
	}
	if err := im.checkIdentity(c.GetNodeId(), storage); err != nil {
		return err
	}
	if level := knownLevel(c.GetFeatureLevel()); level < im.featureLevel {
		return Errorf(CodeUnsupported, "node %d (version %s) knows feature level %d, the cluster is at %d: it needs a newer release",
			c.GetNodeId(), cmp.Or(clip(c.GetVersion()), "unknown"), level, im.featureLevel)
	}
	chunks := []*metav1.RegisterBroker{c}
	if len(c.GetStagingId()) > 0 {
		var err *Error
		if chunks, err = im.stage(c); err != nil || !c.GetFinal() {
			return err
		}
	}
	r, err := im.assemble(storage, chunks)
	if err != nil {
		return err
	}
	im.staged = im.staged.remove(c.GetNodeId())
	im.beginSession(r)
	im.raiseLevel()
	return nil
}

// checkIdentity holds that a node id and a storage id name each other.
func (im *Image) checkIdentity(node int32, storage ID) *Error {
	if r, ok := im.retired.get(storage); ok {
		return Errorf(CodeIdentityConflict, "the data directory with storage id %s was given up when broker %d was replaced or removed: "+
			"it cannot come back; start the node with an empty one", storage, r.NodeID)
	}
	for b := range im.Brokers() {
		switch {
		case b.NodeID == node && b.Replaced():
		case b.NodeID == node && b.StorageID != storage:
			return Errorf(CodeIdentityConflict, "node.id %d belongs to the data directory with storage id %s, this one has %s; "+
				"give this node another node.id, or its own data directory; if its disk is gone, see penstock cluster replace", node, b.StorageID, storage)
		case b.NodeID != node && b.StorageID == storage:
			return Errorf(CodeIdentityConflict, "the data directory with storage id %s belongs to node.id %d, this node has %d",
				storage, b.NodeID, node)
		}
	}
	return nil
}

// stage adds a chunk and returns all chunks so far. Chunk 0 begins anew.
func (im *Image) stage(c *metav1.RegisterBroker) ([]*metav1.RegisterBroker, *Error) {
	id, ok := ParseID(c.GetStagingId())
	if !ok {
		return nil, Errorf(CodeInvalidArgument, "staging id %.16x: must be 16 bytes that are not all zero", c.GetStagingId())
	}
	s, _ := im.staged.get(c.GetNodeId())
	if c.GetChunk() == 0 {
		s = &staging{id: id}
	}
	switch {
	case s == nil || s.id != id:
		return nil, Errorf(CodeInvalidArgument, "chunk %d of registration %s is not expected: begin again at chunk 0", c.GetChunk(), id)
	case int64(c.GetChunk()) != int64(len(s.chunks)):
		return nil, Errorf(CodeInvalidArgument, "chunk %d of registration %s is not expected: the next one is %d", c.GetChunk(), id, len(s.chunks))
	case len(s.chunks) == maxStagingChunks:
		return nil, Errorf(CodeRequestTooLarge, "registration %s has more than %d chunks", id, maxStagingChunks)
	}
	chunks := append(slices.Clip(s.chunks), c)
	im.staged = im.staged.set(c.GetNodeId(), &staging{id: id, index: im.index, chunks: chunks})
	if im.staged.len() > maxStagings {
		im.dropOldestStaging()
	}
	return chunks, nil
}

func (im *Image) dropOldestStaging() {
	node, oldest := NoNode, uint64(0)
	for n, s := range im.staged.all() {
		if node == NoNode || s.index < oldest {
			node, oldest = n, s.index
		}
	}
	im.staged = im.staged.remove(node)
}

// assemble makes one registration of its chunks; the last one describes the broker.
func (im *Image) assemble(storage ID, chunks []*metav1.RegisterBroker) (*registration, *Error) {
	last := chunks[len(chunks)-1]
	r := &registration{
		broker: &Broker{
			NodeID: last.GetNodeId(), StorageID: storage, Epoch: int64(im.index),
			GRPC: endpoints(last.GetGrpc()), Kafka: endpoints(last.GetKafka()),
			PeerAddress: last.GetPeerAddress(), RaftAddress: last.GetRaftAddress(),
			Rack: last.GetRack(), Version: last.GetVersion(), FeatureLevel: last.GetFeatureLevel(),
		},
		replicas: make(map[replicaKey]*metav1.RecoveredReplica),
		topics:   make(map[ID]bool),
	}
	previous := im.Broker(last.GetNodeId())
	if previous != nil {
		r.broker.Decommissioning, r.broker.DecommissionThrottle = previous.Decommissioning, previous.DecommissionThrottle
	}
	r.broker.VotePending = previous != nil && previous.VotePending
	r.clean = last.GetCleanStop() && previous != nil && last.GetCleanStopEpoch() == previous.Epoch
	for _, c := range chunks {
		for _, rec := range c.GetReplicas() {
			topic, ok := ParseID(rec.GetTopicId())
			if !ok || rec.GetPartition() < 0 || rec.GetLastEpoch() < -1 || rec.GetLogEndOffset() < 0 {
				return nil, Errorf(CodeInvalidArgument, "recovered replica of topic %.16x, partition %d, last epoch %d, log end %d: "+
					"needs a topic id of 16 bytes, a partition and log end from 0, an epoch from -1",
					rec.GetTopicId(), rec.GetPartition(), rec.GetLastEpoch(), rec.GetLogEndOffset())
			}
			r.replicas[replicaKey{topic, rec.GetPartition()}] = rec
			r.topics[topic] = true
		}
	}
	return r, nil
}

func endpoints(in []*metav1.Endpoint) []Endpoint {
	var out []Endpoint
	for _, e := range in {
		out = append(out, Endpoint{Listener: e.GetListener(), Address: e.GetAddress()})
	}
	return out
}

// beginSession ends the broker's previous session and begins the next: every
// leadership of the old one is over, and replicas that cannot be trusted leave
// the in-sync and eligible sets.
func (im *Image) beginSession(r *registration) {
	node := r.broker.NodeID
	im.brokers = im.brokers.set(node, r.broker)
	im.forgetDeletions(node, im.index, func(topic ID) bool { return r.topics[topic] })
	im.editReplicas(node, func(t *Topic, i int, p *Partition) *Partition {
		recovered := r.recovered(t, i)
		q := p.clone()
		q.Replicas = slices.Clone(p.Replicas)
		*q.Replica(node) = recovered
		changed := false
		if recovered.Damage != DamageNone || (t.settings.Durability == Replicated && !r.clean) {
			changed = q.distrust(node)
		}
		if changed && recovered.Damage != DamageNone && im.featureLevel >= levelDamage {
			q.forgetPositions()
		}
		if im.reelect(q, p.Leader == node) || changed {
			q.PartitionEpoch++
		}
		return q
	})
}

// recovered is the replica as the registration tells it. A replica that the
// registration does not mention is missing.
func (r *registration) recovered(t *Topic, partition int) Replica {
	out := Replica{
		NodeID: r.broker.NodeID, StorageID: r.broker.StorageID, RecoveredEpoch: r.broker.Epoch,
		LastEpoch: -1, LogEndOffset: 0, Damage: DamageMissing,
	}
	if rec, ok := r.replicas[replicaKey{t.ID, int32(partition)}]; ok {
		out.LastEpoch, out.LogEndOffset, out.Damage = rec.GetLastEpoch(), rec.GetLogEndOffset(), Damage(rec.GetDamage())
	}
	return out
}

// distrust takes node, which no longer holds all it acknowledged, out of both
// sets of p, the caller's own copy, and keeps who could hold every acknowledged
// record as LastISR. Several members may return like that one after the other
// before a leader shows that it lives, so LastISR only grows here.
func (p *Partition) distrust(node int32) (changed bool) {
	if !p.InISR(node) && !p.InELR(node) {
		return false
	}
	p.LastISR = union(p.LastISR, p.ISR, p.ELR)
	p.ISR, p.ELR = without(p.ISR, node), without(p.ELR, node)
	return true
}

func (im *Image) fenceBroker(c *metav1.FenceBroker) *Error {
	b, err := im.session(c.GetNodeId(), c.GetBrokerEpoch())
	if err != nil || b.Fenced {
		return err
	}
	im.setFenced(b, true)
	im.editReplicas(b.NodeID, func(t *Topic, _ int, p *Partition) *Partition {
		q := p.clone()
		left := len(p.ISR) > 1 && p.InISR(b.NodeID)
		if left {
			q.setISR(without(p.ISR, b.NodeID), t.MinISR(p), nil)
		}
		if !im.reelect(q, p.Leader == b.NodeID) && !left {
			return p
		}
		q.PartitionEpoch++
		return q
	})
	return nil
}

func (im *Image) unfenceBroker(c *metav1.UnfenceBroker) *Error {
	b, err := im.session(c.GetNodeId(), c.GetBrokerEpoch())
	if err != nil || !b.Fenced {
		return err
	}
	if b.Replaced() {
		return Errorf(CodeStaleBrokerEpoch, "the data directory of broker %d was given up; none has registered since", b.NodeID)
	}
	im.setFenced(b, false)
	im.editReplicas(b.NodeID, func(_ *Topic, _ int, p *Partition) *Partition {
		q := p.clone()
		if !im.reelect(q, false) {
			return p
		}
		q.PartitionEpoch++
		return q
	})
	return nil
}

func (im *Image) setFenced(b *Broker, fenced bool) {
	c := *b
	c.Fenced = fenced
	im.brokers = im.brokers.set(b.NodeID, &c)
}
