package broker

import (
	"context"
	"errors"
	"slices"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// A leader whose log turns out to be damaged hands over to whoever holds everything. The
// last holder of its partition cannot: there is nobody. It goes on to serve what it can
// read, on both sides of the damage, and takes no records. Followers that end in front of
// the damage cannot get past it, so that they never hold all that is committed; those that
// are past it can, and one of them takes over.
//
// Nothing more happens by itself, for all else is a loss: to go on from the damage means
// that the records behind it, acknowledged and readable, leave the partition, and others
// get their offsets. An operator orders that (GiveUpDamaged). The replica then tells the metadata
// what is whole of it, and the best copy of all leads (metadata.Elect). Its files are kept
// whatever comes.
//
// Nor does it give anything up because its leadership or its process ends (holdsOut). As long
// as the metadata has nobody beside it who may hold what was acknowledged, it does not tell,
// so that it is elected again, and leads again. At a start it asks first, for what this node
// has applied by then is old. Where somebody else leads or is in one of the sets all the
// same, the replica tells as soon as it sees so.

// tellHurt logs what a leader is from now on. The caller holds mu.
func (l *localReplica) tellHurt() {
	_, whole := l.log.Readable()
	l.logger.Error("the log of a leader is damaged: it takes no records any more, and hands over to an in-sync or eligible replica; "+
		"without one it serves what it can read, and an operator decides (penstock cluster damaged)",
		"damage", l.log.Damage(), "whole_to", whole, "end", l.logEnd())
}

// holdsAlone reports whether the metadata counts on node alone for what was acknowledged.
func holdsAlone(p *metadata.Partition, node int32) bool {
	return len(p.ISR) == 1 && p.InISR(node) && len(p.ELR) == 0 && (p.Leader == node || p.Leader == metadata.NoNode)
}

// endIsWhole reports whether a log is damaged inside, and nowhere else: it reaches as far as
// it ever did. One that ends too early has lost bytes, whatever else; it must not lead for
// what it holds, nor has it anything behind the damage.
func endIsWhole(log *commitlog.Log) bool {
	return log.Damage() == commitlog.DamageCorrupt && log.End() >= log.Recovery().Flushed
}

// holdsOut reports whether the damaged replica keeps its place, for nobody else may hold what
// it has behind the damage, and no operator has given that up.
func (l *localReplica) holdsOut(p *metadata.Partition) bool {
	return holdsAlone(p, l.b.cfg.NodeID) && endIsWhole(l.log) && !l.givesUp.Load()
}

// keepPlaces asks, where logs are damaged inside, what the metadata says of them by now, and
// lets those keep their places that are the last holders of their partitions. The log of a
// topic that is not synced may lack its end, too.
func (b *Broker) keepPlaces(ctx context.Context, opened []*localReplica) error {
	damaged := slices.DeleteFunc(slices.Clone(opened), func(l *localReplica) bool { return !endIsWhole(l.log) })
	if len(damaged) == 0 {
		return nil
	}
	switch err := b.cfg.Images.ReadBarrier(ctx); {
	case errors.Is(err, cluster.ErrCannotAsk):
		return nil // a controller of an earlier release: it is told, as it always was
	case err != nil:
		return err
	}
	im := b.cfg.Images.Image()
	for _, l := range damaged {
		t := im.TopicByID(metadata.ID(l.key.Topic))
		if t == nil || int(l.partition) >= len(t.Partitions) || !synced(t.Settings()) || !im.TakesReports() {
			continue
		}
		if holdsAlone(t.Partitions[l.partition], b.cfg.NodeID) {
			l.keepPlace()
		}
	}
	return nil
}

// keepPlace lets the replica count for all that its log has.
func (l *localReplica) keepPlace() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.untold = true
	l.limit.Store(int64(record.UnknownOffset))
	l.begins(l.logState())
}

// mayHoldLost reports whether the log holds records that an election in a leader epoch
// (0: none was) may have lost: it ends before.
func (l *localReplica) mayHoldLost(lossy record.Epoch) bool {
	return lossy > 0 && l.log.LastEpoch() < lossy
}

// DamagedReplicas lists the damaged replicas of this broker, and what is kept of earlier ones.
func (b *Broker) DamagedReplicas(context.Context) []api.DamagedReplica {
	im := b.cfg.Images.Image()
	var out []api.DamagedReplica
	for _, l := range b.table.all() {
		damage := l.log.Damage()
		if damage == commitlog.DamageNone {
			continue
		}
		_, whole := l.log.Readable()
		r := api.DamagedReplica{
			TopicPartition: l.name(), Leads: l.role() == partition.RoleLeader, Damage: damage.String(),
			WholeTo: whole, End: l.log.End(),
		}
		r.GivesUp = r.Leads && l.mayGiveUp(im) == nil
		out = append(out, r)
	}
	for _, f := range b.cfg.Dir.KeptDamaged() {
		out = append(out, api.DamagedReplica{
			TopicPartition: api.TopicPartition{Topic: f.Topic, Partition: f.Partition}, Kept: f.Path,
			WholeTo: record.UnknownOffset, End: record.UnknownOffset,
		})
	}
	return out
}

