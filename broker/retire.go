package broker

import (
	"errors"
	"slices"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// A log that failed returns to service only through recovery. For want of space or
// open files that needs no restart: once the resource is back, the reconciler
// closes the replica and opens it anew, as a start of the broker would, provided
// that nobody counts on it meanwhile:
//
//   - The image has it outside of every set that holds acknowledged records, and
//     another broker leads. It begins as a follower that is not in sync, by a
//     handshake, and no leader resumes an old epoch.
//   - Its topic is synced, so that it kept all that it acknowledged. The broker's
//     epoch is the same as before, and would not keep a proposal that is on its way
//     from making it a member of the in-sync set.
//
// The last in-sync replica, one that leads, and those of topics that are not synced
// wait for a restart, which gives them a new epoch.

// passing reports whether a log failed for want of a resource that comes back.
func passing(err error) bool {
	failed, ok := errors.AsType[*commitlog.FailedError](err)
	return ok && failed.Passing()
}

// outUntil says what a failed replica waits for. The caller holds mu.
func (l *localReplica) outUntil() string {
	if l.passing.Load() && !l.unsafe {
		return "there is room again and another replica is in sync, or a restart"
	}
	return "a restart"
}

// retire takes replicas out of the table that may be opened anew, which adopt does.
func (r *reconciler) retire(im *metadata.Image) bool {
	var gone []*localReplica
	r.waiting = false
	for _, l := range r.b.table.all() {
		if !l.passing.Load() {
			continue
		}
		if l.mayReopen(im) && r.b.cfg.Dir.CheckReserve() == nil {
			gone = append(gone, l)
		} else {
			r.waiting = true
		}
	}
	if len(gone) == 0 {
		return false
	}
	r.b.table.change(nil, gone)
	for _, l := range gone {
		l.stop()
		if l.loaded != record.UnknownEpoch {
			r.b.coordinator.Unload(l.partition)
		}
		err := l.log.Close() // says again how it failed
		l.logger.Info("opening a log again that failed", "error", err)
	}
	return true
}

// mayReopen reports whether the image counts on nothing that the replica holds.
func (l *localReplica) mayReopen(im *metadata.Image) bool {
	t := im.TopicByID(metadata.ID(l.key.Topic))
	if t == nil || int(l.partition) >= len(t.Partitions) || !synced(t.Settings()) {
		return false
	}
	l.mu.Lock()
	failed := l.state.Damage() == partition.DamageFailed && !l.unsafe
	l.mu.Unlock()
	p := t.Partitions[l.partition]
	me := l.b.cfg.NodeID
	return failed && p.Replica(me) != nil && p.Leader != metadata.NoNode && p.Leader != me &&
		!p.InISR(me) && !p.InELR(me) && !slices.Contains(p.LastISR, me)
}
