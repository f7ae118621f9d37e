package broker

import (
	"context"
	"sync"
)

// applied says up to which image the reconciler has brought this broker. Whoever
// changed a topic waits for it, so that the next request finds the change.
type applied struct {
	mu    sync.Mutex // guards what follows; a leaf
	index uint64
	moved chan struct{} // closed and replaced when index moves
}

func newApplied() *applied { return &applied{moved: make(chan struct{})} }

func (a *applied) set(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index > a.index {
		a.index = index
		close(a.moved)
		a.moved = make(chan struct{})
	}
}

// wait returns once the broker acts by the image of index, or ctx ends.
func (a *applied) wait(ctx context.Context, index uint64) error {
	for {
		a.mu.Lock()
		done, moved := a.index >= index, a.moved
		a.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
