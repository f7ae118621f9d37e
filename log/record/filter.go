package record

import "encoding/binary"

// Filter takes records out of batches: what compaction does. It keeps its memory
// from batch to batch. It is not safe for concurrent use; the zero value is ready
// for Reset.
type Filter struct {
	batch   []byte
	info    BatchInfo
	section []byte // decompressed records
	own     []byte // memory for section
	out     []byte // memory for what is kept of it
	kept    []keptRecord

	tombstones int // kept ones
}

// keptRecord is where a record lies in the section, and its timestamp.
type keptRecord struct {
	from, to  int
	timestamp int64
}

// Reset decodes a whole batch, whose CRC the caller has checked, and asks keep
// about each record. The key points into the batch or the filter's memory and is
// nil when the record has none; a tombstone has no value. The batch must not
// change until Append. The error is an *InvalidError.
func (f *Filter) Reset(batch []byte, lim Limits, keep func(off Offset, key []byte, tombstone bool) bool) error {
	f.kept, f.tombstones = f.kept[:0], 0
	lim.Internal = true
	var err error
	if f.info, err = checkHeader(batch, lim); err != nil {
		return err
	}
	f.batch, f.section = batch, batch[HeaderSize:]
	if codec := f.info.Attributes.Codec(); codec != CodecNone {
		if f.own, err = decompress(f.own[:0], f.section, codec, lim.maxDecompressed()); err != nil {
			return err
		}
		f.section = f.own
	}
	c := cursor{b: f.section}
	var r frame
	last := -1
	for i := range int(f.info.Count) {
		from := c.pos
		if !c.next(&r) || r.offsetDelta <= last || r.offsetDelta > int(f.info.LastDelta) {
			return corrupt("record %d of %d, in the batch at offset %d, is malformed", i, f.info.Count, f.info.BaseOffset)
		}
		last = r.offsetDelta
		tombstone := r.value == nil
		if !keep(f.info.BaseOffset+Offset(r.offsetDelta), r.key, tombstone) {
			continue
		}
		if tombstone {
			f.tombstones++
		}
		f.kept = append(f.kept, keptRecord{from, c.pos, f.info.BaseTimestamp + r.timeDelta})
	}
	return nil
}

// Kept is how many records are kept.
func (f *Filter) Kept() int { return len(f.kept) }

// Dropped is how many are not.
func (f *Filter) Dropped() int { return int(f.info.Count) - len(f.kept) }

// Tombstones is how many of the kept records are tombstones.
func (f *Filter) Tombstones() int { return f.tombstones }

// Append appends the batch with the kept records to dst. Base offset, last offset
// delta, leader epoch, producer and the records' offsets and timestamps stay; the
// codec stays, and compresses anew. With no record kept it is a header alone. A
// horizon above 0 becomes the delete horizon of a batch that has none, in ms.
func (f *Filter) Append(dst []byte, horizon int64) ([]byte, error) {
	start := len(dst)
	dst = append(dst, f.batch[:HeaderSize]...)
	attributes, base, newest := f.info.Attributes, f.info.BaseTimestamp, f.info.MaxTimestamp
	if len(f.kept) == 0 {
		attributes &^= attrCodec | attrDeleteHorizon
		base = newest
	} else {
		if horizon > 0 && !attributes.DeleteHorizon() {
			attributes |= attrDeleteHorizon
			base = horizon
		}
		var err error
		if dst, err = compress(dst, f.records(base), attributes.Codec(), 0); err != nil {
			return dst[:start], err
		}
		if f.Dropped() > 0 && !attributes.LogAppendTime() {
			newest = f.newest()
		}
	}
	h := dst[start:]
	binary.BigEndian.PutUint32(h[posLength:], uint32(len(h)-frameSize))
	binary.BigEndian.PutUint16(h[posAttributes:], uint16(attributes))
	binary.BigEndian.PutUint64(h[posBaseTime:], uint64(base))
	binary.BigEndian.PutUint64(h[posMaxTime:], uint64(newest))
	binary.BigEndian.PutUint32(h[posRecordCount:], uint32(len(f.kept)))
	setCRC(h)
	return dst, nil
}

func (f *Filter) newest() int64 {
	newest := f.kept[0].timestamp
	for _, k := range f.kept {
		newest = max(newest, k.timestamp)
	}
	return newest
}

// records returns the section of what is kept, counting timestamps from base.
func (f *Filter) records(base int64) []byte {
	if f.Dropped() == 0 && base == f.info.BaseTimestamp {
		return f.section
	}
	f.out = f.out[:0]
	for _, k := range f.kept {
		whole := f.section[k.from:k.to]
		if base == f.info.BaseTimestamp {
			f.out = append(f.out, whole...)
			continue
		}
		c := cursor{b: whole}
		c.varint() // length
		attributes := c.take(1)
		c.varlong() // the old delta
		rest := whole[c.pos:]
		delta := k.timestamp - base
		f.out = binary.AppendVarint(f.out, int64(1+varintSize(delta)+len(rest)))
		f.out = append(f.out, attributes...)
		f.out = binary.AppendVarint(f.out, delta)
		f.out = append(f.out, rest...)
	}
	return f.out
}
