package partition

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

type phase int8

const (
	phaseIdle       phase = iota // no session
	phaseAwait                   // handshake sent
	phaseTruncating              // the shell is cutting the log
	phaseOn                      // logs match, pushes come
	phaseRefused                 // stays out until the next leader epoch, or until what it holds is deleted
	phaseStopped                 // the log failed
)

// follower is the part of the state that belongs to following.
type follower struct {
	phase       phase
	session     uint64 // current one; 0: none
	lastSession uint64 // newest ever begun
	lastEpoch   record.Epoch
	leaderHW    record.Offset
	leaderStart record.Offset
}

// begin opens a session.
func (r *Replica) begin(ev Event, out *Effects) {
	f := &r.follow
	if r.role == RoleFollower && r.assigned.Leader >= 0 && f.phase == phaseRefused && ev.Session > f.lastSession {
		// No session: the leader is told again and again, for it may be what can help.
		f.lastSession = ev.Session
		out.add(Effect{
			Kind: EffectHandshake, Epoch: r.Epoch(), Session: ev.Session, AnswerEpoch: f.lastEpoch,
			Offset: r.end, LogStart: r.logStart, Flushed: r.flushed, HW: r.hw,
		})
		return
	}
	if r.role != RoleFollower || r.assigned.Leader < 0 || r.damage != DamageNone ||
		f.phase == phaseRefused || f.phase == phaseStopped || ev.Session <= f.lastSession {
		out.add(Effect{Kind: EffectHold})
		return
	}
	*f = follower{
		phase: phaseAwait, session: ev.Session, lastSession: ev.Session, lastEpoch: ev.LastEpoch,
		leaderHW: record.UnknownOffset, leaderStart: record.UnknownOffset,
	}
	out.add(Effect{
		Kind: EffectHandshake, Epoch: r.Epoch(), Session: ev.Session, AnswerEpoch: ev.LastEpoch,
		Offset: r.end, LogStart: r.logStart, Flushed: r.flushed,
	})
}

func (r *Replica) reply(ev Event, out *Effects) {
	f := &r.follow
	if f.phase == phaseRefused {
		r.replyToRefused(ev, out)
		return
	}
	if r.role != RoleFollower || f.phase != phaseAwait || ev.Session != f.session || ev.Epoch != r.Epoch() {
		out.add(Effect{Kind: EffectDrop, Session: ev.Session})
		return
	}
	switch {
	case ev.Outcome != OutcomeOK:
		r.again(out)
	case ev.Begin && (ev.LogStart >= r.end || r.end == r.logStart):
		// The leader keeps nothing that follows this log: begin where it begins.
		f.phase = phaseTruncating
		out.add(Effect{Kind: EffectReset, Offset: ev.LogStart})
	case ev.Matched:
		f.phase = phaseOn
		f.leaderHW, f.leaderStart = ev.HW, ev.LogStart
		out.add(Effect{Kind: EffectFollowing, Session: f.session, Epoch: ev.Epoch})
		// What was flushed since the handshake left has told nobody yet.
		r.sendAck(out)
		r.followWatermark(out)
	default:
		r.truncate(r.cutPoint(ev), out)
	}
}

// replyToRefused begins the log anew when what this replica refuses to cut has been deleted
// on the leader since; else it waits on.
func (r *Replica) replyToRefused(ev Event, out *Effects) {
	f := &r.follow
	if r.role != RoleFollower || ev.Session != f.lastSession || ev.Epoch != r.Epoch() ||
		ev.Outcome != OutcomeOK || !ev.Begin || ev.LogStart < r.end {
		out.add(Effect{Kind: EffectHold})
		return
	}
	f.phase = phaseTruncating
	out.add(Effect{Kind: EffectReset, Offset: ev.LogStart})
}

// cutPoint is where the logs may still agree (KIP-101, KIP-279): the end of the
// largest epoch that both know, in whichever log it ends first.
func (r *Replica) cutPoint(ev Event) record.Offset {
	switch {
	case ev.AnswerEpoch == r.follow.lastEpoch || ev.AnswerEpoch == record.UnknownEpoch:
		return min(ev.AnswerEnd, r.end)
	case ev.LocalEpoch == ev.AnswerEpoch:
		return min(ev.AnswerEnd, ev.LocalEnd)
	case ev.LocalEpoch == record.UnknownEpoch && ev.AnswerEnd < ev.LocalEnd:
		// Every epoch here is newer, and what the leader has of older ones ends below
		// where this log begins: there is nothing to compare any more.
		return ev.AnswerEnd
	default:
		// The leader's epoch is unknown here: everything after the next lower one
		// goes, and the next session compares that.
		return min(ev.LocalEnd, r.end)
	}
}

