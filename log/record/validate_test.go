package record_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

func put16(at int, v uint16) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return b }
}

func put32(at int, v int32) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], uint32(v)); return b }
}

func put64(at int, v int64) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], uint64(v)); return b }
}

// section replaces the records; the header still says that there are two.
func section(s ...byte) func([]byte) []byte {
	return func(b []byte) []byte { return append(b[:record.HeaderSize], s...) }
}

// Two records: "02" key a, "02" value b each, the second one 1 ms later.
func two(t require.TestingT) []byte {
	return build(t, record.BuilderOptions{},
		record.Record{Timestamp: 1000, Key: []byte("a"), Value: []byte("b")},
		record.Record{Timestamp: 1001, Key: []byte("a"), Value: []byte("b")})
}

func TestValidateRefuses(t *testing.T) {
	first := []byte{16, 0, 0, 0, 2, 'a', 2, 'b', 0}
	records := func(second ...byte) func([]byte) []byte { return section(append(bytes.Clone(first), second...)...) }
	require.Equal(t, append(bytes.Clone(first), 16, 0, 2, 2, 2, 'a', 2, 'b', 0), two(t)[record.HeaderSize:])
	for _, c := range []struct {
		name   string
		kind   error
		says   string
		damage func([]byte) []byte
		raw    bool // length and CRC are left as the damage made them
		lim    record.Limits
	}{
		{name: "nothing", kind: record.ErrCorrupt, says: "0 bytes; a batch has at least 61", damage: func([]byte) []byte { return nil }, raw: true},
		{name: "short", kind: record.ErrCorrupt, says: "60 bytes", damage: func(b []byte) []byte { return b[:60] }, raw: true},
		{name: "length too small", kind: record.ErrCorrupt, says: "batch length 48", damage: put32(8, 48), raw: true},
		{name: "negative length", kind: record.ErrCorrupt, says: "batch length -1", damage: put32(8, -1), raw: true},
		{name: "length beyond", kind: record.ErrMalformed, says: "says it has", damage: put32(8, 1<<30), raw: true},
		{name: "trailing byte", kind: record.ErrMalformed, says: "arrived", damage: func(b []byte) []byte { return append(b, 0) }, raw: true},
		{name: "magic 1", kind: record.ErrCorrupt, says: "magic 1", damage: func(b []byte) []byte { b[16] = 1; return b }},
		{name: "CRC", kind: record.ErrCorrupt, says: "CRC-32C", damage: func(b []byte) []byte { b[70] ^= 1; return b }, raw: true},
		{name: "an offset of its own", kind: record.ErrMalformed, says: "base offset 7; a batch that has none yet says 0", damage: put64(0, 7)},
		{name: "codec 5", kind: record.ErrUnsupportedCodec, says: "number 5", damage: put16(21, 5)},
		{name: "codec 7", kind: record.ErrUnsupportedCodec, says: "number 7", damage: put16(21, 7)},
		{name: "transactional", kind: record.ErrNotAllowed, says: "0x10", damage: put16(21, 16)},
		{name: "control", kind: record.ErrNotAllowed, says: "0x20", damage: put16(21, 32)},
		{name: "append time", kind: record.ErrInvalidTimestamp, says: "claims append time", damage: put16(21, 8)},
		{name: "count 3", kind: record.ErrMalformed, says: "3 records", damage: put32(57, 3)},
		{name: "count 1", kind: record.ErrMalformed, says: "1 records with a last offset delta of 1", damage: put32(57, 1)},
		{name: "count 0", kind: record.ErrMalformed, says: "0 records", damage: put32(57, 0)},
		{name: "count -1", kind: record.ErrMalformed, says: "record count -1", damage: put32(57, -1)},
		{name: "last delta -1", kind: record.ErrMalformed, says: "delta -1", damage: put32(23, -1)},
		{name: "last delta 5", kind: record.ErrMalformed, says: "delta of 5", damage: put32(23, 5)},
		{name: "base timestamp", kind: record.ErrInvalidTimestamp, says: "base -2", damage: put64(27, -2)},
		{name: "maximum below a record", kind: record.ErrInvalidTimestamp, says: "record 1 has 1001 ms", damage: put64(35, 1000)},
		{name: "timestamp overflow", kind: record.ErrInvalidTimestamp, says: "overflows", damage: func(b []byte) []byte {
			return put64(35, 1<<63-1)(put64(27, 1<<63-1)(b))
		}},
		{name: "producer without sequence", kind: record.ErrMalformed, says: "producer id 5", damage: put64(43, 5)},
		{name: "producer -2", kind: record.ErrMalformed, says: "producer id -2", damage: put64(43, -2)},
		{name: "offset delta twice", kind: record.ErrMalformed, says: "offset delta 0 after 0", damage: records(16, 0, 2, 0, 2, 'a', 2, 'b', 0)},
		{name: "offset delta 2", kind: record.ErrMalformed, says: "offset delta 2 after 0", damage: records(16, 0, 2, 4, 2, 'a', 2, 'b', 0)},
		{name: "negative offset delta", kind: record.ErrMalformed, says: "offset delta -1", damage: records(16, 0, 2, 1, 2, 'a', 2, 'b', 0)},
		{name: "timestamp -2", kind: record.ErrInvalidTimestamp, says: "record 1 has -2 ms", damage: records(18, 0, 0xd3, 0x0f, 2, 2, 'a', 2, 'b', 0)},
		{name: "a record missing", kind: record.ErrMalformed, says: "record 1 of 2, at byte 9 of 9", damage: records()},
		{name: "a record too many", kind: record.ErrMalformed, says: "9 bytes are left after 2 records", damage: records(append([]byte{16, 0, 2, 2, 2, 'a', 2, 'b', 0}, first...)...)},
		{name: "record too long", kind: record.ErrMalformed, says: "malformed", damage: records(18, 0, 2, 2, 2, 'a', 2, 'b', 0)},
		{name: "record too short", kind: record.ErrMalformed, says: "malformed", damage: records(14, 0, 2, 2, 2, 'a', 2, 'b', 0)},
		{name: "negative record length", kind: record.ErrMalformed, says: "malformed", damage: records(1)},
		{name: "empty record", kind: record.ErrMalformed, says: "malformed", damage: records(0)},
		{name: "key -2", kind: record.ErrMalformed, says: "malformed", damage: records(16, 0, 2, 2, 3, 'a', 2, 'b', 0)},
		{name: "key beyond", kind: record.ErrMalformed, says: "malformed", damage: records(16, 0, 2, 2, 126, 'a', 2, 'b', 0)},
		{name: "value beyond", kind: record.ErrMalformed, says: "malformed", damage: records(16, 0, 2, 2, 2, 'a', 8, 'b', 0)},
		{name: "header count -1", kind: record.ErrMalformed, says: "malformed", damage: records(16, 0, 2, 2, 2, 'a', 2, 'b', 1)},
		{name: "header count beyond", kind: record.ErrMalformed, says: "malformed", damage: records(16, 0, 2, 2, 2, 'a', 2, 'b', 2)},
		{name: "header without key", kind: record.ErrMalformed, says: "malformed", damage: records(20, 0, 2, 2, 2, 'a', 2, 'b', 2, 1, 1)},
		{name: "bytes after the headers", kind: record.ErrMalformed, says: "malformed", damage: records(18, 0, 2, 2, 2, 'a', 2, 'b', 0, 0)},
		{name: "endless varint", kind: record.ErrMalformed, says: "malformed", damage: records(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
		{name: "length over 32 bits", kind: record.ErrMalformed, says: "malformed", damage: records(0x80, 0x80, 0x80, 0x80, 0x80, 0x01)},
		{name: "limit", kind: record.ErrTooLarge, says: "batch of 79 bytes, at most 78 are accepted", damage: func(b []byte) []byte { return b }, lim: record.Limits{MaxBatchBytes: 78}},
		{name: "too far ahead", kind: record.ErrInvalidTimestamp, says: "newest record is of 1001 ms; at most 1000 are accepted now (message.timestamp.after.max.ms); are the clocks of its producer and of this broker right?", damage: same, lim: record.Limits{MaxTimestamp: 1000}},
		{name: "a header too far ahead", kind: record.ErrInvalidTimestamp, says: "newest record is of 253402300799999 ms", damage: put64(35, 253402300799999), lim: record.Limits{MaxTimestamp: 5000}},
		{name: "too far behind", kind: record.ErrInvalidTimestamp, says: "record 0 has 1000 ms; at least 1001 are accepted now (message.timestamp.before.max.ms)", damage: same, lim: record.Limits{MinTimestamp: 1001}},
		{name: "not gzip", kind: record.ErrMalformed, says: "gzip records do not decompress", damage: put16(21, 1)},
		{name: "not snappy", kind: record.ErrMalformed, says: "snappy", damage: put16(21, 2)},
		{name: "not lz4", kind: record.ErrMalformed, says: "lz4 records do not decompress", damage: put16(21, 3)},
		{name: "not zstd", kind: record.ErrMalformed, says: "zstd records do not decompress", damage: put16(21, 4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.damage(two(t))
			if !c.raw {
				reseal(b)
			}
			_, err := record.Validate(b, c.lim)
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.says)
			var typed *record.InvalidError
			require.ErrorAs(t, err, &typed)
		})
	}
}

func same(b []byte) []byte { return b }

// Bounds of time hold for clients, and for records that have a time.
func TestValidateBoundsOfTime(t *testing.T) {
	lim := record.Limits{MinTimestamp: 1000, MaxTimestamp: 1001}
	_, err := record.Validate(two(t), lim)
	require.NoError(t, err)
	_, err = record.Validate(build(t, record.BuilderOptions{}, record.Record{Timestamp: -1}), lim)
	require.NoError(t, err, "no time")
	lim.MinTimestamp, lim.MaxTimestamp, lim.Internal = 2000, 500, true
	_, err = record.Validate(two(t), lim)
	require.NoError(t, err, "a follower takes what its leader took")
}

// Brokers write control batches, transactions, append time and, by compaction,
// gaps; followers and recovery accept them.
func TestValidateInternal(t *testing.T) {
	internal := record.Limits{Internal: true}
	for name, damage := range map[string]func([]byte) []byte{
		"control":     put16(21, 32),
		"append time": put16(21, 8),
		"gap at end":  put32(23, 9),
		"gap inside": func(b []byte) []byte {
			b[record.HeaderSize+9+3] = 16
			return put32(23, 8)(b)
		},
		"empty": func(b []byte) []byte { return put32(57, 0)(b[:record.HeaderSize]) },
	} {
		b := reseal(damage(two(t)))
		_, err := record.Validate(b, internal)
		require.NoError(t, err, name)
		_, err = record.Validate(b, record.Limits{})
		require.Error(t, err, name)
	}
	_, err := record.Validate(reseal(put32(23, 0)(two(t))), internal)
	require.ErrorIs(t, err, record.ErrMalformed, "two records cannot share an offset")
}

// A bomb costs its cap, not its size.
func TestDecompressedCap(t *testing.T) {
	const size = 10 << 20
	for _, codec := range codecs[1:] {
		batch := build(t, record.BuilderOptions{Codec: codec}, record.Record{Value: make([]byte, size)})
		require.Less(t, len(batch), size/10)
		_, err := record.Validate(batch, record.Limits{})
		require.NoError(t, err, codec)
		_, err = record.Validate(batch, record.Limits{MaxDecompressed: size + 20})
		require.NoError(t, err, codec)
		_, err = record.Validate(batch, record.Limits{MaxDecompressed: size})
		require.ErrorIs(t, err, record.ErrTooLarge, codec)
		for _, err := range record.Records(batch, record.Limits{MaxDecompressed: 1 << 20}) {
			require.ErrorIs(t, err, record.ErrTooLarge, codec)
		}
	}
}

// A size that the compressed bytes cannot hold is not allocated.
func TestForgedSizes(t *testing.T) {
	plain := two(t)
	zstdFrame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 3, 1, 0, 0} // says 48 MiB
	var h zstd.Header
	require.NoError(t, h.Decode(zstdFrame))
	require.EqualValues(t, 48<<20, h.FrameContentSize)
	snappyBlock := []byte{0x80, 0x80, 0x80, 0x18, 0} // says 48 MiB
	for codec, forged := range map[record.Codec][]byte{record.CodecZstd: zstdFrame, record.CodecSnappy: snappyBlock} {
		batch := withSection(plain, codec, forged)
		_, err := record.Validate(batch, record.Limits{})
		require.ErrorIs(t, err, record.ErrMalformed)
		require.ErrorContains(t, err, "says that it holds 50331648")
	}
}

