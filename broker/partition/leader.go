package partition

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// leader is the part of the state that belongs to one leader epoch.
type leader struct {
	followers []peer
	// startOffset is the LEO at election: where this leader epoch begins.
	startOffset record.Offset
	// suspended: this broker has no controller. It outlives leader epochs.
	suspended bool
	draining  bool
	drained   bool // said so
	// lost: an in-sync or eligible follower holds committed records that the log lacks.
	lost bool

	all waiterQueue // acks=all: until HW
	one waiterQueue // acks=1: until the leader's own counted offset
	// trims are requests to delete records: until every in-sync log begins there.
	trims waiterQueue

	lag      lagWindow
	proposal proposal
}

// peer is what a leader knows of one follower.
type peer struct {
	node        int32
	brokerEpoch int64 // by the image
	fenced      bool
	inSync      bool // in the committed ISR
	eligible    bool // in the ELR, and its log has not failed
	proposed    bool // in an expansion proposal that may be committed

	session   uint64 // newest heard of in this broker epoch; 0: none
	matched   bool   // the session is open
	withdrawn bool   // the follower gave up
	damaged   bool   // it lost acknowledged bytes; until it is out of the ISR
	leaves    bool   // it has to begin anew below its end; until it is out of the ISR and the ELR
	appended  record.Offset
	flushed   record.Offset
	logStart  record.Offset // durable there
	heard     time.Time
	// since is when this leader first knew of the follower's broker session;
	// reached is the most that was counted in it, sessions that are over included.
	// They say who lags, never what is committed: a stream that breaks and comes
	// back is no lag.
	since   time.Time
	reached record.Offset
}

func (f *peer) counted(synced bool) record.Offset {
	if synced {
		return f.flushed
	}
	return f.appended
}

// forget drops what acks told: it holds for one epoch and one session.
func (f *peer) forget() {
	f.matched = false
	f.appended, f.flushed, f.logStart = record.UnknownOffset, record.UnknownOffset, record.UnknownOffset
}

func (l *leader) find(node int32) *peer {
	for i := range l.followers {
		if l.followers[i].node == node {
			return &l.followers[i]
		}
	}
	return nil
}

// leading reports whether this replica may act as leader now.
func (r *Replica) leading() bool {
	return r.role == RoleLeader && !r.superseded() && !r.lead.suspended && r.damage != DamageFailed
}

func (r *Replica) startLeading(now time.Time, out *Effects) {
	l := &r.lead
	l.followers = l.followers[:0]
	l.startOffset = r.end
	l.draining, l.drained, l.lost = false, false, false
	l.lag.reset()
	l.lag.add(now, r.end, 0)
	r.syncFollowers(now, out)
	r.updateWatermark(out)
}

func (r *Replica) stepDown(out *Effects) {
	r.failWaiters(OutcomeNotLeader, out)
	for i := range r.lead.followers {
		r.endSession(&r.lead.followers[i], out)
	}
	r.lead.followers = r.lead.followers[:0]
}

func (r *Replica) endSession(f *peer, out *Effects) {
	if f.matched {
		out.add(Effect{Kind: EffectEndSession, Node: f.node, Session: f.session})
	}
	f.forget()
}

// syncFollowers brings the followers in line with the assignment. A follower
// whose broker registered anew has lost its sessions with the old process.
func (r *Replica) syncFollowers(now time.Time, out *Effects) {
	l := &r.lead
	next := make([]peer, 0, len(r.assigned.Replicas))
	for _, a := range r.assigned.Replicas {
		if a.Node == r.cfg.Node {
			continue
		}
		f := peer{
			node: a.Node, brokerEpoch: a.BrokerEpoch, heard: now, since: now,
			appended: record.UnknownOffset, flushed: record.UnknownOffset, logStart: record.UnknownOffset,
			reached: record.UnknownOffset,
		}
		if old := l.find(a.Node); old != nil {
			if old.brokerEpoch == a.BrokerEpoch {
				f = *old
			} else {
				r.endSession(old, out)
				f.proposed = old.proposed
			}
		}
		f.fenced, f.inSync, f.eligible = a.Fenced, a.ISR, a.ELR && !a.Failed
		f.damaged = f.damaged && a.ISR
		f.leaves = f.leaves && (a.ISR || a.ELR)
		next = append(next, f)
	}
	for i := range l.followers {
		if gone := &l.followers[i]; !r.assigns(gone.node) {
			r.endSession(gone, out)
		}
	}
	l.followers = next
}

func (r *Replica) assigns(node int32) bool {
	for i := range r.assigned.Replicas {
		if r.assigned.Replicas[i].Node == node {
			return true
		}
	}
	return false
}

// refreshLeader takes an assignment of the same leader epoch.
func (r *Replica) refreshLeader(now time.Time, newEpoch bool, out *Effects) {
	r.syncFollowers(now, out)
	if newEpoch {
		r.settleProposals()
	}
	if !r.enoughInSync() {
		r.lead.all.fail(OutcomeNotEnoughReplicasAfterAppend, out)
		r.lead.trims.fail(OutcomeNotEnoughReplicasAfterAppend, out)
	}
	r.updateWatermark(out)
	r.updateTrims(out)
	r.updateISR(now, out)
	r.checkDrained(out)
}

