package client

import (
	"time"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Acks says when a record counts as written.
type Acks int8

// The values are Kafka's.
const (
	AcksAll    Acks = -1 // every in-sync replica has it: the default
	AcksNone   Acks = 0  // the broker has received it; losses are not noticed
	AcksLeader Acks = 1  // the leader has it
)

// ParseAcks reads "all", "-1", "1", "leader", "0" or "none".
func ParseAcks(s string) (Acks, error) {
	switch s {
	case "all", "-1":
		return AcksAll, nil
	case "leader", "1":
		return AcksLeader, nil
	case "none", "0":
		return AcksNone, nil
	default:
		return AcksAll, &ConfigError{Faults: []string{"acks " + s + " is none of all, 1, 0"}}
	}
}

// String returns what ParseAcks reads: all, 1 or 0.
func (a Acks) String() string {
	switch a {
	case AcksNone:
		return "0"
	case AcksLeader:
		return "1"
	default:
		return "all"
	}
}

func (a Acks) wire() pb.Acks {
	switch a {
	case AcksNone:
		return pb.Acks_ACKS_NONE
	case AcksLeader:
		return pb.Acks_ACKS_LEADER
	default:
		return pb.Acks_ACKS_ALL
	}
}

// ProducerOpt configures a Producer.
type ProducerOpt interface{ applyProducer(*producerConfig) }

type producerOpt func(*producerConfig)

func (o producerOpt) applyProducer(c *producerConfig) { o(c) }

type producerConfig struct {
	acks            Acks
	codec           record.Codec
	codecFault      error
	level           int
	linger          time.Duration
	batchBytes      int
	maxBuffered     int64
	maxInFlight     int
	deliveryTimeout time.Duration
	partitioner     Partitioner
	idempotent      bool
}

// maxIdempotentInFlight is how many batches of one partition may be without an
// answer: a broker recognises repeats among the last five batches of a producer
// (KIP-98).
const maxIdempotentInFlight = 5

func defaultProducerConfig() producerConfig {
	return producerConfig{
		acks:            AcksAll,
		codec:           record.CodecNone,
		linger:          DefaultLinger,
		batchBytes:      DefaultBatchBytes,
		maxBuffered:     64 << 20,
		maxInFlight:     maxIdempotentInFlight,
		deliveryTimeout: 2 * time.Minute,
		partitioner:     DefaultPartitioner(),
		idempotent:      true,
	}
}

// WithAcks sets when a record counts as written. Default AcksAll.
func WithAcks(a Acks) ProducerOpt { return producerOpt(func(c *producerConfig) { c.acks = a }) }

// WithCompression sets the codec of batches: none (default), gzip, snappy, lz4 or zstd.
func WithCompression(codec string) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.codec, c.codecFault = record.ParseCodec(codec) })
}

// WithCompressionLevel sets the codec's own level; 0, the default, is the codec's default.
func WithCompressionLevel(level int) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.level = level })
}

// DefaultLinger is what WithLinger says unless it is used.
const DefaultLinger = 5 * time.Millisecond

// WithLinger sets how long a batch that is not full waits for more records while
// others of the producer are under way, of any partition and to any broker. With
// nothing under way it leaves at once, so lingering costs no latency at low rates; at
// high ones it makes fewer and larger batches, which is less for everybody to do. 0: leave
// as soon as the window has room. Default DefaultLinger.
func WithLinger(d time.Duration) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.linger = d })
}

// DefaultBatchBytes is what WithBatchBytes says unless it is used: the five batches of a
// partition that may be under way are enough bytes, then, to keep three disks busy.
const DefaultBatchBytes = 512 << 10

// WithBatchBytes sets the size, before compression, at which a batch is full; it leaves at
// half of it where fewer of its partition are under way or wait than WithMaxInFlight allows. A
// larger record makes a batch of its own. Default DefaultBatchBytes. For a topic that
// takes less (its max.message.bytes, 1,048,588 unless it is set) batches are split, and
// smaller for as long as the producer and the topic live; a record too large for it alone fails.
func WithBatchBytes(n int) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.batchBytes = n })
}

// WithMaxBufferedBytes bounds the encoded records, before compression, that have
// no acknowledgement yet; Produce waits while they are more. The newest up to 4 KiB
// of a partition may be left out of the count. Default 64 MiB.
func WithMaxBufferedBytes(n int64) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.maxBuffered = n })
}

// WithMaxInFlight sets how many batches of one partition may be without an answer:
// 1 to 5, default 5. A producer that is not idempotent uses 1 whatever is set, so
// that retries keep order.
func WithMaxInFlight(n int) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.maxInFlight = n })
}

// WithDeliveryTimeout bounds the time from Produce to the end of a record, all
// retries included; then it fails with a *DeliveryError. Default 2 min.
func WithDeliveryTimeout(d time.Duration) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.deliveryTimeout = d })
}

// WithPartitioner replaces DefaultPartitioner.
func WithPartitioner(p Partitioner) ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.partitioner = p })
}

// WithoutIdempotence gives up the protection from duplicates.
func WithoutIdempotence() ProducerOpt {
	return producerOpt(func(c *producerConfig) { c.idempotent = false })
}

// countStep is how many bytes of an open batch are left uncounted at most; small
// batches are counted in finer steps.
func (c *producerConfig) countStep() int { return min(4<<10, c.batchBytes/16) }

func (c *producerConfig) validate() error {
	var f faults
	f.check(c.acks >= AcksAll && c.acks <= AcksLeader, "acks %d is none of -1, 0, 1", c.acks)
	if c.codecFault != nil {
		f.add("compression: %s", c.codecFault)
	}
	f.check(c.linger >= 0 && c.linger <= time.Minute, "linger %s is outside 0 to 1m", c.linger)
	f.check(c.batchBytes >= 1<<10 && c.batchBytes <= 64<<20, "batch size %d is outside 1 KiB to 64 MiB", c.batchBytes)
	f.check(c.maxBuffered >= int64(c.batchBytes), "max buffered bytes %d is below the batch size %d", c.maxBuffered, c.batchBytes)
	f.check(c.maxInFlight >= 1 && c.maxInFlight <= maxIdempotentInFlight, "max in flight %d is outside 1 to %d", c.maxInFlight, maxIdempotentInFlight)
	f.positive("delivery timeout", c.deliveryTimeout)
	f.check(c.partitioner != nil, "partitioner is nil")
	return f.err()
}
