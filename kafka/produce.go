package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

const (
	defaultProduceTimeout = 30 * time.Second
	maxProduceTimeout     = 10 * time.Minute
	// maxBatch is the largest batch that a topic can be set to accept.
	maxBatch = 32 << 20
	// partBytes is how much of a request is handed to the broker at once. A large
	// one becomes several parts with one answer, and is never in memory whole.
	partBytes = 8 << 20
	// maxNames bounds the topic names that a connection remembers.
	maxNames = 1000

	magicOffset, codecOffset = 16, 22
	zstdCodec                = 4
)

// produced is a produce request that was read: what it named, in its order, and
// what the broker made of it. It is used again once it is answered.
type produced struct {
	header     header
	topics     []producedTopic
	partitions []producedPartition // of all topics, one behind the other
	parts      []*api.Pending
	results    []api.ProduceResult // of several parts
	size       int                 // of the answer
	producing  producing           // what reads it
}

// producedTopic is a topic of a request and how many of the partitions are its.
type producedTopic struct {
	name       string
	partitions int
}

// producedPartition is refused here, or its outcome comes with the parts.
type producedPartition struct {
	number  int32
	refused *api.Error
}

// reset gives up what was referred to and keeps the memory.
func (p *produced) reset() {
	clear(p.topics)
	clear(p.partitions)
	clear(p.parts)
	clear(p.results)
	p.topics, p.partitions, p.parts, p.results = p.topics[:0], p.partitions[:0], p.parts[:0], p.results[:0]
}

// producedKept is how many partitions a request may have for its memory to be kept.
const producedKept = 256

// producedPool lends them.
type producedPool struct{ pool sync.Pool }

func (l *producedPool) get() *produced {
	if p, ok := l.pool.Get().(*produced); ok {
		return p
	}
	return &produced{}
}

func (l *producedPool) put(p *produced) {
	if cap(p.partitions) <= producedKept && cap(p.topics) <= producedKept {
		p.reset()
		l.pool.Put(p)
	}
}

// produce reads a request as it comes, each batch into a buffer of its own, which
// is what the log keeps.
func (c *conn) produce(ctx context.Context, h *header) error {
	p := c.door.produced.get()
	p.header = *h
	acks, err := c.readProduce(ctx, p)
	if err != nil {
		return err
	}
	c.received(&p.header)
	if acks == api.AcksNone {
		return c.unanswered(ctx, p)
	}
	return c.answers.put(ctx, p)
}

// unanswered: with acks 0 no answer says what went wrong, so that the connection
// ends when the client's knowledge of the cluster must be old, as in Kafka.
func (c *conn) unanswered(ctx context.Context, p *produced) error {
	timer := time.NewTimer(maxProduceTimeout)
	defer timer.Stop()
	results, err := p.wait(ctx, timer)
	if err != nil {
		return err
	}
	for i := range results {
		if e := results[i].Err; e != nil {
			p.header.entry.stats.code(e)
			return e
		}
	}
	for i := range p.partitions {
		if e := p.partitions[i].refused; e != nil {
			p.header.entry.stats.code(e)
			return e
		}
	}
	p.header.entry.stats.answered(p.header.arrived, 0)
	c.door.produced.put(p)
	return nil
}

func (c *conn) readProduce(ctx context.Context, p *produced) (api.Acks, error) {
	s, flexible := &c.source, p.header.entry.flexible(p.header.version)
	transaction, null, err := s.text(flexible)
	if err != nil {
		return 0, err
	}
	transactional := !null && len(transaction) > 0
	acks, err := s.int16()
	if err != nil {
		return 0, err
	}
	ms, err := s.int32()
	if err != nil {
		return 0, err
	}
	r := &p.producing
	r.begin(c, p, flexible)
	r.req.Acks, r.req.Timeout = api.Acks(acks), min(time.Duration(max(ms, 0))*time.Millisecond, maxProduceTimeout)
	if r.req.Timeout == 0 {
		r.req.Timeout = defaultProduceTimeout
	}
	switch {
	case acks < -1 || acks > 1:
		r.refuse = kafkaError(kerr.InvalidRequiredAcks, "acks %d is none of -1, 0 and 1", acks)
	case transactional:
		r.refuse = kafkaError(kerr.TransactionalIDAuthorizationFailed, "transactions are not in this version")
	}
	topics, err := s.count(flexible)
	if err != nil {
		return 0, err
	}
	for range topics {
		if err = r.topic(ctx); err != nil {
			break
		}
	}
	if err == nil && flexible {
		err = s.tags()
	}
	if err == nil && s.left != 0 {
		err = malformed("%d bytes are left after it", s.left)
	}
	if err != nil {
		r.release()
		return 0, err
	}
	r.submit(ctx)
	return r.req.Acks, nil
}

