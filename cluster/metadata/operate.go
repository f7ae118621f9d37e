package metadata

import (
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// addPartitions grows a topic. Records that are there stay where they are, so a
// key's next record may go to another partition than its last.
func (im *Image) addPartitions(c *metav1.AddPartitions, result *Result) *Error {
	t, err := im.namedTopic(c.GetName())
	if err != nil {
		return err
	}
	if id, ok := ParseID(c.GetTopicId()); !ok || id != t.ID {
		return Errorf(CodeUnknownTopic, "the topic %s has the id %s, not %.16x", t.Name, t.ID, c.GetTopicId())
	}
	have, more := len(t.Partitions), len(c.GetPartitions())
	switch {
	case t.Internal:
		return Errorf(CodeInvalidTopic, "%s is the cluster's own topic: groups hash to its partitions, whose number stays", t.Name)
	case int(c.GetFrom()) != have:
		return Errorf(CodeInvalidUpdateVersion, "topic %s has %d partitions, not %d", t.Name, have, c.GetFrom())
	case more < 1:
		return Errorf(CodeInvalidPartitions, "topic %s has %d partitions: none to add", t.Name, have)
	case have+more > MaxPartitions:
		return Errorf(CodeInvalidPartitions, "%d partitions: a topic has at most %d", have+more, MaxPartitions)
	}
	partitions := append(make([]*Partition, 0, have+more), t.Partitions...)
	for i, a := range c.GetPartitions() {
		if len(a.GetReplicas()) != t.ReplicationFactor() {
			return Errorf(CodeInvalidReplicationFactor, "partition %d has %d replicas, the topic %d", have+i, len(a.GetReplicas()), t.ReplicationFactor())
		}
		p, err := im.newPartition(have+i, a.GetReplicas())
		if err != nil {
			return err
		}
		partitions = append(partitions, p)
	}
	im.setTopic(t.withPartitions(partitions))
	im.partitions += more
	result.TopicID, result.ReplicationFactor = t.ID, t.ReplicationFactor()
	return nil
}

// electUnclean makes a replica the leader that may lack acknowledged records.
// Whoever could lead without loss, or comes back as such, goes first: the order
// is refused while one can be elected, and is bound to the partition epoch that
// the operator has seen.
func (im *Image) electUnclean(c *metav1.ElectUnclean, result *Result) *Error {
	edit := im.edit()
	t, p, err := edit.find(c.GetTopicId(), c.GetPartition())
	if err != nil {
		return err
	}
	name, node := partitionName(t, c.GetPartition()), c.GetLeader()
	if c.GetPartitionEpoch() != p.PartitionEpoch {
		return Errorf(CodeInvalidUpdateVersion, "%s: partition epoch %d is not the present one, %d", name, c.GetPartitionEpoch(), p.PartitionEpoch)
	}
	if err := im.mayElectUnclean(name, p, node); err != nil {
		return err
	}
	q := p.clone()
	q.lead(Choice{Leader: node, Source: FromOrder})
	q.PartitionEpoch++
	edit.put(t, c.GetPartition(), q)
	edit.done()
	result.TopicID, result.ReplicationFactor = t.ID, t.ReplicationFactor()
	return nil
}

func (im *Image) mayElectUnclean(name string, p *Partition, node int32) *Error {
	if p.Leader != NoNode {
		return Errorf(CodeInvalidState, "%s: broker %d leads it, there is nothing to elect", name, p.Leader)
	}
	if clean := im.Elect(p, ElectOptions{Waited: true}); clean.Leader != NoNode {
		return Errorf(CodeInvalidState, "%s: broker %d can lead without loss and is about to", name, clean.Leader)
	}
	if p.Replica(node) == nil {
		return Errorf(CodeInvalidArgument, "%s: broker %d has no replica; those are on %v", name, node, p.nodes())
	}
	if b := im.Broker(node); b == nil || b.Fenced {
		return Errorf(CodeInvalidState, "%s: broker %d is fenced: it must be up to lead", name, node)
	}
	if p.Replica(node).Damage == DamageFailed {
		return Errorf(CodeInvalidState, "%s: the log of broker %d failed: it leads again after a restart of that broker, without loss", name, node)
	}
	return nil
}

// nodes are those of the replicas, in the order of preference.
func (p *Partition) nodes() []int32 {
	out := make([]int32, len(p.Replicas))
	for i := range p.Replicas {
		out[i] = p.Replicas[i].NodeID
	}
	return out
}
