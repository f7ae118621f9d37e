package log

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFlushTimes(t *testing.T) {
	var f FlushTimes
	require.Zero(t, f.Count())
	require.Len(t, f.Buckets(), len(flushBounds))
	for _, took := range []time.Duration{0, 100 * time.Microsecond, 100*time.Microsecond + 1, 3 * time.Millisecond, 10 * time.Second, time.Minute} {
		f.add(took)
	}
	require.EqualValues(t, 6, f.Count())
	require.Equal(t, 70*time.Second+3*time.Millisecond+200*time.Microsecond+1, f.Total())
	buckets := f.Buckets()
	for bound, want := range map[time.Duration]uint64{
		100 * time.Microsecond: 2, 250 * time.Microsecond: 3, 2500 * time.Microsecond: 3, 5 * time.Millisecond: 4, 2500 * time.Millisecond: 4, 10 * time.Second: 5,
	} {
		require.Equal(t, want, buckets[bound], "%s", bound)
	}
}