func (r *Replica) leaderAppended(now time.Time, ev Event, out *Effects) {
	out.add(Effect{Kind: EffectPushable, End: r.end})
	r.lead.lag.add(now, r.end, r.cfg.LagTimeMax/lagSteps)
	r.wait(ev, out)
	r.updateWatermark(out)
}

func (r *Replica) leaderProgress(out *Effects) {
	if r.leading() {
		r.lead.one.complete(r.counted(), out)
	}
	r.updateWatermark(out)
}

// handshake answers a follower's opening of a session.
func (r *Replica) handshake(now time.Time, ev Event, out *Effects) {
	reply := Effect{
		Kind: EffectHandshakeReply, Node: ev.Node, Epoch: ev.Epoch, Session: ev.Session,
		AnswerEpoch: ev.AnswerEpoch, Offset: ev.AnswerEnd, LogStart: r.logStart, HW: r.hw,
	}
	f := r.lead.find(ev.Node)
	if o := r.admitHandshake(f, ev, out); o != OutcomeOK {
		reply.Outcome = o
		out.add(reply)
		return
	}
	if ev.Session <= f.session {
		out.add(Effect{Kind: EffectDrop, Node: ev.Node, Session: ev.Session})
		return
	}
	r.endSession(f, out)
	f.session, f.withdrawn, f.heard = ev.Session, false, now
	if r.synced() && f.inSync && ev.To < r.hw {
		// An in-sync replica holds everything below HW; this one did, and lost it.
		f.damaged = true
		out.add(Effect{Kind: EffectFollowerDamaged, Node: f.node, Offset: ev.To, HW: r.hw})
	}
	if f.damaged {
		reply.Outcome = OutcomeDamaged
		r.updateISR(now, out)
		out.add(reply)
		return
	}
	r.compare(ev, &reply)
	leaves := reply.Begin && reply.LogStart < ev.To && r.countsOn(f)
	if leaves {
		// Shorter than it is known to be it would be a wrong leader.
		reply.Outcome, reply.Begin, reply.LogStart = OutcomeCountedOn, false, r.logStart
		if !f.leaves {
			out.add(Effect{Kind: EffectFollowerLeaves, Node: f.node, Offset: min(ev.FirstBatch, r.logStart), HW: r.hw})
		}
	}
	if f.leaves = leaves; leaves {
		r.updateISR(now, out)
	}
	f.matched = reply.Matched
	out.add(reply)
}

// compare says in the reply whether a follower's log is a beginning of this one, and if not
// how the follower gets there.
func (r *Replica) compare(ev Event, reply *Effect) {
	// Batches are pushed whole: a follower that begins anew begins with the first.
	first := min(ev.FirstBatch, r.logStart)
	switch {
	case ev.To < first, ev.LastEpoch == record.UnknownEpoch && ev.To > first && ev.To <= ev.LogStart:
		reply.Begin = true
	case ev.LastEpoch == record.UnknownEpoch:
		// An empty log agrees with every other as far as it reaches, also when it ends where
		// this one is to begin and does not yet durably: what is deleted is not fetched again.
		reply.AnswerEpoch, reply.Offset = record.UnknownEpoch, r.end
		reply.Matched = ev.To <= r.end
	case ev.AnswerEpoch == record.UnknownEpoch:
		// Every epoch of this log is newer than the follower's last. What the follower
		// holds up to the log start may be of another history, which must not count
		// as committed there: the next leader may still hold the right one.
		reply.Offset = first
		reply.Begin = ev.To == first
	default:
		reply.Matched = ev.AnswerEpoch == ev.LastEpoch && ev.To <= min(ev.AnswerEnd, r.end)
	}
	if reply.Begin {
		reply.LogStart = first
	}
}

// countsOn reports whether f may lead next for what it is known to hold: it is in the ISR or
// the ELR, or in a proposal that may be committed.
func (r *Replica) countsOn(f *peer) bool {
	for i := range r.assigned.Replicas {
		if a := &r.assigned.Replicas[i]; a.Node == f.node && (a.ISR || a.ELR) {
			return true
		}
	}
	return f.proposed
}

