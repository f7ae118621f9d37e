package sim

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/log/record"
)

// Logs that begin later: retention on leaders, requests to delete records, and followers
// that do as their leader did, or begin anew where it begins.
//
// A disk keeps what lies below its log's start as well, as the place of what is gone: it
// is what a real log's producer snapshots know, and compared with nothing.

// startTrims lets records be deleted: by retention and by request.
func (w *World) startTrims() {
	for _, p := range w.parts {
		w.startTrimsOf(p)
	}
}

func (w *World) startTrimsOf(p *part) {
	w.after(3*time.Second+w.between(0, w.mix.trims), "retention", func() { w.retain(p) })
	w.after(3*time.Second+w.between(0, w.mix.trims), "records are to be deleted", func() { w.deleteRecords(p) })
}

// retain moves the start of a leader's log, as retention does: below the watermark.
func (w *World) retain(p *part) {
	if p.closed {
		return
	}
	w.after(w.between(w.mix.trims/4, w.mix.trims), "retention", func() { w.retain(p) })
	l := w.leaderOf(p)
	if l == nil || w.healed {
		return
	}
	r := w.healthy(l.id, p)
	if r == nil || l.paused || r.cutting || r.state.Role() != partition.RoleLeader {
		return
	}
	if hw := int(r.state.HighWatermark()); hw > r.disk.start {
		w.counts.Retained++
		r.begins(r.disk.start+1+w.rng.IntN(hw-r.disk.start), nil)
	}
}

// deleteRecords asks the leader to delete the records below an offset.
func (w *World) deleteRecords(p *part) {
	if p.closed {
		return
	}
	w.after(w.between(w.mix.trims/4, w.mix.trims), "records are to be deleted", func() { w.deleteRecords(p) })
	l := w.leaderOf(p)
	if l == nil || w.healed {
		return
	}
	w.after(w.net.delay(), fmt.Sprintf("delete records of %d at %d", p.index, l.id), func() {
		if l.up {
			l.run(func() { w.trim(l, p) })
		}
	})
}

// trim is the broker's part.
func (w *World) trim(n *node, p *part) {
	if p.index >= len(n.replicas) || n.replicas[p.index] == nil {
		return
	}
	r := n.replicas[p.index]
	before := record.UnknownOffset
	if end := len(r.disk.entries); end > 0 && w.chance(80) {
		before = record.Offset(w.rng.IntN(end + 1))
	}
	before, o := r.state.AdmitTrim(before)
	if o != partition.OutcomeOK || r.cutting {
		return
	}
	if hw := r.state.HighWatermark(); before > hw {
		w.fail(Visible, "partition %d: node %d deletes records up to %d, its watermark is %d", p.index, n.id, before, hw)
	}
	r.begins(int(before), func() {
		if r.trims == nil {
			return // its process is over, and with it the request
		}
		r.handles++
		r.trims[r.handles] = before
		r.step(partition.Trim(before, r.handles, n.clock().Add(produceWait)))
	})
}

// begins lets the log of a leader begin later, a little later, and then goes on.
func (r *replica) begins(at int, then func()) {
	r.n.after(r.w().between(time.Millisecond, 30*time.Millisecond), "log start", func() {
		if r.cutting || !r.advance(at) {
			return
		}
		p := r.w().parts[r.part]
		p.started = max(p.started, at)
		r.step(partition.LogStart(record.Offset(r.disk.start)))
		r.pushAll()
		if then != nil {
			then()
		}
	})
}

// advance moves the start of the log, durably; false: it takes nothing any more.
func (r *replica) advance(at int) bool {
	d := r.disk
	if r.failed || d.damage != partition.DamageNone || at > len(d.entries) {
		return false
	}
	if l := d.real; l != nil {
		if err := r.still(func() error { return l.AdvanceStart(record.Offset(at)) }); err != nil {
			if l.Err() != nil {
				r.step(partition.LogFailed())
			}
			return false
		}
		d.durable = int(l.Flushed())
	} else {
		d.durable, d.promised = max(d.durable, at), max(d.promised, at)
		d.watermark = max(d.watermark, at)
	}
	d.start = max(d.start, at)
	return true
}

