package broker

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/consumergroup/coordinator"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// offsetsTopic holds committed offsets and the state of groups.
const offsetsTopic = "__consumer_offsets"

// groupTopics shows the coordinator the topics that groups may subscribe to.
type groupTopics struct{ images Images }

func (g groupTopics) Topic(topic string) (api.TopicID, int32) {
	t := g.images.Image().Topic(topic)
	if t == nil || t.Internal {
		return api.TopicID{}, 0
	}
	return api.TopicID(t.ID), int32(len(t.Partitions))
}

func (g groupTopics) Racks(topic string) [][]string {
	im := g.images.Image()
	t := im.Topic(topic)
	if t == nil {
		return nil
	}
	known := false
	racks := make([][]string, len(t.Partitions))
	for i, p := range t.Partitions {
		for _, r := range p.Replicas {
			if b := im.Broker(r.NodeID); b != nil && b.Rack != "" {
				racks[i] = append(racks[i], b.Rack)
				known = true
			}
		}
		slices.Sort(racks[i])
		racks[i] = slices.Compact(racks[i])
	}
	if !known {
		return nil
	}
	return racks
}

func (g groupTopics) Version() uint64 { return g.images.Image().Index() }

func (g groupTopics) All() iter.Seq2[string, int32] {
	return func(yield func(string, int32) bool) {
		for t := range g.images.Image().Topics() {
			if !t.Internal && !yield(t.Name, int32(len(t.Partitions))) {
				return
			}
		}
	}
}

// FindCoordinator names the broker that coordinates a group. The first call in
// a cluster creates __consumer_offsets.
func (b *Broker) FindCoordinator(ctx context.Context, group string) (int32, error) {
	if err := coordinator.ValidateGroupID(group); err != nil {
		return 0, err
	}
	p := groupPartition(b.cfg.Images.Image(), group)
	if p == nil {
		if err := b.createOffsets(ctx); err != nil {
			return 0, err
		}
		if p = groupPartition(b.cfg.Images.Image(), group); p == nil {
			return 0, api.Errorf(api.CodeCoordinatorNotAvailable, "%s is being created", offsetsTopic)
		}
	}
	if p.Leader == metadata.NoNode {
		return 0, api.Errorf(api.CodeCoordinatorNotAvailable, "the group's partition of %s has no leader", offsetsTopic)
	}
	return p.Leader, nil
}

// offsetsCreator lets one caller at a time create __consumer_offsets.
type offsetsCreator struct {
	turn chan struct{} // holds a token meanwhile
}

// createOffsets never lowers the replication factor: with fewer brokers it says
// so, and the next call tries again.
func (b *Broker) createOffsets(ctx context.Context) error {
	select {
	case b.offsets.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.offsets.turn }()
	im := b.cfg.Images.Image()
	if im.Topic(offsetsTopic) != nil {
		return nil
	}
	alive := int32(0)
	for broker := range im.Brokers() {
		if !broker.Fenced {
			alive++
		}
	}
	if alive < b.cfg.OffsetsReplicas {
		return api.Errorf(api.CodeCoordinatorNotAvailable,
			"%s needs %d brokers (offsets.topic.replication.factor), %d are alive: start the others, or set that key to %d on every node of a cluster that has no more",
			offsetsTopic, b.cfg.OffsetsReplicas, alive, max(alive, 1))
	}
	_, err := b.createTopic(ctx, &api.CreateTopic{
		Name: offsetsTopic, Partitions: b.cfg.OffsetsPartitions, ReplicationFactor: b.cfg.OffsetsReplicas,
		Configs: offsetsConfigs(),
	}, true)
	if api.CodeOf(err) == api.CodeTopicExists {
		return nil
	}
	return err
}

