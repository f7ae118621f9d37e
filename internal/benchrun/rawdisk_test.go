package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
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
	require.NoError(t, rawWorker(t.Context(), t.TempDir(), time.Now(), 50*time.Millisecond, latencyPattern(), &out))
	var found []int64
	require.NoError(t, json.Unmarshal(out.Bytes(), &found))
	require.Len(t, found, 50)
	require.Positive(t, found[0])
}

// A file ends as a segment does, and the next takes what is due then.
func TestBareDiskGoesOnInTheNextFile(t *testing.T) {
	dir, found := t.TempDir(), make([]int64, 3)
	require.NoError(t, rawFile(t.Context(), filepath.Join(dir, "f"), time.Now(), rawPattern{1, rawSegmentSize / 2, 1000}, found, 0))
	require.NotContains(t, found, int64(0))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// What is freed of a file is what the next one got.
func TestBareDiskFreesAsItGoes(t *testing.T) {
	r := &rawAppender{name: filepath.Join(t.TempDir(), "f"), batch: make([]byte, rawSegmentSize/2)}
	for range 3 {
		require.NoError(t, r.append())
		require.NoError(t, r.free())
	}
	for name, want := range map[string]int64{r.name + ".0": rawSegmentSize / 2, r.name + ".1": rawSegmentSize / 2} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Equal(t, want, info.Size(), name)
	}
	require.NoError(t, r.close())
}

func TestRawPattern(t *testing.T) {
	p, err := parsePattern(rawPattern{6, 262144, 700}.String())
	require.NoError(t, err)
	require.Equal(t, rawPattern{6, 262144, 700}, p)
	for _, bad := range []string{"", "6,7", "0,1,1", "1,1,-1", "a,b,c"} {
		_, err := parsePattern(bad)
		require.ErrorContains(t, err, "is not files,bytes,rate", bad)
	}
}
