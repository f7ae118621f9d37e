// Package load puts load on one system through one client, in a process of its own,
// and says what came of it.
//
// Every system is driven by the same code: the same payloads, the same times, the
// same meaning of a rate (from the first send until everything is acknowledged) and
// of a latency (from the moment a record was due). What differs is behind two small
// interfaces, one client library each: franz-go, nats.go, go-redis, amqp091-go,
// rabbitmq-stream-go-client, and Penstock's own. Libraries run with their defaults but for what is written down in
// their file and printed with the result.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Topic is what a run works on. Systems without partitions have as many streams or
// queues instead.
type Topic struct {
	Name       string `json:"name"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
	Synced     bool   `json:"synced"`
	// Retention bounds the bytes of a partition, where the system has such a bound;
	// what is older goes.
	Retention int64 `json:"retention"`
}

// segmentLeast keeps short runs from rolling files all the time.
const segmentLeast = 64 << 20

// segment is the size of a partition's files, where a system removes whole ones only:
// the same for each of them, so that Retention is kept to an eighth.
func (t *Topic) segment() int64 { return max(t.Retention/8, segmentLeast) }

// Names of the parts of a topic on systems that have no partitions.
func (t *Topic) parts() []string {
	names := make([]string, t.Partitions)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", t.Name, i)
	}
	return names
}

// System is a connection to one system through one client.
type System interface {
	Create(ctx context.Context, t *Topic) error
	Drop(ctx context.Context, t *Topic) error
	// Count is how many records the topic holds or, where old ones go, ever held.
	Count(ctx context.Context, t *Topic) (int64, error)
	Loader
	Close() error
}

// Loader makes what puts load on a topic.
type Loader interface {
	// Producer produces with acknowledgements of all replicas; with quick, it does
	// not wait for batches to fill.
	Producer(ctx context.Context, t *Topic, tally *Tally, quick bool) (Producer, error)
	// Reader reads all of a topic from its start, and says how many records that is.
	Reader(ctx context.Context, t *Topic) (Reader, int64, error)
}

// Producer sends records.
type Producer interface {
	// Send hands values over, which stay as they are, and waits while the client's
	// buffers are full. The tally counts their acknowledgements.
	Send(ctx context.Context, values [][]byte) error
	// SendTimed hands one value over; done is called once it is settled.
	SendTimed(ctx context.Context, value []byte, done func(error)) error
	// Flush waits until everything sent is settled.
	Flush(ctx context.Context) error
	Close() error
}

// Reader reads records.
type Reader interface {
	// Read waits for records, and says how many there were and the bytes of their values.
	Read(ctx context.Context) (records, bytes int64, err error)
	// Rewind begins again from the start; false: what was read is gone.
	Rewind(ctx context.Context) (bool, error)
	Close() error
}

// ErrClient means that a client's name is unknown.
var ErrClient = errors.New("load: unknown client")

// The clients.
const (
	Penstock     = "penstock"
	FranzGo      = "franz-go"
	NATS         = "nats.go"
	NATSBatch    = "nats.go fast batch"
	GoRedis      = "go-redis"
	RabbitQuorum = "amqp091 quorum queue"
	RabbitStream = "stream protocol"
)

// Dial connects a client to a system.
func Dial(ctx context.Context, client string, addresses []string) (System, error) {
	switch client {
	case Penstock:
		return dialPenstock(addresses)
	case FranzGo:
		return dialFranz(addresses)
	case NATS, NATSBatch:
		return dialJetStream(addresses, client == NATSBatch)
	case GoRedis:
		return dialRedis(ctx, addresses[0])
	case RabbitQuorum:
		return dialRabbitQuorum(addresses)
	case RabbitStream:
		return dialRabbitStream(addresses)
	default:
		return nil, fmt.Errorf("%w %q", ErrClient, client)
	}
}

// Tally counts how records ended. Its zero value is ready.
type Tally struct {
	acked, failed atomic.Int64

	mu    sync.Mutex // guards first
	first error
}

// Done counts n records that ended alike.
func (t *Tally) Done(n int, err error) {
	if err == nil {
		t.acked.Add(int64(n))
		return
	}
	t.failed.Add(int64(n))
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		t.first = err
	}
}

// Err is the first failure.
func (t *Tally) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first
}

func (t *Tally) reset() {
	t.acked.Store(0)
	t.failed.Store(0)
}
