package broker

import (
	"sync"
	"sync/atomic"
)

// readers are the long polls that wait for one partition. Its mutex is a leaf:
// nothing is called while it is held.
type readers struct {
	waiting atomic.Int32 // number of entries, so that nobody pays for none

	mu   sync.Mutex // guards list
	list map[*poll]struct{}
}

// poll is one fetch request that waits; it may be with many partitions.
type poll struct {
	woken chan struct{} // of capacity one: being woken twice is being woken
}

func newPoll() *poll { return &poll{make(chan struct{}, 1)} }

func (r *readers) add(p *poll) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list = make(map[*poll]struct{})
	}
	r.list[p] = struct{}{}
	r.waiting.Store(int32(len(r.list)))
}

func (r *readers) remove(p *poll) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.list, p)
	r.waiting.Store(int32(len(r.list)))
}

// wake lets every poll look again. What it looks at was stored before.
func (r *readers) wake() {
	if r.waiting.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.list {
		select {
		case p.woken <- struct{}{}:
		default:
		}
	}
}
