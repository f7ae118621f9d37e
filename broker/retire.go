package broker

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// A log that failed returns to service only through recovery. For want of space or
// open files that needs no restart: once the resource is back, the reconciler
// closes the replica and opens it anew, as a start of the broker would.
//
// Where nobody counts on it meanwhile, that is all. The image has it outside of every
// set that holds acknowledged records, another broker leads, and its topic is synced,
// so that it kept all that it acknowledged: it begins as a follower that is not in
// sync, by a handshake.
//
// Else the metadata hears of it, as of a restart of that replica alone (command
// RecoverReplica): what recovery found, and whether it may lack what it had
// acknowledged. The partition gets another leader epoch, so that neither this broker
// resumes an old one nor a proposal that is on its way makes the replica a member of
// the in-sync set. Until the image shows it the replica has no role. So the last
// in-sync replica leads again, and one of a topic that is not synced comes back by
// way of the last complete in-sync set. A leader that has in-sync followers resigns
// first, and an in-sync follower is taken out of the set first: both happen by
// themselves, and lose nothing.

// The same command tells of two other things. One is damage that was found while the
// broker runs, by a read, a compaction or a scrub. Its leader may know nothing, for there
// need not be a session, nor a leader; and the leader may be about to count on it,
// whatever the image says. Such a log is opened anew, too, and ends from then on
// where it ceases to be whole. A leader that is damaged resigns, or serves what is left
// until an operator gives up what is behind the damage (giveup.go). The other is what a replica outside of all sets holds,
// when all of the last set are damaged: the best of all copies is to lead then.

// passing reports whether a log failed for want of a resource that comes back.
func passing(err error) bool {
	failed, ok := errors.AsType[*commitlog.FailedError](err)
	return ok && failed.Passing()
}

// outUntil says what a failed replica waits for.
func (l *localReplica) outUntil() string {
	if l.passing.Load() {
		return "there is room again"
	}
	return "a restart"
}

// recovery is a replica that was opened anew and that the image does not show so yet.
type recovery struct {
	// unflushed: it may have acknowledged what its log had not flushed.
	unflushed bool
	// busy: a proposal is on its way. index is where one was applied, 0: none was.
	busy  atomic.Bool
	index atomic.Uint64
}

// positions notes which replicas an election waits to hear of, and reports whether there
// are any.
func (r *reconciler) positions(topics []*metadata.Topic, im *metadata.Image) (found bool) {
	for _, t := range topics {
		for i, p := range t.Partitions {
			if !im.WantsPosition(p, r.b.cfg.NodeID) {
				continue
			}
			l := r.b.table.byKey(replica.Key{Topic: api.TopicID(t.ID), Partition: int32(i)})
			if l != nil && r.recoveries[l.key] == nil && !l.failedLog() {
				r.expect(l)
				found = true
			}
		}
	}
	return found
}

// tellsDamage reports whether a replica has to tell of damage that was found since it was
// opened, or that it kept to itself then: unless it leads, or is to lead again. A leader that
// nobody can replace is the last holder. What it has behind the damage it still serves, and
// would lose with its place.
func (l *localReplica) tellsDamage(im *metadata.Image) bool {
	leads := l.role() == partition.RoleLeader && !l.givesUp.Load()
	if !l.hurt.Load() && !l.untold || leads || l.failedLog() {
		return false
	}
	t := im.TopicByID(metadata.ID(l.key.Topic))
	if t == nil || int(l.partition) >= len(t.Partitions) {
		return false
	}
	p := t.Partitions[l.partition]
	return p.Replica(l.b.cfg.NodeID) != nil && !l.holdsOut(p)
}

func (l *localReplica) failedLog() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Damage() == partition.DamageFailed
}

