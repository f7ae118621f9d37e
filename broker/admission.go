package broker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/log/record"
)

// admission is the door for produce requests, whose batches lie in the arena when
// they get here. It bounds two things:
//
//   - what is in flight: the bytes of requests that are being appended, and what
//     this broker's logs have not written yet (maxInFlight). What is written waits
//     for acks without any memory to speak of, so that a follower that hangs holds
//     back its own partitions' acks, and no other's;
//   - memory: what is in use beside those who wait stays below the arena's limit
//     less what is kept for replication. That makes a full arena hold back
//     producers and nobody else: whoever they wait for (the own disk, other
//     brokers' acks, which wait for their disks) goes on.
//
// Requests are admitted in the order of their coming. One that fits in no case
// passes alone: when nothing is in flight and little is unwritten.
type admission struct {
	arena       *record.Arena
	maxInFlight int64
	memory      int64 // of the arena
	alone       int64 // unwritten bytes beside which a request that is too large passes
	maxWaiting  int64
	// unwritten is how many bytes wait to be written by this broker's logs; reclaim
	// lets the tails go of what they can.
	unwritten func() int64
	reclaim   func()

	lined    atomic.Bool // somebody is in the queue
	mu       sync.Mutex  // guards what follows; a leaf lock
	inFlight int64       // bytes of the requests that are being appended
	waiting  int64       // bytes of the requests in queue
	queue    []*ticket
}

// ticket is a request at the door.
type ticket struct {
	bytes int64
	in    chan struct{} // closed when it is admitted
}

// recheck is how often those at the door look again for what no event tells.
const recheck = 50 * time.Millisecond

func newAdmission(arena *record.Arena, maxInFlight int64, unwritten func() int64, reclaim func()) *admission {
	limit := arena.Limit()
	return &admission{
		arena: arena, maxInFlight: maxInFlight, unwritten: unwritten, reclaim: reclaim,
		memory: limit - arena.ReceiveShare(), alone: limit / 8, maxWaiting: limit,
	}
}

// enter waits until n bytes, which are in use already, are admitted. It reports
// false when ctx ends or the timeout passes first, or when so much waits at the
// door that nothing more may.
func (d *admission) enter(ctx context.Context, n int64, timeout time.Duration) bool {
	d.mu.Lock()
	if len(d.queue) == 0 && d.fits(n, n) {
		d.inFlight += n
		d.mu.Unlock()
		return true
	}
	if len(d.queue) > 0 && d.waiting+n > d.maxWaiting {
		d.mu.Unlock()
		return false
	}
	t := &ticket{bytes: n, in: make(chan struct{})}
	d.queue = append(d.queue, t)
	d.waiting += n
	d.mu.Unlock()
	return d.await(ctx, t, timeout)
}

func (d *admission) await(ctx context.Context, t *ticket, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	again := time.NewTicker(recheck)
	defer again.Stop()
	for {
		d.reclaim()
		d.wake() // after the watch was set at the latest
		select {
		case <-t.in:
			return true
		case <-again.C:
		case <-ctx.Done():
			return d.leave(t)
		}
	}
}

// leave takes a ticket out of the queue; true: it was admitted at the last moment.
func (d *admission) leave(t *ticket) bool {
	d.mu.Lock()
	i := slices.Index(d.queue, t)
	if i >= 0 {
		d.queue = slices.Delete(d.queue, i, i+1)
		d.waiting -= t.bytes
	}
	d.mu.Unlock()
	d.wake() // the next one may be smaller
	return i < 0
}

// fits says whether n bytes may go on. waiting is what waits at the door, they
// among it. The caller holds mu.
func (d *admission) fits(n, waiting int64) bool {
	others := max(d.arena.InUse()-waiting, 0)
	if d.inFlight+d.unwritten()+n <= d.maxInFlight && others+n <= d.memory {
		return true
	}
	return d.inFlight == 0 && d.unwritten() <= d.alone
}

// heldBack is how many bytes wait.
func (d *admission) heldBack() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting
}

// release takes back what was admitted.
func (d *admission) release(n int64) {
	d.mu.Lock()
	d.inFlight -= n
	d.advance()
	d.mu.Unlock()
}

// wrote says that a log has written something. It is called often.
func (d *admission) wrote() {
	if d.lined.Load() {
		d.wake()
	}
}

// wake lets those in who fit now. It is called from wherever memory falls.
func (d *admission) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.advance()
}

// advance admits from the head of the queue, and asks the arena to tell when to
// look again. The caller holds mu.
func (d *admission) advance() {
	for len(d.queue) > 0 && d.fits(d.queue[0].bytes, d.waiting) {
		t := d.queue[0]
		d.queue[0] = nil
		d.queue = d.queue[1:]
		d.inFlight += t.bytes
		d.waiting -= t.bytes
		close(t.in)
	}
	d.lined.Store(len(d.queue) > 0)
	if len(d.queue) == 0 {
		d.arena.WatchInUse(nil)
		return
	}
	level := d.memory + d.waiting - d.queue[0].bytes
	d.arena.WatchInUse(&record.Watch{Level: level, Fell: d.wake})
}
