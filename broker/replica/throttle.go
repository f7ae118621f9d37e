package replica

import (
	"sync"
	"time"
)

// tokenBucket bounds a rate. The zero value bounds nothing. What is taken may
// overdraw it; the debt is waited for.
type tokenBucket struct {
	perSecond int64
	tokens    float64
	at        time.Time
}

// newTokenBucket returns a full bucket of a tenth of a second.
func newTokenBucket(perSecond int64) tokenBucket {
	return tokenBucket{perSecond: perSecond, tokens: float64(perSecond) / 10, at: time.Now()}
}

// wait returns how long until something may be taken.
func (b *tokenBucket) wait(now time.Time) time.Duration {
	if b.perSecond == 0 {
		return 0
	}
	rate := float64(b.perSecond)
	b.tokens = min(b.tokens+now.Sub(b.at).Seconds()*rate, rate/10)
	b.at = now
	if b.tokens > 0 {
		return 0
	}
	return time.Duration((1-b.tokens)/rate*float64(time.Second)) + time.Millisecond
}

func (b *tokenBucket) take(n int64) {
	if b.perSecond > 0 {
		b.tokens -= float64(n)
	}
}

// moveLimit is the rate of the sessions that are moving, over all streams.
type moveLimit struct {
	mu     sync.Mutex // guards bucket; a leaf
	bucket tokenBucket
}

// leastMovePart is what a moving session may read in one turn at the slowest rate.
const leastMovePart = 4 << 10

// set reports whether the rate is another one. What was overdrawn is forgiven then.
func (m *moveLimit) set(perSecond int64) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bucket.perSecond == perSecond {
		return false
	}
	m.bucket = newTokenBucket(perSecond)
	return true
}

// allow returns how many of most bytes a moving session may be sent now, or how
// long to wait.
func (m *moveLimit) allow(most int) (int, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bucket.perSecond == 0 {
		return most, 0
	}
	if wait := m.bucket.wait(time.Now()); wait > 0 {
		return 0, wait
	}
	return int(min(int64(most), max(m.bucket.perSecond/10, leastMovePart))), 0
}

func (m *moveLimit) take(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bucket.take(n)
}
