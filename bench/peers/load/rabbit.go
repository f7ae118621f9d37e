package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rabbit is amqp091-go against RabbitMQ, with publisher confirms: a queue a partition,
// a connection a queue, at most rabbitWindow messages a queue without a confirm.
// Quorum queues are replicated and written through; a stream is replicated and leaves
// its flushing to the kernel. What is read from a quorum queue is gone.
type rabbit struct {
	addresses []string
	c         *amqp.Connection
	ch        *amqp.Channel
	stream    bool
}

const (
	rabbitWindow   = 2000
	rabbitPrefetch = 2000
	rabbitAcks     = 500             // deliveries acknowledged at once
	rabbitSettles  = 6 * time.Second // servers count every 5
)

func rabbitURL(address string) string { return "amqp://guest:guest@" + address + "/" }

func dialRabbit(addresses []string, stream bool) (System, error) {
	c, err := amqp.Dial(rabbitURL(addresses[0]))
	if err != nil {
		return nil, err
	}
	ch, err := c.Channel()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &rabbit{addresses: addresses, c: c, ch: ch, stream: stream}, nil
}

func (r *rabbit) Close() error { return r.c.Close() }

func (r *rabbit) arguments(t *Topic) amqp.Table {
	if r.stream {
		return amqp.Table{"x-queue-type": "stream", "x-max-length-bytes": t.Retention, "x-initial-cluster-size": int32(t.Replicas)}
	}
	return amqp.Table{"x-queue-type": "quorum", "x-quorum-initial-group-size": int32(t.Replicas)}
}

func (r *rabbit) Create(_ context.Context, t *Topic) error {
	for _, name := range t.parts() {
		if _, err := r.ch.QueueDeclare(name, true, false, false, false, r.arguments(t)); err != nil {
			return err
		}
	}
	return nil
}

func (r *rabbit) Drop(_ context.Context, t *Topic) error {
	for _, name := range t.parts() {
		if _, err := r.ch.QueueDelete(name, false, false, false); err != nil {
			return err
		}
	}
	return nil
}

