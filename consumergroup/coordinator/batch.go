package coordinator

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// maxBatchBytes is the size from which records go to a next batch: well below
// the max.message.bytes of __consumer_offsets.
const maxBatchBytes = 256 << 10

// output is something that clients see. It happens on the actor once the records
// before it are committed, or once they have failed: exactly one of run and
// commit is set.
type output struct {
	run      func(err error)
	commit   *commit
	from, to int // the offsets of commit whose records the batch has
	// group is the group whose state, as decided, the output tells; empty: it tells
	// what there is when its turn comes.
	group string
	// own: the output is about records of the batch that it waits for.
	own bool
}

// about is the group that the output belongs to; empty: none.
func (o *output) about() string {
	if o.commit != nil {
		return o.commit.group.id
	}
	return o.group
}

func (o *output) finish(s *shard, err error) {
	if o.commit != nil {
		o.commit.finish(s, err, o.from, o.to)
		return
	}
	o.run(err)
}

// batch gathers records for one append, and the outputs that wait for it.
type batch struct {
	builder *record.Builder
	outputs []output
	groups  bool     // holds group or member records: it is alone under way
	decided []change // those of groups that ran ahead of the log, in order
	bad     error    // a record could not be encoded; the batch must not be appended

	settled bool  // its append has ended, or it has no records
	outcome error // of the append
}

// add appends a record; a nil value is a tombstone.
func (b *batch) add(now time.Time, key, value []byte) {
	if err := b.builder.Append(&record.Record{Timestamp: now.UnixMilli(), Key: key, Value: value}); err != nil {
		b.bad = err
	}
}

func (b *batch) size() int { return b.builder.EstimatedSize() }

func (b *batch) full() bool { return b.size() >= maxBatchBytes }

func (b *batch) empty() bool { return b.bad == nil && b.builder.Count() == 0 }

func (b *batch) build() ([]byte, error) {
	if b.bad != nil {
		return nil, b.bad
	}
	return b.builder.Build(make([]byte, 0, b.size()))
}

func (b *batch) finish(s *shard, err error) {
	for i := range b.outputs {
		b.outputs[i].finish(s, err)
	}
}

// batches are the batches of one shard, and memory of theirs that is used again.
type batches struct {
	pending  []*batch // to be appended, in order; the last may be empty of records
	inFlight []*batch // appended, oldest first; those without records wait for the ones before
	flying   int      // of inFlight, those with records
	spare    []*batch
}

// spareBatches is how many used batches are kept; spareBytes is the size up to
// which one is worth it.
const (
	spareBatches = maxAppends + 1
	spareBytes   = 64 << 10
)

func (q *batches) fresh() *batch {
	if n := len(q.spare); n > 0 {
		b := q.spare[n-1]
		q.spare = q.spare[:n-1]
		return b
	}
	return &batch{builder: record.NewBuilder(record.BuilderOptions{})}
}

// recycle takes a batch back that nobody refers to any more.
func (q *batches) recycle(b *batch) {
	if len(q.spare) >= spareBatches || b.size() > spareBytes {
		return
	}
	b.builder.Reset()
	clear(b.outputs)
	clear(b.decided)
	*b = batch{builder: b.builder, outputs: b.outputs[:0], decided: b.decided[:0]}
	q.spare = append(q.spare, b)
}

// gather returns the batch that the next record joins.
func (q *batches) gather() *batch {
	if n := len(q.pending); n > 0 && !q.pending[n-1].full() {
		return q.pending[n-1]
	}
	b := q.fresh()
	q.pending = append(q.pending, b)
	return b
}

// last returns the batch that the next output joins; nil: nothing is on its way.
func (q *batches) last() *batch {
	if n := len(q.pending); n > 0 {
		return q.pending[n-1]
	}
	if n := len(q.inFlight); n > 0 {
		if last := q.inFlight[n-1]; last.empty() {
			return last
		}
		return q.gather()
	}
	return nil
}

// groups reports whether records about groups or members are on their way.
func (q *batches) groups() bool {
	for _, list := range [][]*batch{q.inFlight, q.pending} {
		for _, b := range list {
			if b.groups {
				return true
			}
		}
	}
	return false
}

// How many appends may be under way. One follows a small one at once, so that a
// commit does not wait for the whole way of the one before it. Where many come, the
// ones under way are not small: what comes then gathers until it is worth an append.
const (
	maxAppends  = 5
	smallAppend = 1 << 10
	worthAppend = 8 << 10
)

// mayAppend reports whether the first of pending may go. Offsets follow each
// other; records about groups are alone on their way, because what comes after
// them rests on them.
func (q *batches) mayAppend() bool {
	b := q.pending[0]
	switch {
	case b.empty(), q.flying == 0:
		return true
	case b.groups || q.inFlight[0].groups:
		return false
	default:
		return q.flying == 1 && q.inFlight[0].size() <= smallAppend || q.flying < maxAppends && b.size() >= worthAppend
	}
}

// take removes the first of pending and puts it in flight.
func (q *batches) take() *batch {
	b := q.pending[0]
	q.pending[0] = nil
	q.pending = q.pending[1:]
	if len(q.pending) == 0 {
		q.pending = nil
	}
	q.inFlight = append(q.inFlight, b)
	if b.empty() {
		b.settled = true
	} else {
		q.flying++
	}
	return b
}

// landed removes the oldest in flight; it has settled.
func (q *batches) landed() {
	b := q.inFlight[0]
	copy(q.inFlight, q.inFlight[1:])
	q.inFlight[len(q.inFlight)-1] = nil
	q.inFlight = q.inFlight[:len(q.inFlight)-1]
	if !b.empty() {
		q.flying--
	}
}

// giveUp empties the queue and returns what was in it, oldest first.
func (q *batches) giveUp() []*batch {
	all := append(q.inFlight, q.pending...)
	q.inFlight, q.pending, q.flying = nil, nil, 0
	return all
}
