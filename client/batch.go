package client

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// batch is a batch of records on its way. Its fields are guarded by the mutex of
// its partition, but for buf and builder, which belong to the sink while the batch
// is under way.
type batch struct {
	builder *record.Builder // nil once built
	buf     *record.Buf     // nil until built
	pending []pending       // records with a promise
	count   int             // records
	size    int             // encoded bytes, without header and compression
	counted int             // of size, those in Producer.buffered; all once sealed
	silent  bool            // some record has no promise
	whole   bool            // cannot be split

	began    time.Time // first record
	sent     time.Time // newest send
	attempts int
	state    batchState
	// uncertain: some send had no answer that rules the append out.
	uncertain bool
	lastErr   error

	id       identity // generation 0: no sequence taken yet
	sequence int32
	place    int64    // among the batches that id has numbered
	stamped  identity // what buf carries
	waits    []*flushWait
}

type batchState int8

const (
	batchOpen   batchState = iota // takes records
	batchQueued                   // to be sent, or sent again
	batchAway                     // sent, no answer yet
	batchDone                     // outcome known; an answer may still come
)

// encodedSize is what b takes before compression.
func (b *batch) encodedSize() int { return record.HeaderSize + b.size }

// numbered reports that b has its sequence from id.
func (b *batch) numbered(id identity) bool { return id.generation > 0 && b.id == id }

type pending struct {
	rec     *Record
	promise func(*Record, error)
	delta   int32
}

// build makes buf ready to send: encoded once, and stamped anew in a copy when
// the identity changed, for the transport may still be reading the old one.
func (b *batch) build(p *Producer, scratch *[]byte) error {
	if b.buf == nil {
		if b.id.generation > 0 {
			b.builder.SetProducer(b.id.id, b.id.epoch, b.sequence)
		}
		buf, err := p.encode(b.builder, scratch)
		if err != nil {
			return err
		}
		b.buf, b.stamped = buf, b.id
		p.recycle(b)
		return nil
	}
	if b.stamped == b.id {
		return nil
	}
	next := p.c.arena.Get(b.buf.Len())
	copy(next.Bytes(), b.buf.Bytes())
	if b.id.generation > 0 {
		record.SetProducer(next.Bytes(), b.id.id, b.id.epoch, b.sequence)
	} else {
		record.SetProducer(next.Bytes(), -1, -1, -1)
	}
	b.buf.Release()
	b.buf, b.stamped = next, b.id
	return nil
}

// encode builds a batch in memory of the arena: in place when its size is known,
// which it is without compression, else by way of scratch, which it may grow.
func (p *Producer) encode(b *record.Builder, scratch *[]byte) (*record.Buf, error) {
	if p.cfg.codec == record.CodecNone {
		buf := p.c.arena.Get(b.EstimatedSize())
		if _, err := b.Build(buf.Bytes()[:0]); err != nil {
			buf.Release()
			return nil, err
		}
		return buf, nil
	}
	out, err := b.Build((*scratch)[:0])
	*scratch = out
	if err != nil {
		return nil, err
	}
	buf := p.c.arena.Get(len(out))
	copy(buf.Bytes(), out)
	return buf, nil
}

// recycle gives the builder back.
func (p *Producer) recycle(b *batch) {
	if b.builder == nil {
		return
	}
	if b.builder.EstimatedSize() <= 2*p.cfg.batchBytes {
		b.builder.Reset()
		p.builders.Put(b.builder)
	}
	b.builder = nil
}

// drop releases the batch's memory, once nothing is under way.
func (p *Producer) drop(b *batch) {
	p.recycle(b)
	if b.buf != nil {
		b.buf.Release()
		b.buf = nil
	}
}
