package sim

import (
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
)

func offsetOf(i int) record.Offset { return record.Offset(i) }

// checkWatermark is called when a leader or a follower moved its watermark.
func (w *World) checkWatermark(r *replica, hw record.Offset) {
	p := w.parts[r.part]
	epoch := r.state.Epoch()
	if epoch == r.shownEpoch && hw < r.shown {
		w.fail(Visible, "partition %d: node %d's watermark fell from %d to %d in epoch %d", r.part, r.n.id, r.shown, hw, epoch)
	}
	r.shown, r.shownEpoch = hw, epoch
	if int(hw) > len(r.disk.entries) || p.synced && int(hw) > r.disk.durable {
		w.fail(Visible, "partition %d: node %d's watermark is %d, its log ends at %d, is durable to %d", r.part, r.n.id, hw, len(r.disk.entries), r.disk.durable)
		return
	}
	if r.state.Role() != partition.RoleLeader {
		return
	}
	w.checkActing(r, "moves the watermark")
	// Its newest image may not have come to this partition yet; the one it acts by counts.
	if t := r.n.image.TopicByID(p.topic); t != nil && t.Partitions[0].PartitionEpoch == r.state.PartitionEpoch() &&
		len(t.Partitions[0].ISR) < t.MinISR(t.Partitions[0]) {
		w.fail(Visible, "partition %d: node %d moves the watermark with %v in sync, the minimum is %d", r.part, r.n.id, t.Partitions[0].ISR, t.MinISR(t.Partitions[0]))
	}
	if epoch < p.lossyEpoch {
		return
	}
	for i := min(len(p.committed), int(hw)) - 1; i >= r.disk.start && p.committed[i] != r.disk.entries[i]; i-- {
		w.fail(Immutable, "partition %d: offset %d held %+v and holds %+v at leader %d of epoch %d", r.part, i, p.committed[i], r.disk.entries[i], r.n.id, epoch)
		return
	}
	for i := len(p.committed); i < int(hw); i++ {
		e := r.disk.entries[i]
		if first, twice := p.values[e.value]; twice {
			w.fail(Once, "partition %d: value %d is at %d and at %d", r.part, e.value, first, i)
			return
		}
		if of, known := w.sent[e.value]; known && of != p.index {
			w.fail(Gone, "partition %d: offset %d shows value %d, which was sent to partition %d", r.part, i, e.value, of)
			return
		}
		p.values[e.value] = i
		p.committed = append(p.committed, e)
	}
	w.checkMembers(p)
}

// checkMembers: what any leader has shown as committed is in the log of everyone
// from whom the next leader may come, as safe as the topic asks.
func (w *World) checkMembers(p *part) {
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil {
		return
	}
	q := t.Partitions[0]
	for _, set := range [][]int32{q.ISR, q.ELR} {
		for _, id := range set {
			w.checkMember(p, q, id, q.InISR(id))
		}
	}
}

func (w *World) checkMember(p *part, q *metadata.Partition, id int32, inSync bool) {
	n := w.nodes[id]
	d := n.disk(p)
	if d == nil {
		if len(p.committed) > 0 {
			w.fail(StrongISR, "partition %d: member %d has no log", p.index, id)
		}
		return
	}
	d.heal(p.committed)
	// A process that is gone may have lost what was in memory: until it is back the
	// metadata does not know.
	if d.wounded || !p.synced && (!n.up || n.brokerEpoch != w.meta.latest().Broker(id).Epoch) {
		return
	}
	w.checkStart(p, n, inSync)
	have, all := len(d.entries), len(p.committed)
	if p.synced {
		have = d.durable
	}
	if l := w.leaderOf(p); have < all && l != nil && l != n && l.disk(p) != nil && l.disk(p).forgot {
		d.wounded, d.forgot, d.had = true, true, all // its leader took it in, and knows no better
		return
	}
	if have < all {
		w.fail(StrongISR, "partition %d: %d is committed, node %d (in sync %v, eligible %v) holds %d (durable %d)",
			p.index, all, id, q.ISR, q.ELR, len(d.entries), d.durable)
		return
	}
	if i := differ(d.entries[:all], p.committed, d.start); i >= 0 {
		w.fail(StrongISR, "partition %d: node %d (in sync %v, eligible %v) holds %+v at %d, committed is %+v",
			p.index, id, q.ISR, q.ELR, d.entries[i], i, p.committed[i])
	}
}

