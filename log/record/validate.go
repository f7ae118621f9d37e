package record

import (
	"encoding/binary"
	"errors"
	"math"
)

// DefaultMaxDecompressed is the cap on a decompressed record section when Limits
// names none: 64 MiB.
const DefaultMaxDecompressed = 64 << 20

// Limits say what Validate and the readers accept.
type Limits struct {
	// MaxBatchBytes bounds the whole batch as it is on the wire (the topic's
	// max.message.bytes); 0: no bound.
	MaxBatchBytes int
	// MaxDecompressed bounds the record section after decompression, in bytes; 0:
	// DefaultMaxDecompressed.
	MaxDecompressed int
	// Internal accepts what only brokers write: offsets, control and transactional
	// batches, append time, and what compaction leaves: gaps in offsets, batches
	// without records, delete horizons. False at the door for clients.
	Internal bool
	// Keys asks for a key in every record: a compacted topic could not tell what a
	// record without one replaces.
	Keys bool
	// MinTimestamp and MaxTimestamp bound the records' timestamps in ms (the topic's
	// message.timestamp.before.max.ms and .after.max.ms before and after now); -1,
	// no time, is accepted always. 0: no bound. Internal batches are not held to them.
	MinTimestamp, MaxTimestamp int64
}

func (l Limits) maxDecompressed() int {
	if l.MaxDecompressed <= 0 {
		return DefaultMaxDecompressed
	}
	return l.MaxDecompressed
}

// Validate checks everything that can be checked of one batch that arrived from
// outside: size, magic, length, CRC, codec, counts, the framing and the offset
// delta of every record, timestamps, and the decompressed size. b must be exactly
// one batch. The error is an *InvalidError.
//
// Uncompressed batches are walked in place without allocating. Compressed ones
// are decompressed into a pooled buffer, in the pace of what they yield.
func Validate(b []byte, lim Limits) (BatchInfo, error) {
	info, err := checkHeader(b, lim)
	if err != nil {
		return info, err
	}
	if info.BaseOffset != 0 && !lim.Internal {
		return info, malformed("base offset %d; a batch that has none yet says 0", info.BaseOffset)
	}
	if got := checksum(b); got != info.CRC {
		return info, corrupt("CRC-32C is %08x, the header says %08x", got, info.CRC)
	}
	codec := info.Attributes.Codec()
	if codec == CodecNone {
		return info, checkRecords(b[HeaderSize:], &info, lim)
	}
	section := scratch()
	defer giveBack(section)
	*section, err = decompress(*section, b[HeaderSize:], codec, lim.maxDecompressed())
	if e, ok := errors.AsType[*InvalidError](err); ok && e.Kind == ErrCorrupt {
		e.Kind = ErrMalformed // The CRC holds: it was sent like that.
	}
	if err != nil {
		return info, err
	}
	return info, checkRecords(*section, &info, lim)
}

// Next splits off the batch at the beginning of b, a run of whole batches. It
// checks the length only. The error is an *InvalidError.
func Next(b []byte) (batch, rest []byte, err error) {
	info, ok := Peek(b)
	if !ok {
		return nil, b, badFrame(b)
	}
	if info.Size > len(b) {
		return nil, b, corrupt("the batch says it has %d bytes, %d are there", info.Size, len(b))
	}
	return b[:info.Size:info.Size], b[info.Size:], nil
}

// badFrame says why Peek refused b.
func badFrame(b []byte) error {
	if len(b) < HeaderSize {
		return corrupt("%d bytes; a batch has at least %d", len(b), HeaderSize)
	}
	return corrupt("batch length %d; the header alone is %d",
		int32(binary.BigEndian.Uint32(b[posLength:])), HeaderSize-frameSize)
}

