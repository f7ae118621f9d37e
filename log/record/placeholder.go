package record

import (
	"encoding/binary"
	"math"
	"slices"
)

// A placeholder stands in a log where batches were that nobody can read any more, and that
// an operator has given up. It takes their bytes and their offsets, so that nothing else in
// the log moves. It is a control batch, which consumers pass over, of one record:
//
//	key    int16 version 0 | int16 type, placeholderType
//	value  placeholderText and zeros, as many as it takes
//
// Its timestamps say when the batches were given up.
const (
	placeholderType = 0x5053 // "PS"; Kafka's control records are numbered from 0
	placeholderText = "what was here could not be read and was given up"
)

// BuildPlaceholder makes a placeholder of exactly size bytes for the offsets from base to
// below next. Of a header's size it holds no record, like what it stands for. The error is
// of a size that no batch with a record has.
func BuildPlaceholder(size int, base, next Offset, epoch Epoch, ms int64) ([]byte, error) {
	delta := int64(next - base - 1)
	if size < HeaderSize || delta < 0 || delta > math.MaxInt32 {
		return nil, malformed("no placeholder of %d bytes stands for offsets %d to %d", size, base, next)
	}
	batch := make([]byte, HeaderSize, size)
	count := uint32(0)
	if size > HeaderSize {
		var ok bool
		if batch, ok = appendPlaceholderRecord(batch, size-HeaderSize); !ok {
			return nil, malformed("no placeholder has %d bytes", size)
		}
		count = 1
	}
	Patch(batch, base, epoch)
	binary.BigEndian.PutUint32(batch[posLength:], uint32(size-frameSize))
	batch[posMagic] = magic
	binary.BigEndian.PutUint16(batch[posAttributes:], uint16(attrControl))
	binary.BigEndian.PutUint32(batch[posLastDelta:], uint32(delta))
	binary.BigEndian.PutUint64(batch[posBaseTime:], uint64(ms))
	binary.BigEndian.PutUint64(batch[posMaxTime:], uint64(ms))
	for i := posProducerID; i < posRecordCount; i++ { // no producer, no epoch, no sequence
		batch[i] = 0xff
	}
	binary.BigEndian.PutUint32(batch[posRecordCount:], count)
	setCRC(batch)
	return batch, nil
}

// appendPlaceholderRecord adds the one record of a placeholder, which takes size bytes. Where a
// longer value would take a byte too many, for its length takes one more, the record's
// length is written with a byte more than it needs.
func appendPlaceholderRecord(dst []byte, size int) (_ []byte, ok bool) {
	r := Record{Key: binary.BigEndian.AppendUint16([]byte{0, 0}, placeholderType), Value: []byte{}}
	least := bodySize(&r, 0, 0)
	for spare := range 2 {
		for n := max(0, size-least-10); n <= size-least; n++ {
			body := least - 1 + varintSize(int64(n)) + n
			if varintSize(int64(body))+spare+body != size {
				continue
			}
			r.Value = make([]byte, n)
			copy(r.Value, placeholderText)
			from := len(dst)
			dst = appendRecord(dst, &r, body, 0, 0)
			if spare > 0 {
				last := from + varintSize(int64(body)) - 1
				dst[last] |= 0x80
				dst = slices.Insert(dst, last+1, 0)
			}
			return dst, true
		}
	}
	return dst, false
}

// IsPlaceholder reports whether a whole batch stands for records that were given up.
func IsPlaceholder(batch []byte) bool {
	info, ok := Peek(batch)
	if !ok || !info.Attributes.Control() || info.Count != 1 || info.Size != len(batch) {
		return false
	}
	for r, err := range Records(batch, Limits{Internal: true}) {
		return err == nil && len(r.Key) == 4 && binary.BigEndian.Uint32(r.Key) == placeholderType
	}
	return false
}
