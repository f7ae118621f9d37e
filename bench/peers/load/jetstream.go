package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// jetStream is nats.go against JetStream. A topic is as many streams as it has
// partitions, each with a leader of its own.
// Records are published asynchronously with the library's default of messages under
// way or, with fast, as a fast batch a stream (jetstreamext, servers from 2.14 on)
// whose acknowledgements come back every flowAcks messages. They are read by ordered
// consumers, which need no acknowledgement.
type jetStream struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	fast bool
}

const (
	jetStreamStall = time.Minute // how long a publish may wait for room
	// A fast batch asks for an acknowledgement every so many messages, as `nats bench`
	// does, and stops when so many are missing.
	flowAcks        = 500
	flowOutstanding = 4
	fastQueue       = 8 // blocks of values on their way to a stream's batch
)

func dialJetStream(addresses []string, fast bool) (System, error) {
	servers := make([]string, 0, len(addresses))
	for _, a := range addresses {
		servers = append(servers, "nats://"+a)
	}
	nc, err := nats.Connect("", func(o *nats.Options) error {
		o.Servers = servers
		return nil
	}, nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &jetStream{nc: nc, js: js, fast: fast}, nil
}

func (j *jetStream) Close() error {
	j.nc.Close()
	return nil
}

func (j *jetStream) Create(ctx context.Context, t *Topic) error {
	for _, name := range t.parts() {
		_, err := j.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{name}, Storage: jetstream.FileStorage, Replicas: t.Replicas, MaxBytes: t.Retention,
			AllowBatchPublish: true,
		})
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	return nil
}

func (j *jetStream) Drop(ctx context.Context, t *Topic) error {
	var errs []error
	for _, name := range t.parts() {
		errs = append(errs, j.js.DeleteStream(ctx, name))
	}
	return errors.Join(errs...)
}

func (j *jetStream) Count(ctx context.Context, t *Topic) (n int64, err error) {
	for _, name := range t.parts() {
		s, err := j.js.Stream(ctx, name)
		if err != nil {
			return 0, err
		}
		n += int64(s.CachedInfo().State.LastSeq)
	}
	return n, nil
}

func (j *jetStream) Producer(ctx context.Context, t *Topic, tally *Tally, quick bool) (Producer, error) {
	if j.fast && !quick {
		return newFastProducer(ctx, j.js, t, tally), nil
	}
	p := &jetStreamProducer{subjects: t.parts(), tally: tally}
	var err error
	p.js, err = jetstream.New(j.nc, jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { p.failed(err) }))
	return p, err
}

// jetStreamProducer publishes asynchronously, to the streams in turn.
type jetStreamProducer struct {
	js       jetstream.JetStream
	subjects []string
	next     int
	tally    *Tally
	sent     int64 // without SendTimed
	lost     atomic.Int64
	timed    sync.WaitGroup
}

func (p *jetStreamProducer) failed(err error) {
	p.lost.Add(1)
	p.tally.Done(1, err)
}

func (p *jetStreamProducer) publish(value []byte) (jetstream.PubAckFuture, error) {
	p.next = (p.next + 1) % len(p.subjects)
	return p.js.PublishAsync(p.subjects[p.next], value, jetstream.WithStallWait(jetStreamStall))
}

func (p *jetStreamProducer) Send(_ context.Context, values [][]byte) error {
	for _, v := range values {
		if _, err := p.publish(v); err != nil {
			return err
		}
		p.sent++
	}
	return nil
}

func (p *jetStreamProducer) SendTimed(_ context.Context, value []byte, done func(error)) error {
	future, err := p.publish(value)
	if err != nil {
		return err
	}
	p.timed.Go(func() { // until it is settled, which Flush waits for
		select {
		case <-future.Ok():
			p.tally.Done(1, nil)
			done(nil)
		case err := <-future.Err():
			done(err) // the handler has counted it
		}
	})
	return nil
}

func (p *jetStreamProducer) Flush(ctx context.Context) error {
	select {
	case <-p.js.PublishAsyncComplete():
	case <-ctx.Done():
		return fmt.Errorf("%d messages without an answer: %w", p.js.PublishAsyncPending(), ctx.Err())
	}
	p.timed.Wait()
	p.tally.Done(int(p.sent-p.lost.Swap(0)), nil)
	p.sent = 0
	return nil
}

func (p *jetStreamProducer) Close() error { return nil }

// fastProducer has a goroutine and a fast batch a stream.
type fastProducer struct {
	streams []*fastStream
	next    int
}

type fastStream struct {
	subject string
	js      jetstream.JetStream
	tally   *Tally
	ctx     context.Context //nolint:containedctx // of the batch, which outlives the calls that fill it
	work    chan fastWork
	ended   sync.WaitGroup
}

// fastWork is values to add, or a request to commit what was added.
type fastWork struct {
	values  [][]byte
	done    func(error)
	flushed chan<- error
}