// refused takes the word of a follower that holds committed records which this log
// lacks. In sync or eligible it holds everything committed, so it is this leader that
// has lost something, below what it had counted as flushed: a disk that lied. It hands
// over to those who have it, and follows. An eligible follower would else stay out for
// ever: it cannot follow, and the set that it could replace is below its minimum.
//
// Once everything that the follower holds has been deleted here it has nothing left to
// refuse for, and begins anew as every follower that is so far behind.
func (r *Replica) refused(now time.Time, ev Event, out *Effects) {
	f := r.lead.find(ev.Node)
	reply := Effect{Kind: EffectHandshakeReply, Node: ev.Node, Epoch: ev.Epoch, Session: ev.Session, Outcome: OutcomeNotLeader}
	if o := r.admitHandshake(f, ev, out); o != OutcomeOK {
		reply.Outcome = o
		out.add(reply)
		return
	}
	f.heard = now
	if first := min(ev.FirstBatch, r.logStart); ev.To <= first {
		reply.Outcome, reply.Begin, reply.LogStart, reply.HW = OutcomeOK, true, first, r.hw
		out.add(reply)
		return
	}
	out.add(reply)
	if !f.inSync && !f.eligible || f.damaged || ev.HW <= ev.AnswerEnd {
		return
	}
	if !r.lead.lost {
		r.lead.lost = true
		out.add(Effect{Kind: EffectLostCommitted, Node: f.node, Offset: ev.AnswerEnd, HW: ev.HW})
	}
	r.updateISR(now, out)
}

// admitHandshake checks who calls and in which epochs.
func (r *Replica) admitHandshake(f *peer, ev Event, out *Effects) Outcome {
	switch {
	case ev.Epoch > r.Epoch():
		r.hear(ev.Epoch, out)
		return OutcomeUnknownEpoch
	case ev.Epoch < r.Epoch():
		return OutcomeFencedEpoch
	case r.role != RoleLeader || r.damage == DamageFailed:
		return OutcomeNotLeader
	case f == nil:
		return OutcomeNotReplica
	case ev.BrokerEpoch > f.brokerEpoch:
		return OutcomeUnknownEpoch
	case ev.BrokerEpoch < f.brokerEpoch:
		return OutcomeStaleBroker
	default:
		return OutcomeOK
	}
}

// superseded reports whether a newer leader epoch than the one in force was heard
// of: somewhere another leader exists, or this one in a later term. It ends when the
// metadata shows that epoch, not with one in between that this broker is late to see.
func (r *Replica) superseded() bool { return r.heard > r.Epoch() }

// hear stops acknowledgements at once when a message names a newer leader epoch. The
// epoch itself is taken from the metadata only.
func (r *Replica) hear(epoch record.Epoch, out *Effects) {
	leading := r.role == RoleLeader && !r.superseded()
	r.heard = max(r.heard, epoch)
	if leading && r.superseded() {
		r.failWaiters(OutcomeNotLeader, out)
	}
}

func (r *Replica) ack(now time.Time, ev Event, out *Effects) {
	f := r.lead.find(ev.Node)
	if r.role != RoleLeader || f == nil || ev.Epoch != r.Epoch() || ev.Session != f.session || !f.matched ||
		ev.To > r.end || ev.Flushed > ev.To {
		if f != nil {
			r.hear(ev.Epoch, out)
		}
		out.add(Effect{Kind: EffectDrop, Node: ev.Node, Session: ev.Session})
		return
	}
	f.heard = now
	f.appended, f.flushed = max(f.appended, ev.To), max(f.flushed, ev.Flushed)
	f.logStart = max(f.logStart, ev.LogStart)
	f.reached = max(f.reached, f.counted(r.synced()))
	r.updateWatermark(out)
	r.updateTrims(out)
	if !f.inSync && !f.proposed && r.eligible(now, f) {
		r.updateISR(now, out)
	}
}

func (r *Replica) sessionGone(now time.Time, ev Event, out *Effects) {
	f := r.lead.find(ev.Node)
	if r.role != RoleLeader || f == nil || ev.Session != f.session {
		return
	}
	f.forget()
	if ev.On {
		f.withdrawn = true
		r.updateISR(now, out)
	}
}

func (r *Replica) tick(now time.Time, heard []Heard, out *Effects) {
	if r.role != RoleLeader {
		r.updateISR(now, out)
		return
	}
	for _, h := range heard {
		if f := r.lead.find(h.Node); f != nil && h.At.After(f.heard) {
			f.heard = h.At
		}
	}
	r.lead.lag.add(now, r.end, r.cfg.LagTimeMax/lagSteps)
	r.lead.one.expire(now, out)
	r.lead.all.expire(now, out)
	r.lead.trims.expire(now, out)
	r.updateISR(now, out)
	r.checkDrained(out)
}

func (r *Replica) suspend(on bool, out *Effects) {
	if r.lead.suspended == on {
		return
	}
	r.lead.suspended = on
	if r.role != RoleLeader {
		return
	}
	if on {
		r.failWaiters(OutcomeNotLeader, out)
		return
	}
	r.updateWatermark(out)
}

func (r *Replica) drain(on bool, out *Effects) {
	r.lead.draining, r.lead.drained = on && r.role == RoleLeader, false
	r.checkDrained(out)
}

// checkDrained reports, once, that a hand-over loses nobody's ack.
func (r *Replica) checkDrained(out *Effects) {
	if r.lead.draining && r.Waiting() == 0 && r.hw >= r.end && !r.lead.drained {
		r.lead.drained = true
		out.add(Effect{Kind: EffectDrained, Epoch: r.Epoch(), Offset: r.end})
	}
}
