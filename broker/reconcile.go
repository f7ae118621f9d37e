package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// retryOpen is the pause before a log that could not be opened is tried again.
const retryOpen = 2 * time.Second

// reconciler brings the local replicas in line with the newest image. It is
// level-triggered: images in between may never be seen, and what wakes it says
// nothing. It alone changes the table, and it alone loads and unloads groups.
type reconciler struct {
	b *Broker
	// last is the image that was reconciled; nil before the first.
	last *metadata.Image
	// failed: some replica could not be opened.
	failed bool
	// waiting: some replica's log failed and may be opened again later, or was and
	// the image does not show it.
	waiting bool
	// departed were moved away, and their data is still there.
	departed []*departed
	// recoveries are the latter, and the replicas that have to tell what they hold.
	recoveries map[replica.Key]*recovery
	// proposals tell the metadata of them, or ask it about departed ones; proposing ends them.
	proposals sync.WaitGroup
	proposing context.Context //nolint:containedctx // ends run and the proposals
	// throttles is the lowest rate asked for among the reassignments of a topic
	// that are led here; topics without one are not in it.
	throttles map[metadata.ID]int64
	// kept: data of a deleted topic could not be removed. The next start tries again.
	kept bool
}

// newReconciler may reconcile before it runs; what it starts then ends with ctx, too.
func newReconciler(ctx context.Context, b *Broker) *reconciler {
	return &reconciler{b: b, proposing: ctx}
}

func (r *reconciler) run() {
	defer r.proposals.Wait()
	for {
		im := r.b.cfg.Images.Image()
		r.reconcile(im)
		var retry <-chan time.Time
		if r.failed || r.waiting {
			retry = time.After(retryOpen)
		}
		select {
		case <-r.b.cfg.Images.Changed(im.Index()):
		case <-r.b.kick: // The session was lost or came back.
		case <-retry:
		case <-r.proposing.Done():
			return
		}
	}
}

func (r *reconciler) reconcile(im *metadata.Image) {
	r.depart(r.drop(im)) // First: a new topic may want the folder of an old one of its name.
	gone := r.leave(im)
	retired := r.retire(im)
	all := r.recover(im) || retired || r.last == nil || r.failed || brokersDiffer(r.last, im)
	r.failed = false
	var changed []*metadata.Topic
	for t := range im.Topics() {
		if all || r.last.TopicByID(t.ID) != t {
			changed = append(changed, t)
		}
	}
	r.adopt(changed, im)
	if r.positions(changed, im) || retired {
		r.recover(im)
	}
	for _, t := range changed {
		r.assign(t, im)
	}
	r.throttleMoves()
	for _, l := range gone {
		r.removeData(l, im)
	}
	r.groups(im, len(changed) > 0 || r.last == nil || r.last.TopicCount() != im.TopicCount())
	r.last = im
	r.b.applied.set(im.Index())
	if !r.kept {
		r.b.cfg.Membership.SetReconciled(im.Index())
	}
}

// brokersDiffer reports whether a broker registered, was fenced or came back.
func brokersDiffer(a, b *metadata.Image) bool {
	if a.BrokerCount() != b.BrokerCount() {
		return true
	}
	for broker := range b.Brokers() {
		if a.Broker(broker.NodeID) != broker {
			return true
		}
	}
	return false
}

// adopt opens the replicas that the image places here and that are not open yet.
func (r *reconciler) adopt(topics []*metadata.Topic, im *metadata.Image) {
	var missing []openRequest
	for _, t := range topics {
		for i, p := range t.Partitions {
			key := replica.Key{Topic: api.TopicID(t.ID), Partition: int32(i)}
			mine := p.Replica(r.b.cfg.NodeID)
			if mine == nil || r.b.table.byKey(key) != nil {
				continue
			}
			req := openRequest{topic: t.Name, key: key, internal: t.Internal, settings: t.Settings()}
			if mine.RecoveredEpoch == r.b.brokerEpoch && mine.Damage != metadata.DamageFailed { // that ends with the log
				req.damage = mine.Damage
			}
			missing = append(missing, req)
		}
	}
	if len(missing) == 0 {
		return
	}
	opened, failed := r.b.openAll(missing)
	r.failed = failed > 0
	r.b.table.change(opened, nil)
	r.b.logger.Debug("opened replicas", "count", len(opened), "image", im.Index())
}

// drop takes the replicas out of service that are not placed here any more, and
// returns those whose partition was moved away: their data goes when that is
// known to be the last word (departed). Those of deleted topics go at once; the metadata remembers a deletion
// until this broker has told that it is done, absent or not (FateOf).
func (r *reconciler) drop(im *metadata.Image) (moved []*localReplica) {
	var deleted, stray []*localReplica
	for _, l := range r.b.table.all() {
		switch FateOf(im, l.key, r.b.cfg.NodeID, l.log.LastEpoch(), r.last == nil) {
		case FateStay:
		case FateDelete:
			deleted = append(deleted, l)
		case FateMoved:
			moved = append(moved, l)
		case FateSetAside:
			stray = append(stray, l)
		}
	}
	gone := slices.Concat(deleted, moved, stray)
	if len(gone) == 0 {
		return nil
	}
	r.b.table.change(nil, gone)
	for _, l := range gone {
		l.stop()
		r.b.unloadGroups(l) // an image that showed another leader may never have been seen
	}
	for _, l := range stray {
		r.b.setAside(l)
	}
	r.removeDeleted(deleted)
	return moved
}

