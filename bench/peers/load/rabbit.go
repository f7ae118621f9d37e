package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rabbitAdmin makes and drops RabbitMQ's queues, of one type: a queue a partition. Each
// is declared at another node in turn, which then leads it, and whoever writes or reads
// it connects there: the broker forwards nothing.
type rabbitAdmin struct {
	addresses []string
	conns     []*amqp.Connection
	chans     []*amqp.Channel
	arguments func(*Topic) amqp.Table
	// lags means that servers count some seconds late; sent, that there is something
	// to be counted.
	lags, sent bool
}

const rabbitSettles = 6 * time.Second // servers count every 5

func rabbitURL(address string) string { return "amqp://guest:guest@" + address + "/" }

func dialRabbitAdmin(addresses []string, arguments func(*Topic) amqp.Table) (*rabbitAdmin, error) {
	r := &rabbitAdmin{addresses: addresses, arguments: arguments}
	for _, a := range addresses {
		c, ch, err := openRabbit(a)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.conns, r.chans = append(r.conns, c), append(r.chans, ch)
	}
	return r, nil
}

// openRabbit is a connection of its own with a channel.
func openRabbit(address string) (*amqp.Connection, *amqp.Channel, error) {
	c, err := amqp.Dial(rabbitURL(address))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	ch, err := c.Channel()
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, ch, nil
}

