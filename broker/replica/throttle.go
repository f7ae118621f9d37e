package replica

import "time"

// tokenBucket bounds a rate. The zero value bounds nothing. What is taken may
// overdraw it; the debt is waited for.
type tokenBucket struct {
	perSecond int64
	tokens    int64
	at        time.Time
}

// newTokenBucket returns a full bucket of a tenth of a second.
func newTokenBucket(perSecond int64) tokenBucket {
	return tokenBucket{perSecond: perSecond, tokens: perSecond / 10, at: time.Now()}
}

// wait returns how long until something may be taken.
func (b *tokenBucket) wait(now time.Time) time.Duration {
	if b.perSecond == 0 {
		return 0
	}
	elapsed := min(now.Sub(b.at), time.Second)
	b.at = now
	b.tokens = min(b.tokens+int64(elapsed.Seconds()*float64(b.perSecond)), b.perSecond/10)
	if b.tokens > 0 {
		return 0
	}
	return time.Duration(float64(1-b.tokens)/float64(b.perSecond)*float64(time.Second)) + time.Millisecond
}

func (b *tokenBucket) take(n int64) {
	if b.perSecond > 0 {
		b.tokens -= n
	}
}
