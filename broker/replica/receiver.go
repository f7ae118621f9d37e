package replica

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// receiver hands what one stream brings to the partitions.
type receiver struct {
	stream *followerStream
	in     FollowerStream
	// unmatched are replies that may make a partition wait for its disk. The
	// handshaker takes them, so that pushes of other partitions go on.
	unmatched chan unmatched
	// heavy holds back further replies while one with a large producer state waits
	// for the handshaker; of capacity one.
	heavy chan struct{}
	bufs  []*record.Buf
}

type unmatched struct {
	sub   *Subscription
	reply HandshakeReply
}

// run receives until the stream ends.
func (r *receiver) run() error {
	for {
		m, err := r.in.Recv()
		if err != nil {
			return fmt.Errorf("replica: stream to broker %d: %w", r.stream.link.leader, err)
		}
		err = r.take(m)
		m.Release()
		if err != nil {
			return err
		}
	}
}

func (r *receiver) take(m *wire.Replicated) error {
	for _, h := range m.GetHandshakes() {
		r.reply(keyOf(h.GetTopicId(), h.GetPartition()), replyFromWire(h))
	}
	rest := m.Batches
	for _, p := range m.GetPushes() {
		n := int(p.GetBatchCount())
		if n > len(rest) {
			return fmt.Errorf("replica: broker %d announced %d batches, %d are left in the message",
				r.stream.link.leader, n, len(rest))
		}
		r.push(p, rest[:n])
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("replica: broker %d sent %d batches that belong to no push", r.stream.link.leader, len(rest))
	}
	return nil
}

func (r *receiver) reply(k Key, reply HandshakeReply) {
	l := r.stream.link
	s := l.find(k)
	if s == nil {
		return
	}
	l.mu.Lock()
	current := s.kind == r.stream.kind && s.session == reply.Session && s.session != 0
	switch {
	case !current || s.phase != subAwait && s.phase != subOn:
		l.mu.Unlock()
	case s.phase == subOn:
		l.mu.Unlock()
		if reply.Err != nil {
			r.over(s, reply.Session)
		}
	case reply.Matched:
		l.mu.Unlock()
		r.matched(s, reply)
	default:
		s.phase = subWorking
		l.mu.Unlock()
		if len(reply.Producers) > smallState {
			r.heavy <- struct{}{}
		}
		r.unmatched <- unmatched{s, reply}
	}
}

// over takes the leader's word that an open session has ended.
func (r *receiver) over(s *Subscription, session uint64) {
	l := r.stream.link
	s.part.Gone(session)
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.phase == subOn && s.session == session {
		l.retry(s)
	}
}

func (r *receiver) matched(s *Subscription, reply HandshakeReply) {
	l := r.stream.link
	s.calls.Lock()
	verdict := s.part.Reply(reply)
	s.calls.Unlock()
	l.mu.Lock()
	if s.session != reply.Session || s.phase != subAwait {
		l.mu.Unlock()
		return
	}
	if verdict != VerdictOK {
		r.judge(s, verdict)
		l.mu.Unlock()
		return
	}
	s.hw = reply.HighWatermark
	s.phase = subOn // attempts go on: a session that matched may yet come to nothing
	caughtUp := s.kind == kindCatchUp && s.sent.End >= reply.HighWatermark
	if caughtUp {
		l.promote(s)
	}
	l.mu.Unlock()
	if caughtUp {
		s.part.Gone(reply.Session)
	}
}

// handshaker deals with unmatched replies until the receiver has ended.
func (r *receiver) handshaker() {
	l := r.stream.link
	for u := range r.unmatched {
		u.sub.calls.Lock()
		verdict := u.sub.part.Reply(u.reply)
		u.sub.calls.Unlock()
		if len(u.reply.Producers) > smallState {
			<-r.heavy
		}
		l.mu.Lock()
		if u.sub.phase == subWorking && u.sub.session == u.reply.Session {
			if verdict == VerdictAgain && u.reply.Err == nil && u.sub.attempts < maxTruncations {
				// The log was cut and may match now: no pause.
				u.sub.attempts++
				l.endSession(u.sub)
				l.begin(u.sub, 0)
			} else {
				r.judge(u.sub, verdict)
			}
		}
		l.mu.Unlock()
	}
}

// maxTruncations is how many handshakes in a row come without a pause. Each cuts
// at least one leader epoch off the log.
const maxTruncations = 64

// judge carries out a verdict other than success. The caller holds link.mu.
func (r *receiver) judge(s *Subscription, v Verdict) {
	l := r.stream.link
	switch v {
	case VerdictStop:
		l.withdraw(s)
	case VerdictHold:
		l.hold(s)
	case VerdictPause:
		l.giveUp(s)
		l.hold(s)
	case VerdictOK, VerdictDrop, VerdictAgain:
		l.retry(s)
	}
}

// push hands batches to their partition and keeps the books on credit.
func (r *receiver) push(m *pb.ReplicaPush, batches []record.Slice) {
	l, st := r.stream.link, r.stream
	r.bufs = r.bufs[:0]
	bytes := int64(0)
	for i := range batches {
		r.bufs = append(r.bufs, batches[i].Buf())
		bytes += int64(len(batches[i].Bytes))
	}
	if bytes > 0 && st.kind == kindInSync {
		l.follower.cfg.Traffic.Note(time.Now())
	}
	p := pushFromWire(m)
	s := l.find(keyOf(m.GetTopicId(), m.GetPartition()))
	if s == nil || !r.accepts(s, p, bytes) {
		l.mu.Lock()
		st.granted -= bytes
		st.signal()
		l.mu.Unlock()
		return
	}
	s.calls.Lock()
	verdict := s.part.Push(p, r.bufs)
	s.calls.Unlock()
	clear(r.bufs)

	l.mu.Lock()
	if s.session != p.Session || s.phase != subOn {
		l.mu.Unlock()
		return
	}
	promoted := false
	switch verdict {
	case VerdictOK:
		s.attempts = 0
		if promoted = s.kind == kindCatchUp && p.To >= p.HighWatermark; promoted {
			l.promote(s)
		}
	case VerdictDrop, VerdictAgain, VerdictHold, VerdictPause, VerdictStop:
		r.judge(s, verdict)
	}
	l.mu.Unlock()
	if promoted {
		s.part.Gone(p.Session)
	}
}

// accepts reports whether a push is of the session under way, and if so books
// the credit that it took before the partition sees it: the log may have written
// it before Push returns.
func (r *receiver) accepts(s *Subscription, p Push, bytes int64) bool {
	l := r.stream.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.kind != r.stream.kind || s.session != p.Session || s.phase != subOn {
		return false
	}
	if bytes > 0 {
		s.owe(p.To, bytes)
	}
	if s.kind == kindCatchUp {
		l.follower.giveWay.take(time.Now(), -growth(s.hw, p.HighWatermark, p.From, p.To, bytes))
	}
	s.hw = max(s.hw, p.HighWatermark)
	return true
}
