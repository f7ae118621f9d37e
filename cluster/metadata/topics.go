package metadata

import (
	"maps"
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// MaxPartitions is the most partitions a topic may have. The assignment of so
// many fits one command with up to 9 replicas each.
const MaxPartitions = 10_000

// MaxReplicationFactor is the most replicas a partition may have.
const MaxReplicationFactor = 9

func (im *Image) createTopic(c *metav1.CreateTopic, result *Result) *Error {
	if err := checkTopicName(c.GetName()); err != nil {
		return err
	}
	id, ok := ParseID(c.GetTopicId())
	switch {
	case !ok:
		return Errorf(CodeInvalidArgument, "topic id %.16x: must be 16 bytes that are not all zero", c.GetTopicId())
	case im.Topic(c.GetName()) != nil:
		return Errorf(CodeTopicExists, "there is a topic %s already", c.GetName())
	case im.wasDeleted(id):
		return Errorf(CodeTopicExists, "the topic id %s belonged to a topic that was deleted", id)
	case im.TopicByID(id) != nil:
		return Errorf(CodeTopicExists, "the topic id %s belongs to topic %s", id, im.TopicByID(id).Name)
	case c.GetName() == ConsumerOffsetsTopic && !c.GetInternal():
		return Errorf(CodeInvalidTopic, "%s is the cluster's own topic; it is created by itself", c.GetName())
	}
	configs := maps.Clone(c.GetConfigs())
	if c.GetInternal() {
		configs = internalConfigs(configs)
	}
	settings, err := parseSettings(configs)
	if err != nil {
		return err
	}
	partitions, err := im.newPartitions(c.GetPartitions())
	if err != nil {
		return err
	}
	t := &Topic{
		Name: c.GetName(), ID: id, Internal: c.GetInternal(), Configs: configs,
		Partitions: partitions, CreatedIndex: im.index, settings: settings, pending: pendingOf(partitions),
	}
	im.setTopic(t)
	im.topicNames = im.topicNames.set(id, t.Name)
	im.partitions += len(partitions)
	result.TopicID, result.ReplicationFactor = id, t.ReplicationFactor()
	return nil
}

// internalConfigs keeps the records of an internal topic until they are
// deleted, and always synced: they are the cluster's own memory.
func internalConfigs(configs map[string]string) map[string]string {
	if configs == nil {
		configs = make(map[string]string)
	}
	configs[ConfigDurability] = string(Synced)
	configs[ConfigRetentionMS] = "-1"
	configs[ConfigRetentionBytes] = "-1"
	return configs
}

func (im *Image) newPartitions(assignments []*metav1.PartitionAssignment) ([]*Partition, *Error) {
	if n := len(assignments); n < 1 || n > MaxPartitions {
		return nil, Errorf(CodeInvalidPartitions, "%d partitions: a topic has 1 to %d", n, MaxPartitions)
	}
	rf := len(assignments[0].GetReplicas())
	if rf < 1 || rf > MaxReplicationFactor {
		return nil, Errorf(CodeInvalidReplicationFactor, "replication factor %d: must be 1 to %d", rf, MaxReplicationFactor)
	}
	out := make([]*Partition, len(assignments))
	for i, a := range assignments {
		if len(a.GetReplicas()) != rf {
			return nil, Errorf(CodeInvalidReplicationFactor, "partition %d has %d replicas, partition 0 has %d; all must have as many",
				i, len(a.GetReplicas()), rf)
		}
		p, err := im.newPartition(i, a.GetReplicas())
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

// newPartition begins with every unfenced replica in sync and the first of them leading.
func (im *Image) newPartition(i int, nodes []int32) (*Partition, *Error) {
	p := &Partition{Leader: NoNode}
	for _, node := range nodes {
		b := im.Broker(node)
		if b == nil {
			return nil, Errorf(CodeInvalidReplicationFactor, "partition %d: broker %d is not registered", i, node)
		}
		if p.Replica(node) != nil {
			return nil, Errorf(CodeInvalidReplicationFactor, "partition %d: broker %d is named twice in %v", i, node, nodes)
		}
		p.Replicas = append(p.Replicas, Replica{NodeID: node, StorageID: b.StorageID, LastEpoch: -1, LogEndOffset: -1})
		if b.Fenced {
			continue
		}
		p.ISR = append(p.ISR, node)
		if p.Leader == NoNode {
			p.Leader = node
		}
	}
	if p.Leader == NoNode {
		return nil, Errorf(CodeInvalidReplicationFactor, "partition %d: all of its brokers %v are fenced", i, nodes)
	}
	slices.Sort(p.ISR)
	return p, nil
}

func (im *Image) deleteTopic(c *metav1.DeleteTopic, result *Result) *Error {
	t, err := im.namedTopic(c.GetName())
	if err != nil {
		return err
	}
	if id, ok := ParseID(c.GetTopicId()); len(c.GetTopicId()) > 0 && (!ok || id != t.ID) {
		return Errorf(CodeUnknownTopic, "the topic %s has the id %s, not %.16x", t.Name, t.ID, c.GetTopicId())
	}
	if t.Internal {
		return Errorf(CodeInvalidTopic, "%s is the cluster's own topic and cannot be deleted", t.Name)
	}
	im.topics = im.topics.remove(t.Name)
	im.topicNames = im.topicNames.remove(t.ID)
	im.partitions -= len(t.Partitions)
	im.rememberDeletion(t)
	result.TopicID, result.ReplicationFactor = t.ID, t.ReplicationFactor()
	return nil
}

func (im *Image) alterTopicConfig(c *metav1.AlterTopicConfig, result *Result) *Error {
	t, err := im.namedTopic(c.GetName())
	if err != nil {
		return err
	}
	configs := maps.Clone(t.Configs)
	if configs == nil {
		configs = make(map[string]string)
	}
	for _, key := range c.GetUnset() {
		if err := checkKnown(TopicConfigs(), key); err != nil {
			return err
		}
		if _, both := c.GetSet()[key]; both {
			return Errorf(CodeInvalidConfig, "%s is both set and unset", key)
		}
		delete(configs, key)
	}
	maps.Copy(configs, c.GetSet())
	settings, err := parseSettings(configs)
	if err != nil {
		return err
	}
	if t.Internal && !sameKept(t.settings, settings) {
		return Errorf(CodeInvalidConfig, "%s is the cluster's own topic: durability and retention cannot be changed", t.Name)
	}
	before := t
	t = t.withConfigs(configs, settings)
	if t.settings.MinInSyncReplicas != before.settings.MinInSyncReplicas {
		t = t.withPartitions(withoutELR(before, t))
	}
	im.setTopic(t)
	result.TopicID, result.ReplicationFactor = t.ID, t.ReplicationFactor()
	return nil
}

func sameKept(a, b TopicSettings) bool {
	return a.Durability == b.Durability && a.RetentionAge == b.RetentionAge && a.RetentionBytes == b.RetentionBytes
}

// withoutELR forgets the eligible leaders where before and after have another
// minimum: they may lack what was acknowledged since (KIP-966). Where they are all
// that is left nothing was acknowledged since, and they stay.
func withoutELR(before, after *Topic) []*Partition {
	out := slices.Clone(after.Partitions)
	for i, p := range after.Partitions {
		if len(p.ELR) == 0 || before.MinISR(p) == after.MinISR(p) || len(p.ISR)+len(p.LastISR) == 0 {
			continue
		}
		q := p.clone()
		q.ELR = nil
		q.PartitionEpoch++
		out[i] = q
	}
	return out
}

func (im *Image) namedTopic(name string) (*Topic, *Error) {
	if t := im.Topic(name); t != nil {
		return t, nil
	}
	return nil, Errorf(CodeUnknownTopic, "there is no topic %q", clip(name))
}