func checkHeader(b []byte, lim Limits) (BatchInfo, error) {
	if lim.MaxBatchBytes > 0 && len(b) > lim.MaxBatchBytes {
		return BatchInfo{}, invalid(ErrTooLarge, "batch of %d bytes, at most %d are accepted", len(b), lim.MaxBatchBytes)
	}
	info, ok := Peek(b)
	switch {
	case !ok:
		return info, badFrame(b)
	case b[posMagic] != magic:
		return info, corrupt("magic %d; only version %d is supported", b[posMagic], magic)
	case info.Size != len(b):
		return info, malformed("the batch says it has %d bytes, %d arrived", info.Size, len(b))
	case info.Attributes.Codec() > CodecZstd:
		return info, invalid(ErrUnsupportedCodec, "number %d; there are 0 to 4", int(info.Attributes.Codec()))
	case info.BaseTimestamp < -1 || info.MaxTimestamp < -1:
		return info, invalid(ErrInvalidTimestamp, "base %d, maximum %d ms; -1 means none", info.BaseTimestamp, info.MaxTimestamp)
	case info.ProducerID < -1, info.ProducerID >= 0 && (info.ProducerEpoch < 0 || info.BaseSequence < 0 && !info.Attributes.Control()): // markers have no sequence
		return info, malformed("producer id %d, epoch %d, sequence %d", info.ProducerID, info.ProducerEpoch, info.BaseSequence)
	case info.LastDelta < 0 || info.Count < 0:
		return info, malformed("last offset delta %d, record count %d", info.LastDelta, info.Count)
	case int64(info.Count) > int64(info.LastDelta)+1:
		return info, malformed("%d records do not fit a last offset delta of %d", info.Count, info.LastDelta)
	}
	if lim.Internal {
		return info, nil
	}
	switch {
	case info.Attributes&(attrControl|attrTransactional) != 0:
		return info, invalid(ErrNotAllowed, "attributes %#x mark a control or transactional batch", int(info.Attributes))
	case info.Attributes.DeleteHorizon():
		return info, invalid(ErrNotAllowed, "attributes %#x mark a delete horizon, which compaction sets", int(info.Attributes))
	case info.Attributes.LogAppendTime():
		return info, invalid(ErrInvalidTimestamp, "the batch claims append time, which brokers set")
	case lim.MaxTimestamp > 0 && info.MaxTimestamp > lim.MaxTimestamp:
		return info, invalid(ErrInvalidTimestamp, "the batch says that its newest record is of %d ms; at most %d are accepted now (message.timestamp.after.max.ms); are the clocks of its producer and of this broker right?",
			info.MaxTimestamp, lim.MaxTimestamp)
	case info.Count == 0 || info.Count != info.LastDelta+1:
		return info, malformed("%d records with a last offset delta of %d", info.Count, info.LastDelta)
	}
	return info, nil
}

// checkRecords walks the decompressed section. Offset deltas must rise and stay
// within the last one; a client's are dense, because its count is the last delta
// plus one. A plain record that is surely right is stepped over; any other is taken
// apart by checkRecord.
func checkRecords(section []byte, info *BatchInfo, lim Limits) error {
	c := cursor{b: section}
	last := -1
	oldest, newest := plainTimes(info, lim)
	for i := range int(info.Count) {
		timeDelta, offsetDelta, _, keyLen, _, end := plainAt(section, c.pos)
		// A base of -1 or more and a short delta never wrap to a time that would pass.
		ts := info.BaseTimestamp + timeDelta
		if end > 0 && offsetDelta > last && offsetDelta <= int(info.LastDelta) && ts >= oldest && ts <= newest && (keyLen >= 0 || !lim.Keys) {
			c.pos, last = end, offsetDelta
			continue
		}
		var err error
		if last, err = checkRecord(&c, i, last, info, lim); err != nil {
			return err
		}
	}
	if c.pos != len(section) {
		return malformed("%d bytes are left after %d records", len(section)-c.pos, info.Count)
	}
	return nil
}

// checkRecord checks record i, at c, which follows one with offset delta last, and
// returns its own offset delta.
func checkRecord(c *cursor, i, last int, info *BatchInfo, lim Limits) (int, error) {
	var f frame
	at := c.pos
	switch {
	case !c.next(&f) || !f.skipHeaders():
		return 0, malformed("record %d of %d, at byte %d of %d, is malformed", i, info.Count, at, len(c.b))
	case f.offsetDelta <= last || f.offsetDelta > int(info.LastDelta):
		return 0, malformed("record %d has offset delta %d after %d; the last is %d", i, f.offsetDelta, last, info.LastDelta)
	case f.key == nil && lim.Keys:
		return 0, invalid(ErrNoKey, "record %d of %d; the topic is compacted, which keeps the newest record of each key", i, info.Count)
	}
	return f.offsetDelta, checkTimestamp(i, f.timeDelta, info, lim)
}

// checkTimestamp holds a record's timestamp within [-1, the header's maximum],
// on which the time index relies. With append time the deltas mean nothing.
func checkTimestamp(i int, delta int64, info *BatchInfo, lim Limits) error {
	if info.Attributes.LogAppendTime() {
		return nil
	}
	base := info.BaseTimestamp
	if delta > 0 && base > math.MaxInt64-delta {
		return invalid(ErrInvalidTimestamp, "record %d: base %d + delta %d overflows", i, base, delta)
	}
	ts := base + delta // from -1 to the greatest there is takes a delta that wraps
	if ts < -1 || ts > info.MaxTimestamp {
		return invalid(ErrInvalidTimestamp, "record %d has %d ms; the batch says -1 to %d", i, ts, info.MaxTimestamp)
	}
	if ts >= 0 && ts < lim.MinTimestamp && !lim.Internal {
		return invalid(ErrInvalidTimestamp, "record %d has %d ms; at least %d are accepted now (message.timestamp.before.max.ms)", i, ts, lim.MinTimestamp)
	}
	return nil
}