// followStart does what the leader told, when the disk lets it.
func (r *replica) followStart(at int) {
	wait := r.w().between(time.Millisecond, 200*time.Millisecond)
	if r.n.slow.After(r.w().now) {
		wait += r.w().between(10*time.Millisecond, 800*time.Millisecond)
	}
	if r.n.hung.After(r.w().now) {
		wait += r.n.hung.Sub(r.w().now)
	}
	r.n.after(wait, "log start", func() {
		if r.cutting {
			r.followStart(at) // the broker tries again, too
		} else if r.advance(at) {
			r.step(partition.LogStart(record.Offset(r.disk.start)))
		}
	})
}

// trimmed ends a request to delete records.
func (r *replica) trimmed(handle uint64, o partition.Outcome) {
	before := r.trims[handle]
	delete(r.trims, handle)
	if o != partition.OutcomeOK {
		return
	}
	p := r.w().parts[r.part]
	r.w().counts.Trimmed++
	r.w().checkActing(r, "answers that records are deleted")
	if r.state.Epoch() >= p.lossyEpoch {
		p.deleted = max(p.deleted, int(before))
		r.w().checkMembers(p)
	}
}

// beginAnew empties the log and lets it begin at an offset, with what the leader said of
// the producers below.
func (r *replica) beginAnew(at int) {
	below, state := r.below, r.producers
	r.cutting, r.cutTo = true, 0
	r.n.after(r.w().between(time.Millisecond, 50*time.Millisecond), "begins anew", func() {
		r.cutting = false
		w := r.w()
		w.checkBegin(r, at)
		if at > 0 {
			w.counts.BegunAnew++
		}
		entries := make([]entry, at)
		for i := range min(at, len(below)) {
			entries[i] = below[i]
		}
		for i := range entries {
			entries[i].epoch = record.UnknownEpoch
		}
		*r.disk = disk{
			entries: entries, start: at, durable: at, promised: at, watermark: at, version: r.disk.version + 1, real: r.disk.real,
			wounded: r.disk.forgot, forgot: r.disk.forgot, had: r.disk.had,
		}
		if l := r.disk.real; l != nil {
			err := r.still(func() error {
				if at > 0 {
					return l.ResetTo(record.Offset(at), state)
				}
				return l.Reset(0)
			})
			if err != nil {
				r.step(partition.LogFailed())
				return
			}
		}
		r.step(partition.Truncated(r.disk.state()))
		r.follow()
	})
}

// checkBegin: a log begins where some leader's does, and nobody who may lead empties what
// is committed and not deleted.
func (w *World) checkBegin(r *replica, at int) {
	p := w.parts[r.part]
	if r.state.Epoch() < p.lossyEpoch || r.disk.wounded {
		return
	}
	if at > p.started {
		w.fail(ByEpoch, "partition %d: node %d begins anew at %d, no leader's log began beyond %d", r.part, r.n.id, at, p.started)
	}
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil || !t.Partitions[0].InISR(r.n.id) && !t.Partitions[0].InELR(r.n.id) {
		return
	}
	if len(p.committed) > at {
		w.fail(ByEpoch, "partition %d: node %d begins anew at %d, %d is committed", r.part, r.n.id, at, len(p.committed))
	}
}

// checkStart: who may lead keeps nothing whose deletion was answered, and has deleted
// nothing that no leader has.
func (w *World) checkStart(p *part, n *node, inSync bool) {
	d := n.disks[p.index]
	if inSync && d.start < p.deleted {
		w.fail(Immutable, "partition %d: records below %d are deleted, node %d, in sync, keeps those from %d on", p.index, p.deleted, n.id, d.start)
	}
	if d.start > p.started {
		w.fail(Immutable, "partition %d: the log of node %d begins at %d, no leader deleted beyond %d", p.index, n.id, d.start, p.started)
	}
}