// mayGiveUp says why a leader has nothing to give up, or may not now.
func (l *localReplica) mayGiveUp(im *metadata.Image) *api.Error {
	refuse := func(format string, args ...any) *api.Error {
		return api.Errorf(api.CodeInvalidState, format, args...).At(l.topic, l.partition)
	}
	t := im.TopicByID(metadata.ID(l.key.Topic))
	if t == nil || int(l.partition) >= len(t.Partitions) {
		return api.Errorf(api.CodeUnknownTopic, "the topic was deleted").At(l.topic, l.partition)
	}
	p := t.Partitions[l.partition]
	_, whole := l.log.Readable()
	switch {
	case l.log.Damage() == commitlog.DamageNone || l.failedLog():
		return refuse("broker %d knows of no damage in its log", l.b.cfg.NodeID)
	case whole >= l.logEnd():
		return refuse("broker %d has nothing behind the damage: the others copy what is whole, up to offset %d, and one of them takes over then", l.b.cfg.NodeID, whole)
	case p.Leader != l.b.cfg.NodeID:
		return refuse("broker %d does not lead the partition any more, %d does", l.b.cfg.NodeID, p.Leader)
	case len(p.ISR) > 1 || len(p.ELR) > 0:
		return refuse("others hold every acknowledged record (in sync: %v, eligible: %v), and take over without loss when they are there", p.ISR, p.ELR)
	case !im.TakesReports():
		return api.Errorf(api.CodeUnsupported, "the cluster is at feature level %d: restart broker %d instead", im.FeatureLevel(), l.b.cfg.NodeID).At(l.topic, l.partition)
	case l.givesUpBatches():
		return nil // it leads on
	case len(p.Replicas) == 1:
		return refuse("there is no other replica, and nothing to gain: give the partition one first (penstock topic reassign), which copies what is whole")
	}
	for i := range p.Replicas {
		node := p.Replicas[i].NodeID
		if o := im.Broker(node); o == nil || o.Fenced {
			return refuse("broker %d is away, and may hold more than what would be left: bring it back first, or replace its disk if that is gone", node)
		}
	}
	return nil
}

// GiveUpDamaged lets a partition that this broker leads as its last holder go on from where
// the damage of its log begins; what is behind is lost, but for partitions of
// __consumer_offsets (giveUpBatches). It returns when this broker does not
// lead it any more as it did. partitionEpoch is the state of the partition for which it
// is meant; -1: whichever.
func (b *Broker) GiveUpDamaged(ctx context.Context, ref api.PartitionRef, partitionEpoch int32) error {
	l, refused := b.serving(&ref)
	if refused != nil {
		return refused
	}
	im := b.cfg.Images.Image()
	if refused := l.mayGiveUp(im); refused != nil {
		return refused
	}
	p := im.TopicByID(metadata.ID(l.key.Topic)).Partitions[l.partition]
	if partitionEpoch >= 0 && partitionEpoch != p.PartitionEpoch {
		return api.Errorf(api.CodeInvalidUpdateVersion, "partition epoch %d is not the present one, %d", partitionEpoch, p.PartitionEpoch).At(l.topic, l.partition)
	}
	if l.givesUpBatches() {
		if !b.askMetadata(ctx, 0) { // somebody may have taken over with a whole copy
			return api.Errorf(api.CodeNotLeader, "the controller has not confirmed that broker %d still leads", b.cfg.NodeID).At(l.topic, l.partition)
		}
		if refused := l.mayGiveUp(b.cfg.Images.Image()); refused != nil {
			return refused
		}
		if err := l.giveUpBatches(); err != nil {
			return err
		}
	} else {
		_, whole := l.log.Readable()
		l.logger.Warn("what is behind the damage is given up by an operator's order; its files are kept", "whole_to", whole, "end", l.logEnd())
	}
	l.hurt.Store(true)
	l.givesUp.Store(true)
	b.reconcileSoon()
	for was := p.LeaderEpoch; ; {
		t := im.TopicByID(metadata.ID(l.key.Topic))
		if t == nil || t.Partitions[l.partition].LeaderEpoch > was {
			return nil
		}
		select {
		case <-b.cfg.Images.Changed(im.Index()):
			im = b.cfg.Images.Image()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
