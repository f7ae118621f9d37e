package record_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/log/record"
)

func drawRecord(t *rapid.T) record.Record {
	bytesOrNil := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 300))
	r := record.Record{
		Timestamp: rapid.OneOf(rapid.Int64Range(-1, 3), rapid.Int64Range(1_699_999_000_000, 1_700_000_000_000), rapid.Just(int64(math.MaxInt64))).Draw(t, "timestamp"),
		Key:       bytesOrNil.Draw(t, "key"),
		Value:     bytesOrNil.Draw(t, "value"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "headers") {
		r.Headers = append(r.Headers, record.Header{Key: rapid.String().Draw(t, "name"), Value: bytesOrNil.Draw(t, "content")})
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := record.NewBuilder(record.BuilderOptions{
			Codec: rapid.SampledFrom(codecs).Draw(t, "codec"),
			Level: rapid.IntRange(-3, 12).Draw(t, "level"),
		})
		for range 2 { // the second time with used memory
			b.Reset()
			var records []record.Record
			latest := int64(-1)
			for range rapid.IntRange(1, 20).Draw(t, "records") {
				r := drawRecord(t)
				records = append(records, r)
				require.NoError(t, b.Append(&r))
				latest = max(latest, r.Timestamp)
			}
			batch, err := b.Build([]byte("before"))
			require.NoError(t, err)
			require.Equal(t, "before", string(batch[:6]))
			batch = batch[6:]
			require.Equal(t, len(records), b.Count())

			base := record.Offset(rapid.Int64Range(0, math.MaxInt64-20).Draw(t, "base"))
			_, err = record.Validate(batch, record.Limits{})
			require.NoError(t, err)
			record.Patch(batch, base, 4)
			info, err := record.Validate(batch, record.Limits{Internal: true})
			require.NoError(t, err)
			require.Equal(t, base, info.BaseOffset)
			require.Equal(t, base+record.Offset(len(records)), info.NextOffset())
			require.Equal(t, record.Epoch(4), info.Epoch)
			require.Equal(t, latest, info.MaxTimestamp)
			require.Equal(t, int64(-1), info.ProducerID)
			require.Equal(t, numbered(records, base), decode(t, batch))
		}
	})
}

func TestBuilderLimits(t *testing.T) {
	b := record.NewBuilder(record.BuilderOptions{MaxBytes: 200})
	_, err := b.Build(nil)
	require.ErrorIs(t, err, record.ErrCorrupt)
	require.ErrorIs(t, b.Append(&record.Record{Value: make([]byte, 200)}), record.ErrTooLarge)
	require.ErrorIs(t, b.Append(&record.Record{Timestamp: -2}), record.ErrInvalidTimestamp)
	for {
		before := b.EstimatedSize()
		err := b.Append(&record.Record{Value: make([]byte, 20)})
		if err != nil {
			require.ErrorIs(t, err, record.ErrBatchFull)
			require.Equal(t, before, b.EstimatedSize())
			break
		}
	}
	batch, err := b.Build(nil)
	require.NoError(t, err)
	require.LessOrEqual(t, len(batch), 200)
	require.Len(t, batch, b.EstimatedSize())
	b.Reset()
	require.Zero(t, b.Count())
	require.NoError(t, b.Append(&record.Record{Value: make([]byte, 20)}))

	unknown := record.NewBuilder(record.BuilderOptions{Codec: 6})
	require.NoError(t, unknown.Append(&record.Record{}))
	_, err = unknown.Build(nil)
	require.ErrorIs(t, err, record.ErrUnsupportedCodec)
}

func TestAppendTime(t *testing.T) {
	for _, codec := range codecs {
		batch := build(t, record.BuilderOptions{Codec: codec}, sample(10)...)
		record.SetAppendTime(batch, 42)
		require.True(t, record.VerifyCRC(batch))
		info, err := record.Validate(batch, record.Limits{Internal: true})
		require.NoError(t, err)
		require.True(t, info.Attributes.LogAppendTime())
		require.Equal(t, codec, info.Attributes.Codec())
		for _, r := range decode(t, batch) {
			require.EqualValues(t, 42, r.Timestamp)
		}
	}
}

func TestSetProducer(t *testing.T) {
	batch := build(t, record.BuilderOptions{Codec: record.CodecLZ4}, sample(10)...)
	record.SetProducer(batch, 5, 6, 7)
	info, err := record.Validate(batch, record.Limits{})
	require.NoError(t, err)
	require.Equal(t, int64(5), info.ProducerID)
	require.Equal(t, int16(6), info.ProducerEpoch)
	require.Equal(t, int32(7), info.BaseSequence)
}

func TestCodecNames(t *testing.T) {
	for _, c := range codecs {
		got, err := record.ParseCodec(c.String())
		require.NoError(t, err)
		require.Equal(t, c, got)
	}
	for _, bad := range []string{"", "Gzip", "codec 5", "brotli"} {
		_, err := record.ParseCodec(bad)
		require.ErrorIs(t, err, record.ErrUnsupportedCodec, bad)
	}
	require.Equal(t, "codec 5", record.Codec(5).String())
}

func TestReaderIsReusable(t *testing.T) {
	var r record.Reader
	for _, codec := range codecs {
		require.NoError(t, r.Reset(build(t, record.BuilderOptions{Codec: codec}, sample(50)...), record.Limits{}))
		require.EqualValues(t, 50, r.Info().Count)
		var rec record.Record
		for i, want := range numbered(sample(50), 0) {
			ok, err := r.Next(&rec)
			require.NoError(t, err, i)
			require.True(t, ok)
			require.Equal(t, want, rec)
		}
		ok, err := r.Next(&rec)
		require.NoError(t, err)
		require.False(t, ok)
	}
	require.ErrorIs(t, r.Reset([]byte("short"), record.Limits{}), record.ErrCorrupt)
	ok, err := r.Next(new(record.Record))
	require.False(t, ok)
	require.NoError(t, err)
}

func TestRecordsStopsEarly(t *testing.T) {
	batch := build(t, record.BuilderOptions{Codec: record.CodecGzip}, sample(50)...)
	n := 0
	for range record.Records(batch, record.Limits{}) {
		if n++; n == 3 {
			break
		}
	}
	require.Equal(t, 3, n)
}
