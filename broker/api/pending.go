package api

import (
	"context"
	"sync"
	"time"
)

// Pending is a produce request on its way: the broker has appended it (or
// refused it) and its acknowledgements are outstanding. The broker settles each
// partition once; the door waits and reads the results. It holds no batches: an
// acknowledgement that does not come keeps a few hundred bytes.
//
// A Pending that times out is answered, and its late acknowledgements change
// nothing any more.
type Pending struct {
	deadline time.Time

	mu       sync.Mutex    // guards what follows; results until answered
	done     chan struct{} // closed with the answer; nil until somebody waits
	results  []ProduceResult
	settled  []bool
	left     int // partitions not settled
	answered bool

	// Room for the common request of one partition.
	oneResult  [1]ProduceResult
	oneSettled [1]bool
}

// NewPending makes a Pending for req, to be answered by deadline.
func NewPending(req *ProduceRequest, deadline time.Time) *Pending {
	n := len(req.Partitions)
	p := &Pending{deadline: deadline, left: n}
	if n == 1 {
		p.results, p.settled = p.oneResult[:], p.oneSettled[:]
	} else {
		p.results, p.settled = make([]ProduceResult, n), make([]bool, n)
	}
	for i := range req.Partitions {
		p.results[i] = ProduceResult{PartitionRef: req.Partitions[i].PartitionRef, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1}
	}
	if n == 0 {
		p.answered = true
	}
	return p
}

// Appended notes where the records of partition i went, before it is settled.
func (p *Pending) Appended(i int, r ProduceResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.answered {
		p.results[i] = r
	}
}

// Settle ends partition i: err nil is the acknowledgement. Settling it again
// does nothing. An error hides the offset, for the outcome is not what the
// offset promises.
func (p *Pending) Settle(i int, err *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled[i] {
		return
	}
	p.settled[i] = true
	p.left--
	if !p.answered {
		if err != nil {
			p.results[i].Err, p.results[i].BaseOffset = err, -1
		}
		if p.left == 0 {
			p.answer()
		}
	}
}

// Answer ends the wait now: partitions that are not settled get err, or count
// as taken when err is nil (acks none).
func (p *Pending) Answer(err *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		return
	}
	for i := range p.results {
		if p.settled[i] {
			continue
		}
		p.results[i].BaseOffset = -1
		if err != nil {
			p.results[i].Err = err.At(p.results[i].Topic, p.results[i].Partition)
		}
	}
	p.answer()
}

// answer ends the wait. The caller holds mu.
func (p *Pending) answer() {
	p.answered = true
	if p.done != nil {
		close(p.done)
	}
}

// wait returns a channel that is closed when the answer is complete; nil when
// it is already. Most requests of a pipeline are answered before anybody looks,
// and never need the channel.
func (p *Pending) wait() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		return nil
	}
	if p.done == nil {
		p.done = make(chan struct{})
	}
	return p.done
}

// Answered reports whether the results are complete.
func (p *Pending) Answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}

// Deadline is when the answer is due.
func (p *Pending) Deadline() time.Time { return p.deadline }

// Wait returns the results when they are complete, or at the deadline, when
// what is outstanding has timed out. It ends early with the error of ctx.
func (p *Pending) Wait(ctx context.Context) ([]ProduceResult, error) {
	timer := time.NewTimer(time.Until(p.deadline))
	defer timer.Stop()
	return p.WaitTimer(ctx, timer)
}

// WaitTimer is Wait with a timer that the caller reuses. It is set anew.
func (p *Pending) WaitTimer(ctx context.Context, timer *time.Timer) ([]ProduceResult, error) {
	done := p.wait()
	if done == nil {
		return p.results, nil
	}
	timer.Reset(time.Until(p.deadline))
	select {
	case <-done:
	case <-timer.C:
		p.Expire()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return p.results, nil
}

// Expire answers that the deadline passed.
func (p *Pending) Expire() {
	p.Answer(&Error{
		Code: CodeRequestTimedOut, Partition: -1,
		Message: "the in-sync replicas did not acknowledge in time; the records may still be committed",
	})
}
