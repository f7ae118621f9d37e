package record

import "encoding/binary"

// Field positions in a batch header; see the package comment.
const (
	posBaseOffset  = 0
	posLength      = 8
	posEpoch       = 12
	posMagic       = 16
	posCRC         = 17
	posAttributes  = 21
	posLastDelta   = 23
	posBaseTime    = 27
	posMaxTime     = 35
	posProducerID  = 43
	posProdEpoch   = 51
	posBaseSeq     = 53
	posRecordCount = 57

	// HeaderSize is the size of a batch header in bytes: the size of the smallest batch.
	HeaderSize = 61
	// magic is the version of the format.
	magic = 2
	// frameSize is what precedes the bytes that the length field counts.
	frameSize = 12
)

// BatchInfo is a decoded batch header.
type BatchInfo struct {
	BaseOffset    Offset
	Size          int // whole batch in bytes, header included
	Epoch         Epoch
	CRC           uint32
	Attributes    Attributes
	LastDelta     int32 // last offset - base offset
	BaseTimestamp int64 // ms
	MaxTimestamp  int64 // ms
	ProducerID    int64 // -1: none
	ProducerEpoch int16
	BaseSequence  int32
	Count         int32
}

// LastOffset is the offset of the last record.
func (i BatchInfo) LastOffset() Offset { return i.BaseOffset + Offset(i.LastDelta) }

// NextOffset is the offset after the batch.
func (i BatchInfo) NextOffset() Offset { return i.LastOffset() + 1 }

// Attributes are the flags of a batch.
type Attributes int16

const (
	attrCodec         Attributes = 7
	attrAppendTime    Attributes = 8
	attrTransactional Attributes = 16
	attrControl       Attributes = 32
	attrDeleteHorizon Attributes = 64
)

// Codec returns the compression of the record section; it may be a number that
// no codec has.
func (a Attributes) Codec() Codec { return Codec(a & attrCodec) }

// LogAppendTime reports whether the timestamps are the broker's.
func (a Attributes) LogAppendTime() bool { return a&attrAppendTime != 0 }

// DeleteHorizon reports whether the base timestamp is the time at which the
// tombstones of the batch may go (KIP-534): compaction has been through it.
func (a Attributes) DeleteHorizon() bool { return a&attrDeleteHorizon != 0 }

// Transactional reports whether the batch belongs to a transaction.
func (a Attributes) Transactional() bool { return a&attrTransactional != 0 }

// Control reports whether the batch holds control records.
func (a Attributes) Control() bool { return a&attrControl != 0 }

// Codec is a compression codec, numbered as in the batch attributes.
type Codec int8

// The codecs.
const (
	CodecNone Codec = iota
	CodecGzip
	CodecSnappy
	CodecLZ4
	CodecZstd
)

// Peek decodes the header of the batch at the beginning of b. ok is false when
// b is shorter than a header or the length field is below that of an empty
// batch. It checks nothing else: the batch may reach past the end of b, and its
// CRC may be wrong.
func Peek(b []byte) (info BatchInfo, ok bool) {
	if len(b) < HeaderSize {
		return info, false
	}
	length := int32(binary.BigEndian.Uint32(b[posLength:]))
	if length < HeaderSize-frameSize {
		return info, false
	}
	return BatchInfo{
		BaseOffset:    Offset(binary.BigEndian.Uint64(b[posBaseOffset:])),
		Size:          int(length) + frameSize,
		Epoch:         Epoch(binary.BigEndian.Uint32(b[posEpoch:])),
		CRC:           binary.BigEndian.Uint32(b[posCRC:]),
		Attributes:    Attributes(binary.BigEndian.Uint16(b[posAttributes:])),
		LastDelta:     int32(binary.BigEndian.Uint32(b[posLastDelta:])),
		BaseTimestamp: int64(binary.BigEndian.Uint64(b[posBaseTime:])),
		MaxTimestamp:  int64(binary.BigEndian.Uint64(b[posMaxTime:])),
		ProducerID:    int64(binary.BigEndian.Uint64(b[posProducerID:])),
		ProducerEpoch: int16(binary.BigEndian.Uint16(b[posProdEpoch:])),
		BaseSequence:  int32(binary.BigEndian.Uint32(b[posBaseSeq:])),
		Count:         int32(binary.BigEndian.Uint32(b[posRecordCount:])),
	}, true
}

// Patch writes the base offset and the leader epoch: 12 bytes that the CRC does
// not cover. The caller holds the only reference.
func Patch(b []byte, base Offset, epoch Epoch) {
	binary.BigEndian.PutUint64(b[posBaseOffset:], uint64(base))
	binary.BigEndian.PutUint32(b[posEpoch:], uint32(epoch))
}
