package record_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/log/record"
)

// The first golden batch is written down byte by byte, so that no library, ours
// included, can move the format.
func TestGoldenBytes(t *testing.T) {
	const golden = "0000000000000000" + // base offset
		"00000046" + "ffffffff" + "02" + // length 70, leader epoch -1, magic 2
		"081533f7" + // CRC-32C
		"0000" + "00000001" + // attributes, last offset delta
		"0000018bcfe56800" + "0000018bcfe56805" + // base and maximum timestamp
		"0000000000000007" + "0002" + "00000009" + // producer id, epoch, sequence
		"00000002" + // record count
		"16" + "00" + "00" + "00" + "026b" + "0276" + "02" + "0268" + "01" + // k=v, header h without value
		"10" + "00" + "0a" + "02" + "01" + "0400ff" + "00" // 5 ms later, no key, value 00 ff
	b := record.NewBuilder(record.BuilderOptions{})
	require.NoError(t, b.Append(&record.Record{
		Timestamp: 1_700_000_000_000, Key: []byte("k"), Value: []byte("v"), Headers: []record.Header{{Key: "h"}},
	}))
	require.NoError(t, b.Append(&record.Record{Timestamp: 1_700_000_000_005, Value: []byte{0, 255}}))
	b.SetProducer(7, 2, 9)
	got, err := b.Build(nil)
	require.NoError(t, err)
	require.Equal(t, golden, hex.EncodeToString(got))
}

// kafkaBatch encodes the records with franz-go's message code and compressors.
func kafkaBatch(t *testing.T, codec record.Codec, records []record.Record) []byte {
	t.Helper()
	var section []byte
	base, latest := records[0].Timestamp, records[0].Timestamp
	for i, r := range records {
		k := kmsg.Record{
			TimestampDelta64: r.Timestamp - base,
			OffsetDelta:      int32(i),
			Key:              r.Key,
			Value:            r.Value,
		}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		body := k.AppendTo(nil)[1:] // without the length 0 of one byte
		k.Length = int32(len(body))
		section = k.AppendTo(section)
		latest = max(latest, r.Timestamp)
	}
	if codec != record.CodecNone {
		choice := map[record.Codec]kgo.CompressionCodec{
			record.CodecGzip: kgo.GzipCompression(), record.CodecSnappy: kgo.SnappyCompression(),
			record.CodecLZ4: kgo.Lz4Compression(), record.CodecZstd: kgo.ZstdCompression(),
		}[codec]
		c, err := kgo.DefaultCompressor(choice)
		require.NoError(t, err)
		out, used := c.Compress(new(bytes.Buffer), section)
		require.EqualValues(t, codec, used)
		section = bytes.Clone(out)
	}
	batch := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: int16(codec), LastOffsetDelta: int32(len(records) - 1),
		FirstTimestamp: base, MaxTimestamp: latest, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(len(records)), Records: section, Length: int32(49 + len(section)),
	}
	out := batch.AppendTo(nil)
	batch.CRC = int32(crc32.Checksum(out[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch.AppendTo(nil)
}

func TestFranzGoBatchesAreRead(t *testing.T) {
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			records := sample(200)
			batch := kafkaBatch(t, codec, records)
			info, err := record.Validate(batch, record.Limits{})
			require.NoError(t, err)
			require.EqualValues(t, 200, info.Count)
			require.Equal(t, numbered(records, 0), decode(t, batch))
			if codec == record.CodecNone {
				require.Equal(t, batch, build(t, record.BuilderOptions{}, records...))
			}
		})
	}
}

func TestFranzGoReadsOurBatches(t *testing.T) {
	for _, codec := range codecs {
		for _, level := range []int{0, 1, 9, 100} {
			records := sample(200)
			batch := build(t, record.BuilderOptions{Codec: codec, Level: level}, records...)
			record.Patch(batch, 1000, 3)
			fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: "t", Offset: 1000},
				&kmsg.FetchResponseTopicPartition{HighWatermark: 1200, RecordBatches: batch}, kgo.DefaultDecompressor(), nil)
			require.NoError(t, fp.Err)
			require.EqualValues(t, 1200, next)
			require.Len(t, fp.Records, 200)
			for i, got := range fp.Records {
				require.EqualValues(t, 1000+i, got.Offset)
				require.Equal(t, records[i].Key, got.Key)
				require.Equal(t, records[i].Value, got.Value)
				require.Equal(t, records[i].Timestamp, got.Timestamp.UnixMilli())
				require.Len(t, got.Headers, len(records[i].Headers))
			}
		}
	}
}

// withSection replaces the record section of an uncompressed batch.
func withSection(batch []byte, codec record.Codec, section []byte) []byte {
	out := append(bytes.Clone(batch[:record.HeaderSize]), section...)
	binary.BigEndian.PutUint16(out[21:], uint16(codec))
	return reseal(out)
}

// The Java client frames snappy in blocks of 32 KiB (xerial).
func TestXerialSnappyIsRead(t *testing.T) {
	records := sample(3000)
	plain := build(t, record.BuilderOptions{}, records...)
	framed := []byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01")
	for rest := plain[record.HeaderSize:]; len(rest) > 0; {
		n := min(32<<10, len(rest))
		block := s2.EncodeSnappy(nil, rest[:n])
		framed = binary.BigEndian.AppendUint32(framed, uint32(len(block)))
		framed = append(framed, block...)
		rest = rest[n:]
	}
	batch := withSection(plain, record.CodecSnappy, framed)
	_, err := record.Validate(batch, record.Limits{})
	require.NoError(t, err)
	require.Equal(t, numbered(records, 0), decode(t, batch))

	for _, cut := range []int{16 + 2, 16 + 4 + 100, len(framed) - 1} {
		_, err := record.Validate(withSection(plain, record.CodecSnappy, framed[:cut]), record.Limits{})
		require.ErrorIs(t, err, record.ErrMalformed)
	}
}

// The Java client streams zstd: the frame does not say how much it holds.
func TestStreamedZstdIsRead(t *testing.T) {
	records := sample(20_000)
	plain := build(t, record.BuilderOptions{}, records...)
	var framed bytes.Buffer
	w, err := zstd.NewWriter(&framed)
	require.NoError(t, err)
	_, err = w.Write(plain[record.HeaderSize:])
	require.NoError(t, err)
	require.NoError(t, w.Close())
	batch := withSection(plain, record.CodecZstd, framed.Bytes())
	_, err = record.Validate(batch, record.Limits{})
	require.NoError(t, err)
	require.Equal(t, numbered(records, 0), decode(t, batch))
}

func TestMurmur2IsKafkas(t *testing.T) {
	// From Kafka's own UtilsTest.
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string":                       -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		require.Equal(t, uint32(want), record.Murmur2([]byte(key)), key)
	}
	const partitions = 97
	p := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for i := range 300 {
		key := bytes.Repeat([]byte{byte(i), byte(i * 7)}, i/2)
		key = append(key, byte(i))
		want := p.Partition(&kgo.Record{Key: key}, partitions)
		require.EqualValues(t, want, record.Murmur2(key)&0x7fffffff%partitions)
	}
}