// retire takes replicas out of the table that may be opened anew, which adopt does.
func (r *reconciler) retire(im *metadata.Image) bool {
	var gone []*localReplica
	r.waiting = false
	for _, l := range r.b.table.all() {
		if l.tellsDamage(im) {
			if gone = append(gone, l); im.TakesReports() {
				r.expect(l)
			}
			continue
		}
		if !l.passing.Load() {
			continue
		}
		free, told := l.mayReopen(im)
		if !free && !told || r.b.cfg.Dir.CheckReserve() != nil {
			r.waiting = true
			continue
		}
		if gone = append(gone, l); !free {
			r.expect(l)
		}
	}
	if len(gone) == 0 {
		return false
	}
	r.b.table.change(nil, gone)
	for _, l := range gone {
		l.stop()
		r.b.unloadGroups(l)
		err := l.log.Close() // says again how it failed
		l.logger.Info("opening a log again that failed or is damaged", "error", err, "damage", l.log.Damage())
	}
	return true
}

// expect notes that the metadata has to hear of a replica.
func (r *reconciler) expect(l *localReplica) {
	if r.recoveries == nil {
		r.recoveries = make(map[replica.Key]*recovery)
	}
	before := r.recoveries[l.key] // it failed again before the image showed it
	r.recoveries[l.key] = &recovery{unflushed: l.unsafe || before != nil && before.unflushed}
}

// mayReopen reports whether the image counts on nothing that the replica holds
// (free), or whether the metadata may be told that it is opened anew.
func (l *localReplica) mayReopen(im *metadata.Image) (free, told bool) {
	t := im.TopicByID(metadata.ID(l.key.Topic))
	if t == nil || int(l.partition) >= len(t.Partitions) {
		return false, false
	}
	l.mu.Lock()
	failed, unsafe := l.state.Damage() == partition.DamageFailed, l.unsafe
	l.mu.Unlock()
	p, me := t.Partitions[l.partition], l.b.cfg.NodeID
	if !failed || p.Replica(me) == nil {
		return false, false
	}
	elsewhere := p.Leader != metadata.NoNode && p.Leader != me && !p.InISR(me)
	free = elsewhere && synced(t.Settings()) && !unsafe && !p.InELR(me) && !slices.Contains(p.LastISR, me)
	last := p.Leader == metadata.NoNode || p.Leader == me && len(p.ISR) == 1 && p.InISR(me)
	return free, elsewhere || last
}

// recover tells the metadata of replicas that were opened anew, and gives those
// their roles that the image shows. It reports whether there are any of these.
func (r *reconciler) recover(im *metadata.Image) (shown bool) {
	for key, rec := range r.recoveries {
		l, t := r.b.table.byKey(key), im.TopicByID(metadata.ID(key.Topic))
		index := rec.index.Load()
		switch {
		case t == nil, l != nil && index != 0 && im.Index() >= index:
			delete(r.recoveries, key)
			shown = true
		case l == nil, rec.busy.Load(), index != 0, int(key.Partition) >= len(t.Partitions):
			r.waiting = true
		default:
			r.waiting = true
			rec.busy.Store(true)
			told := l.recovered()
			r.proposals.Go(func() { r.propose(l, rec, told, t.Partitions[key.Partition].LeaderEpoch) })
		}
	}
	return shown
}

// propose is a goroutine of the reconciler, which waits for it.
func (r *reconciler) propose(l *localReplica, rec *recovery, told *metav1.RecoveredReplica, leaderEpoch int32) {
	ctx, cancel := context.WithTimeout(r.proposing, r.b.cfg.SessionTimeout)
	defer cancel()
	resp, err := r.b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_Recover{Recover: &metav1.RecoverReplica{
		NodeId: r.b.cfg.NodeID, BrokerEpoch: r.b.brokerEpoch, LeaderEpoch: leaderEpoch, Replica: told, Unflushed: rec.unflushed,
	}}})
	defer rec.busy.Store(false)
	if err != nil { // tried again after a pause, by the image of then
		l.logger.Info("the metadata has not heard yet that the replica was opened again", "error", err)
		return
	}
	rec.index.Store(resp.GetIndex())
	r.b.reconcileSoon()
}