// producing is a request that is being read.
type producing struct {
	conn     *conn
	into     *produced
	flexible bool
	refuse   *api.Error // of every partition
	req      api.ProduceRequest
	batches  []*record.Buf // those of req, one a partition
	bytes    int           // of req
}

func (r *producing) begin(c *conn, p *produced, flexible bool) {
	r.conn, r.into, r.flexible, r.refuse, r.bytes = c, p, flexible, nil, 0
}

func (r *producing) topic(ctx context.Context) error {
	s := &r.conn.source
	name, null, err := s.text(r.flexible)
	if err != nil {
		return err
	}
	if null {
		return malformed("a topic's name is null")
	}
	t := producedTopic{name: r.conn.topicName(name)}
	n, err := s.count(r.flexible)
	if err != nil {
		return err
	}
	for t.partitions = 0; t.partitions < n; t.partitions++ {
		if err := r.partition(ctx, t.name); err != nil {
			return err
		}
	}
	r.into.topics = append(r.into.topics, t)
	if r.flexible {
		return s.tags()
	}
	return nil
}

func (r *producing) partition(ctx context.Context, topic string) error {
	s := &r.conn.source
	number, err := s.int32()
	if err != nil {
		return err
	}
	size, err := s.count(r.flexible)
	if err != nil {
		return err
	}
	buf, refusal, err := r.batch(size)
	if err != nil {
		return err
	}
	if refusal != nil {
		refusal = refusal.At(topic, number)
	}
	r.into.partitions = append(r.into.partitions, producedPartition{number, refusal})
	if buf != nil {
		r.batches = append(r.batches, buf)
		n := len(r.batches)
		r.req.Partitions = append(r.req.Partitions, api.ProducePartition{
			PartitionRef: api.PartitionRef{Topic: topic, Partition: number}, Batches: r.batches[n-1 : n : n],
		})
		if r.bytes += size; r.bytes >= partBytes {
			r.submit(ctx)
		}
	}
	if r.flexible {
		return s.tags()
	}
	return nil
}

// batch reads the records of a partition, or passes over them and says why.
func (r *producing) batch(size int) (*record.Buf, *api.Error, error) {
	s, refusal := &r.conn.source, r.refuse
	switch {
	case refusal != nil:
	case size < record.HeaderSize:
		refusal = kafkaError(kerr.InvalidRecord, "%d bytes of records; a batch has at least %d", size, record.HeaderSize)
	case size > maxBatch:
		refusal = kafkaError(kerr.MessageTooLarge, "%d bytes of records; no topic accepts more than %d", size, maxBatch)
	}
	if refusal != nil {
		return nil, refusal, s.skip(max(size, 0))
	}
	buf, err := s.batch(r.conn.door.opts.Arena, size)
	if err != nil {
		return nil, nil, err
	}
	switch b := buf.Bytes(); {
	case b[magicOffset] != 2:
		refusal = kafkaError(kerr.UnsupportedForMessageFormat, "records of format %d; version 2 is supported", b[magicOffset])
	case b[codecOffset]&7 == zstdCodec && r.into.header.version < 7:
		refusal = kafkaError(kerr.UnsupportedCompressionType, "zstd needs Produce version 7, this is %d", r.into.header.version)
	}
	if refusal != nil {
		buf.Release()
		return nil, refusal, nil
	}
	return buf, nil, nil
}

// submit hands over what was read. The broker keeps the batches and nothing else.
func (r *producing) submit(ctx context.Context) {
	if len(r.req.Partitions) == 0 {
		return
	}
	r.into.parts = append(r.into.parts, r.conn.door.services.Producer.Produce(ctx, &r.req))
	r.forget()
}

// release gives back what was read and not handed over.
func (r *producing) release() {
	for _, b := range r.batches {
		b.Release()
	}
	r.forget()
}

func (r *producing) forget() {
	clear(r.req.Partitions)
	clear(r.batches)
	r.req.Partitions, r.batches, r.bytes = r.req.Partitions[:0], r.batches[:0], 0
	if cap(r.batches) > producedKept {
		r.req.Partitions, r.batches = nil, nil
	}
}

// topicName is the name as a string that is kept.
func (c *conn) topicName(b []byte) string {
	if name, ok := c.names[string(b)]; ok {
		return name
	}
	if c.names == nil || len(c.names) >= maxNames {
		c.names = make(map[string]string)
	}
	name := string(b)
	c.names[name] = name
	return name
}

// complete reports whether the outcome is known.
func (p *produced) complete() bool {
	for _, part := range p.parts {
		if !part.Answered() {
			return false
		}
	}
	return true
}

// wait returns the outcome of all parts in order.
func (p *produced) wait(ctx context.Context, timer *time.Timer) ([]api.ProduceResult, error) {
	for _, part := range p.parts {
		results, err := part.WaitTimer(ctx, timer)
		if err != nil {
			return nil, err
		}
		if len(p.parts) == 1 {
			return results, nil
		}
		p.results = append(p.results, results...)
	}
	return p.results, nil
}
