package partition

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// Config holds what does not change while a replica lives.
type Config struct {
	Node int32 // this broker
	// LagTimeMax is replica.lag.time.max.ms.
	LagTimeMax time.Duration
	// SessionTimeout is broker.session.timeout: silence on the replication stream
	// for this long proposes a follower out.
	SessionTimeout time.Duration
	// ProposalRetry is the pause before an ISR proposal is made again.
	ProposalRetry time.Duration
	Log           LogState
}

// The defaults of Config, for values that are zero.
const (
	DefaultLagTimeMax     = 10 * time.Second
	DefaultSessionTimeout = 3 * time.Second
	DefaultProposalRetry  = 500 * time.Millisecond
)

// Replica is the state of one replica. Make it with New.
type Replica struct {
	cfg    Config
	role   Role
	damage Damage
	// untold: the damage was found since New, and the metadata may not know: whoever
	// leads may be about to count on this replica.
	untold bool
	// unsafe: the topic was not synced at some time, so that this replica may have
	// acknowledged what its log had not flushed.
	unsafe bool
	// assigned is the assignment in force; nil before the first one.
	assigned *Assignment
	// heard is the newest leader epoch that a message named.
	heard record.Epoch
	// deferred came while the log was being truncated, and is acted on after it.
	deferred *Assignment

	// logStart is where the log begins. A follower's may not be persisted yet;
	// keptStart is, and is what acks tell.
	logStart  record.Offset
	keptStart record.Offset
	end       record.Offset // LEO
	written   record.Offset
	flushed   record.Offset
	hw        record.Offset

	lead   leader
	follow follower
}

// New makes a replica without a role; the first Assign gives it one.
func New(cfg Config) *Replica {
	if cfg.LagTimeMax <= 0 {
		cfg.LagTimeMax = DefaultLagTimeMax
	}
	if cfg.SessionTimeout <= 0 {
		cfg.SessionTimeout = DefaultSessionTimeout
	}
	if cfg.ProposalRetry <= 0 {
		cfg.ProposalRetry = DefaultProposalRetry
	}
	r := &Replica{cfg: cfg, heard: record.UnknownEpoch}
	r.adoptLog(cfg.Log)
	r.damage = cfg.Log.Damage
	if r.damage == DamageNone && r.end < max(cfg.Log.HW, cfg.Log.MustHave) {
		r.damage = DamageLostBytes
	}
	return r
}

// adoptLog starts from what a log is found to hold. Its high watermark is a
// lower bound that may lie outside of what is left.
func (r *Replica) adoptLog(l LogState) {
	r.logStart, r.keptStart, r.end = l.Start, l.Start, l.End
	r.flushed = min(l.Flushed, l.End)
	r.written = r.flushed
	r.hw = clamp(l.HW, r.logStart, r.end)
}

// Step feeds one event and appends to out what follows from it.
func (r *Replica) Step(now time.Time, ev Event, out *Effects) {
	if r.follow.phase == phaseTruncating && ev.Kind != EventAssign && ev.Kind != EventTruncated &&
		ev.Kind != EventLogFailed && ev.Kind != EventLogDamaged {
		r.stepWhileTruncating(ev, out)
		return
	}
	switch ev.Kind {
	case EventAssign:
		r.assign(now, ev.Assignment, out)
	case EventOpened:
		r.opened(now, ev.Log, out)
	case EventAppended:
		r.appended(now, ev, out)
	case EventWait:
		r.wait(ev, out)
	case EventProgress:
		r.progress(ev, out)
	case EventLogStart:
		r.startMoved(ev.LogStart, out)
	case EventTrim:
		r.trim(ev, out)
	case EventLogFailed:
		r.logFailed(now, out)
	case EventLogDamaged:
		r.logDamaged(now, ev.Log.Damage, out)
	case EventHandshake:
		r.handshake(now, ev, out)
	case EventRefused:
		r.refused(now, ev, out)
	case EventAck:
		r.ack(now, ev, out)
	case EventSessionGone:
		r.sessionGone(now, ev, out)
	case EventProposalResult:
		r.proposalResult(now, ev, out)
	case EventTick:
		r.tick(now, ev.Heard, out)
	case EventSuspend:
		r.suspend(ev.On, out)
	case EventDrain:
		r.drain(ev.On, out)
	case EventBegin:
		r.begin(ev, out)
	case EventReply:
		r.reply(ev, out)
	case EventTruncated:
		r.truncated(now, ev.Log, out)
	case EventPush:
		r.push(ev, out)
	case EventStreamGone:
		r.streamGone(ev.Session)
	}
}

