package log

import (
	"context"
	"sync"
	"time"
)

// throttle bounds the bytes a second that compaction reads and writes, over all
// logs that share it.
type throttle struct {
	rate int64 // bytes a second; <= 0: none

	mu sync.Mutex // guards due
	// due is when everything that was granted so far is paid for.
	due time.Time
}

// wait returns once n bytes more may be moved. The first bytes after a pause pass
// at once, and are paid for by those behind them.
func (t *throttle) wait(ctx context.Context, n int) error {
	if t.rate <= 0 || n <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	t.mu.Lock()
	begin := t.due
	if begin.Before(now) {
		begin = now
	}
	t.due = begin.Add(time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))
	t.mu.Unlock()
	pause := begin.Sub(now)
	if pause <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
