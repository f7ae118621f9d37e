package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/log/record"
)

// Producer writes records. It is safe for concurrent use; the records that one
// goroutine gives to one partition keep their order.
type Producer struct {
	c    *Client
	cfg  producerConfig
	life context.Context //nolint:containedctx // ends when Close gives up or is done; parent of every goroutine's context
	stop context.CancelFunc
	wg   sync.WaitGroup // sinks, their receivers, clerk, identity
	off  func()         // stops listening to metadata

	builders sync.Pool // *record.Builder
	ids      identities

	last     atomic.Pointer[producerTopic] // the topic of the newest record
	closed   atomic.Bool
	flushing atomic.Int32
	away     atomic.Int64 // batches that are owed an answer
	buffered atomic.Int64 // encoded bytes without acknowledgement, as far as counted
	room     waitList     // of those who wait for buffered to fall

	mu     sync.Mutex // guards what follows
	topics map[string]*producerTopic
	sinks  map[string]*sink // by address
	silent error            // first failure of a record without a promise since the last Flush
}

// producerTopic is a topic that records were produced to.
type producerTopic struct {
	name   string
	parts  atomic.Pointer[[]*partition]
	sticky atomic.Int64 // partition << 1 | 1 while no record went there yet
	limit  atomic.Int64 // bytes of a batch: WithBatchBytes, or what the topic was found to take
}

