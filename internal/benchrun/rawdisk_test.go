package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A record is on all replicas when the slowest has it; one that some process did not get to
// counts nowhere.
func TestTheSlowestOfARecord(t *testing.T) {
	d := summarize([][]int64{{100, 900, 300, 50}, {200, 100, 300}, {400, 100, 300, 0}})
	require.InDelta(t, 0.4, d.slowest.p50, 0.001)
	require.InDelta(t, 0.9, d.slowest.p99, 0.001)
	require.InDelta(t, 0.3, d.single.p50, 0.001)
	require.Zero(t, summarize(make([][]int64, 3)))
}

func TestBareDiskTimesEachRecord(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, rawWorker(t.Context(), t.TempDir(), time.Now(), 50*time.Millisecond, &out))
	var found []int64
	require.NoError(t, json.Unmarshal(out.Bytes(), &found))
	require.Len(t, found, 50)
	require.Positive(t, found[0])
}