func (r *reconciler) removeDeleted(deleted []*localReplica) {
	if len(deleted) == 0 {
		return
	}
	logs := make([]*commitlog.Log, len(deleted))
	for i, l := range deleted {
		logs[i] = l.log
	}
	topics := map[metadata.ID]int{}
	for i, err := range r.b.cfg.Dir.RemoveAll(logs) {
		l, id := deleted[i], metadata.ID(deleted[i].key.Topic)
		delete(r.throttles, id)
		if err != nil {
			r.kept = true
			l.logger.Error("the data of a deleted topic could not be removed", "error", err)
			continue
		}
		if topics[id]++; topics[id] == 1 {
			l.logger.Info("removing the data of a deleted topic", "topic_id", id)
		}
	}
}

func (r *reconciler) assign(t *metadata.Topic, im *metadata.Image) {
	settings := t.Settings()
	r.noteThrottle(t)
	for i := range t.Partitions {
		l := r.b.table.byKey(replica.Key{Topic: api.TopicID(t.ID), Partition: int32(i)})
		if l == nil {
			continue
		}
		l.configure(settings)
		if r.recoveries[l.key] != nil {
			continue // it has no role until the metadata knows what it holds
		}
		a := Assignment(t, t.Partitions[i], im)
		a.MayLeadDamaged = l.mayLeadDamaged(t.Partitions[i])
		if !l.finish(l.assign(a, t.Partitions[i].Adding)) {
			r.failed = true // once more after a pause: there may be room by then
		}
		if (l.untold || l.hurt.Load()) && l.role() == partition.RoleLeader {
			l.checkDamage() // in a new epoch too it hands over to whoever comes in sync
		}
	}
}

// mayLeadDamaged reports whether this replica leads although it is damaged: the
// metadata was told so, and elected it from the last complete in-sync set
// all the same, which clears the damage in the image; or it is the last holder, and was
// not told (holdsOut). The log stays read-only:
// consumers and followers get its valid prefix, and the first append makes it
// resign in favour of a follower that has caught up.
func (l *localReplica) mayLeadDamaged(p *metadata.Partition) bool {
	mine := p.Replica(l.b.cfg.NodeID)
	if mine == nil || p.Leader != l.b.cfg.NodeID || mine.Damage != metadata.DamageNone {
		return false
	}
	return l.damaged.Load() || l.hurt.Load() && l.holdsOut(p)
}

// Assignment is what an image says of a partition, in the words of its state
// machine.
func Assignment(t *metadata.Topic, p *metadata.Partition, im *metadata.Image) *partition.Assignment {
	a := &partition.Assignment{
		Leader: p.Leader, LeaderEpoch: record.Epoch(p.LeaderEpoch), PartitionEpoch: p.PartitionEpoch,
		Replicas: make([]partition.Assigned, len(p.Replicas)),
		MinISR:   t.MinISR(p), Synced: synced(t.Settings()),
		// lastISR is kept from the moment a member came back without what it had
		// acknowledged until a leader shows that it holds the partition: as long as
		// it is there, followers may hold what the leader lost.
		MayTruncate: len(p.LastISR) > 0,
		LossyEpoch:  record.Epoch(p.LossyEpoch),
		KeepsFailed: im.KeepsFailed(),
	}
	for i := range p.Replicas {
		node := p.Replicas[i].NodeID
		a.Replicas[i] = partition.Assigned{Node: node, ISR: p.InISR(node), ELR: p.InELR(node), LastISR: slices.Contains(p.LastISR, node), Fenced: true, Failed: p.Replicas[i].Damage == metadata.DamageFailed}
		if b := im.Broker(node); b != nil {
			a.Replicas[i].BrokerEpoch, a.Replicas[i].Fenced = b.Epoch, b.Fenced
		}
	}
	return a
}

// groups loads and unloads the partitions of __consumer_offsets by what is led
// now, and tells the coordinator of changed topics.
func (r *reconciler) groups(im *metadata.Image, topicsChanged bool) {
	c := r.b.coordinator
	t := im.Topic(offsetsTopic)
	if t == nil {
		c.SetPartitions(0)
	} else {
		c.SetPartitions(int32(len(t.Partitions)))
		for i := range t.Partitions {
			if l := r.b.table.byKey(replica.Key{Topic: api.TopicID(t.ID), Partition: int32(i)}); l != nil {
				r.b.loadGroups(l)
			}
		}
	}
	if topicsChanged {
		c.TopicsChanged()
	}
}