// NewProducer makes a producer. It connects when the first record needs it.
func (c *Client) NewProducer(opts ...ProducerOpt) (*Producer, error) {
	cfg := defaultProducerConfig()
	for _, o := range opts {
		o.applyProducer(&cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.acks == AcksNone {
		cfg.idempotent = false
	}
	life, stop := context.WithCancel(c.life)
	p := &Producer{
		c: c, cfg: cfg, life: life, stop: stop,
		topics: map[string]*producerTopic{},
		sinks:  map[string]*sink{},
	}
	p.builders.New = func() any {
		return record.NewBuilder(record.BuilderOptions{Codec: cfg.codec, Level: cfg.level, MaxBytes: maxRequestBytes})
	}
	p.ids.init(cfg.idempotent)
	if !c.use(p) {
		stop()
		return nil, ErrClosed
	}
	p.off = c.meta.listen(p.led)
	p.wg.Go(func() { p.clerk(life) })
	if cfg.idempotent {
		p.wg.Go(func() { p.obtainIdentities(life) })
	}
	return p, nil
}

// Idempotent reports whether batches that are sent again make no duplicates. It
// is false with AcksNone, WithoutIdempotence, and against brokers that hand out no
// producer ids, which shows once the first record was produced; retries may then
// duplicate, and one batch a partition is under way at a time so that they keep order.
func (p *Producer) Idempotent() bool { return p.ids.enabled() }

// Produce gives a record to the producer. It encodes the record, so that key and
// value may be reused as soon as it returns, and waits only for metadata of a new
// topic or partition and for room (WithMaxBufferedBytes), until ctx ends; ctx does not bound the
// delivery.
//
// promise is called exactly once: with the record, its partition and offset set,
// and nil, or with the reason why it was not delivered: an *Error, a
// *DeliveryError, ErrClosed or the context's error. Records with a promise belong
// to the producer until then. Promises are called one at a time for one broker,
// in order for one partition, and must not wait, not for another Produce either.
// When promise is nil, the record may be reused at once; the next Flush returns
// the first failure of such records.
func (p *Producer) Produce(ctx context.Context, r *Record, promise func(*Record, error)) {
	if err := p.produce(ctx, r, promise); err != nil {
		r.Offset = -1
		if promise != nil {
			promise(r, err)
			return
		}
		p.failSilently(err)
	}
}

func (p *Producer) produce(ctx context.Context, r *Record, promise func(*Record, error)) error {
	if p.closed.Load() {
		return ErrClosed
	}
	t := p.last.Load()
	if t == nil || t.name != r.Topic {
		var err error
		if t, err = p.topic(ctx, r.Topic); err != nil {
			return err
		}
	}
	if p.buffered.Load() >= p.cfg.maxBuffered {
		if err := p.waitForRoom(ctx); err != nil {
			return err
		}
	}
	parts := *t.parts.Load()
	index := p.cfg.partitioner.Partition(r, int32(len(parts)))
	if index != AnyPartition {
		if index < 0 || int(index) >= len(parts) {
			var err error
			if parts, err = p.wider(ctx, t, index); err != nil {
				return err
			}
		}
		return parts[index].add(r, promise, false)
	}
	return t.addAnywhere(r, promise, parts)
}

// addAnywhere adds to the open batch of the partition that the topic keeps to. Once
// that has left, or is full, the topic keeps to another one, where the record begins a
// batch. To begin one here would leave it behind with this record alone.
func (t *producerTopic) addAnywhere(r *Record, promise func(*Record, error), parts []*partition) error {
	for {
		sticky := t.sticky.Load()
		at, fresh := int32(sticky>>1), sticky&1 != 0
		err := parts[int(at)%len(parts)].add(r, promise, !fresh)
		switch {
		case errors.Is(err, errNoOpenBatch):
			t.sticky.CompareAndSwap(sticky, int64(pick(parts, at))<<1|1)
			continue
		case fresh:
			t.sticky.CompareAndSwap(sticky, sticky&^1)
		}
		return err
	}
}

// endLinger has the sinks ask again for batches that linger; nothing is under way.
func (p *Producer) endLinger() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sinks {
		if s.lingers.Load() {
			s.poke()
		}
	}
}

// wider returns the partitions of a topic that must have one more than is known.
func (p *Producer) wider(ctx context.Context, t *producerTopic, index int32) ([]*partition, error) {
	meta, err := p.c.meta.partition(ctx, TopicPartition{t.name, index})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.life.Err() != nil {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	p.grow(t, meta)
	p.mu.Unlock()
	p.led(p.c.meta.snapshot())
	return *t.parts.Load(), nil
}

// ProduceSync produces records and waits for all of them. It returns the failures,
// joined; a record that failed has the offset -1. When ctx ends first, records may
// still be delivered, and the records must not be touched before Flush or Close.
func (p *Producer) ProduceSync(ctx context.Context, records ...*Record) error {
	var (
		mu   sync.Mutex // guards errs
		errs []error
		left atomic.Int64
		done = make(chan struct{})
	)
	left.Store(int64(len(records)))
	if len(records) == 0 {
		return nil
	}
	for _, r := range records {
		p.Produce(ctx, r, func(_ *Record, err error) {
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			if left.Add(-1) == 0 {
				close(done)
			}
		})
	}
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// Flush sends what waits and returns once all records given to Produce before it
// are settled, their promises and hooks called, or ctx ends. The error is the context's, or the first failure since
// the last Flush among records without a promise.
func (p *Producer) Flush(ctx context.Context) error {
	p.flushing.Add(1)
	defer p.flushing.Add(-1)
	w := newFlushWait()
	for _, part := range p.partitions() {
		part.flush(w)
	}
	w.sub(1)
	select {
	case <-w.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.silent
	p.silent = nil
	return err
}

// Close flushes until ctx ends, fails what is left with ErrClosed, and ends the
// producer's goroutines. Produce fails from the beginning of Close on.
func (p *Producer) Close(ctx context.Context) error {
	if p.closed.Swap(true) {
		p.wg.Wait()
		return nil
	}
	err := p.Flush(ctx)
	p.shutDown()
	p.c.unuse(p)
	return err
}

// abandon is Close without the flush, for Close of the client.
func (p *Producer) abandon() {
	if !p.closed.Swap(true) {
		p.shutDown()
	}
}

func (p *Producer) shutDown() {
	p.off()
	p.mu.Lock() // no sink and no topic is added once life has ended
	p.stop()
	p.mu.Unlock()
	p.room.wake()
	p.wg.Wait()
	for _, part := range p.partitions() {
		part.failAll(ErrClosed)
	}
}

func (p *Producer) failSilently(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent == nil {
		p.silent = err
	}
}

// topic finds or makes the topic of a record.
func (p *Producer) topic(ctx context.Context, name string) (*producerTopic, error) {
	p.mu.Lock()
	t := p.topics[name]
	p.mu.Unlock()
	if t == nil {
		p.ids.need(1)
		meta, err := p.c.meta.topic(ctx, name)
		if err != nil {
			return nil, err
		}
		if len(meta.parts) == 0 {
			return nil, unknownTopic(name)
		}
		if t = p.addTopic(name, meta); t == nil {
			return nil, ErrClosed
		}
	}
	p.last.Store(t)
	return t, nil
}

// addTopic makes the topic; nil: the producer has ended.
func (p *Producer) addTopic(name string, meta *topicMeta) *producerTopic {
	p.mu.Lock()
	if p.life.Err() != nil {
		p.mu.Unlock()
		return nil
	}
	t := p.topics[name]
	if t == nil {
		t = &producerTopic{name: name}
		t.limit.Store(int64(p.cfg.batchBytes))
		t.parts.Store(&[]*partition{})
		p.grow(t, meta)
		t.sticky.Store(int64(pick(*t.parts.Load(), -1))<<1 | 1)
		p.topics[name] = t
	}
	p.mu.Unlock()
	p.led(p.c.meta.snapshot())
	return t
}

// grow makes the partitions that metadata names. The caller holds p.mu.
func (p *Producer) grow(t *producerTopic, meta *topicMeta) {
	parts := *t.parts.Load()
	if len(parts) >= len(meta.parts) {
		return
	}
	next := append([]*partition(nil), parts...)
	for i := len(parts); i < len(meta.parts); i++ {
		next = append(next, newPartition(p, t.name, int32(i), meta.id, &t.limit))
	}
	t.parts.Store(&next)
}

// led takes a new snapshot: partitions go to the sinks of their leaders.
func (p *Producer) led(s *snapshot) {
	type move struct {
		part *partition
		to   *sink
		id   [16]byte
	}
	var moves []move
	p.mu.Lock()
	if p.life.Err() != nil {
		p.mu.Unlock()
		return
	}
	for name, t := range p.topics {
		meta := s.topics[name]
		if meta != nil {
			p.grow(t, meta)
		}
		for i, part := range *t.parts.Load() {
			m := move{part: part}
			if meta != nil && i < len(meta.parts) {
				m.id = meta.id
				if address := s.leader(part.tp); address != "" {
					m.to = p.sinkTo(address)
				}
			}
			moves = append(moves, m)
		}
	}
	p.mu.Unlock()
	again := false
	for _, m := range moves {
		again = m.part.moveTo(m.to, m.id) || again
	}
	if again {
		p.c.meta.refresh()
	}
}

// sinkTo returns the sink of a broker. The caller holds p.mu.
func (p *Producer) sinkTo(address string) *sink {
	s := p.sinks[address]
	if s == nil {
		s = newSink(p, address)
		p.sinks[address] = s
		p.wg.Go(func() { s.run(p.life) })
	}
	return s
}

func (p *Producer) partitions() []*partition {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*partition
	for _, t := range p.topics {
		out = append(out, *t.parts.Load()...)
	}
	return out
}

func (p *Producer) allSinks() []*sink {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*sink, 0, len(p.sinks))
	for _, s := range p.sinks {
		out = append(out, s)
	}
	return out
}

// clerk looks after what no event announces: batches whose delivery timeout
// passed, and streams that went silent.
func (p *Producer) clerk(ctx context.Context) {
	period := min(100*time.Millisecond, max(p.cfg.deliveryTimeout/10, time.Millisecond))
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		for _, s := range p.allSinks() {
			if s.watch(now) {
				p.c.meta.refresh()
			}
		}
		for _, part := range p.partitions() {
			part.expire(now)
		}
	}
}

// waitForRoom waits until less than the limit is buffered.
func (p *Producer) waitForRoom(ctx context.Context) error {
	for {
		ready, leave := p.room.join()
		if p.closed.Load() {
			leave()
			return ErrClosed
		}
		if p.buffered.Load() < p.cfg.maxBuffered {
			leave()
			return nil
		}
		select {
		case <-ready:
			leave()
		case <-ctx.Done():
			leave()
			return ctx.Err()
		}
	}
}

// release returns the bytes of settled records.
func (p *Producer) release(n int64) {
	if after := p.buffered.Add(-n); after < p.cfg.maxBuffered && after+n >= p.cfg.maxBuffered {
		p.room.wake()
	}
}
