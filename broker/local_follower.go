package broker

import (
	"errors"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// The follower's side of a replica. replica.FollowerPartition has a Gone as
// well, with another meaning than the leader's, so it is a type of its own.
type followerSide struct{ *localReplica }

// Begin implements replica.FollowerPartition.
func (f followerSide) Begin(session uint64) (replica.Handshake, bool) {
	f.mu.Lock()
	if f.paused && errors.Is(f.b.cfg.Dir.CheckReplication(), commitlog.ErrDiskFull) {
		f.mu.Unlock()
		return replica.Handshake{}, false // The next push would be refused too.
	}
	if f.paused {
		f.paused = false
		f.logger.Info("there is disk space again: the replica goes on")
	}
	todo := f.step(partition.Begin(session, f.log.LastEpoch()))
	var h replica.Handshake
	e, ok := f.find(partition.EffectHandshake)
	if ok {
		h = replica.Handshake{
			Epoch: e.Epoch, Session: e.Session, LastEpoch: e.AnswerEpoch,
			End: e.Offset, Start: e.LogStart, Flushed: e.Flushed, RefusedBelow: e.HW,
		}
	}
	f.mu.Unlock()
	f.finish(todo)
	return h, ok
}

// Reply implements replica.FollowerPartition.
func (f followerSide) Reply(r replica.HandshakeReply) replica.Verdict {
	f.gone.Store(nil)
	outcome := partition.OutcomeOK
	if r.Err != nil {
		// Why does not matter here: every refusal ends in another attempt.
		outcome = partition.OutcomeNotLeader
	} else if r.Begin && r.LogStart > 0 {
		if err := commitlog.CheckProducerState(r.Producers, r.LogStart); err != nil {
			f.logger.Warn("the leader says to begin anew, without a sound producer state", "at", r.LogStart, "error", err)
			outcome = partition.OutcomeNotLeader
		}
	}
	f.mu.Lock()
	localEpoch, localEnd := f.log.EpochEnd(r.AnswerEpoch)
	todo := f.step(partition.Reply(r.Epoch, r.Session, outcome, r.Matched, r.Begin,
		r.AnswerEpoch, r.AnswerEnd, r.LogStart, r.HighWatermark, localEpoch, localEnd))
	todo.producers = r.Producers
	verdict := f.verdict()
	f.mu.Unlock()
	if !f.finish(todo) {
		return replica.VerdictStop
	}
	if todo.truncate || todo.reset {
		return replica.VerdictAgain
	}
	return verdict
}

// Push implements replica.FollowerPartition.
func (f followerSide) Push(p replica.Push, batches []*record.Buf) replica.Verdict {
	f.mu.Lock()
	todo := f.step(partition.Push(p.Epoch, p.Session, p.From, p.To, p.HighWatermark, p.LogStart))
	verdict := f.verdict()
	if _, ok := f.find(partition.EffectAppend); ok {
		verdict = f.appendPush(p, batches)
	}
	f.mu.Unlock()
	f.finish(todo)
	return verdict
}

// appendPush puts batches that the state machine let through into the log. The
// caller holds mu, so that no truncation comes between.
func (f followerSide) appendPush(p replica.Push, batches []*record.Buf) replica.Verdict {
	f.hurry(f.inSync || p.To >= p.HighWatermark)
	err := f.log.AppendFollower(p.From, p.To, p.Cleaned, batches)
	switch {
	case err == nil:
		f.step(partition.AppendedFollower(p.To))
		return replica.VerdictOK
	case errors.Is(err, commitlog.ErrFailed), errors.Is(err, commitlog.ErrDamaged):
		f.logger.Error("the log takes no more records", "error", err)
		f.step(f.refusal())
		return replica.VerdictStop
	case errors.Is(err, commitlog.ErrClosed):
		return replica.VerdictStop
	case errors.Is(err, commitlog.ErrDiskFull):
		// A disk that fills up would fail the log for good; a replica that leaves
		// the in-sync set comes back by itself.
		f.logger.Error("the replica pauses: it leaves the in-sync set until there is disk space", "error", err)
		f.step(partition.StreamGone(p.Session))
		f.paused = true
		return replica.VerdictPause
	default:
		// Bytes that were damaged on their way, or a range that does not fit: a
		// new handshake finds out where the logs agree.
		f.logger.Warn("a push was refused", "from", p.From, "to", p.To, "end", f.log.End(), "error", err)
		return replica.VerdictAgain
	}
}

// hurry says whether anybody waits for the flush of what comes: nobody does while the
// replica is outside of the in-sync set and behind the high watermark. The caller
// holds mu.
func (l *localReplica) hurry(on bool) {
	if l.unhurried == on {
		l.unhurried = !on
		l.log.Unhurried(!on)
	}
}

// Gone implements replica.FollowerPartition.
func (f followerSide) Gone(session uint64) {
	f.doubtLeader()
	f.mu.Lock()
	todo := f.step(partition.StreamGone(session))
	f.mu.Unlock()
	f.finish(todo)
}

// find returns the effect of a kind among those of the last step. The caller
// holds mu.
func (f followerSide) find(kind partition.EffectKind) (partition.Effect, bool) {
	if f.closed {
		return partition.Effect{}, false
	}
	for _, e := range f.out.List {
		if e.Kind == kind {
			return e, true
		}
	}
	return partition.Effect{}, false
}

// verdict is what the last step said to the stream. The caller holds mu.
func (f followerSide) verdict() replica.Verdict {
	if f.closed {
		return replica.VerdictStop
	}
	for i := range f.out.List {
		switch f.out.List[i].Kind { //nolint:exhaustive // The others are no verdicts.
		case partition.EffectDrop:
			return replica.VerdictDrop
		case partition.EffectAgain:
			return replica.VerdictAgain
		case partition.EffectHold, partition.EffectRefusedTruncation:
			return replica.VerdictHold
		case partition.EffectOffline:
			return replica.VerdictStop
		}
	}
	return replica.VerdictOK
}