// loadGroups brings the coordinator in line with what is led. Only the
// reconciler calls it, which guards l.loaded.
func (b *Broker) loadGroups(l *localReplica) {
	epoch := l.epoch()
	leads := l.role() == partition.RoleLeader && !b.suspended.Load()
	switch {
	case leads && l.loaded != epoch:
		b.coordinator.Load(l.partition, epoch, &offsetsLog{l, epoch})
		l.loaded = epoch
	case !leads:
		b.unloadGroups(l)
	}
}

// unloadGroups is for a replica that does not lead any more, or is not here any
// more. Only the reconciler calls it.
func (b *Broker) unloadGroups(l *localReplica) {
	if l.loaded != record.UnknownEpoch {
		b.coordinator.Unload(l.partition)
		l.loaded = record.UnknownEpoch
	}
}

// offsetsLog is one partition of __consumer_offsets in one leader epoch.
type offsetsLog struct {
	l     *localReplica
	epoch record.Epoch
}

// Append implements coordinator.Log.
func (o *offsetsLog) Append(buf *record.Buf) coordinator.Appending {
	req := &api.ProduceRequest{Acks: api.AcksAll, Partitions: []api.ProducePartition{{
		PartitionRef: api.PartitionRef{TopicID: o.l.key.Topic, Topic: o.l.topic, Partition: o.l.partition},
		Batches:      []*record.Buf{buf},
	}}}
	defer buf.Release()
	deadline := o.l.b.cfg.Now().Add(defaultProduceTimeout)
	p := api.NewPending(req, deadline)
	taken := o.l.append(p, 0, &req.Partitions[0], o.epoch, api.AcksAll, deadline)
	return appending{p, taken}
}

// appending implements coordinator.Appending.
type appending struct {
	pending *api.Pending
	taken   bool // the log has the batch, for now at least
}

// Wait says of a log that was out of service before the batch came that nothing was
// appended: by its code alone that error may be one of a flush. A refusal of who
// does not lead any more stays in doubt, for the coordinator is to look again.
func (a appending) Wait(ctx context.Context) error {
	results, err := a.pending.Wait(ctx)
	switch {
	case err != nil:
		return err
	case results[0].Err == nil:
		return nil
	case !a.taken && results[0].Err.Code == api.CodeStorageFailed:
		return api.Errorf(api.CodeCoordinatorNotAvailable, "nothing was appended: %w", results[0].Err)
	}
	return results[0].Err
}

// Bounds implements coordinator.Log.
func (o *offsetsLog) Bounds(ctx context.Context) (start, end record.Offset, err error) {
	p := newPoll()
	o.l.readers.add(p)
	defer o.l.readers.remove(p)
	// Nobody else appends here: once the watermark is at this end, no append of
	// unknown outcome is left. What a damaged log holds beyond its limit is not there.
	until := o.l.logEnd()
	for {
		o.l.mu.Lock()
		current := !o.l.closed && o.l.state.Epoch() == o.epoch && o.l.state.Role() == partition.RoleLeader
		failed := o.l.state.Damage() == partition.DamageFailed
		hw, known := o.l.state.Latest()
		o.l.mu.Unlock()
		switch {
		case !current:
			return 0, 0, o.l.outcome(partition.OutcomeNotLeader)
		case failed: // it leads for want of another, and its watermark stands still for good
			return 0, 0, o.l.outcome(partition.OutcomeStorageFailed)
		case known && hw >= until:
			return o.l.log.Start(), hw, nil
		}
		select {
		case <-p.woken:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}

// Read implements coordinator.Log.
func (o *offsetsLog) Read(_ context.Context, from, end record.Offset, maxBytes int) ([]record.Slice, error) {
	slices, err := o.l.log.Read(from, end, maxBytes)
	if err != nil {
		o.l.checkDamage()
		if o.l.log.Damage() != commitlog.DamageNone {
			err = fmt.Errorf("%w; if no replica takes over that has it whole, give up what cannot be read (penstock topic mend %s --partition %d)", err, offsetsTopic, o.l.partition)
		}
		return nil, o.l.readError(err)
	}
	return slices, nil
}
