package record_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/log/record"
)

// What is kept of a batch keeps its offset, timestamp and bytes, with every codec
// and with and without a delete horizon; what readers and followers check holds.
func TestFilter(t *testing.T) {
	var f record.Filter
	rapid.Check(t, func(t *rapid.T) {
		records := sample(rapid.IntRange(1, 30).Draw(t, "records"))
		codec := rapid.SampledFrom(codecs).Draw(t, "codec")
		b := record.NewBuilder(record.BuilderOptions{Codec: codec})
		b.SetProducer(7, 3, 40)
		for i := range records {
			require.NoError(t, b.Append(&records[i]))
		}
		batch, err := b.Build(nil)
		require.NoError(t, err)
		record.Patch(batch, 1000, 5)
		original, _ := record.Peek(batch)

		var want []record.Record
		filter := func(horizon int64) {
			present := decode(t, batch)
			keep := rapid.SliceOfN(rapid.Bool(), len(present), len(present)).Draw(t, "keep")
			want = nil
			i, tombstones := 0, 0
			err := f.Reset(batch, record.Limits{}, func(off record.Offset, key []byte, tombstone bool) bool {
				require.Equal(t, present[i].Offset, off)
				require.Equal(t, present[i].Key, key)
				require.Equal(t, present[i].Key == nil, key == nil)
				require.Equal(t, present[i].Value == nil, tombstone)
				if keep[i] {
					want = append(want, present[i])
					if tombstone {
						tombstones++
					}
				}
				i++
				return keep[i-1]
			})
			require.NoError(t, err)
			require.Equal(t, len(want), f.Kept())
			require.Equal(t, len(present)-len(want), f.Dropped())
			require.Equal(t, tombstones, f.Tombstones())
			out, err := f.Append([]byte("before"), horizon)
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(out, []byte("before")))
			batch = bytes.Clone(out[len("before"):])
		}
		check := func(horizon int64) {
			info, err := record.Validate(batch, record.Limits{Internal: true})
			require.NoError(t, err)
			require.Equal(t, want, decode(t, batch))
			require.Equal(t, original.BaseOffset, info.BaseOffset)
			require.Equal(t, original.LastDelta, info.LastDelta)
			require.Equal(t, original.Epoch, info.Epoch)
			require.Equal(t, [3]any{int64(7), int16(3), int32(40)}, [3]any{info.ProducerID, info.ProducerEpoch, info.BaseSequence})
			require.Equal(t, horizon > 0 && len(want) > 0, info.Attributes.DeleteHorizon())
			newest := int64(-1)
			for i := range want {
				newest = max(newest, want[i].Timestamp)
			}
			if len(want) > 0 {
				require.Equal(t, newest, info.MaxTimestamp)
				require.Equal(t, codec, info.Attributes.Codec())
			} else {
				require.Equal(t, record.HeaderSize, info.Size)
			}
			if info.Attributes.DeleteHorizon() {
				require.Equal(t, horizon, info.BaseTimestamp)
				_, err := record.Validate(batch, record.Limits{})
				require.Error(t, err, "a client may not set one")
			}
		}
		filter(0)
		check(0)
		const horizon = 1_800_000_000_000
		filter(horizon)
		check(horizon)
		filter(horizon + 1) // the horizon that is set stays
		check(horizon)
	})
}

// With append time the batch's one timestamp stays whatever is taken out.
func TestFilterAppendTime(t *testing.T) {
	batch := build(t, record.BuilderOptions{}, sample(3)...)
	record.SetAppendTime(batch, 1_900_000_000_000)
	var f record.Filter
	require.NoError(t, f.Reset(batch, record.Limits{}, func(off record.Offset, _ []byte, _ bool) bool { return off == 1 }))
	out, err := f.Append(nil, 5)
	require.NoError(t, err)
	got := decode(t, out)
	require.Len(t, got, 1)
	require.Equal(t, int64(1_900_000_000_000), got[0].Timestamp)
	_, err = record.Validate(out, record.Limits{Internal: true})
	require.NoError(t, err)
}

func TestKeysAreAskedFor(t *testing.T) {
	for _, codec := range codecs {
		batch := build(t, record.BuilderOptions{Codec: codec},
			record.Record{Key: []byte("a")}, record.Record{Key: []byte{}}, record.Record{Value: []byte("no key")})
		_, err := record.Validate(batch, record.Limits{})
		require.NoError(t, err)
		_, err = record.Validate(batch, record.Limits{Keys: true})
		require.ErrorIs(t, err, record.ErrNoKey)
		require.ErrorContains(t, err, "record 2 of 3")
	}
}

// A filter meets any bytes with a typed error, and what it makes of a batch that
// is acceptable is acceptable again.
func FuzzFilter(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := record.Limits{MaxDecompressed: 1 << 20, Internal: true}
		if len(b) >= record.HeaderSize {
			reseal(b)
		}
		_, valid := record.Validate(b, lim)
		var filter record.Filter
		n := 0
		err := filter.Reset(b, lim, func(record.Offset, []byte, bool) bool { n++; return n%2 == 0 })
		if err != nil {
			var typed *record.InvalidError
			require.ErrorAs(t, err, &typed)
			require.Error(t, valid)
			return
		}
		out, err := filter.Append(nil, 1_800_000_000_000)
		require.NoError(t, err)
		if valid == nil {
			_, err = record.Validate(out, lim)
			require.NoError(t, err)
		}
	})
}