// The cap is on the whole section, however many blocks snappy-java cut it into.
func TestDecompressedCapOverBlocks(t *testing.T) {
	plain := build(t, record.BuilderOptions{}, record.Record{Value: make([]byte, 5000)})
	framed := []byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01")
	for _, part := range [][]byte{plain[record.HeaderSize:3000], plain[3000:]} {
		block := s2.EncodeSnappy(nil, part)
		framed = append(binary.BigEndian.AppendUint32(framed, uint32(len(block))), block...)
	}
	batch := withSection(plain, record.CodecSnappy, framed)
	_, err := record.Validate(batch, record.Limits{MaxDecompressed: len(plain) - record.HeaderSize})
	require.NoError(t, err)
	_, err = record.Validate(batch, record.Limits{MaxDecompressed: len(plain) - record.HeaderSize - 1})
	require.ErrorIs(t, err, record.ErrTooLarge)
}

// A header count that the record cannot hold is refused before it is allocated.
func TestForgedHeaderCount(t *testing.T) {
	b := reseal(section(26, 0, 0, 0, 2, 'a', 2, 'b', 0xfe, 0xff, 0xff, 0x7f, 1, 1)(put32(57, 1)(put32(23, 0)(two(t)))))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, err := range record.Records(b, record.Limits{}) {
		require.ErrorIs(t, err, record.ErrCorrupt)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestNextAndSplit(t *testing.T) {
	a, b := two(t), build(t, record.BuilderOptions{}, sample(9)...)
	run := append(bytes.Clone(a), b...)
	arena := record.NewArena(1 << 20)
	buf := arena.Get(len(run))
	copy(buf.Bytes(), run)
	s := record.SliceOf(buf, 0, len(run))
	buf.Release()
	parts, err := record.Split(nil, s)
	require.NoError(t, err)
	require.Len(t, parts, 2)
	s.Release()
	require.Equal(t, a, parts[0].Bytes)
	require.Equal(t, b, parts[1].Bytes)
	require.Equal(t, 2, parts[0].Buf().Refs())
	for i := range parts {
		parts[i].Release()
	}
	require.Zero(t, arena.InUse())

	torn := record.NewBuf(run[:len(run)-1])
	s = record.SliceOf(torn, 0, torn.Len())
	parts, err = record.Split(parts[:0], s)
	require.ErrorIs(t, err, record.ErrCorrupt)
	require.Empty(t, parts)
	s.Release()
	require.Equal(t, 1, torn.Refs())
}

func TestChecksDoNotAllocate(t *testing.T) {
	batch := build(t, record.BuilderOptions{}, sample(100)...)
	sent := bytes.Clone(batch)
	for name, f := range map[string]func(){
		"Peek":      func() { record.Peek(batch) },
		"Patch":     func() { record.Patch(batch, 7, 1) },
		"VerifyCRC": func() { record.VerifyCRC(batch) },
		"Validate": func() {
			if _, err := record.Validate(sent, record.Limits{}); err != nil {
				t.Error(err)
			}
		},
	} {
		require.Zero(t, testing.AllocsPerRun(100, f), name)
	}
}
