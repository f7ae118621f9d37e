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
	// gatherBytes is how much of answers goes out with one call.
	gatherBytes = 16 << 10
)

// answers are the produce requests of a connection that await their
// acknowledgements. They are answered in order by a goroutine that lives as long
// as there are any.
type answers struct {
	conn *conn

	mu      sync.Mutex // guards what follows
	queue   []*produced
	running bool
	err     error      // of the first write that failed
	changed *sync.Cond // queue, running or err changed
	wg      sync.WaitGroup
}

func (a *answers) init(c *conn) {
	a.conn = c
	a.changed = sync.NewCond(&a.mu)
}

// put leaves an answer to the writer, once there is room for it.
func (a *answers) put(ctx context.Context, p *produced) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) >= maxAnswers && a.err == nil {
		a.changed.Wait()
	}
	if a.err != nil {
		return a.err
	}
	a.queue = append(a.queue, p)
	if !a.running {
		a.running = true
		a.wg.Go(func() { a.write(ctx) })
	}
	return nil
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

func (a *answers) failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
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
	if len(a.queue) == 0 || a.err != nil {
		a.queue, a.running = nil, false
		a.changed.Broadcast()
		return nil
	}
	p := a.queue[0]
	a.queue[0] = nil
	a.queue = a.queue[1:]
	a.changed.Broadcast()
	return p
}

// write answers until there is nothing left. What is complete goes out together.
func (a *answers) write(ctx context.Context) {
	timer := time.NewTimer(maxProduceTimeout)
	defer timer.Stop()
	var out []byte
	for {
		// Somebody waits for what is there while this waits for more.
		if next := a.first(); len(out) > 0 && (next == nil || !next.complete() || len(out) >= gatherBytes) {
			if err := a.conn.write(out); err != nil {
				a.fail(err)
				a.conn.cut() // The reader is to find out.
			}
			out = out[:0]
		}
		p := a.take()
		if p == nil {
			return
		}
		results, err := p.wait(ctx, timer)
		if err != nil {
			a.fail(err)
			continue
		}
		out = p.answer(a.conn, out, results)
	}
}

func (a *answers) first() *produced {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil
	}
	return a.queue[0]
}
