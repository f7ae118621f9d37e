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
//
// When many logs wait, one worker takes them all and commits them as a group
// through the journal. The others leave the queue alone meanwhile: a sync of each
// file would slow the journal's down, and the next group is the larger. Logs that
// do not suit a group get turns of their own, beside it.
type flushPool struct {
	max       int
	journalAt int // logs that must wait for a group; 0: never
	group     func([]*Log) (alone, rest []*Log)
	now       func() time.Time

	mu       sync.Mutex // guards everything below; a leaf lock
	left     *sync.Cond // a log has left the pool
	queue    ring[*Log]
	alone    ring[*Log] // want a turn of their own
	grouping bool
	taken    []*Log // of the group under way; kept for the next one
	workers  int
	running  map[*Log]time.Time
	done     sync.WaitGroup
	// worker is work, bound once: starting a worker allocates nothing.
	worker func()
}

func newFlushPool(opts FlusherOptions, group func([]*Log) (alone, rest []*Log), now func() time.Time) *flushPool {
	p := &flushPool{max: opts.Workers, journalAt: opts.JournalAt, group: group, now: now, running: map[*Log]time.Time{}}
	if p.max <= 0 {
		p.max = defaultWorkers
	}
	if p.journalAt <= 0 {
		p.journalAt = defaultJournalAt
	}
	if opts.JournalBytes < 0 {
		p.journalAt = 0
	}
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
		l.turn = turnQueued
		p.queue.push(l)
		if !p.grouping {
			p.hire(1)
		}
	case turnRunning:
		l.turn = turnAgain
	case turnQueued, turnAgain:
	}
}

// hire starts n workers if so many may be. The caller holds mu.
func (p *flushPool) hire(n int) {
	for ; n > 0 && p.workers < p.max; n-- {
		p.workers++
		p.done.Add(1) // WaitGroup.Go would make a closure for every append of a quiet log
		go p.worker()
	}
}

func (p *flushPool) work() {
	defer p.done.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.alone.len() > 0:
			p.single(pop(&p.alone))
		case p.grouping || p.queue.len() == 0:
			p.workers--
			return
		case p.journalAt > 0 && p.queue.len() >= p.journalAt:
			p.many()
		default:
			p.single(pop(&p.queue))
		}
	}
}

func pop(queue *ring[*Log]) *Log {
	l := *queue.at(0)
	queue.dropFront(1)
	return l
}

// single is the turn of one log. The caller holds mu.
func (p *flushPool) single(l *Log) {
	p.begin(l)
	p.mu.Unlock()
	l.commit()
	p.mu.Lock()
	p.end(l)
}

// many is the turn of all that wait, up to a bound. The caller holds mu.
func (p *flushPool) many() {
	logs := p.taken[:0]
	for i := range min(p.queue.len(), groupLogs) {
		logs = append(logs, *p.queue.at(i))
		p.begin(logs[i])
	}
	p.queue.dropFront(len(logs))
	p.grouping = true
	p.mu.Unlock()
	alone, rest := p.group(logs)
	p.mu.Lock()
	p.grouping = false
	for _, l := range alone {
		p.again(l, &p.alone)
	}
	for _, l := range rest {
		p.again(l, &p.queue)
	}
	for _, l := range logs {
		if l.turn == turnRunning || l.turn == turnAgain {
			p.end(l)
		}
	}
	clear(logs)
	p.taken = logs[:0]
	p.hire(p.alone.len() + p.queue.len() - 1) // this worker goes on
}

// again queues a log whose turn did not come to anything. The caller holds mu.
func (p *flushPool) again(l *Log, queue *ring[*Log]) {
	delete(p.running, l)
	l.turn = turnQueued
	queue.push(l)
}

func (p *flushPool) begin(l *Log) {
	l.turn = turnRunning
	p.running[l] = p.now()
}

func (p *flushPool) end(l *Log) {
	delete(p.running, l)
	if l.turn == turnAgain {
		l.turn = turnQueued
		p.queue.push(l) // behind those that wait; this worker goes on
		return
	}
	l.turn = turnNone
	p.left.Broadcast()
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
