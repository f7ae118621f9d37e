package metadata

import (
	"fmt"
	"slices"
)

// Check reports the first of these invariants that the image breaks, nil when
// all hold:
//
//  1. Nothing but the index is set before the cluster id is.
//  2. Broker epochs are between 1 and the index, node ids are not negative, and
//     a storage id belongs to one broker.
//  3. A topic has a valid name and valid configs, 1 to MaxPartitions
//     partitions with 1 to MaxReplicationFactor replicas each, and was created at or
//     before the index.
//  4. Replicas of a partition are on different brokers, each registered with the
//     replica's storage id and recovered at none of its later sessions.
//  5. ISR, ELR and LastISR ascend and are subsets of the replicas; ISR and ELR
//     share no member.
//  6. A leader is an unfenced broker and in the ISR.
//  7. A fenced broker is in an ISR only as its last member.
//  8. ISR, ELR and LastISR are all empty in a lost partition and in no other; a
//     damaged replica is in neither ISR nor ELR, one whose log failed in no ISR.
//  9. The ELR is empty while the ISR has its minimum.
//  10. Epochs are not negative; a partition epoch is at least its leader epoch, a
//     lossy epoch at most.
//  11. Remembered outcomes are at most MemorySize, of indexes up to the image's.
//  12. The feature level is one of this build's once the cluster id is set, and
//     no broker's is below.
//  13. Counters agree with what they count; the next producer id is not negative.
//  14. A target is 1 to MaxReplicationFactor replicas, each once; those that are
//     being added are in it, are the last of the replicas, and there are none
//     without a target.
//  15. No broker has a retired storage id; one without a storage id is fenced.
//  16. A deletion is of a topic id that no topic has, at or below the index, and
//     waits for at least one broker, ascending, all of them registered.
func (im *Image) Check() error {
	if im.clusterID == "" && (im.brokers.len() > 0 || im.topics.len() > 0 || im.nextProducerID != 0 || im.staged.len() > 0) {
		return fmt.Errorf("invariant 1: there is state but no cluster id")
	}
	if set := im.clusterID != ""; im.featureLevel > Version || set != (im.featureLevel >= levelBase) {
		return fmt.Errorf("invariant 12: feature level %d", im.featureLevel)
	}
	if err := im.checkBrokers(); err != nil {
		return err
	}
	partitions := 0
	for t := range im.Topics() {
		if err := im.checkTopic(t); err != nil {
			return fmt.Errorf("topic %q: %w", t.Name, err)
		}
		partitions += len(t.Partitions)
	}
	if im.memory.outcomes.len() > MemorySize || im.memory.indexes.len() != im.memory.outcomes.len() {
		return fmt.Errorf("invariant 11: %d outcomes under %d ids", im.memory.outcomes.len(), im.memory.indexes.len())
	}
	for index := range im.memory.outcomes.all() {
		if index < 1 || index > im.index {
			return fmt.Errorf("invariant 11: an outcome at index %d of %d", index, im.index)
		}
	}
	for d := range im.Deletions() {
		if err := im.checkDeletion(d); err != nil {
			return err
		}
	}
	if partitions != im.partitions || im.topics.len() != im.topicNames.len() || im.nextProducerID < 0 {
		return fmt.Errorf("invariant 13: %d partitions counted as %d, %d topics with %d ids, next producer id %d",
			partitions, im.partitions, im.topics.len(), im.topicNames.len(), im.nextProducerID)
	}
	return nil
}

func (im *Image) checkBrokers() error {
	owner := make(map[ID]int32)
	for b := range im.Brokers() {
		other, twice := owner[b.StorageID]
		_, retired := im.retired.get(b.StorageID)
		switch {
		case b.Replaced():
			if !b.Fenced {
				return fmt.Errorf("invariant 15: broker %d has no disk and is not fenced", b.NodeID)
			}
			continue
		case retired:
			return fmt.Errorf("invariant 15: broker %d has the retired storage id %s", b.NodeID, b.StorageID)
		case b.NodeID < 0 || b.Epoch < 1 || uint64(b.Epoch) > im.index:
			return fmt.Errorf("invariant 2: broker %d has epoch %d at index %d", b.NodeID, b.Epoch, im.index)
		case twice:
			return fmt.Errorf("invariant 2: brokers %d and %d have storage id %s", other, b.NodeID, b.StorageID)
		case knownLevel(b.FeatureLevel) < im.featureLevel:
			return fmt.Errorf("invariant 12: broker %d knows level %d of %d", b.NodeID, b.FeatureLevel, im.featureLevel)
		}
		owner[b.StorageID] = b.NodeID
	}
	return nil
}

func (im *Image) checkDeletion(d *Deletion) error {
	bad := d.Index < 1 || d.Index > im.index || len(d.Nodes) == 0 || im.TopicByID(d.TopicID) != nil
	for i, node := range d.Nodes {
		bad = bad || im.Broker(node) == nil || i > 0 && d.Nodes[i-1] >= node
	}
	if bad {
		return fmt.Errorf("invariant 16: deletion of %s (%s) at %d waits for %v", d.Name, d.TopicID, d.Index, d.Nodes)
	}
	return nil
}

