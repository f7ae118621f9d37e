package broker

import (
	"maps"
	"sync/atomic"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
)

// table finds local replicas without a lock. Only the reconciler changes it, by
// publishing a new pair of maps.
type table struct {
	p atomic.Pointer[tableMaps]
}

type tableMaps struct {
	byKey  map[replica.Key]*localReplica
	byName map[api.TopicPartition]*localReplica
}

func newTable() *table {
	t := &table{}
	t.p.Store(&tableMaps{})
	return t
}

// get finds a replica by topic id or, without one, by topic name; nil: none here.
func (t *table) get(ref api.PartitionRef) *localReplica {
	maps := t.p.Load()
	if ref.TopicID.IsZero() {
		return maps.byName[api.TopicPartition{Topic: ref.Topic, Partition: ref.Partition}]
	}
	return maps.byKey[replica.Key{Topic: ref.TopicID, Partition: ref.Partition}]
}

func (t *table) byKey(k replica.Key) *localReplica { return t.p.Load().byKey[k] }

// all is the map of all replicas; it must not be changed.
func (t *table) all() map[replica.Key]*localReplica { return t.p.Load().byKey }

// change publishes a table with some replicas added and some removed.
func (t *table) change(add, remove []*localReplica) {
	old := t.p.Load()
	next := &tableMaps{byKey: maps.Clone(old.byKey), byName: maps.Clone(old.byName)}
	if next.byKey == nil {
		next.byKey = make(map[replica.Key]*localReplica, len(add))
		next.byName = make(map[api.TopicPartition]*localReplica, len(add))
	}
	for _, l := range remove {
		delete(next.byKey, l.key)
		// A new topic may have taken the name already.
		if name := l.name(); next.byName[name] == l {
			delete(next.byName, name)
		}
	}
	for _, l := range add {
		next.byKey[l.key] = l
		next.byName[l.name()] = l
	}
	t.p.Store(next)
}

// serving returns the replica that ref names, if this broker may lead it as far
// as the metadata goes, or says why not. The state machine has the last word.
func (b *Broker) serving(ref *api.PartitionRef) (*localReplica, *api.Error) {
	if l := b.table.get(*ref); l != nil && l.role() == partition.RoleLeader {
		if ref.Topic == "" || ref.Topic == l.topic {
			ref.Topic, ref.TopicID = l.topic, l.key.Topic
			return l, nil
		}
	}
	return nil, b.whyNot(*ref)
}

// whyNot explains why a partition is not served here, from the metadata.
func (b *Broker) whyNot(ref api.PartitionRef) *api.Error {
	im := b.cfg.Images.Image()
	topic := im.Topic(ref.Topic)
	if !ref.TopicID.IsZero() {
		topic = im.TopicByID(metadata.ID(ref.TopicID))
	}
	switch {
	case topic == nil && ref.Topic == "":
		return api.Errorf(api.CodeUnknownTopic, "there is no topic with the id %s; it may have been deleted", ref.TopicID).At("", ref.Partition)
	case topic == nil || ref.Topic != "" && topic.Name != ref.Topic:
		return api.Errorf(api.CodeUnknownTopic, "there is no topic %q", ref.Topic).At(ref.Topic, ref.Partition)
	case ref.Partition < 0 || int(ref.Partition) >= len(topic.Partitions):
		return api.Errorf(api.CodeUnknownPartition, "partition %d is out of range: the topic has the partitions 0 to %d", ref.Partition, len(topic.Partitions)-1).At(topic.Name, ref.Partition)
	}
	p := topic.Partitions[ref.Partition]
	hint := &api.LeaderHint{NodeID: p.Leader, LeaderEpoch: p.LeaderEpoch}
	e := api.Errorf(api.CodeNotLeader, "broker %d leads the partition, not %d", p.Leader, b.cfg.NodeID)
	switch p.Leader {
	case metadata.NoNode:
		e = api.Errorf(api.CodeLeaderNotAvailable, "the partition has no leader: no in-sync replica is alive")
	case b.cfg.NodeID:
		e = api.Errorf(api.CodeLeaderNotAvailable, "this broker is about to lead the partition")
	}
	e = e.At(topic.Name, ref.Partition)
	e.Leader = hint
	return e
}