func newFastProducer(ctx context.Context, js jetstream.JetStream, t *Topic, tally *Tally) *fastProducer {
	p := &fastProducer{}
	for _, name := range t.parts() {
		s := &fastStream{subject: name, js: js, tally: tally, ctx: ctx, work: make(chan fastWork, fastQueue)}
		s.ended.Go(s.run) // until Close
		p.streams = append(p.streams, s)
	}
	return p
}

func (p *fastProducer) hand(ctx context.Context, w fastWork) error {
	p.next = (p.next + 1) % len(p.streams)
	select {
	case p.streams[p.next].work <- w:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *fastProducer) Send(ctx context.Context, values [][]byte) error {
	return p.hand(ctx, fastWork{values: values})
}

func (p *fastProducer) SendTimed(ctx context.Context, value []byte, done func(error)) error {
	return p.hand(ctx, fastWork{values: [][]byte{value}, done: done})
}

func (p *fastProducer) Flush(ctx context.Context) error {
	flushed := make(chan error, len(p.streams))
	for _, s := range p.streams {
		s.work <- fastWork{flushed: flushed}
	}
	var errs []error
	for range p.streams {
		select {
		case err := <-flushed:
			errs = append(errs, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

func (p *fastProducer) Close() error {
	for _, s := range p.streams {
		close(s.work)
		s.ended.Wait()
	}
	return nil
}

// fastBatch is a batch that is open, and what of it waits for an acknowledgement.
type fastBatch struct {
	publisher jetstreamext.FastPublisher
	counted   uint64 // acknowledged and told to the tally
	sequence  uint64 // added
	timed     []fastTimed
}

type fastTimed struct {
	sequence uint64
	done     func(error)
}

func (s *fastStream) run() {
	var b *fastBatch
	for w := range s.work {
		var err error
		if w.flushed != nil {
			w.flushed <- s.commit(&b)
			continue
		}
		if b == nil {
			if b, err = s.begin(); err != nil {
				s.tally.Done(len(w.values), err)
				b = nil
				continue
			}
		}
		if err := s.add(b, &w); err != nil {
			s.tally.Done(int(b.sequence-b.counted), err)
			b = nil
		}
	}
}

func (s *fastStream) begin() (*fastBatch, error) {
	p, err := jetstreamext.NewFastPublisher(s.js, jetstreamext.FastPublishFlowControl{
		Flow: flowAcks, MaxOutstandingAcks: flowOutstanding, AckTimeout: jetStreamStall,
	})
	return &fastBatch{publisher: p}, err
}

func (s *fastStream) add(b *fastBatch, w *fastWork) error {
	for _, v := range w.values {
		b.sequence++
		if w.done != nil {
			b.timed = append(b.timed, fastTimed{b.sequence, w.done})
		}
		ack, err := b.publisher.Add(s.subject, v)
		if err != nil {
			return err
		}
		s.acked(b, ack.AckSequence)
	}
	return nil
}

func (s *fastStream) acked(b *fastBatch, sequence uint64) {
	if sequence <= b.counted {
		return
	}
	s.tally.Done(int(sequence-b.counted), nil)
	b.counted = sequence
	for len(b.timed) > 0 && b.timed[0].sequence <= sequence {
		b.timed[0].done(nil)
		b.timed = b.timed[1:]
	}
}

func (s *fastStream) commit(b **fastBatch) error {
	if *b == nil {
		return nil
	}
	if _, err := (*b).publisher.Close(s.ctx); err != nil {
		return fmt.Errorf("close the batch on %s: %w", s.subject, err)
	}
	s.acked(*b, (*b).sequence)
	*b = nil
	return nil
}

func (j *jetStream) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	r := &jetStreamReader{arrivals: newArrivals(), j: j, t: t}
	var size int64
	for _, name := range t.parts() {
		s, err := j.js.Stream(ctx, name)
		if err != nil {
			return nil, 0, err
		}
		size += int64(s.CachedInfo().State.Msgs)
	}
	return r, size, r.start(ctx)
}

// jetStreamReader has an ordered consumer a stream.
type jetStreamReader struct {
	*arrivals

	j         *jetStream
	t         *Topic
	consumers []jetstream.ConsumeContext
}

func (r *jetStreamReader) start(ctx context.Context) error {
	r.forget()
	for _, name := range r.t.parts() {
		c, err := r.j.js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		reading, err := c.Consume(func(m jetstream.Msg) { r.add(1, len(m.Data())) })
		if err != nil {
			return err
		}
		r.consumers = append(r.consumers, reading)
	}
	return nil
}

func (r *jetStreamReader) Rewind(ctx context.Context) (bool, error) {
	r.end()
	return true, r.start(ctx)
}

func (r *jetStreamReader) end() {
	for _, c := range r.consumers {
		c.Stop()
		<-c.Closed()
	}
	r.consumers = nil
}

func (r *jetStreamReader) Close() error {
	r.end()
	return nil
}
