package broker

import (
	"slices"
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

// shortage is the line of fetches that found no memory for readers. Each release
// of such memory wakes the one that has waited longest. Its mutex is a leaf.
type shortage struct {
	waiting atomic.Int32

	mu   sync.Mutex // guards line
	line []*poll
}

// MemoryShort says that fetches wait for what other readers hold.
func (b *Broker) MemoryShort() bool { return b.short.waiting.Load() > 0 }

func (s *shortage) add(p *poll) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.line, p) {
		s.line = append(s.line, p)
	}
	s.waiting.Store(int32(len(s.line)))
}

func (s *shortage) remove(p *poll) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.line, p); i >= 0 {
		s.line = slices.Delete(s.line, i, i+1)
	}
	s.waiting.Store(int32(len(s.line)))
}

// wake sends the first one to look again; should it find nothing, it joins at the end.
func (s *shortage) wake() {
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.line) == 0 {
		return
	}
	p := s.line[0]
	s.line = slices.Delete(s.line, 0, 1)
	s.waiting.Store(int32(len(s.line)))
	select {
	case p.woken <- struct{}{}:
	default:
	}
}