// Count waits until the count of a stream, which lags behind, stands still.
func (r *rabbit) Count(ctx context.Context, t *Topic) (int64, error) {
	for last := int64(-1); ; {
		n := int64(0)
		for _, name := range t.parts() {
			q, err := r.ch.QueueDeclarePassive(name, true, false, false, false, r.arguments(t))
			if err != nil {
				return 0, err
			}
			n += int64(q.Messages)
		}
		if n == last || !r.stream {
			return n, nil
		}
		last = n
		select {
		case <-time.After(rabbitSettles):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (r *rabbit) Producer(ctx context.Context, t *Topic, tally *Tally, _ bool) (Producer, error) {
	p := &rabbitProducer{}
	for i, name := range t.parts() {
		q, err := newRabbitQueue(ctx, r.addresses[i%len(r.addresses)], name, tally)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.queues = append(p.queues, q)
	}
	return p, nil
}

// rabbitProducer sends to its queues in turn.
type rabbitProducer struct {
	queues []*rabbitQueue
	next   int
}

func (p *rabbitProducer) queue() *rabbitQueue {
	p.next = (p.next + 1) % len(p.queues)
	return p.queues[p.next]
}

func (p *rabbitProducer) Send(ctx context.Context, values [][]byte) error {
	for _, v := range values {
		if err := p.queue().publish(ctx, v, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *rabbitProducer) SendTimed(ctx context.Context, value []byte, done func(error)) error {
	return p.queue().publish(ctx, value, done)
}

func (p *rabbitProducer) Flush(ctx context.Context) error {
	for _, q := range p.queues {
		for range rabbitWindow {
			select {
			case q.window <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for range rabbitWindow {
			<-q.window
		}
	}
	return nil
}

func (p *rabbitProducer) Close() error {
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.c.Close())
		q.settling.Wait()
	}
	return errors.Join(errs...)
}

// rabbitQueue is a connection that publishes to one queue.
type rabbitQueue struct {
	name     string
	c        *amqp.Connection
	ch       *amqp.Channel
	tally    *Tally
	window   chan struct{} // holds one for each message without a confirm
	settling sync.WaitGroup

	mu    sync.Mutex // guards what follows
	tag   uint64     // of the last message
	timed map[uint64]func(error)
}

var errNack = errors.New("load: the broker refused a message")

func newRabbitQueue(ctx context.Context, address, name string, tally *Tally) (*rabbitQueue, error) {
	c, err := amqp.Dial(rabbitURL(address))
	if err != nil {
		return nil, err
	}
	ch, err := c.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	q := &rabbitQueue{name: name, c: c, ch: ch, tally: tally, window: make(chan struct{}, rabbitWindow), timed: map[uint64]func(error){}}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, rabbitWindow))
	q.settling.Go(func() { // until the connection is closed
		for c := range confirms {
			q.settle(c)
		}
	})
	return q, ctx.Err()
}

func (q *rabbitQueue) publish(ctx context.Context, value []byte, done func(error)) error {
	select {
	case q.window <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	q.mu.Lock()
	q.tag++
	if done != nil {
		q.timed[q.tag] = done
	}
	q.mu.Unlock()
	return q.ch.PublishWithContext(ctx, "", q.name, false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: value})
}

func (q *rabbitQueue) settle(c amqp.Confirmation) {
	var err error
	if !c.Ack {
		err = errNack
	}
	q.mu.Lock()
	done := q.timed[c.DeliveryTag]
	delete(q.timed, c.DeliveryTag)
	q.mu.Unlock()
	q.tally.Done(1, err)
	if done != nil {
		done(err)
	}
	<-q.window
}

func (r *rabbit) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	size, err := r.Count(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	reader := &rabbitReader{r: r, t: t}
	return reader, size, reader.start()
}

type rabbitReader struct {
	r         *rabbit
	t         *Topic
	c         *amqp.Connection
	consumers sync.WaitGroup
	taken     chan int64 // bytes of one delivery
}

func (r *rabbitReader) start() (err error) {
	if r.c, err = amqp.Dial(rabbitURL(r.r.addresses[0])); err != nil {
		return err
	}
	r.taken = make(chan int64, rabbitPrefetch)
	for _, name := range r.t.parts() {
		ch, err := r.c.Channel()
		if err == nil {
			err = ch.Qos(rabbitPrefetch, 0, false)
		}
		var args amqp.Table
		if r.r.stream {
			args = amqp.Table{"x-stream-offset": "first"}
		}
		var deliveries <-chan amqp.Delivery
		if err == nil {
			deliveries, err = ch.Consume(name, "", false, false, false, false, args)
		}
		if err != nil {
			return fmt.Errorf("consume %s: %w", name, errors.Join(err, r.c.Close()))
		}
		r.consumers.Go(func() { consumeRabbit(deliveries, r.taken) }) // until the connection is closed
	}
	return nil
}

func consumeRabbit(deliveries <-chan amqp.Delivery, taken chan<- int64) {
	n := 0
	for d := range deliveries {
		if n++; n%rabbitAcks == 0 {
			_ = d.Ack(true) // fails when the connection is closed, with which this ends
		}
		taken <- int64(len(d.Body))
	}
}

func (r *rabbitReader) Read(ctx context.Context) (records, bytes int64, err error) {
	select {
	case b := <-r.taken:
		return 1, b, nil
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
}

func (r *rabbitReader) Rewind(context.Context) (bool, error) {
	if !r.r.stream {
		return false, nil
	}
	if err := r.Close(); err != nil {
		return false, err
	}
	return true, r.start()
}

func (r *rabbitReader) Close() error {
	err := r.c.Close()
	gone := make(chan struct{})
	go func() { // ends with the consumers, which the closed connection ends
		r.consumers.Wait()
		close(gone)
	}()
	for {
		select {
		case <-r.taken:
		case <-gone:
			return err
		}
	}
}
