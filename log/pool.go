package log

import (
	"sync"
	"time"
)

const defaultWorkers = 16

// turn is where a log stands in the flush pool; guarded by flushPool.mu.
type turn uint8

const (
	turnNone turn = iota
	turnQueued
	turnRunning
	turnAgain // running, and more arrived since
)

// flushPool gives logs their turns to write and sync what has gathered: first
// come first served, one turn at a time for a log, at most max at once. Workers
// start when there is work and end when there is none.
type flushPool struct {
	max int
	now func() time.Time

	mu      sync.Mutex // guards everything below; a leaf lock
	left    *sync.Cond // a log has left the pool
	queue   ring[*Log]
	workers int
	running map[*Log]time.Time
	done    sync.WaitGroup
	// worker is work, bound once: starting a worker allocates nothing.
	worker func()
}

func newFlushPool(workers int, now func() time.Time) *flushPool {
	if workers <= 0 {
		workers = defaultWorkers
	}
	p := &flushPool{max: workers, now: now, running: map[*Log]time.Time{}}
	p.left = sync.NewCond(&p.mu)
	p.worker = p.work
	return p
}

// submit asks for a turn; it never waits.
func (p *flushPool) submit(l *Log) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch l.turn {
	case turnNone:
		p.enqueue(l)
	case turnRunning:
		l.turn = turnAgain
	case turnQueued, turnAgain:
	}
}

func (p *flushPool) enqueue(l *Log) {
	l.turn = turnQueued
	p.queue.push(l)
	if p.workers < p.max {
		p.workers++
		p.done.Add(1) // WaitGroup.Go would make a closure for every append of a quiet log
		go p.worker()
	}
}

func (p *flushPool) work() {
	defer p.done.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.queue.len() > 0 {
		l := *p.queue.at(0)
		p.queue.dropFront(1)
		l.turn = turnRunning
		p.running[l] = p.now()
		p.mu.Unlock()
		l.commit()
		p.mu.Lock()
		delete(p.running, l)
		if l.turn == turnAgain {
			l.turn = turnQueued
			p.queue.push(l) // behind those that wait; this worker goes on
			continue
		}
		l.turn = turnNone
		p.left.Broadcast()
	}
	p.workers--
}

// drain waits until a log has no turn left.
func (p *flushPool) drain(l *Log) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l.turn != turnNone {
		p.left.Wait()
	}
}

// oldest is how long the longest turn takes so far.
func (p *flushPool) oldest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var longest time.Duration
	now := p.now()
	for _, since := range p.running {
		longest = max(longest, now.Sub(since))
	}
	return longest
}
