package client

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// maxRequestBytes bounds a batch and, but for its first batch, a request: below
// what the wire takes in one message.
const maxRequestBytes = 32 << 20

// partition queues the batches of one partition.
//
// Order: batches leave in the order of the queue. After a failure that is to be
// retried, nothing more leaves until all answers of what is under way are there
// (draining); then everything unsettled leaves again, from the first on. A broker
// that already has a batch recognises it by its sequence.
//
// Span: a broker recognises the newest five batches of a producer only. So a batch
// leaves for the first time when the oldest one without an outcome is less than
// five places before it, however few are under way: an old one that is refused
// again and again while younger ones are acknowledged would be forgotten.
//
// Sequences: taken when a batch first leaves. A batch that fails for good leaves
// a gap, so what follows it will be refused as out of order; such a refusal proves
// that nothing with a later sequence was appended, so the queue may safely leave
// again under a new identity. Without a gap of our own making, a refusal as out of
// order means that the broker lost something: then the oldest batch fails, once,
// for nobody knows whether an earlier send of it was appended.
type partition struct {
	p     *Producer
	tp    TopicPartition
	index int32
	limit *atomic.Int64 // bytes of a batch, header included; the topic's

	led     atomic.Bool  // has a sink
	waiting atomic.Int64 // encoded bytes not settled, as far as counted

	mu       sync.Mutex // guards what follows; taken before sink.mu
	topicID  [16]byte
	sink     *sink
	marked   *sink    // whose ready list has the partition
	open     *batch   // takes records; nil: none
	queue    []*batch // sealed, outcome not known, oldest first
	settling []*batch // outcome known, promises and hooks not called yet
	inflight int      // answers owed
	draining bool
	failures int       // retriable ones since the last success
	notYet   time.Time // back-off
	unknown  time.Time // since when the leader denies the topic; zero: it does not
	missing  time.Time // since when metadata lacks it; zero: it does not

	id      identity
	next    int32 // sequence
	places  int64 // batches that id has numbered
	gap     bool
	renew   bool // take a newer identity once drained
	void    bool // nothing in the queue is in the log, whatever got no answer
	removed bool // failAll was called
}

func newPartition(p *Producer, topic string, index int32, id [16]byte, limit *atomic.Int64) *partition {
	return &partition{p: p, tp: TopicPartition{topic, index}, index: index, limit: limit, topicID: id}
}

// errNoOpenBatch: a record that was to join an open batch found none with room.
var errNoOpenBatch = errors.New("no open batch with room")

// add encodes a record into the open batch, or into a new one unless it is only to
// join: errNoOpenBatch.
func (pt *partition) add(r *Record, promise func(*Record, error), join bool) error {
	in := record.Record{Key: r.Key, Value: r.Value, Headers: r.Headers}
	if r.Timestamp.IsZero() {
		in.Timestamp = time.Now().UnixMilli()
	} else {
		in.Timestamp = r.Timestamp.UnixMilli()
	}
	guess := guessSize(&in)
	limit := int(pt.limit.Load())
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.removed {
		return ErrClosed
	}
	b := pt.open
	if b != nil && b.builder.EstimatedSize()+guess > limit {
		pt.seal()
		b = nil
	}
	if b == nil && join {
		return errNoOpenBatch
	}
	began := b == nil
	if began {
		b = &batch{builder: pt.p.builders.Get().(*record.Builder), began: time.Now()}
	}
	before := b.builder.EstimatedSize()
	if err := b.builder.Append(&in); err != nil {
		if began {
			pt.p.recycle(b)
		}
		return pt.refusedRecord(err)
	}
	n := b.builder.EstimatedSize() - before
	b.size += n
	if promise == nil {
		b.silent = true
	} else {
		r.Partition = pt.index
		b.pending = append(b.pending, pending{r, promise, int32(b.count)})
	}
	b.count++
	if began || b.size-b.counted >= pt.p.cfg.countStep() {
		pt.count(b)
	}
	if began {
		pt.open = b
		pt.mark()
	} else if pt.full(b, limit) {
		pt.seal()
	}
	return nil
}

// full reports that the open batch is to leave: at the limit, or at half of it where it
// can leave at once. Below the greatest rate, whole batches would only wait longer to be
// whole, and then be in the way of each other on the disks. The caller holds mu.
func (pt *partition) full(b *batch, limit int) bool {
	size := b.builder.EstimatedSize()
	return size >= limit || size >= limit/2 && len(pt.queue) < pt.window()
}

// count adds what came to b since the last time to the totals. Two contended
// additions a record would be a tenth of Produce, so records wait until they are
// some; a batch counts in full once it is sealed. The caller holds mu.
func (pt *partition) count(b *batch) {
	n := int64(b.size - b.counted)
	b.counted = b.size
	pt.waiting.Add(n)
	pt.p.buffered.Add(n)
}

