package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
	streamamqp "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

// rabbitStream is rabbitmq-stream-go-client against RabbitMQ's streams, written by their
// own protocol, which its documentation recommends over AMQP for them: a stream and a
// producer a partition, with the library's defaults (at most 10,000 messages of a
// producer without a confirm), whole blocks sent by BatchSend. A stream is replicated,
// and leaves its flushing to the kernel.
// Streams are made, dropped and counted over AMQP, for servers before 3.11 tell nobody
// else how much there is in one.
type rabbitStream struct {
	*rabbitAdmin

	env *stream.Environment
}

// dialRabbitStream takes the addresses of the AMQP listeners, then as many of the
// stream listeners.
func dialRabbitStream(addresses []string) (System, error) {
	half := len(addresses) / 2
	a, err := dialRabbitAdmin(addresses[:half], func(t *Topic) amqp.Table {
		return amqp.Table{
			"x-queue-type": "stream", "x-initial-cluster-size": int32(t.Replicas),
			"x-max-length-bytes": t.Retention, "x-stream-max-segment-size-bytes": t.segment(),
		}
	})
	if err != nil {
		return nil, err
	}
	a.lags = true
	opts := stream.NewEnvironmentOptions()
	for _, address := range addresses[half:] {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(err, a.Close())
		}
		opts.ConnectionParameters = append(opts.ConnectionParameters, &stream.Broker{Host: host, Port: port})
	}
	env, err := stream.NewEnvironment(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %v: %w", addresses[half:], err), a.Close())
	}
	return &rabbitStream{rabbitAdmin: a, env: env}, nil
}

func (r *rabbitStream) Close() error { return errors.Join(r.env.Close(), r.rabbitAdmin.Close()) }

func (r *rabbitStream) Producer(_ context.Context, t *Topic, tally *Tally, _ bool) (Producer, error) {
	p := &rabbitStreamProducer{}
	for _, name := range t.parts() {
		made, err := r.env.NewProducer(name, stream.NewProducerOptions())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("producer of %s: %w", name, err), p.Close())
		}
		p.streams = append(p.streams, newStreamPart(made, tally))
	}
	r.sent = true
	return p, nil
}

// rabbitStreamProducer sends to its streams in turn, a block at a time.
type rabbitStreamProducer struct {
	streams []*streamPart
	next    int
}

// streamPart is a producer of one stream. One goroutine sends.
type streamPart struct {
	p        *stream.Producer
	tally    *Tally
	id       int64 // of the last message
	settling sync.WaitGroup

	mu      sync.Mutex // guards what follows
	open    int64      // messages without a confirm
	settled *sync.Cond // open has changed, or ended
	ended   bool       // no more confirms come
	timed   map[int64]func(error)
}

func newStreamPart(p *stream.Producer, tally *Tally) *streamPart {
	s := &streamPart{p: p, tally: tally, timed: map[int64]func(error){}}
	s.settled = sync.NewCond(&s.mu)
	confirms := p.NotifyPublishConfirmation()
	s.settling.Go(func() { // until the producer is closed
		for some := range confirms {
			for _, c := range some {
				s.settle(c)
			}
		}
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.settled.Broadcast()
	})
	return s
}

func (s *streamPart) settle(c *stream.ConfirmationStatus) {
	var err error
	if !c.IsConfirmed() {
		err = errors.Join(errNack, c.GetError())
	}
	s.tally.Done(1, err)
	s.mu.Lock()
	done := s.timed[c.GetPublishingId()]
	delete(s.timed, c.GetPublishingId())
	s.mu.Unlock()
	if done != nil {
		done(err)
	}
	s.mu.Lock() // last: who waits counts on all of it
	s.open--
	s.mu.Unlock()
	s.settled.Broadcast()
}

func (s *streamPart) messages(values [][]byte, done func(error)) []message.StreamMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]message.StreamMessage, len(values))
	for i, v := range values {
		s.id++
		m := streamamqp.NewMessage(v)
		m.SetPublishingId(s.id)
		all[i] = m
		if done != nil {
			s.timed[s.id] = done
		}
	}
	s.open += int64(len(values))
	return all
}

// wait returns when everything is confirmed.
func (s *streamPart) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.settled.Broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.open > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%d messages without an answer: %w", s.open, ctx.Err())
		}
		if s.ended {
			return fmt.Errorf("%w with %d messages under way", errEnded, s.open)
		}
		s.settled.Wait()
	}
	return nil
}

func (p *rabbitStreamProducer) turn() *streamPart {
	p.next = (p.next + 1) % len(p.streams)
	return p.streams[p.next]
}

func (p *rabbitStreamProducer) Send(_ context.Context, values [][]byte) error {
	s := p.turn()
	return s.p.BatchSend(s.messages(values, nil))
}

func (p *rabbitStreamProducer) SendTimed(_ context.Context, value []byte, done func(error)) error {
	s := p.turn()
	return s.p.Send(s.messages([][]byte{value}, done)[0])
}

func (p *rabbitStreamProducer) Flush(ctx context.Context) error {
	for _, s := range p.streams {
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *rabbitStreamProducer) Close() error {
	var errs []error
	for _, s := range p.streams {
		errs = append(errs, s.p.Close())
		s.settling.Wait()
	}
	return errors.Join(errs...)
}

// Reader reads over AMQP. Over the stream protocol most chunks from the server that Debian
// has came 207 ms after the one before, with a credit of 10 and of 100 chunks alike, which
// made 8,000 records/s of six streams; why was not found.
func (r *rabbitStream) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	return r.reader(ctx, t, true, amqp.Table{"x-stream-offset": "first"})
}
