package replica

import (
	"sync"
	"time"

	"github.com/penstock/penstock/log/record"
)

type subPhase int8

const (
	subIdle    subPhase = iota // wants a session
	subAwait                   // handshake under way
	subWorking                 // the partition deals with an unmatched reply
	subOn                      // pushes come
	subStopped                 // for good
)

// Subscription is one partition that follows a leader.
type Subscription struct {
	link *link
	part FollowerPartition
	key  Key

	// calls is held during a call of part, so that Begin, Reply and Push come one
	// at a time. It is taken without link.mu held.
	calls sync.Mutex

	// Guarded by link.mu.
	kind     streamKind
	phase    subPhase
	session  uint64
	sent     Handshake
	hw       record.Offset // the leader's, as last told in the session
	attempts int           // sessions in a row that came to nothing
	queued   bool          // in the stream's begin list
	dirty    bool          // in the stream's ack list
	ack      Ack
	// unwritten are pushes that took credit and are not in the log's file yet;
	// the first paid of them are settled.
	unwritten []debt
	paid      int
}

// debt is byte credit to return once everything below to is written.
type debt struct {
	to    record.Offset
	bytes int64
}

// Ack passes on the partition's progress in a session; what is of another
// session is ignored. It never blocks.
func (s *Subscription) Ack(a Ack) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.phase == subStopped || a.Session != s.session || s.session == 0 {
		return
	}
	st := l.streams[s.kind]
	s.ack = a
	if !s.dirty {
		s.dirty = true
		st.acks = append(st.acks, s)
	}
	st.granted -= s.settle(a.Written)
	st.signal()
}

// settle forgets the debts below written and returns their sum. The caller holds link.mu.
func (s *Subscription) settle(written record.Offset) (bytes int64) {
	for s.paid < len(s.unwritten) && s.unwritten[s.paid].to <= written {
		bytes += s.unwritten[s.paid].bytes
		s.paid++
	}
	if s.paid == len(s.unwritten) {
		s.unwritten, s.paid = s.unwritten[:0], 0
	}
	return bytes
}

// owe remembers credit that a push took. The caller holds link.mu.
func (s *Subscription) owe(to record.Offset, bytes int64) {
	if s.paid > 0 && len(s.unwritten) == cap(s.unwritten) {
		n := copy(s.unwritten, s.unwritten[s.paid:])
		s.unwritten, s.paid = s.unwritten[:n], 0
	}
	s.unwritten = append(s.unwritten, debt{to, bytes})
}

// settleAll returns all that is owed. The caller holds link.mu.
func (s *Subscription) settleAll() int64 {
	const everything = record.Offset(1<<63 - 1)
	return s.settle(everything)
}

// Restart ends the pause after a refusal or a hold, for something changed that it
// may have waited for. An open session, or one being opened, goes on. It never
// blocks.
func (s *Subscription) Restart() {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.phase != subIdle {
		return
	}
	s.attempts = 0
	l.begin(s, 0)
}

// Stop ends the subscription. It never blocks: a call of the partition that is
// under way may still end afterwards, and finds its session over.
func (s *Subscription) Stop() {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(s)
}

// Withdraw ends the subscription and tells the leader that this replica will not
// go on, so that it need not wait until the replica counts as lagging. It never
// blocks.
func (s *Subscription) Withdraw() {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.phase != subStopped {
		l.withdraw(s)
	}
}

// pause is how long to wait before attempt n (from 0): the first comes at once.
func pause(n int) time.Duration {
	const first, most = 10 * time.Millisecond, 500 * time.Millisecond
	if n == 0 {
		return 0
	}
	return min(first<<min(n-1, 10), most)
}
