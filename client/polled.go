package client

import (
	"iter"
	"time"

	"github.com/penstock/penstock/log/record"
)

// Polled is what one Poll returned. Records are decoded while they are iterated,
// out of the very buffers that arrived: All and PartitionRecords.All yield one
// Record over and over, whose bytes are valid until Release or the next Poll.
type Polled struct {
	k       *Consumer
	chunks  []*chunk
	reader  record.Reader
	rec     Record
	err     error
	errAt   *chunk
	errFrom int64
}

// PartitionRecords is the part of a Polled that belongs to one partition.
type PartitionRecords struct {
	TopicPartition
	// HighWatermark is the end of what could be read when these were fetched.
	HighWatermark int64

	p  *Polled
	ch *chunk
}

// hold notes that the chunks are in the application's hands. Taken counts at once:
// Poll has handed everything out.
func (p *Polled) hold() {
	p.err, p.errAt = nil, nil
	for _, ch := range p.chunks {
		ch.sub.taken.Store(ch.next)
		ch.sub.epoch.Store(ch.epoch)
	}
}

// Len is the number of records, by the headers of their batches: exact but where
// compaction left gaps at a place to which the consumer seeked.
func (p *Polled) Len() int {
	n := 0
	for _, ch := range p.chunks {
		n += ch.count()
	}
	return n
}

// Bytes is the size of the records' batches on the wire.
func (p *Polled) Bytes() int {
	n := 0
	for _, ch := range p.chunks {
		n += ch.bytes
	}
	return n
}

// Batches is the number of batches.
func (p *Polled) Batches() int {
	n := 0
	for _, ch := range p.chunks {
		n += len(ch.slices)
	}
	return n
}

func (ch *chunk) count() int {
	n := 0
	for _, s := range ch.slices {
		for rest := s.Bytes; len(rest) > 0; {
			info, ok := record.Peek(rest)
			if !ok || info.Size > len(rest) {
				return n
			}
			rest = rest[info.Size:]
			switch {
			case info.Attributes.Control() || int64(info.NextOffset()) <= ch.from:
			case int64(info.BaseOffset) < ch.from:
				n += min(int(info.Count), int(int64(info.NextOffset())-ch.from))
			default:
				n += int(info.Count)
			}
		}
	}
	return n
}

// Partitions yields the records by partition, in the order of fetching; one
// partition may come more than once.
func (p *Polled) Partitions() iter.Seq[*PartitionRecords] {
	return func(yield func(*PartitionRecords) bool) {
		var part PartitionRecords
		for _, ch := range p.chunks {
			part = PartitionRecords{TopicPartition: ch.sub.tp, HighWatermark: ch.high, p: p, ch: ch}
			if !yield(&part) {
				return
			}
		}
	}
}

// All yields the records of the partition in offset order.
func (r *PartitionRecords) All() iter.Seq[*Record] {
	return func(yield func(*Record) bool) { r.p.decode(r.ch, yield) }
}

// All yields all records, those of one partition in offset order. Check Err after it.
func (p *Polled) All() iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		for _, ch := range p.chunks {
			if !p.decode(ch, yield) {
				return
			}
		}
	}
}

// Err returns the error of decoding a damaged batch, of CodeCorruptBatch. The
// partition stays before that batch until Seek.
func (p *Polled) Err() error { return p.err }

// decode yields the records of a chunk; false: the loop was left. Damage ends the
// chunk, not the loop.
func (p *Polled) decode(ch *chunk, yield func(*Record) bool) bool {
	rec := &p.rec
	var in record.Record
	*rec = Record{Topic: ch.sub.tp.Topic, Partition: ch.sub.tp.Partition}
	for _, s := range ch.slices {
		for rest := s.Bytes; len(rest) > 0; {
			var b []byte
			var err error
			if b, rest, err = record.Next(rest); err != nil {
				p.damaged(ch, ch.from, err)
				return true
			}
			info, _ := record.Peek(b)
			if info.Attributes.Control() || int64(info.NextOffset()) <= ch.from {
				continue
			}
			if err := p.reader.Reset(b, record.Limits{}); err != nil {
				p.damaged(ch, max(ch.from, int64(info.BaseOffset)), err)
				return true
			}
			rec.LeaderEpoch = int32(info.Epoch)
			for {
				ok, err := p.reader.Next(&in)
				if err != nil {
					p.damaged(ch, max(ch.from, rec.Offset+1, int64(info.BaseOffset)), err)
					return true
				}
				if !ok {
					break
				}
				if int64(in.Offset) < ch.from {
					continue
				}
				rec.Offset = int64(in.Offset)
				rec.Timestamp = time.UnixMilli(in.Timestamp)
				rec.Key, rec.Value, rec.Headers = in.Key, in.Value, in.Headers
				if !yield(rec) {
					return false
				}
			}
		}
	}
	return true
}

