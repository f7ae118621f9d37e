package chaos

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
)

// packetQueue takes the packets that the packet filter sends to a queue (NFQUEUE), holds
// each back, and lets it go. Only their numbers come here; the packets stay in
// the kernel.
type packetQueue struct {
	delay   Delay
	queue   *nfqueue.Nfqueue // of the namespace in which it was opened
	forget  context.CancelFunc
	delayed atomic.Int64

	mu      sync.Mutex // guards waiting and ended
	waiting packets
	ended   bool
	wake    chan struct{} // something new waits; of capacity one
	done    sync.WaitGroup
}

// packet is one that waits.
type packet struct {
	id  uint32
	due time.Time
}

// packets is a heap, the first that is due on top.
type packets []packet

func (p packets) Len() int           { return len(p) }
func (p packets) Less(i, j int) bool { return p[i].due.Before(p[j].due) }
func (p packets) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// Push is part of heap.Interface.
func (p *packets) Push(x any) { *p = append(*p, x.(packet)) } //nolint:forcetypeassert // only packets are pushed

// Pop is part of heap.Interface.
func (p *packets) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}

const (
	// longestQueue is how many packets may wait; more are dropped.
	longestQueue = 1 << 16
	netlinkBytes = 4 << 20
)

// openPacketQueue serves a queue of the network namespace that the calling thread is in.
func openPacketQueue(number uint16, d Delay) (*packetQueue, error) {
	queue, err := nfqueue.Open(&nfqueue.Config{
		NfQueue: number, MaxQueueLen: longestQueue, Copymode: nfqueue.NfQnlCopyMeta,
		Flags: nfqueue.NfQaCfgFlagGSO, // large packets come as they are
	})
	if err != nil {
		return nil, err
	}
	ctx, forget := context.WithCancel(context.Background())
	q := &packetQueue{delay: d, queue: queue, forget: forget, wake: make(chan struct{}, 1)}
	// A packet too many is dropped, and that is all.
	err = errors.Join(queue.Con.SetReadBuffer(netlinkBytes), queue.SetOption(netlink.NoENOBUFS, true))
	if err == nil {
		err = queue.RegisterWithErrorFunc(ctx, q.hold, func(error) int { return stopReceiving })
	}
	if err != nil {
		forget()
		return nil, errors.Join(err, queue.Close())
	}
	q.done.Go(q.release)
	return q, nil
}

// What the library is told by whom it calls. An error means that the queue is closed.
const (
	goOn          = 0
	stopReceiving = 1
)

// hold lets a packet wait.
func (q *packetQueue) hold(a nfqueue.Attribute) int {
	if a.PacketID == nil {
		return goOn
	}
	id := *a.PacketID
	due := time.Now().Add(q.delay.Least)
	if spread := q.delay.Most - q.delay.Least; spread > 0 {
		due = due.Add(rand.N(spread)) //nolint:gosec // how long a packet takes
	}
	q.delayed.Add(1)
	q.mu.Lock()
	heap.Push(&q.waiting, packet{id, due})
	first := q.waiting[0].id == id
	q.mu.Unlock()
	if first {
		q.notify()
	}
	return goOn
}

func (q *packetQueue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// release lets packets go when they are due, until the queue is closed.
func (q *packetQueue) release() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		q.mu.Lock()
		if q.ended {
			q.mu.Unlock()
			return
		}
		next := time.Hour
		var due []uint32
		for len(q.waiting) > 0 {
			if next = time.Until(q.waiting[0].due); next > 0 {
				break
			}
			due = append(due, heap.Pop(&q.waiting).(packet).id) //nolint:forcetypeassert // only packets are pushed
			next = time.Hour
		}
		q.mu.Unlock()
		for _, id := range due {
			_ = q.queue.SetVerdict(id, nfqueue.NfAccept) // an error means that it is gone with its namespace
		}
		if len(due) > 0 {
			continue
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-q.wake:
		}
	}
}

// close ends the queue; the kernel drops what waits in it, and TCP sends it again.
func (q *packetQueue) close() error {
	q.mu.Lock()
	q.ended = true
	left := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	for _, p := range left {
		_ = q.queue.SetVerdict(p.id, nfqueue.NfAccept) // as in release
	}
	q.notify()
	q.forget()
	err := q.queue.Close()
	q.done.Wait()
	return err
}
