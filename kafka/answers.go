package kafka

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// maxAnswers is how many produce requests of a connection may await their
	// acknowledgements; the next one is not read before one of them is answered.
	maxAnswers = 256
	// maxAnswersWeight is what they may weigh together for the next one to be read:
	// who takes no answers does not pile up requests of a hundred thousand partitions.
	maxAnswersWeight = 4 << 20
	// gatherBytes is how much of answers goes out with one call.
	gatherBytes = 16 << 10
	// queueKept is how long a queue may have become for its memory to be kept.
	queueKept = 16
)

// answers are the produce requests of a connection that await their
// acknowledgements. They are answered in order by a goroutine that lives as long
// as there are any.
type answers struct {
	conn *conn

	mu      sync.Mutex // guards what follows
	queue   []*produced
	head    int // queue[:head] is taken
	under   int // requests under way: put, and not yet answered
	weight  int // of those
	running bool
	err     error      // of the first write that failed
	changed *sync.Cond // under, running or err changed
	wg      sync.WaitGroup
}

func (a *answers) init(c *conn) {
	a.conn = c
	a.changed = sync.NewCond(&a.mu)
}

// room waits until one more request may be under way.
func (a *answers) room() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for (a.under >= maxAnswers || a.weight >= maxAnswersWeight) && a.err == nil {
		a.changed.Wait()
	}
	return a.err
}

// put leaves an answer to the writer. There is room for it: who reads has waited for it.
func (a *answers) put(ctx context.Context, p *produced) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.head > 0 && len(a.queue) == cap(a.queue) {
		n := copy(a.queue, a.queue[a.head:])
		clear(a.queue[n:])
		a.queue, a.head = a.queue[:n], 0
	}
	a.queue = append(a.queue, p)
	a.under++
	a.weight += p.weight
	if !a.running {
		a.running = true
		a.wg.Go(func() { a.write(ctx) })
	}
}

// drain waits until everything is answered.
func (a *answers) drain() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.running && a.err == nil {
		a.changed.Wait()
	}
	return a.err
}

func (a *answers) waiting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running
}

// close waits for the writer; the connection is closed and its context ended.
func (a *answers) close() {
	a.fail(net.ErrClosed)
	a.wg.Wait()
}

func (a *answers) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
	}
	a.changed.Broadcast()
}

// take returns the oldest one, or nil when there is none and the writer ends.
func (a *answers) take() *produced {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == a.head || a.err != nil {
		clear(a.queue)
		a.queue, a.head, a.under, a.weight, a.running = a.queue[:0], 0, 0, 0, false
		if cap(a.queue) > queueKept {
			a.queue = nil
		}
		a.changed.Broadcast()
		return nil
	}
	p := a.queue[a.head]
	a.queue[a.head] = nil
	a.head++
	return p
}

// answered says that so many of the oldest are no longer under way.
func (a *answers) answered(n, weight int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.under -= n
	a.weight -= weight
	a.changed.Broadcast()
}

// answerer is what the writer needs, lent to it while it runs.
type answerer struct {
	timer *time.Timer
	out   []byte
	sent  []*produced // that are in out
}

type answererPool struct{ pool sync.Pool }

func (l *answererPool) get() *answerer {
	if w, ok := l.pool.Get().(*answerer); ok {
		return w
	}
	timer := time.NewTimer(maxProduceTimeout)
	timer.Stop()
	return &answerer{timer: timer}
}

func (l *answererPool) put(w *answerer) {
	w.timer.Stop()
	clear(w.sent)
	w.out, w.sent = w.out[:0], w.sent[:0]
	if cap(w.out) <= 4*gatherBytes {
		l.pool.Put(w)
	}
}

// write answers until there is nothing left. What is complete goes out together.
func (a *answers) write(ctx context.Context) {
	door := a.conn.door
	w := door.answers.get()
	defer door.answers.put(w)
	for {
		// Somebody waits for what is there while this waits for more.
		if next := a.first(); len(w.out) > 0 && (next == nil || !next.complete() || len(w.out) >= gatherBytes) {
			if err := a.conn.write(w.out); err != nil {
				a.fail(err)
				a.conn.cut() // The reader is to find out.
			}
			weight := 0
			for i, p := range w.sent {
				weight += p.weight
				p.header.entry.stats.answered(p.header.arrived, p.size)
				door.produced.put(p)
				w.sent[i] = nil
			}
			a.answered(len(w.sent), weight)
			w.out, w.sent = w.out[:0], w.sent[:0]
		}
		p := a.take()
		if p == nil {
			return
		}
		results, err := p.wait(ctx, w.timer)
		if err != nil {
			a.fail(err)
			continue
		}
		before := len(w.out)
		w.out = p.answer(a.conn, w.out, results)
		p.size = len(w.out) - before
		w.sent = append(w.sent, p)
	}
}

func (a *answers) first() *produced {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == a.head {
		return nil
	}
	return a.queue[a.head]
}
