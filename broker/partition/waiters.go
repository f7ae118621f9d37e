package partition

import (
	"slices"
	"time"

	"github.com/penstock/penstock/log/record"
)

// waiter is a produce request whose records end at end.
type waiter struct {
	end      record.Offset
	handle   uint64
	deadline time.Time // zero: none
}

// waiterQueue holds waiters in ascending order of end. It reuses its memory: in
// the steady state nothing is allocated.
type waiterQueue struct {
	items []waiter
	head  int
}

func (q *waiterQueue) len() int { return len(q.items) - q.head }

func (q *waiterQueue) add(w waiter) {
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	} else if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		q.items, q.head = q.items[:n], 0
	}
	if n := len(q.items); n == q.head || q.items[n-1].end <= w.end {
		q.items = append(q.items, w)
		return
	}
	// A duplicate waits for what others wait for already.
	at := q.head
	for at < len(q.items) && q.items[at].end <= w.end {
		at++
	}
	q.items = slices.Insert(q.items, at, w)
}

// complete answers those whose records lie below end.
func (q *waiterQueue) complete(end record.Offset, out *Effects) {
	for q.head < len(q.items) && q.items[q.head].end <= end {
		w := &q.items[q.head]
		out.add(Effect{Kind: EffectComplete, Handle: w.handle, Outcome: OutcomeOK, End: w.end})
		q.head++
	}
}

// fail answers everyone with outcome.
func (q *waiterQueue) fail(outcome Outcome, out *Effects) {
	for _, w := range q.items[q.head:] {
		out.add(Effect{Kind: EffectComplete, Handle: w.handle, Outcome: outcome, End: w.end})
	}
	q.items, q.head = q.items[:0], 0
}

// expire answers those whose deadline has come.
func (q *waiterQueue) expire(now time.Time, out *Effects) {
	kept := q.items[:q.head]
	for _, w := range q.items[q.head:] {
		if !w.deadline.IsZero() && !now.Before(w.deadline) {
			out.add(Effect{Kind: EffectComplete, Handle: w.handle, Outcome: OutcomeTimedOut, End: w.end})
			continue
		}
		kept = append(kept, w)
	}
	q.items = kept
}

// wait queues a request for records that the log holds up to ev.To, or answers
// it when it need not wait.
func (r *Replica) wait(ev Event, out *Effects) {
	refuse := func(o Outcome) {
		out.add(Effect{Kind: EffectComplete, Handle: ev.Handle, Outcome: o, End: ev.To})
	}
	switch {
	case ev.Acks == AcksNone:
	case r.damage == DamageFailed:
		refuse(OutcomeStorageFailed)
	case !r.leading():
		refuse(OutcomeNotLeader)
	case ev.Acks == AcksAll && r.hw >= ev.To, ev.Acks == AcksLeader && r.counted() >= ev.To:
		refuse(OutcomeOK)
	case ev.Acks == AcksAll && !r.enoughInSync():
		refuse(OutcomeNotEnoughReplicasAfterAppend)
	default:
		q := &r.lead.all
		if ev.Acks == AcksLeader {
			q = &r.lead.one
		}
		q.add(waiter{end: ev.To, handle: ev.Handle, deadline: ev.Deadline})
	}
}

// failWaiters answers everyone: none of their records may be reported as
// committed by this leader any more, and none is known to be lost.
func (r *Replica) failWaiters(outcome Outcome, out *Effects) {
	r.lead.one.fail(outcome, out)
	r.lead.all.fail(outcome, out)
	r.lead.trims.fail(outcome, out)
}
