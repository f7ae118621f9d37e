package replica

import "time"

// loneWait is how long a watermark that moved waits for a batch to travel with.
//
// It moves when a batch is acknowledged, while the acknowledgement and the consumers'
// copies of the batch are on their way, and a message to each follower, with the wake-ups
// at both ends, competes with them for the processors. No promise depends on when a
// follower learns of it: a new leader finds its own from acks.
const loneWait = 5 * time.Millisecond

// lone is a session whose only news is its watermark.
type lone struct {
	s  *Session
	to time.Time // when it is told alone; the session's aloneAt, unless a batch came first
}

func (q *lone) over() bool { return !q.s.aloneAt.Equal(q.to) }

// keepWaiting reports whether the watermark of s may wait. That of a session which catches
// up tells the follower how far it is behind.
func (ls *leaderStream) keepWaiting(s *Session, now time.Time) bool {
	if ls.catchUp {
		return false
	}
	if s.aloneAt.IsZero() {
		s.aloneAt = now.Add(loneWait)
		ls.lone = append(ls.lone, lone{s, s.aloneAt})
	}
	return now.Before(s.aloneAt)
}

// ripen puts sessions in line whose watermarks have waited long enough. The caller holds mu.
func (ls *leaderStream) ripen(now time.Time) {
	n := 0
	for ; n < len(ls.lone); n++ {
		q := &ls.lone[n]
		if !q.over() && now.Before(q.to) {
			break
		}
		if s := q.s; !q.over() && !s.queued && !s.ended {
			s.queued = true
			ls.ready = append(ls.ready, s)
		}
	}
	ls.dropLone(n)
}

// withLone is wait, or less when a watermark is to be told before.
func (ls *leaderStream) withLone(wait time.Duration, now time.Time) time.Duration {
	n := 0
	for n < len(ls.lone) && ls.lone[n].over() {
		n++
	}
	ls.dropLone(n)
	if len(ls.lone) == 0 {
		return wait
	}
	first := max(ls.lone[0].to.Sub(now), 1)
	if wait == 0 {
		return first
	}
	return min(wait, first)
}

// dropLone forgets the first n.
func (ls *leaderStream) dropLone(n int) {
	rest := copy(ls.lone, ls.lone[n:])
	clear(ls.lone[rest:])
	ls.lone = ls.lone[:rest]
}