func (p *Polled) damaged(ch *chunk, at int64, err error) {
	if p.err == nil {
		p.errAt, p.errFrom = ch, at
		p.err = &Error{
			Code: CodeCorruptBatch, Message: err.Error(), Topic: ch.sub.tp.Topic, Partition: ch.sub.tp.Partition, Err: err,
		}
	}
}

// each yields copies of all records for Consumer.Records, keeping count of what
// was taken and moved past; false: the loop was left.
func (p *Polled) each(yield func(*Record) bool) bool {
	for i, ch := range p.chunks {
		sub := ch.sub
		sub.taken.Store(ch.from)
		slab := newSlab(ch)
		goOn := true
		p.decode(ch, func(r *Record) bool {
			if ch.stale() || sub.revoking.Load() {
				return false
			}
			own := slab.copy(r)
			at := own.Offset + 1
			sub.taken.Store(at)
			if !yield(own) {
				if !ch.stale() {
					ch.from = at
				}
				goOn = false
				return false
			}
			if ch.stale() {
				return false
			}
			sub.moved.Store(at)
			return true
		})
		if !goOn {
			p.leave(i)
			return false
		}
		if p.err != nil {
			p.k.back(sub, p.errFrom)
			p.finish(i)
			p.leave(i + 1)
			return true
		}
		if !ch.stale() && !sub.revoking.Load() {
			sub.taken.Store(ch.next)
			sub.moved.Store(ch.next)
		}
		p.finish(i)
	}
	p.clearChunks()
	return true
}

// finish lets go of one chunk that was used up.
func (p *Polled) finish(i int) {
	ch := p.chunks[i]
	ch.release()
	p.k.mu.Lock()
	p.k.left(ch.sub)
	p.k.mu.Unlock()
	p.k.handed.wake()
}

// leave gives back what a loop did not get to, from chunk i on.
func (p *Polled) leave(i int) {
	p.k.giveBack(p.chunks[i:])
	p.k.handed.wake()
	p.clearChunks()
}

func (p *Polled) clearChunks() {
	clear(p.chunks)
	p.chunks = p.chunks[:0]
}

// Release says that the application has moved past these records. The next Poll
// does it too.
func (p *Polled) Release() {
	if len(p.chunks) == 0 {
		return
	}
	for _, ch := range p.chunks {
		if ch.stale() || ch.slices == nil {
			continue
		}
		if p.errAt != ch {
			ch.sub.moved.Store(ch.next)
		}
	}
	if p.errAt != nil && !p.errAt.stale() {
		p.k.back(p.errAt.sub, p.errFrom)
	}
	p.drop()
}

// drop lets go of the records without moving past them.
func (p *Polled) drop() {
	if len(p.chunks) == 0 {
		return
	}
	p.k.mu.Lock()
	for _, ch := range p.chunks {
		if ch.slices != nil {
			ch.release()
			p.k.left(ch.sub)
		}
	}
	p.k.mu.Unlock()
	p.k.handed.wake()
	p.clearChunks()
}

// slab keeps copies of a chunk's records for Consumer.Records.
type slab struct {
	recs  []Record
	bytes []byte
}

func newSlab(ch *chunk) *slab {
	return &slab{recs: make([]Record, 0, ch.count())}
}

func (s *slab) copy(r *Record) *Record {
	if len(s.recs) == cap(s.recs) {
		s.recs = make([]Record, 0, 256)
	}
	s.recs = append(s.recs, *r)
	own := &s.recs[len(s.recs)-1]
	own.Key, own.Value = s.hold(r.Key), s.hold(r.Value)
	for i := range own.Headers {
		own.Headers[i].Value = s.hold(own.Headers[i].Value)
	}
	return own
}

// slabBytes is the piece in which memory for copies is taken.
const slabBytes = 64 << 10

func (s *slab) hold(b []byte) []byte {
	if b == nil {
		return nil
	}
	if len(s.bytes)+len(b) > cap(s.bytes) {
		s.bytes = make([]byte, 0, max(slabBytes, len(b)))
	}
	from := len(s.bytes)
	s.bytes = append(s.bytes, b...)
	return s.bytes[from:len(s.bytes):len(s.bytes)]
}
