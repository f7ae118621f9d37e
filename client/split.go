package client

import (
	"slices"

	"github.com/penstock/penstock/log/record"
)

// A topic may take smaller batches than the producer makes (max.message.bytes), which
// the producer learns when one is refused. From then on its batches to the topic have
// half the size of what was refused, and those that are full already are split before
// they leave, as the Java client does since KIP-126. A record that is refused alone
// fails, and no other with it.
//
// Order: the refused batch is split once all older ones have their outcome, and what
// follows it leaves again under a new identity. That duplicates nothing: the younger
// ones that were under way have later sequences, which the broker refuses where the one
// before is missing, whether or not the answers said so. A batch of which an earlier send
// had no answer may itself be in the log, because the limit may have been lowered since;
// it fails.

// divisible reports that b, refused as too large, is to be tried again in parts.
func (b *batch) divisible() bool { return b.count > 1 && !b.whole && !b.uncertain }

// tooLarge takes the refusal of b, which is divisible. The caller holds mu.
func (pt *partition) tooLarge(b *batch) {
	if pt.queue[0] == b && b.id.generation > 0 {
		pt.renew, pt.void = true, true
	}
	b.state = batchQueued
	pt.draining = true
}

// learnLimit takes from the refusal of b what the topic's batches may be.
func (pt *partition) learnLimit(b *batch, err *Error) {
	limit := int64(b.encodedSize() / 2)
	for {
		known := pt.limit.Load()
		if limit >= known {
			return
		}
		if pt.limit.CompareAndSwap(known, limit) {
			pt.p.c.cfg.logger.Warn("a batch is too large for the topic; smaller ones from now on",
				"topic", pt.tp.Topic, "partition", pt.tp.Partition, "bytes", b.encodedSize(), "records", b.count, "limit", limit, "error", err)
			return
		}
	}
}

// fit returns what is to leave instead of b: its first part, when b is larger than what
// the topic takes and has no sequence that a broker may remember. The caller holds mu.
func (pt *partition) fit(b *batch) *batch {
	if pt.void { // and drained, or nobody would ask for a batch
		for _, younger := range pt.queue {
			younger.uncertain = false
		}
		pt.void = false
	}
	limit := int(pt.limit.Load())
	if b.encodedSize() <= limit || !b.divisible() || b.numbered(pt.id) && !pt.renew {
		return b
	}
	parts, err := pt.split(b, limit)
	if err != nil {
		b.whole = true
		return b
	}
	size := 0
	for _, part := range parts {
		size += part.size
		part.waits = slices.Clone(b.waits)
	}
	for _, w := range b.waits {
		w.left.Add(int64(len(parts) - 1))
	}
	i := slices.Index(pt.queue, b)
	pt.queue = slices.Replace(pt.queue, i, i+1, parts...)
	// What the totals were told of b settles with its parts.
	pt.waiting.Add(int64(size - b.size))
	pt.p.release(int64(b.size - size))
	pt.p.drop(b)
	return parts[0]
}

// split makes sealed batches of the records of b, each at most limit bytes or of one
// record.
func (pt *partition) split(b *batch, limit int) (parts []*batch, err error) {
	defer func() {
		if err != nil {
			for _, part := range parts {
				pt.p.drop(part)
			}
		}
	}()
	if b.buf == nil {
		var scratch []byte
		if err := b.build(pt.p, &scratch); err != nil {
			return nil, err
		}
	}
	var (
		reader  record.Reader
		r       record.Record
		part    *batch
		pending = b.pending // promises of what is left
	)
	if err := reader.Reset(b.buf.Bytes(), record.Limits{MaxDecompressed: maxRequestBytes}); err != nil {
		return nil, err
	}
	for delta := int32(0); ; delta++ {
		switch ok, err := reader.Next(&r); {
		case err != nil:
			return parts, err
		case !ok:
			return parts, nil
		}
		if part == nil || part.builder.EstimatedSize()+guessSize(&r) > limit {
			part = &batch{
				builder: pt.p.builders.Get().(*record.Builder), state: batchQueued,
				began: b.began, attempts: b.attempts, lastErr: b.lastErr,
			}
			parts = append(parts, part)
		}
		if err := part.builder.Append(&r); err != nil {
			return parts, err
		}
		if len(pending) > 0 && pending[0].delta == delta {
			owner := pending[0]
			owner.delta = int32(part.count)
			part.pending, pending = append(part.pending, owner), pending[1:]
		} else {
			part.silent = true
		}
		part.count++
		part.size = part.builder.EstimatedSize() - record.HeaderSize
		part.counted = part.size
	}
}

// guessSize is the most that r takes in a batch.
func guessSize(r *record.Record) int {
	guess := len(r.Key) + len(r.Value) + 16
	for i := range r.Headers {
		guess += len(r.Headers[i].Key) + len(r.Headers[i].Value) + 4
	}
	return guess
}