// refusedRecord types what the encoder says of a record.
func (pt *partition) refusedRecord(err error) error {
	code := CodeInvalidArgument
	switch {
	case errors.Is(err, record.ErrTooLarge), errors.Is(err, record.ErrBatchFull):
		code = CodeRecordTooLarge
	case errors.Is(err, record.ErrInvalidTimestamp):
		code = CodeInvalidTimestamp
	}
	return &Error{Code: code, Message: err.Error(), Topic: pt.tp.Topic, Partition: pt.tp.Partition, Err: err}
}

// seal closes the open batch. The caller holds mu.
func (pt *partition) seal() {
	if pt.open == nil {
		return
	}
	pt.count(pt.open)
	pt.open.state = batchQueued
	pt.queue = append(pt.queue, pt.open)
	pt.open = nil
	pt.mark()
}

// mark puts the partition on its sink's ready list. The caller holds mu.
func (pt *partition) mark() {
	if pt.sink != nil && pt.marked != pt.sink {
		pt.marked = pt.sink
		pt.sink.add(pt)
	}
}

// ready marks the partition when it has anything to send.
func (pt *partition) ready() {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.open != nil || len(pt.queue) > 0 {
		pt.mark()
	}
}

// flush marks everything that is unsettled for w.
func (pt *partition) flush(w *flushWait) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	for _, unsettled := range [...][]*batch{pt.settling, pt.queue} {
		for _, b := range unsettled {
			w.left.Add(1)
			b.waits = append(b.waits, w)
		}
	}
	if pt.open != nil {
		w.left.Add(1)
		pt.open.waits = append(pt.open.waits, w)
	}
	pt.mark()
}

// window is how many batches may be under way.
func (pt *partition) window() int {
	if pt.p.cfg.acks == AcksNone || pt.p.ids.enabled() {
		return pt.p.cfg.maxInFlight
	}
	return 1
}

// pause is how long a sink is to wait before it asks a partition for a batch again;
// 0: until the partition marks itself.
type pause struct {
	d      time.Duration
	linger bool // over as well once nothing of the producer is under way
}

// take returns the next batch to send, marked as away, or how long there is none.
func (pt *partition) take(s *sink, now time.Time) (b *batch, wait pause) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.marked == s {
		pt.marked = nil
	}
	if pt.sink != s || pt.draining || pt.inflight >= pt.window() {
		return nil, pause{}
	}
	if d := pt.notYet.Sub(now); d > 0 {
		return nil, pause{d: d}
	}
	if b, wait = pt.nextBatch(now); b == nil {
		return nil, wait
	}
	b = pt.fit(b)
	if !pt.identify(b) {
		return nil, pause{}
	}
	b.state = batchAway
	b.attempts++
	b.sent = now
	pt.inflight++
	pt.p.away.Add(1)
	if pt.inflight < pt.window() && (pt.open != nil || pt.queue[len(pt.queue)-1] != b) {
		pt.mark()
	}
	return b, pause{}
}

// nextBatch finds the oldest batch that is to leave, sealing the open one when it
// is due: it lingers while anything of the producer is under way, not only of this
// partition. Else a producer that keeps to one partition at a time would find the
// next one idle each time, and send its first record alone. The caller holds mu.
func (pt *partition) nextBatch(now time.Time) (*batch, pause) {
	for _, b := range pt.queue {
		if b.state == batchQueued && (b.numbered(pt.id) || !pt.spanFull()) {
			return b, pause{}
		}
	}
	if pt.open == nil || pt.spanFull() {
		return nil, pause{}
	}
	if pt.p.away.Load() > 0 && pt.p.flushing.Load() == 0 {
		if d := pt.open.began.Add(pt.p.cfg.linger).Sub(now); d > 0 {
			return nil, pause{d: d, linger: true}
		}
	}
	pt.seal()
	return pt.queue[len(pt.queue)-1], pause{}
}

// spanFull reports that one more numbered batch could make the broker forget the
// oldest one whose outcome is not known. The caller holds mu.
func (pt *partition) spanFull() bool {
	return !pt.renew && len(pt.queue) > 0 && pt.queue[0].numbered(pt.id) &&
		pt.places-pt.queue[0].place >= maxIdempotentInFlight
}

// identify gives b its sequence; false: there is no identity yet, and the
// partition will be marked when there is. The caller holds mu.
func (pt *partition) identify(b *batch) bool {
	if pt.renew || pt.id.generation == 0 {
		id, ok, on := pt.p.ids.get(pt.id.generation + 1)
		switch {
		case !on:
			pt.renew, pt.id = false, identity{}
			return true
		case !ok:
			pt.p.ids.need(pt.id.generation + 1)
			// It may have come between get and need.
			if id, ok, _ = pt.p.ids.get(pt.id.generation + 1); !ok {
				return false
			}
		}
		pt.id, pt.next, pt.places, pt.renew, pt.gap = id, 0, 0, false, false
	}
	if b.id != pt.id {
		b.id, b.sequence, b.place = pt.id, pt.next, pt.places
		pt.places++
		pt.next = int32((int64(pt.next) + int64(b.count)) & 0x7fffffff)
	}
	return true
}