// differ returns the first place at which two logs differ, looking from the end
// back to where they surely agree; -1: none. Logs that agree in an entry agree in
// all before it. Below from nothing is compared.
func differ(a, b []entry, from int) int {
	at := -1
	for i := len(a) - 1; i >= from && a[i] != b[i]; i-- {
		at = i
	}
	return at
}

// checkAck: what is acknowledged is where it is said to be, and with acks=all
// below the watermark.
func (w *World) checkAck(r *replica, q *produce) {
	p := w.parts[r.part]
	w.checkActing(r, "acknowledges")
	if q.offset >= len(r.disk.entries) || q.offset >= r.disk.start && r.disk.entries[q.offset].value != q.e.value {
		w.fail(Acked, "partition %d: node %d acknowledged value %d at %d, which is not there", r.part, r.n.id, q.e.value, q.offset)
		return
	}
	if q.acks != partition.AcksAll {
		return
	}
	if int(r.state.HighWatermark()) <= q.offset {
		w.fail(Acked, "partition %d: node %d acknowledged offset %d, its watermark is %d", r.part, r.n.id, q.offset, r.state.HighWatermark())
	}
	if r.state.Epoch() >= p.lossyEpoch {
		p.acked = append(p.acked, ackedRecord{q.offset, r.disk.entries[q.offset]})
	}
}

// checkOutcome: after the append, only success says how it ended.
func (w *World) checkOutcome(r *replica, q *produce, o partition.Outcome) {
	switch o {
	case partition.OutcomeOK, partition.OutcomeNotLeader, partition.OutcomeStorageFailed, partition.OutcomeNotEnoughReplicasAfterAppend:
	case partition.OutcomeTimedOut:
		w.counts.TimedOut++
	default:
		w.fail(Indefinite, "partition %d: node %d appended value %d at %d and answers: %s", r.part, r.n.id, q.e.value, q.offset, o)
	}
}

// checkActing: a leader whose broker has had no controller for its session, or that
// has heard of a newer leader epoch, does nothing.
func (w *World) checkActing(r *replica, what string) {
	p := w.parts[r.part]
	switch {
	case p.deletedAt != 0 && r.n.reconciled >= p.deletedAt:
		w.fail(Gone, "partition %d: node %d %s, and knows that the topic is deleted", r.part, r.n.id, what)
	case r.suspended:
		w.fail(Deposed, "partition %d: node %d %s, and has no controller", r.part, r.n.id, what)
	case r.heard > r.state.Epoch():
		w.fail(Deposed, "partition %d: node %d %s in epoch %d, and has heard of %d", r.part, r.n.id, what, r.state.Epoch(), r.heard)
	}
}

// checkSequence: a record is refused for its sequence only when an earlier one of
// its producer is missing that was not acknowledged, or may be lost.
func (w *World) checkSequence(r *replica, q *produce, last int32) {
	p := w.parts[r.part]
	if p.lossy || p.acksOne || q.done || q.e.producer != q.c.id || r.disk.forgot {
		return
	}
	switch {
	case last < q.c.lastAcked:
		w.fail(Acked, "partition %d: producer %d sends sequence %d to node %d, whose log has %d of the acknowledged %d",
			r.part, q.e.producer, q.e.sequence, r.n.id, last, q.c.lastAcked)
	case last >= q.e.sequence:
		w.fail(Once, "partition %d: producer %d sends sequence %d to node %d, which has %d and not this one",
			r.part, q.e.producer, q.e.sequence, r.n.id, last)
	}
}

// checkMatched: when a leader lets a session begin, the follower's log is a
// beginning of the leader's.
func (w *World) checkMatched(l, f *replica, session uint64) {
	if open, _ := f.state.Session(); open != session || f.cutting {
		return // it does something else by now, and will drop the reply
	}
	if len(f.disk.entries) > len(l.disk.entries) {
		w.fail(ByEpoch, "partition %d: node %d follows %d with a longer log", l.part, f.n.id, l.n.id)
		return
	}
	if i := differ(f.disk.entries, l.disk.entries[:len(f.disk.entries)], max(f.disk.start, l.disk.start)); i >= 0 {
		w.fail(ByEpoch, "partition %d: node %d follows %d, and differs at %d", l.part, f.n.id, l.n.id, i)
	}
}

