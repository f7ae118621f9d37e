package record_test

import (
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