// answer is what became of a batch that was sent.
type answer struct {
	err        *Error // nil: acknowledged
	baseOffset int64
	appendTime int64 // ms; -1: the producer's timestamps stand
	never      bool  // it never left: the attempt proves nothing and has no effect
}

// answered takes the answer to b, which was away.
func (pt *partition) answered(b *batch, a answer) {
	if a.err != nil && a.err.Code == CodeRecordTooLarge && b.count > 1 {
		pt.learnLimit(b, a.err)
	}
	pt.mu.Lock()
	pt.inflight--
	late := b.state == batchDone
	var end error
	settle := false
	if !late {
		settle, end = pt.judge(b, a)
	}
	retried := !late && !settle && !a.never
	attempts := b.attempts
	if settle {
		pt.remove(b)
		if a.err == nil {
			pt.failures, pt.notYet, pt.unknown = 0, time.Time{}, time.Time{}
		} else if b.id.generation > 0 {
			pt.gap = true
		}
	}
	if pt.inflight == 0 {
		pt.draining = false
	}
	if pt.open != nil || len(pt.queue) > 0 {
		pt.mark()
	}
	pt.mu.Unlock()
	if pt.p.away.Add(-1) == 0 {
		pt.p.endLinger()
	}
	if late {
		pt.p.drop(b)
	}
	if settle {
		pt.settle(b, end, a, true)
	}
	if retried {
		pt.p.c.cfg.hooks.onRetry(pt.tp, attempts, a.err)
	}
}

// judge decides on b: settled, or queued again. The caller holds mu.
func (pt *partition) judge(b *batch, a answer) (settle bool, end error) {
	if a.err == nil {
		return true, nil
	}
	if a.never {
		b.attempts--
	} else if a.err.Indefinite {
		b.uncertain = true
	}
	b.lastErr = a.err
	if pt.p.cfg.acks == AcksNone && !a.never {
		return true, a.err
	}
	switch a.err.Code {
	case CodeOutOfOrderSequence, CodeUnknownProducerID, CodeInvalidProducerEpoch:
		if !pt.sequenceRefused(b, a.err) {
			return true, pt.final(b, a.err)
		}
	case CodeUnknownTopic, CodeUnknownPartition:
		if pt.unknown.IsZero() {
			pt.unknown = time.Now()
		} else if time.Since(pt.unknown) > pt.p.c.cfg.unknownWait {
			return true, pt.final(b, a.err)
		}
	case CodeRecordTooLarge:
		if !b.divisible() {
			return true, pt.final(b, a.err)
		}
		pt.tooLarge(b)
		return false, nil
	default:
		if !a.err.Retriable {
			return true, pt.final(b, a.err)
		}
	}
	b.state = batchQueued
	if !pt.draining {
		pt.draining = true
		pt.failures++
		pt.notYet = time.Now().Add(pt.p.c.backoff(pt.failures))
	}
	return false, nil
}

// sequenceRefused handles a refusal of b's sequence; false: b must fail. See the
// comment on partition. The caller holds mu.
func (pt *partition) sequenceRefused(b *batch, err *Error) (again bool) {
	if b.id != pt.id || pt.queue[0] != b {
		return true // an older one decides first
	}
	safe := pt.gap || !b.uncertain && (err.Code == CodeUnknownProducerID || pt.p.cfg.acks == AcksLeader)
	pt.renew = true
	return safe
}

// final is a copy of err that also tells of earlier sends without an answer.
func (pt *partition) final(b *batch, err *Error) *Error {
	e := *err
	e.Indefinite = e.Indefinite || b.uncertain
	e.Topic, e.Partition = pt.tp.Topic, pt.tp.Partition
	return &e
}

// remove takes b, whose outcome is known, out of the queue for settle. The caller holds mu.
func (pt *partition) remove(b *batch) {
	pt.queue = without(pt.queue, b)
	pt.settling = append(pt.settling, b)
	b.state = batchDone
}

// settled takes b, of which everybody has heard, from those that flushes wait for.
func (pt *partition) settled(b *batch) (waits []*flushWait) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.settling = without(pt.settling, b)
	return b.waits
}