func (r *rabbitAdmin) Close() error {
	var errs []error
	for _, c := range r.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// leader is the address of the node at which a part was declared.
func (r *rabbitAdmin) leader(part int) string { return r.addresses[part%len(r.addresses)] }

func (r *rabbitAdmin) Create(_ context.Context, t *Topic) error {
	for i, name := range t.parts() {
		if _, err := r.chans[i%len(r.chans)].QueueDeclare(name, true, false, false, false, r.arguments(t)); err != nil {
			return fmt.Errorf("queue %s: %w", name, err)
		}
	}
	return nil
}

func (r *rabbitAdmin) Drop(_ context.Context, t *Topic) error {
	var errs []error
	for i, name := range t.parts() {
		_, err := r.chans[i%len(r.chans)].QueueDelete(name, false, false, false)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Count waits, where servers count late, until the number stands still.
func (r *rabbitAdmin) Count(ctx context.Context, t *Topic) (int64, error) {
	for last := int64(-1); ; {
		n := int64(0)
		for i, name := range t.parts() {
			q, err := r.chans[i%len(r.chans)].QueueDeclarePassive(name, true, false, false, false, r.arguments(t))
			if err != nil {
				return 0, err
			}
			n += int64(q.Messages)
		}
		if n == last || !r.lags || n == 0 && !r.sent {
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

// rabbitQuorum is amqp091-go against RabbitMQ's quorum queues, with publisher confirms:
// a connection a queue, at most rabbitWindow messages a queue without a confirm. Quorum
// queues are replicated and written through. What is read from one is gone.
type rabbitQuorum struct{ *rabbitAdmin }

const (
	rabbitWindow   = 2000
	rabbitPrefetch = 2000
	rabbitAcks     = 500 // deliveries acknowledged at once
)

func dialRabbitQuorum(addresses []string) (System, error) {
	a, err := dialRabbitAdmin(addresses, func(t *Topic) amqp.Table {
		return amqp.Table{"x-queue-type": "quorum", "x-quorum-initial-group-size": int32(t.Replicas)}
	})
	if err != nil {
		return nil, err
	}
	return &rabbitQuorum{a}, nil
}

func (r *rabbitQuorum) Producer(_ context.Context, t *Topic, tally *Tally, _ bool) (Producer, error) {
	p := &rabbitProducer{}
	for i, name := range t.parts() {
		q, err := newRabbitQueue(r.leader(i), name, tally)
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
			if err := q.enter(ctx); err != nil {
				return err
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

// rabbitQueue is a connection that publishes to one queue. One goroutine publishes.
type rabbitQueue struct {
	name     string
	c        *amqp.Connection
	ch       *amqp.Channel
	tally    *Tally
	window   chan struct{} // holds one for each message without a confirm
	ended    chan struct{} // closed when no more confirms come
	settling sync.WaitGroup

	mu    sync.Mutex // guards what follows
	tag   uint64     // of the last message
	timed map[uint64]func(error)
}

// Why a message was not stored.
var (
	errNack  = errors.New("load: the broker refused a message")
	errEnded = errors.New("load: the broker closed the connection")
)

func newRabbitQueue(address, name string, tally *Tally) (*rabbitQueue, error) {
	c, ch, err := openRabbit(address)
	if err != nil {
		return nil, err
	}
	if err := ch.Confirm(false); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	q := &rabbitQueue{
		name: name, c: c, ch: ch, tally: tally,
		window: make(chan struct{}, rabbitWindow), ended: make(chan struct{}), timed: map[uint64]func(error){},
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, rabbitWindow))
	q.settling.Go(func() { // until the connection is closed
		defer close(q.ended)
		for c := range confirms {
			q.settle(c)
		}
	})
	return q, nil
}

// enter waits for room in the window.
func (q *rabbitQueue) enter(ctx context.Context) error {
	select {
	case q.window <- struct{}{}:
		return nil
	case <-q.ended:
		return fmt.Errorf("%w of queue %s", errEnded, q.name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *rabbitQueue) publish(ctx context.Context, value []byte, done func(error)) error {
	if err := q.enter(ctx); err != nil {
		return err
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

func (r *rabbitAdmin) reader(ctx context.Context, t *Topic, again bool, args amqp.Table) (Reader, int64, error) {
	size, err := r.Count(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	reader := &rabbitReader{arrivals: newArrivals(), admin: r, names: t.parts(), args: args, again: again}
	return reader, size, reader.start()
}

func (r *rabbitQuorum) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	return r.reader(ctx, t, false, nil)
}

// rabbitReader has a connection a queue.
type rabbitReader struct {
	*arrivals

	admin *rabbitAdmin
	names []string
	args  amqp.Table // of each consumer
	again bool       // what was read stays

	conns     []*amqp.Connection
	closing   atomic.Bool
	consumers sync.WaitGroup
}

func (r *rabbitReader) start() error {
	r.closing.Store(false)
	for i, name := range r.names {
		if err := r.consume(r.admin.leader(i), name); err != nil {
			return errors.Join(fmt.Errorf("consume %s: %w", name, err), r.Close())
		}
	}
	return nil
}

func (r *rabbitReader) consume(address, name string) error {
	c, ch, err := openRabbit(address)
	if err != nil {
		return err
	}
	r.conns = append(r.conns, c)
	if err := ch.Qos(rabbitPrefetch, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.Consume(name, "", false, false, false, false, r.args)
	if err != nil {
		return err
	}
	r.consumers.Go(func() { // until the connection is closed
		n := 0
		for d := range deliveries {
			if n++; n%rabbitAcks == 0 {
				_ = d.Ack(true) // fails when the connection is closed, with which this ends
			}
			r.add(1, len(d.Body))
		}
		if !r.closing.Load() {
			r.fail(fmt.Errorf("%w of queue %s", errEnded, name))
		}
	})
	return nil
}

// Rewind cannot, where what was read is gone.
func (r *rabbitReader) Rewind(context.Context) (bool, error) {
	if !r.again {
		return false, nil
	}
	if err := r.Close(); err != nil {
		return false, err
	}
	r.forget()
	return true, r.start()
}

func (r *rabbitReader) Close() error {
	r.closing.Store(true)
	var errs []error
	for _, c := range r.conns {
		errs = append(errs, c.Close())
	}
	r.conns = nil
	r.consumers.Wait()
	return errors.Join(errs...)
}
