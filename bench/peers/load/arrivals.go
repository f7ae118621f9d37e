package load

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// arrivals are what consumers have got in goroutines of their own, for a Reader to take.
type arrivals struct {
	records, bytes atomic.Int64
	more           chan struct{} // something was added to the two, or has failed
	tookN, tookB   int64

	mu     sync.Mutex // guards failed
	failed error
}

func newArrivals() *arrivals { return &arrivals{more: make(chan struct{}, 1)} }

func (a *arrivals) add(records, bytes int) {
	a.bytes.Add(int64(bytes))
	a.records.Add(int64(records))
	a.wake()
}

// fail makes Read fail.
func (a *arrivals) fail(err error) {
	a.mu.Lock()
	a.failed = errors.Join(a.failed, err)
	a.mu.Unlock()
	a.wake()
}

func (a *arrivals) wake() {
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// Read implements Reader.
func (a *arrivals) Read(ctx context.Context) (records, bytes int64, err error) {
	select {
	case <-a.more:
	case <-ctx.Done():
	}
	n, b := a.records.Load(), a.bytes.Load()
	records, bytes = n-a.tookN, b-a.tookB
	a.tookN, a.tookB = n, b
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed != nil {
		return records, bytes, a.failed
	}
	return records, bytes, ctx.Err()
}

// forget begins again, when nobody adds.
func (a *arrivals) forget() {
	a.records.Store(0)
	a.bytes.Store(0)
	a.tookN, a.tookB = 0, 0
	select {
	case <-a.more:
	default:
	}
}
