package record

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// Record is one record of a batch.
type Record struct {
	Offset    Offset // set by decoding; ignored by Builder
	Timestamp int64  // ms since the Unix epoch; -1: none
	Key       []byte // nil: absent
	Value     []byte // nil: absent, a tombstone in a compacted topic
	Headers   []Header
}

// Header is an application's annotation of a record.
type Header struct {
	Key   string
	Value []byte // nil: absent
}

// BuilderOptions are the fixed properties of the batches that a Builder makes.
type BuilderOptions struct {
	Codec Codec
	// Level is the codec's own compression level (gzip 1 to 9, lz4 1 to 9, zstd 1
	// to 22), clamped to its range; 0 is the codec's default.
	Level int
	// MaxBytes bounds the batch before compression, header included; 0: 2 GiB-1.
	MaxBytes int
}

// Builder encodes records into one batch at a time. It is not safe for
// concurrent use. The zero value builds uncompressed batches.
type Builder struct {
	opts    BuilderOptions
	section []byte // encoded records
	count   int32

	baseTime, maxTime int64

	producerID    int64
	producerEpoch int16
	baseSequence  int32
	idempotent    bool
}

// NewBuilder makes an empty builder.
func NewBuilder(opts BuilderOptions) *Builder { return &Builder{opts: opts} }

// Reset empties the builder, keeping options and memory. The producer is forgotten.
func (b *Builder) Reset() {
	*b = Builder{opts: b.opts, section: b.section[:0]}
}

// SetProducer marks the batch as one of an idempotent producer (KIP-98). It may
// be called at any time before Build, so that a sequence is taken at sending.
func (b *Builder) SetProducer(id int64, epoch int16, baseSequence int32) {
	b.producerID, b.producerEpoch, b.baseSequence, b.idempotent = id, epoch, baseSequence, true
}

// Count is the number of records appended.
func (b *Builder) Count() int { return int(b.count) }

// EstimatedSize is an upper bound of the batch's size in bytes: its size
// without compression.
func (b *Builder) EstimatedSize() int { return HeaderSize + len(b.section) }

// Append adds a record; its offset will be the base offset plus the number of
// records before it. The record's bytes are copied. It returns ErrBatchFull when
// the record does not fit any more and ErrTooLarge when it would fit no batch; the
// builder is unchanged then.
func (b *Builder) Append(r *Record) error {
	base := b.baseTime
	if b.count == 0 {
		base = r.Timestamp
	}
	if r.Timestamp < -1 {
		return invalid(ErrInvalidTimestamp, "timestamp %d of a record; -1 means none", r.Timestamp)
	}
	delta := r.Timestamp - base
	body := bodySize(r, delta, b.count)
	size := HeaderSize + varintSize(int64(body)) + body
	limit := b.opts.MaxBytes
	if limit <= 0 {
		limit = math.MaxInt32
	}
	if size > limit {
		return invalid(ErrTooLarge, "a batch with this record alone takes %d bytes, the limit is %d", size, limit)
	}
	if len(b.section)+size > limit || b.count == math.MaxInt32 {
		return ErrBatchFull
	}
	b.section = appendRecord(b.section, r, body, delta, b.count)
	if b.count == 0 {
		b.baseTime, b.maxTime = base, base
	}
	b.maxTime = max(b.maxTime, r.Timestamp)
	b.count++
	return nil
}

// Build appends the whole batch to dst: base offset 0, leader epoch -1, CRC
// set. The builder is unchanged, so that a batch can be built again with another
// sequence. Building an empty builder is an error of kind ErrCorrupt.
func (b *Builder) Build(dst []byte) ([]byte, error) {
	if b.count == 0 {
		return dst, corrupt("a batch has at least one record")
	}
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst, err := compress(dst, b.section, b.opts.Codec, b.opts.Level)
	if err != nil {
		return dst[:start], err
	}
	h := dst[start:]
	Patch(h, 0, UnknownEpoch)
	binary.BigEndian.PutUint32(h[posLength:], uint32(len(h)-frameSize))
	h[posMagic] = magic
	binary.BigEndian.PutUint16(h[posAttributes:], uint16(b.opts.Codec))
	binary.BigEndian.PutUint32(h[posLastDelta:], uint32(b.count-1))
	binary.BigEndian.PutUint64(h[posBaseTime:], uint64(b.baseTime))
	binary.BigEndian.PutUint64(h[posMaxTime:], uint64(b.maxTime))
	id, epoch, sequence := b.producerID, b.producerEpoch, b.baseSequence
	if !b.idempotent {
		id, epoch, sequence = -1, -1, -1
	}
	binary.BigEndian.PutUint64(h[posProducerID:], uint64(id))
	binary.BigEndian.PutUint16(h[posProdEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(h[posBaseSeq:], uint32(sequence))
	binary.BigEndian.PutUint32(h[posRecordCount:], uint32(b.count))
	setCRC(h)
	return dst, nil
}

// SetAppendTime stamps the batch with the broker's time in ms and renews the
// CRC. The caller holds the only reference.
func SetAppendTime(batch []byte, ms int64) {
	attr := Attributes(binary.BigEndian.Uint16(batch[posAttributes:])) | attrAppendTime
	binary.BigEndian.PutUint16(batch[posAttributes:], uint16(attr))
	binary.BigEndian.PutUint64(batch[posMaxTime:], uint64(ms))
	setCRC(batch)
}

// VerifyCRC reports whether b, one whole batch, has the CRC that its header
// says. It is false for bytes that are shorter than a header.
func VerifyCRC(batch []byte) bool {
	return len(batch) >= HeaderSize && binary.BigEndian.Uint32(batch[posCRC:]) == checksum(batch)
}

func setCRC(batch []byte) { binary.BigEndian.PutUint32(batch[posCRC:], checksum(batch)) }

func checksum(batch []byte) uint32 {
	// MakeTable returns a shared table for this polynomial, with the CPU's own
	// instruction behind Checksum; it does not build one.
	return crc32.Checksum(batch[posAttributes:], crc32.MakeTable(crc32.Castagnoli))
}

func bodySize(r *Record, timeDelta int64, offsetDelta int32) int {
	n := 1 + varintSize(timeDelta) + varintSize(int64(offsetDelta)) +
		bytesSize(r.Key) + bytesSize(r.Value) + varintSize(int64(len(r.Headers)))
	for i := range r.Headers {
		n += varintSize(int64(len(r.Headers[i].Key))) + len(r.Headers[i].Key) + bytesSize(r.Headers[i].Value)
	}
	return n
}

func appendRecord(dst []byte, r *Record, body int, timeDelta int64, offsetDelta int32) []byte {
	dst = binary.AppendVarint(dst, int64(body))
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, timeDelta)
	dst = binary.AppendVarint(dst, int64(offsetDelta))
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for i := range r.Headers {
		dst = binary.AppendVarint(dst, int64(len(r.Headers[i].Key)))
		dst = append(dst, r.Headers[i].Key...)
		dst = appendBytes(dst, r.Headers[i].Value)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

func bytesSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(int64(len(b))) + len(b)
}

// varintSize is the length of the zigzag varint of v.
func varintSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}
