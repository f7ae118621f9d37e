package replica

import (
	"sync"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// link is all that goes on with one leader.
type link struct {
	follower *Follower
	leader   int32

	mu      sync.Mutex // guards all of the link's subscriptions and streams, and what follows
	subs    map[Key]*Subscription
	streams [streamKinds]*followerStream
	busy    bool // has subscriptions, and a share of the memory to receive into
	closed  bool
}

func newLink(f *Follower, leader int32) *link {
	l := &link{follower: f, leader: leader, subs: make(map[Key]*Subscription)}
	for kind := range streamKinds {
		l.streams[kind] = &followerStream{link: l, kind: kind, wake: make(chan struct{}, 1)}
	}
	return l
}

func (l *link) add(s *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.subs[s.key]; old != nil {
		l.remove(old)
	}
	l.subs[s.key] = s
	l.countIn()
	l.join(s)
}

// countIn tells the follower whether the link takes a share of the memory to
// receive into. The caller holds mu.
func (l *link) countIn() {
	if busy := len(l.subs) > 0; busy != l.busy {
		l.busy = busy
		if busy {
			l.follower.leaders.Add(1)
		} else {
			l.follower.leaders.Add(-1)
		}
	}
}

// join puts s on the stream of its kind, which begins a session as soon as it is
// up. The caller holds mu.
func (l *link) join(s *Subscription) {
	st := l.streams[s.kind]
	st.users++
	if !st.running && !l.closed {
		st.running = true
		l.follower.running.Go(st.run)
	}
	l.begin(s, 0)
}

// begin asks for a session after a pause. The caller holds mu.
func (l *link) begin(s *Subscription, after time.Duration) {
	if s.phase == subStopped {
		return
	}
	s.phase = subIdle
	st := l.streams[s.kind]
	if !st.up || s.queued && after > 0 {
		return // the stream begins all of its partitions when it comes up
	}
	if after == 0 {
		s.queued = true
		st.begins = append(st.begins, s)
		st.signal()
		return
	}
	s.queued = true
	st.later = append(st.later, delayed{s, time.Now().Add(after)})
	st.signal()
}

// endSession forgets the session of s, and returns the credit that it holds. The
// caller holds mu.
func (l *link) endSession(s *Subscription) {
	st := l.streams[s.kind]
	st.granted -= s.settleAll()
	s.session = 0
}

// retry opens another session after the pause that is due. The caller holds mu.
func (l *link) retry(s *Subscription) {
	l.endSession(s)
	s.attempts++
	l.begin(s, pause(s.attempts-1))
}

// hold opens another session after a long pause. The caller holds mu.
func (l *link) hold(s *Subscription) {
	l.endSession(s)
	l.begin(s, l.follower.cfg.HoldRetry)
}

// withdraw ends s and tells the leader that this replica will not go on. The
// caller holds mu.
func (l *link) withdraw(s *Subscription) {
	l.giveUp(s)
	l.remove(s)
}

// giveUp tells the leader that the session of s ends because this replica does
// not go on. The caller holds mu.
func (l *link) giveUp(s *Subscription) {
	if s.session == 0 {
		return
	}
	st := l.streams[s.kind]
	st.stops = append(st.stops, &pb.ReplicaStop{TopicId: s.key.Topic[:], Partition: s.key.Partition, SessionId: s.session})
	st.signal()
}

// remove ends s. The caller holds mu.
func (l *link) remove(s *Subscription) {
	if s.phase == subStopped {
		return
	}
	l.endSession(s)
	s.phase = subStopped
	st := l.streams[s.kind]
	st.users--
	st.signal()
	if l.subs[s.key] == s {
		delete(l.subs, s.key)
		l.countIn()
	}
}

// promote moves s to the in-sync stream, by a new handshake there. The caller holds mu.
func (l *link) promote(s *Subscription) {
	l.endSession(s)
	l.streams[s.kind].users--
	l.streams[s.kind].signal()
	// Entries of s in the old stream's lists count for nothing any more.
	s.kind, s.queued, s.dirty, s.attempts = kindInSync, false, false, 0
	l.join(s)
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, s := range l.subs {
		l.remove(s)
	}
}

func (l *link) find(k Key) *Subscription {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.subs[k]
}