func without(list []*batch, b *batch) []*batch {
	if i := slices.Index(list, b); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// moveTo gives the partition to the sink of its leader, nil when there is none;
// again reports that records wait and nobody leads.
func (pt *partition) moveTo(s *sink, id [16]byte) (again bool) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	known := id != [16]byte{}
	switch {
	case known:
		pt.missing = time.Time{}
	case pt.missing.IsZero():
		pt.missing = time.Now()
	}
	if known && id != pt.topicID {
		pt.topicID = id // deleted and created again: brokers know none of our sequences
		pt.limit.Store(int64(pt.p.cfg.batchBytes))
		pt.renew = pt.id.generation > 0
	}
	pending := pt.open != nil || len(pt.queue) > 0
	if pt.sink != s {
		old := pt.sink
		pt.sink = s
		pt.led.Store(s != nil)
		pt.notYet = time.Time{}
		if pt.inflight > 0 {
			pt.draining = true
			if old != nil {
				old.suspect()
			}
		}
		if pending {
			pt.mark()
		}
	}
	return pending && s == nil
}

// expire fails batches whose time is over, those under way too: their answers
// will find them done. The time of a topic that was deleted is over sooner.
func (pt *partition) expire(now time.Time) {
	limit := now.Add(-pt.p.cfg.deliveryTimeout)
	var over []*batch
	var away []bool
	pt.mu.Lock()
	gone := !pt.missing.IsZero() && now.Sub(pt.missing) > pt.p.c.cfg.unknownWait
	if pt.open != nil && (gone || pt.open.began.Before(limit)) {
		pt.seal()
	}
	for len(pt.queue) > 0 && (gone || pt.queue[0].began.Before(limit)) {
		b := pt.queue[0]
		over, away = append(over, b), append(away, b.state == batchAway)
		pt.remove(b)
		if b.id.generation > 0 {
			pt.gap = true
		}
	}
	pt.mu.Unlock()
	for i, b := range over {
		var end error = &DeliveryError{
			Topic: pt.tp.Topic, Partition: pt.tp.Partition, Waited: now.Sub(b.began), Attempts: b.attempts,
			Indefinite: b.uncertain || away[i], Err: b.lastErr,
		}
		if gone {
			e := unknownTopic(pt.tp.Topic)
			e.Partition, e.Indefinite = pt.tp.Partition, b.uncertain || away[i]
			end = e
		}
		pt.settle(b, end, answer{baseOffset: -1}, !away[i])
	}
}

// failAll ends everything when nothing is under way any more.
func (pt *partition) failAll(err error) {
	pt.mu.Lock()
	pt.removed = true
	pt.seal()
	left := append([]*batch(nil), pt.queue...)
	for _, b := range left {
		pt.remove(b)
	}
	pt.mu.Unlock()
	for _, b := range left {
		end := err
		if b.uncertain {
			end = &Error{
				Code: CodeUnknown, Message: "closed before the outcome was known", Topic: pt.tp.Topic,
				Partition: pt.tp.Partition, Indefinite: true, Err: fmt.Errorf("%w: %w", err, b.lastErr),
			}
		}
		pt.settle(b, end, answer{baseOffset: -1}, true)
	}
}

// settle tells everybody about the end of b. Exactly one caller gets here, the
// one that removed it. No lock is held: promises are the application's code.
func (pt *partition) settle(b *batch, err error, a answer, drop bool) {
	p := pt.p
	info := BatchInfo{
		TopicPartition: pt.tp, BaseOffset: a.baseOffset, Records: b.count, Bytes: b.size,
		Began: b.began, Sent: b.sent, Attempts: b.attempts, Err: err,
	}
	if drop {
		if b.buf != nil {
			info.Bytes = b.buf.Len()
		}
		p.drop(b)
	}
	pt.waiting.Add(int64(-b.size))
	p.release(int64(b.size))
	if err != nil && b.silent {
		p.failSilently(err)
	}
	for i := range b.pending {
		r := b.pending[i].rec
		r.Partition, r.Offset = pt.index, -1
		if err == nil && a.baseOffset >= 0 {
			r.Offset = a.baseOffset + int64(b.pending[i].delta)
		}
		if a.appendTime >= 0 && err == nil {
			r.Timestamp = time.UnixMilli(a.appendTime)
		}
		b.pending[i].promise(r, err)
	}
	b.pending = nil
	if len(p.c.cfg.hooks.batch) > 0 {
		info.Done = time.Now()
		for _, h := range p.c.cfg.hooks.batch {
			h.OnBatch(info)
		}
	}
	for _, w := range pt.settled(b) {
		w.sub(1)
	}
}

// request describes b for the broker.
func (pt *partition) request(id [16]byte) *pb.ProducePartition {
	return &pb.ProducePartition{TopicId: id[:], Topic: pt.tp.Topic, Partition: pt.tp.Partition, BatchCount: 1}
}

func (pt *partition) id16() [16]byte {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	return pt.topicID
}
