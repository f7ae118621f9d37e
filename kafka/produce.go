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
	// maxNames bounds the topic names that a connection remembers, and maxNameKept
	// their length: that of the longest name a topic can have.
	maxNames, maxNameKept = 1000, 249

	magicOffset, attributesOffset = 16, 22
	codecBits, transactionalBit   = 7, 16
	zstdCodec                     = 4
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
	weight     int                 // about what the request costs in memory, beside its records
	producing  producing           // what reads it
}

// What a topic and a partition of a request weigh until they are answered.
const (
	topicWeight     = 64
	partitionWeight = 256
)

// producedTopic is a topic of a request and how many of the partitions are its.
type producedTopic struct {
	name       string
	partitions int
}

// producedPartition is refused here, or its outcome comes with the parts.
type producedPartition struct {
	number  int32
	refused refusal
}

// refusal is why the records of a partition were passed over. It takes six bytes to
// ask for one: the words are made when it is answered, and until then it is little.
type refusal struct {
	why   refusalKind
	value int32
}

type refusalKind uint8

const (
	notRefused         refusalKind = iota
	refusedAcks                    // value: the acks
	refusedTransaction             // no transactions
	refusedShort                   // value: the bytes of the records
	refusedLarge                   // the same
	refusedFormat                  // value: the format
	refusedZstd                    // value: the request's version
)

// err is the refusal in words; nil when there is none.
func (r refusal) err() *api.Error {
	switch r.why {
	case notRefused:
		return nil
	case refusedAcks:
		return kafkaError(kerr.InvalidRequiredAcks, "acks %d is none of -1, 0 and 1", r.value)
	case refusedTransaction:
		return kafkaError(kerr.TransactionalIDAuthorizationFailed, "transactions are not in this version")
	case refusedShort:
		return kafkaError(kerr.InvalidRecord, "%d bytes of records; a batch has at least %d", r.value, record.HeaderSize)
	case refusedLarge:
		return kafkaError(kerr.MessageTooLarge, "%d bytes of records; no topic accepts more than %d", r.value, maxBatch)
	case refusedFormat:
		if r.value > 2 {
			return kafkaError(kerr.CorruptMessage, "records of format %d, which there is not", r.value)
		}
		return kafkaError(kerr.InvalidRecord, "records of format %d; version 2 is supported", r.value)
	case refusedZstd:
		return kafkaError(kerr.UnsupportedCompressionType, "zstd needs Produce version 7, this is %d", r.value)
	}
	return kafkaError(kerr.UnknownServerError, "")
}

// reset gives up what was referred to and keeps the memory.
func (p *produced) reset() {
	clear(p.topics)
	clear(p.partitions)
	clear(p.parts)
	clear(p.results)
	p.topics, p.partitions, p.parts, p.results = p.topics[:0], p.partitions[:0], p.parts[:0], p.results[:0]
	p.weight = 0
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
	c.answers.put(ctx, p)
	return nil
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
		if e := p.partitions[i].refused.err(); e != nil {
			p.header.entry.stats.code(e)
			return e.At(p.topicOf(i), p.partitions[i].number)
		}
	}
	p.header.entry.stats.answered(p.header.arrived, 0)
	c.door.produced.put(p)
	return nil
}

// topicOf names the topic of a partition.
func (p *produced) topicOf(partition int) string {
	for i := range p.topics {
		if partition -= p.topics[i].partitions; partition < 0 {
			return p.topics[i].name
		}
	}
	return ""
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
		r.refuse = refusal{refusedAcks, int32(acks)}
	case transactional:
		r.refuse = refusal{why: refusedTransaction}
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
	if err == nil {
		err = r.tags()
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
	refuse   refusal // of every partition
	req      api.ProduceRequest
	batches  []*record.Buf // those of req, one a partition
	bytes    int           // of req
	items    int           // topics, partitions and tagged fields so far
	names    int           // bytes of the topics' names so far
	unheld   int           // of the weight that the source does not know of
}

func (r *producing) begin(c *conn, p *produced, flexible bool) {
	r.conn, r.into, r.flexible, r.refuse, r.bytes = c, p, flexible, refusal{}, 0
	r.items, r.names, r.unheld = 0, 0, 0
}

// item counts one, and what it weighs, before it costs anything. Of requests that are
// not small the memory counts among what has not arrived as a whole.
func (r *producing) item(weight int) error {
	if r.items++; r.items > maxItems {
		return malformed("it has more than %d topics, partitions and tagged fields", maxItems)
	}
	r.into.weight += weight
	if r.unheld += weight; r.unheld >= bufferSize {
		r.conn.source.hold(r.unheld)
		r.unheld = 0
	}
	return nil
}

// tags passes over the tagged fields, which cost no memory.
func (r *producing) tags() error {
	if !r.flexible {
		return nil
	}
	n, err := r.conn.source.tags(maxItems - r.items)
	r.items += n
	return err
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
	if r.names += len(name); r.names > maxBody {
		return malformed("the names of its topics have more than %d bytes", maxBody)
	}
	if err := r.item(topicWeight + len(name)); err != nil {
		return err
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
	return r.tags()
}

func (r *producing) partition(ctx context.Context, topic string) error {
	s := &r.conn.source
	if err := r.item(partitionWeight); err != nil {
		return err
	}
	number, err := s.int32()
	if err != nil {
		return err
	}
	size, err := s.count(r.flexible)
	if err != nil {
		return err
	}
	buf, refused, err := r.batch(size)
	if err != nil {
		return err
	}
	r.into.partitions = append(r.into.partitions, producedPartition{number, refused})
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
	return r.tags()
}

// batch reads the records of a partition, or passes over them and says why.
func (r *producing) batch(size int) (*record.Buf, refusal, error) {
	s, refused := &r.conn.source, r.refuse
	size = max(size, 0)
	switch {
	case refused.why != notRefused:
	case size < record.HeaderSize:
		refused = refusal{refusedShort, int32(size)}
	case size > maxBatch:
		refused = refusal{refusedLarge, int32(size)}
	}
	if refused.why != notRefused {
		return nil, refused, s.skip(size)
	}
	buf, err := s.batch(r.conn.door.opts.Arena, size)
	if err != nil {
		return nil, refused, err
	}
	switch b := buf.Bytes(); {
	case b[magicOffset] != 2:
		refused = refusal{refusedFormat, int32(b[magicOffset])}
	case b[attributesOffset]&transactionalBit != 0:
		refused = refusal{why: refusedTransaction} // whoever names no transaction may not write in one
	case b[attributesOffset]&codecBits == zstdCodec && r.into.header.version < 7:
		refused = refusal{refusedZstd, int32(r.into.header.version)}
	}
	if refused.why != notRefused {
		buf.Release()
		return nil, refused, nil
	}
	return buf, refused, nil
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
	if len(name) <= maxNameKept {
		c.names[name] = name
	}
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
