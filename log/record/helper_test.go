package record_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

var codecs = []record.Codec{record.CodecNone, record.CodecGzip, record.CodecSnappy, record.CodecLZ4, record.CodecZstd}

// build makes a batch of the records.
func build(t require.TestingT, opts record.BuilderOptions, records ...record.Record) []byte {
	b := record.NewBuilder(opts)
	for i := range records {
		require.NoError(t, b.Append(&records[i]))
	}
	out, err := b.Build(nil)
	require.NoError(t, err)
	return out
}

// sample is n records with and without keys, values and headers.
func sample(n int) []record.Record {
	out := make([]record.Record, n)
	for i := range out {
		out[i] = record.Record{
			Timestamp: 1_700_000_000_000 + int64(i%5)*1000 - int64(i%3),
			Key:       fmt.Appendf(nil, "key-%d", i),
			Value:     []byte(strings.Repeat("value ", i%20)),
		}
		switch i % 4 {
		case 0:
			out[i].Key = nil
		case 1:
			out[i].Value = nil
		case 2:
			out[i].Headers = []record.Header{{Key: "trace", Value: []byte{0, 1}}, {Key: "", Value: nil}}
		}
	}
	return out
}

// decode reads all records.
func decode(t require.TestingT, batch []byte) []record.Record {
	var out []record.Record
	for r, err := range record.Records(batch, record.Limits{}) {
		require.NoError(t, err)
		out = append(out, r)
	}
	return out
}

// numbered gives the records the offsets they have after decoding.
func numbered(records []record.Record, base record.Offset) []record.Record {
	out := slices.Clone(records)
	for i := range out {
		out[i].Offset = base + record.Offset(i)
	}
	return out
}

// reseal renews length and CRC after a test damaged the batch on purpose.
func reseal(batch []byte) []byte {
	binary.BigEndian.PutUint32(batch[8:], uint32(len(batch)-12))
	binary.BigEndian.PutUint32(batch[17:], crc32.Checksum(batch[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch
}