func (r *Replica) truncate(to record.Offset, out *Effects) {
	f := &r.follow
	switch {
	case to >= r.end:
		r.again(out)
	case to < r.hw && !r.assigned.MayTruncate && f.lastEpoch >= r.assigned.LossyEpoch:
		f.phase, f.session = phaseRefused, 0
		out.add(Effect{Kind: EffectRefusedTruncation, Offset: to, HW: r.hw, End: r.end, Epoch: r.Epoch()})
	case to < r.logStart:
		// Nothing of this log is left, and what its producers had written below the cut
		// is not known here: the next handshake begins it where the leader's begins.
		f.phase = phaseTruncating
		out.add(Effect{Kind: EffectReset})
	default:
		f.phase = phaseTruncating
		out.add(Effect{Kind: EffectTruncate, Offset: to})
	}
}

// truncated takes the log as it is after the cut, and what came meanwhile.
func (r *Replica) truncated(now time.Time, l LogState, out *Effects) {
	if r.follow.phase != phaseTruncating {
		return
	}
	l.HW = r.hw
	r.adoptLog(l)
	r.follow.phase, r.follow.session = phaseIdle, 0
	if d := r.deferred; d != nil {
		r.deferred = nil
		r.assign(now, d, out)
	}
	if r.role == RoleFollower {
		out.add(Effect{Kind: EffectAgain})
	}
}

// stepWhileTruncating keeps everyone off a log that is being cut.
func (r *Replica) stepWhileTruncating(ev Event, out *Effects) {
	switch ev.Kind {
	case EventSuspend:
		r.suspend(ev.On, out)
	case EventBegin:
		out.add(Effect{Kind: EffectHold})
	case EventHandshake:
		r.hear(ev.Epoch, out)
		out.add(Effect{Kind: EffectHandshakeReply, Node: ev.Node, Epoch: ev.Epoch, Session: ev.Session, Outcome: OutcomeNotLeader})
	case EventWait:
		r.wait(ev, out)
	case EventReply, EventPush, EventAck:
		out.add(Effect{Kind: EffectDrop, Session: ev.Session})
	default:
	}
}

// push lets batches through that continue the log in the current session.
func (r *Replica) push(ev Event, out *Effects) {
	f := &r.follow
	if r.role != RoleFollower || f.phase != phaseOn || ev.Session != f.session || ev.Epoch != r.Epoch() {
		out.add(Effect{Kind: EffectDrop, Session: ev.Session})
		return
	}
	if ev.From != r.end || ev.To < ev.From {
		r.again(out)
		return
	}
	f.leaderHW, f.leaderStart = max(f.leaderHW, ev.HW), max(f.leaderStart, ev.LogStart)
	if ev.To > ev.From {
		out.add(Effect{Kind: EffectAppend, Offset: ev.From, End: ev.To})
		return
	}
	r.followWatermark(out)
}

func (r *Replica) followerAppended(out *Effects) {
	if r.follow.phase != phaseOn {
		return
	}
	if !r.synced() {
		r.sendAck(out)
	}
	r.followWatermark(out)
}

func (r *Replica) followerProgress(out *Effects) {
	if r.follow.phase != phaseOn {
		return
	}
	r.sendAck(out)
	r.followWatermark(out)
}

func (r *Replica) sendAck(out *Effects) {
	out.add(Effect{
		Kind: EffectAck, Epoch: r.Epoch(), Session: r.follow.session, Offset: r.end,
		Written: r.written, Flushed: r.flushed, LogStart: r.keptStart,
	})
}

// followWatermark moves a follower's HW: never past what it holds as safely as
// the topic asks, for it may lead next.
func (r *Replica) followWatermark(out *Effects) {
	f := &r.follow
	if w := min(f.leaderHW, r.counted()); w > r.hw {
		r.hw = w
		out.add(Effect{Kind: EffectWatermark, HW: w, LogStart: r.logStart})
	}
	if start := min(f.leaderStart, r.hw); start > r.logStart {
		r.logStart = start
		out.add(Effect{Kind: EffectLogStart, Offset: start})
	}
}

func (r *Replica) again(out *Effects) {
	r.follow.phase, r.follow.session = phaseIdle, 0
	out.add(Effect{Kind: EffectAgain})
}

func (r *Replica) streamGone(session uint64) {
	if f := &r.follow; f.session == session && (f.phase == phaseAwait || f.phase == phaseOn) {
		f.phase, f.session = phaseIdle, 0
	}
}
