package record_test

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

func fuzzSeeds(f *testing.F) {
	f.Helper()
	for _, codec := range codecs {
		f.Add(build(f, record.BuilderOptions{Codec: codec}, sample(5)...))
	}
	f.Add(two(f))
	f.Add(reseal(put16(21, 32)(two(f))))
	f.Add([]byte{})
}

// What Validate accepts must decode completely, and a client's batch must decode
// to dense offsets within the header's timestamps.
func FuzzValidate(f *testing.F) {
	fuzzSeeds(f)
	lim := record.Limits{MaxDecompressed: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= record.HeaderSize {
			reseal(b) // a wrong CRC would hide everything behind it
		}
		info, err := record.Validate(b, lim)
		_, internalErr := record.Validate(b, record.Limits{MaxDecompressed: 1 << 20, Internal: true})
		if err != nil {
			var typed *record.InvalidError
			require.ErrorAs(t, err, &typed)
			return
		}
		require.NoError(t, internalErr, "a client's batch is acceptable to a follower")
		n := 0
		for r, err := range record.Records(b, lim) {
			require.NoError(t, err)
			require.Equal(t, info.BaseOffset+record.Offset(n), r.Offset)
			require.LessOrEqual(t, r.Timestamp, info.MaxTimestamp)
			n++
		}
		require.EqualValues(t, info.Count, n)
	})
}

// Decoding damaged bytes ends, with a typed error or with the count of the header.
func FuzzRecords(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		n := int32(0)
		for _, err := range record.Records(b, record.Limits{MaxDecompressed: 1 << 20}) {
			if err != nil {
				var typed *record.InvalidError
				require.ErrorAs(t, err, &typed)
				return
			}
			n++
		}
		info, ok := record.Peek(b)
		require.True(t, ok)
		require.Equal(t, info.Count, n)
	})
}

// Whatever stands in the record section, and whichever codec is named, decoding it
// ends with a typed error or with records, and takes memory in proportion to its
// cap and not to what the bytes claim.
func FuzzSections(f *testing.F) {
	for _, codec := range codecs {
		b := build(f, record.BuilderOptions{Codec: codec}, sample(5)...)
		f.Add(byte(codec), b[record.HeaderSize:], int32(5))
		bomb := build(f, record.BuilderOptions{Codec: codec}, record.Record{Value: make([]byte, 4<<20)})
		if codec != record.CodecNone {
			f.Add(byte(codec), bomb[record.HeaderSize:], int32(1))
		}
	}
	f.Add(byte(record.CodecZstd), []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 3, 1, 0, 0}, int32(1))
	f.Add(byte(record.CodecZstd), []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0}, int32(1))                     // the largest window
	f.Add(byte(record.CodecLZ4), []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73, 0xff, 0xff, 0xff, 0x7f}, int32(1)) // a block of 2 GiB
	f.Add(byte(record.CodecSnappy), []byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff"), int32(1))
	f.Add(byte(record.CodecGzip), []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, int32(1))
	f.Add(byte(7), []byte{1, 2, 3}, int32(1))
	const limit, allowed = 1 << 20, 48 << 20 // the codecs' own tables and windows are most of it
	f.Fuzz(func(t *testing.T, codec byte, section []byte, count int32) {
		b := append(two(t)[:record.HeaderSize:record.HeaderSize], section...)
		b = put16(21, uint16(codec&7))(put32(57, count)(put32(23, count-1)(b)))
		reseal(b)
		lim := record.Limits{MaxDecompressed: limit}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := record.Validate(b, lim)
		n := int32(0)
		for _, readErr := range record.Records(b, lim) {
			if readErr != nil {
				var typed *record.InvalidError
				require.ErrorAs(t, readErr, &typed)
				break
			}
			n++
		}
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(allowed+80*len(section)))
		if err != nil {
			var typed *record.InvalidError
			require.ErrorAs(t, err, &typed)
			return
		}
		require.Equal(t, count, n)
	})
}

// A run of batches is split into what it consists of, or refused as a whole.
func FuzzSplit(f *testing.F) {
	f.Add(append(two(f), two(f)...))
	f.Add(two(f)[:70])
	f.Add(append(two(f), 1, 2, 3))
	f.Add(put32(8, -1)(two(f)))
	f.Add(put32(8, 1<<31-1)(two(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := record.SliceOf(record.NewBuf(b), 0, len(b))
		parts, err := record.Split(nil, whole)
		if err != nil {
			var typed *record.InvalidError
			require.ErrorAs(t, err, &typed)
			require.Empty(t, parts)
			require.Equal(t, 2, whole.Buf().Refs())
			return
		}
		var again []byte
		for i := range parts {
			info, ok := record.Peek(parts[i].Bytes)
			require.True(t, ok)
			require.Len(t, parts[i].Bytes, info.Size)
			again = append(again, parts[i].Bytes...)
			parts[i].Release()
		}
		require.True(t, bytes.Equal(b, again))
	})
}
