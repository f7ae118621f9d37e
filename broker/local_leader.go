package broker

import (
	"slices"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// Leader finds a partition for package replica. The partition judges each
// message by its leader epoch, so its role is not looked at here.
func (b *Broker) Leader(k replica.Key) (replica.LeaderPartition, bool) {
	l := b.table.byKey(k)
	return l, l != nil
}

// Handshake implements replica.LeaderPartition.
func (l *localReplica) Handshake(s *replica.Session, h replica.Handshake) (replica.HandshakeReply, bool) {
	for {
		// Not under the lock, for it may read the disk.
		if reply, answer, ok := l.handshake(s, h, l.beginning(h.End)); ok {
			return reply, answer
		}
	}
}

// beginning is where a log begins: its first offset, and the first of the batch that holds it.
type beginning struct{ start, firstBatch record.Offset }

// beginning looks for the leader's log, for a follower whose log ends at end.
func (l *localReplica) beginning(end record.Offset) beginning {
	start := l.log.Start()
	if end > start { // the follower has the first batch
		return beginning{start, start}
	}
	return beginning{start, l.log.FirstBatch()}
}

// handshake answers; not ok: the log does not begin at b any more.
func (l *localReplica) handshake(s *replica.Session, h replica.Handshake, b beginning) (reply replica.HandshakeReply, answer, ok bool) {
	l.mu.Lock()
	ev, ok := l.handshakeEvent(s, h, b)
	if !ok {
		l.mu.Unlock()
		return replica.HandshakeReply{}, false, false
	}
	s.SetMoving(slices.Contains(l.adding, s.Follower()))
	todo := l.step(ev)
	reply, answer = l.handshakeReply(s)
	l.mu.Unlock()
	l.finish(todo)
	return reply, answer, true
}

// caller is whose handshake it is.
type caller interface {
	Follower() int32
	BrokerEpoch() int64
	ID() uint64 // the session's
}

// handshakeEvent adds what the log has to say to a handshake; not ok: it does not begin at b
// any more. A log has no epochs below its start, so that an answer of the log as it is and
// the start of the log as it was would tell a follower that ends between the two to cut its
// log at the latter, below what it knows to be committed. The caller holds mu.
func (l *localReplica) handshakeEvent(from caller, h replica.Handshake, b beginning) (ev partition.Event, ok bool) {
	// Under the lock: looked up before, the answer could be of the log as it was
	// before a truncation that this replica's own election came behind.
	answerEpoch, answerEnd := l.epochEnd(h.LastEpoch)
	if l.log.Start() != b.start {
		return partition.Event{}, false
	}
	if h.RefusedBelow != 0 {
		return partition.Refused(from.Follower(), from.BrokerEpoch(), h.Epoch, from.ID(), h.RefusedBelow, h.End, answerEnd, b.firstBatch), true
	}
	return partition.Handshake(from.Follower(), from.BrokerEpoch(), h.Epoch, from.ID(), h.LastEpoch, h.End, h.Flushed,
		answerEpoch, answerEnd, b.start, b.firstBatch), true
}

// handshakeReply reads the answer from the effects of the last step. The caller
// holds mu.
func (l *localReplica) handshakeReply(s *replica.Session) (replica.HandshakeReply, bool) {
	if l.closed {
		return replica.HandshakeReply{Err: l.outcome(partition.OutcomeNotLeader), Session: s.ID(), Epoch: s.Epoch()}, true
	}
	for i := range l.out.List {
		e := &l.out.List[i]
		if e.Kind != partition.EffectHandshakeReply {
			continue
		}
		reply := replica.HandshakeReply{
			Epoch: e.Epoch, Session: e.Session, AnswerEpoch: e.AnswerEpoch, AnswerEnd: e.Offset,
			LogStart: e.LogStart, HighWatermark: e.HW, Matched: e.Matched, Begin: e.Begin,
		}
		if err := l.outcome(e.Outcome); err != nil {
			reply.Err = err
		}
		if e.Matched {
			l.keepSession(s)
		}
		return reply, true
	}
	return replica.HandshakeReply{}, false
}

// keepSession makes s the session of its follower. The caller holds mu.
func (l *localReplica) keepSession(s *replica.Session) {
	for i, old := range l.sessions {
		if old.Follower() == s.Follower() {
			if old != s {
				old.End()
			}
			l.sessions[i] = s
			return
		}
	}
	l.sessions = append(l.sessions, s)
}

// endSession drops the session of a follower. The caller holds mu.
func (l *localReplica) endSession(node int32, id uint64) {
	l.sessions = slices.DeleteFunc(l.sessions, func(s *replica.Session) bool {
		if s.Follower() != node || s.ID() != id {
			return false
		}
		s.End()
		return true
	})
}

func (l *localReplica) wakeSessions() {
	for _, s := range l.sessions {
		s.Wake()
	}
}

// Read implements replica.LeaderPartition.
func (l *localReplica) Read(s *replica.Session, dst []record.Slice, from record.Offset, maxBytes int) (replica.Run, error) {
	slices := dst
	cleaned := record.Offset(0)
	if end := l.logEnd(); from < end {
		var err error
		// A follower that begins anew does so with a whole batch, whose first records
		// may be deleted.
		from = max(from, l.log.Start())
		if slices, err = l.log.ReadInto(dst, commitlog.ReadOptions{From: from, Limit: end, MaxBytes: maxBytes, Once: true}); err != nil {
			l.checkDamage()
			return replica.Run{}, err
		}
		cleaned = l.log.Cleaned() // asked after the read: it covers every gap that was met
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// What was read across a change of epoch may be another leader's bytes.
	epoch, id, ok := l.state.SessionOf(s.Follower())
	if l.closed || !ok || epoch != s.Epoch() || id != s.ID() {
		for i := range slices {
			slices[i].Release()
		}
		return replica.Run{}, nil
	}
	return replica.Run{Slices: slices, HighWatermark: l.state.HighWatermark(), LogStart: l.log.Start(), Cleaned: cleaned}, nil
}

// ProducerState implements replica.LeaderPartition.
func (l *localReplica) ProducerState(at record.Offset) ([]byte, error) {
	return l.log.ProducerState(at)
}

// Ack implements replica.LeaderPartition.
func (l *localReplica) Ack(s *replica.Session, a replica.Ack) {
	l.mu.Lock()
	todo := l.step(partition.Ack(s.Follower(), a.Epoch, a.Session, a.Appended, a.Flushed, a.LogStart))
	l.mu.Unlock()
	l.finish(todo)
}

// Gone implements replica.LeaderPartition.
func (l *localReplica) Gone(s *replica.Session, withdrawn bool) {
	l.mu.Lock()
	l.sessions = slices.DeleteFunc(l.sessions, func(old *replica.Session) bool { return old == s })
	todo := l.step(partition.SessionGone(s.Follower(), s.ID(), withdrawn))
	l.mu.Unlock()
	l.finish(todo)
}