// leader is the replica that leads in the epoch which this one follows; nil: none does.
func (r *replica) leader() *replica {
	if r.state.Leader() < 0 {
		return nil
	}
	l := r.at(r.state.Leader())
	if l == nil || l.state.Role() != partition.RoleLeader || l.state.Epoch() != r.state.Epoch() {
		return nil
	}
	return l
}

// checkPushed: what a follower takes from the leader of its epoch is what that one has.
func (w *World) checkPushed(f *replica) {
	l := f.leader()
	if l == nil {
		return
	}
	have := len(f.disk.entries)
	if have > len(l.disk.entries) {
		w.fail(ByEpoch, "partition %d: node %d holds %d of leader %d, which has %d", f.part, f.n.id, have, l.n.id, len(l.disk.entries))
		return
	}
	if i := differ(f.disk.entries, l.disk.entries[:have], max(f.disk.start, l.disk.start)); i >= 0 {
		w.fail(ByEpoch, "partition %d: node %d took %+v at %d from leader %d, which has %+v there", f.part, f.n.id, f.disk.entries[i], i, l.n.id, l.disk.entries[i])
	}
}

// checkCut: no truncation takes from one who may lead what is committed, nor from
// anyone what its leader has as well. One that slept may cut more by what a leader told
// it long ago; it is in no set by then.
func (w *World) checkCut(r *replica, to int) {
	p := w.parts[r.part]
	if r.state.Epoch() < p.lossyEpoch || r.disk.wounded || to >= len(r.disk.entries) {
		return
	}
	if l := r.leader(); l != nil && to < len(l.disk.entries) && to >= l.disk.start && l.disk.entries[to] == r.disk.entries[to] {
		w.fail(ByEpoch, "partition %d: node %d cuts its log to %d, where leader %d has the same", r.part, r.n.id, to, l.n.id)
	}
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil || !t.Partitions[0].InISR(r.n.id) && !t.Partitions[0].InELR(r.n.id) {
		return
	}
	if to < len(p.committed) && r.disk.entries[to] == p.committed[to] {
		if l := r.leader(); l != nil && l.disk.forgot { // it was not compared with this one, see checkForgotten
			w.loseUnseen(p, t.Partitions[0])
			return
		}
		w.fail(ByEpoch, "partition %d: node %d cuts its log to %d, %d is committed and the same there", r.part, r.n.id, to, len(p.committed))
	}
}

// checkRebuild: a damaged log is emptied only when nobody counts on it.
func (w *World) checkRebuild(r *replica) {
	t := w.meta.latest().TopicByID(w.parts[r.part].topic)
	if t == nil {
		return
	}
	q := t.Partitions[0]
	for _, set := range [][]int32{q.ISR, q.ELR, q.LastISR} {
		for _, id := range set {
			if id == r.n.id {
				w.fail(Unclean, "partition %d: node %d empties its log; in sync %v, eligible %v, last %v", r.part, id, q.ISR, q.ELR, q.LastISR)
			}
		}
	}
}

// checkLeader: a leader epoch has one leader, in one process.
func (w *World) checkLeader(r *replica, epoch record.Epoch) {
	p := w.parts[r.part]
	who := leading{r.n.id, r.n.generation}
	for int(epoch) >= len(p.leaders) {
		p.leaders = append(p.leaders, leading{node: -1})
	}
	if old := p.leaders[epoch]; old.node >= 0 && old != who {
		w.fail(Deposed, "partition %d: epoch %d is led by %+v and by %+v", r.part, epoch, old, who)
	}
	p.leaders[epoch] = who
}

type leading struct {
	node       int32
	generation int
}

// checkRefused: a leader that was elected cleanly holds everything that anybody
// ever showed.
func (w *World) checkRefused(r *replica, e *partition.Effect) {
	if p := w.parts[r.part]; p.synced && !p.lossy && !w.wounded(p) {
		w.fail(ByEpoch, "partition %d: node %d should truncate to %d, below its watermark %d", r.part, r.n.id, e.Offset, e.HW)
	}
}