// appended moves the end of the log, whoever wrote it.
func (r *Replica) appended(now time.Time, ev Event, out *Effects) {
	r.end = max(r.end, ev.To)
	switch r.role {
	case RoleLeader:
		r.leaderAppended(now, ev, out)
	case RoleFollower:
		r.followerAppended(out)
	case RoleNone:
	}
}

func (r *Replica) progress(ev Event, out *Effects) {
	written, flushed := min(ev.Written, r.end), min(ev.Flushed, r.end)
	if written <= r.written && flushed <= r.flushed {
		return
	}
	r.written, r.flushed = max(r.written, written), max(r.flushed, flushed)
	switch r.role {
	case RoleLeader:
		r.leaderProgress(out)
	case RoleFollower:
		r.followerProgress(out)
	case RoleNone:
	}
}

// startMoved takes where the log begins by now, durably.
func (r *Replica) startMoved(start record.Offset, out *Effects) {
	start = min(start, r.end)
	if start <= r.keptStart {
		return
	}
	r.keptStart, r.logStart = start, max(r.logStart, start)
	switch r.role {
	case RoleLeader:
		r.updateTrims(out)
	case RoleFollower:
		if r.follow.phase == phaseOn {
			r.sendAck(out)
		}
	case RoleNone:
	}
}

// logFailed ends this replica's part: nothing it says from now on may count.
func (r *Replica) logFailed(now time.Time, out *Effects) {
	if r.damage == DamageFailed {
		return
	}
	r.damage = DamageFailed
	out.add(Effect{Kind: EffectOffline, Damage: DamageFailed, Node: r.cfg.Node, Offset: r.end})
	if r.role == RoleLeader {
		r.failWaiters(OutcomeStorageFailed, out)
		r.updateISR(now, out)
	}
	r.follow.phase = phaseStopped
	r.follow.session = 0
	if d := r.deferred; d != nil {
		r.deferred = nil
		r.assign(now, d, out)
	}
}

// logDamaged ends this replica's part for as long as it takes to get whole again. A
// leader serves what it can until an in-sync replica that is intact has taken over;
// the last holder goes on so. It starts over from a leader once nobody counts on what it
// holds, which no image of before the metadata knew says for sure: a proposal that adds it may be on
// its way. So the shell tells the metadata, and goes on with a New replica when
// the image shows that.
func (r *Replica) logDamaged(now time.Time, d Damage, out *Effects) {
	if r.damage != DamageNone {
		return
	}
	r.damage, r.untold = d, true
	switch r.role {
	case RoleLeader:
		r.updateISR(now, out)
	case RoleFollower:
		// The leader must not wait for acks of it.
		out.add(Effect{Kind: EffectOffline, Damage: d, Node: r.cfg.Node, Offset: r.end})
		if r.follow.phase != phaseStopped {
			r.follow.phase = phaseIdle
		}
		r.follow.session = 0
		if next := r.deferred; next != nil { // it was found while truncating
			r.deferred = nil
			r.assign(now, next, out)
		}
	case RoleNone:
	}
}

// counted is the offset of this replica that counts towards the watermark.
func (r *Replica) counted() record.Offset {
	if r.synced() {
		return r.flushed
	}
	return r.end
}

func (r *Replica) synced() bool { return r.assigned == nil || r.assigned.Synced }

func clamp(v, low, high record.Offset) record.Offset { return max(low, min(v, high)) }
