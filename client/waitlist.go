package client

import (
	"sync"
	"sync/atomic"
)

// waitList lets goroutines wait for a condition that another one makes true. Who
// waits joins first and checks the condition then, so that no wake is missed.
type waitList struct {
	waiting atomic.Int32

	mu sync.Mutex // guards ch
	ch chan struct{}
}

// join returns a channel that the next wake closes; leave is called once, after.
func (w *waitList) join() (ready <-chan struct{}, leave func()) {
	w.waiting.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ch == nil {
		w.ch = make(chan struct{})
	}
	return w.ch, func() { w.waiting.Add(-1) }
}

func (w *waitList) wake() {
	if w.waiting.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ch != nil {
		close(w.ch)
		w.ch = nil
	}
}

// flushWait counts the batches that a Flush waits for, from 1 so that it cannot
// end while they are still being counted.
type flushWait struct {
	left atomic.Int64
	done chan struct{}
}

func newFlushWait() *flushWait {
	w := &flushWait{done: make(chan struct{})}
	w.left.Store(1)
	return w
}

func (w *flushWait) sub(n int64) {
	if w.left.Add(-n) == 0 {
		close(w.done)
	}
}