func (im *Image) checkTopic(t *Topic) error {
	if err := checkTopicName(t.Name); err != nil {
		return fmt.Errorf("invariant 3: %w", err)
	}
	if n := len(t.Partitions); n < 1 || n > MaxPartitions || t.CreatedIndex < 1 || t.CreatedIndex > im.index {
		return fmt.Errorf("invariant 3: %d partitions, created at %d", n, t.CreatedIndex)
	}
	if name, _ := im.topicNames.get(t.ID); name != t.Name {
		return fmt.Errorf("invariant 13: its id names %q", name)
	}
	if n := pendingOf(t.Partitions); n != t.pending {
		return fmt.Errorf("invariant 13: %+v counted as %+v", n, t.pending)
	}
	for i, p := range t.Partitions {
		if rf := p.ReplicationFactor(); rf < 1 || rf > MaxReplicationFactor {
			return fmt.Errorf("partition %d: invariant 3: %d replicas, %d of them added", i, len(p.Replicas), len(p.Adding))
		}
		if err := checkMove(p); err != nil {
			return fmt.Errorf("partition %d: %w", i, err)
		}
		if err := im.checkPartition(t, p); err != nil {
			return fmt.Errorf("partition %d: %w", i, err)
		}
	}
	return nil
}

func (im *Image) checkPartition(t *Topic, p *Partition) error {
	for i := range p.Replicas {
		r := &p.Replicas[i]
		b := im.Broker(r.NodeID)
		if b == nil || b.StorageID != r.StorageID || r.RecoveredEpoch < 0 || r.RecoveredEpoch > b.Epoch || p.Replica(r.NodeID) != r {
			return fmt.Errorf("invariant 4: replica on broker %d", r.NodeID)
		}
		if r.Damage != DamageNone && p.InISR(r.NodeID) || r.Damage.lost() && p.InELR(r.NodeID) {
			return fmt.Errorf("invariant 8: broker %d is damaged (%s), isr %v, elr %v", r.NodeID, r.Damage, p.ISR, p.ELR)
		}
	}
	for _, set := range [][]int32{p.ISR, p.ELR, p.LastISR} {
		for i, node := range set {
			if p.Replica(node) == nil || (i > 0 && set[i-1] >= node) {
				return fmt.Errorf("invariant 5: isr %v, elr %v, last isr %v", p.ISR, p.ELR, p.LastISR)
			}
		}
	}
	for _, node := range p.ISR {
		if slices.Contains(p.ELR, node) {
			return fmt.Errorf("invariant 5: isr %v and elr %v share %d", p.ISR, p.ELR, node)
		}
		if len(p.ISR) > 1 && im.Broker(node).Fenced {
			return fmt.Errorf("invariant 7: broker %d is fenced, isr %v", node, p.ISR)
		}
	}
	switch {
	case p.Leader != NoNode && (!p.InISR(p.Leader) || im.Broker(p.Leader).Fenced):
		return fmt.Errorf("invariant 6: leader %d is fenced or not in isr %v", p.Leader, p.ISR)
	case p.Lost != (len(p.ISR)+len(p.ELR)+len(p.LastISR) == 0):
		return fmt.Errorf("invariant 8: isr %v, elr %v, last isr %v, lost %t", p.ISR, p.ELR, p.LastISR, p.Lost)
	case len(p.ISR) >= t.MinISR(p) && len(p.ELR) > 0:
		return fmt.Errorf("invariant 9: isr %v has its minimum %d, elr %v", p.ISR, t.MinISR(p), p.ELR)
	case p.LeaderEpoch < 0 || p.PartitionEpoch < p.LeaderEpoch:
		return fmt.Errorf("invariant 10: leader epoch %d, partition epoch %d", p.LeaderEpoch, p.PartitionEpoch)
	case p.LossyEpoch < 0 || p.LossyEpoch > p.LeaderEpoch:
		return fmt.Errorf("invariant 10: lossy epoch %d, leader epoch %d", p.LossyEpoch, p.LeaderEpoch)
	}
	return nil
}

func checkMove(p *Partition) error {
	broken := len(p.Target) > MaxReplicationFactor || !p.Moving() && len(p.Adding) > 0 || p.Throttle < 0
	for i, node := range p.Target {
		broken = broken || p.Replica(node) == nil || slices.Contains(p.Target[:i], node)
	}
	for i, node := range p.Adding {
		broken = broken || !slices.Contains(p.Target, node) || p.Replicas[p.ReplicationFactor()+i].NodeID != node
	}
	if broken {
		return fmt.Errorf("invariant 14: target %v, adding %v, throttle %d", p.Target, p.Adding, p.Throttle)
	}
	return nil
}
