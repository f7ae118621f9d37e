package record_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

// A placeholder has any size that a batch with a record can have, is a whole batch, and is
// told from every other.
func TestPlaceholder(t *testing.T) {
	sizes := []int{record.HeaderSize, 1 << 20, 1<<20 + 1, 3 << 20}
	for size := record.HeaderSize + 11; size < 20_000; size++ {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		b, err := record.BuildPlaceholder(size, 100, 117, 3, 1234)
		require.NoError(t, err, size)
		require.Len(t, b, size)
		info, err := record.Validate(b, record.Limits{Internal: true, Keys: true})
		require.NoError(t, err, size)
		require.True(t, info.Attributes.Control())
		require.Equal(t, record.Offset(100), info.BaseOffset)
		require.Equal(t, record.Offset(117), info.NextOffset())
		require.Equal(t, record.Epoch(3), info.Epoch)
		require.Equal(t, int64(1234), info.MaxTimestamp)
		require.Equal(t, size > record.HeaderSize, record.IsPlaceholder(b), size)
		_, err = record.Validate(b, record.Limits{})
		require.Error(t, err, "a client may send one")
	}
	for size := range record.HeaderSize + 11 {
		if size != record.HeaderSize {
			_, err := record.BuildPlaceholder(size, 0, 1, 0, 0)
			require.Error(t, err, size)
		}
	}
	_, err := record.BuildPlaceholder(100, 5, 5, 0, 0)
	require.Error(t, err)

	builder := record.NewBuilder(record.BuilderOptions{})
	require.NoError(t, builder.Append(&record.Record{Key: []byte{0, 0, 'P', 'S'}}))
	b, err := builder.Build(nil)
	require.NoError(t, err)
	require.False(t, record.IsPlaceholder(b), "a record of a client passes for one")
	require.False(t, record.IsPlaceholder(nil))
}
