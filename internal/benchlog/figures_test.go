package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	r := results{}
	for _, ratio := range []string{"0.5", "0.9", "0.7"} {
		require.NoError(t, r.parse(strings.NewReader(`goos: linux
BenchmarkAppend-2   	       5	1315.47 MB/s	         `+ratio+` ratio
BenchmarkFlushLatency/partitions=1000-2 	 1	 62188 appends/s	 10.38 p50-ms
PASS
`)))
	}
	require.InDelta(t, 0.7, r.median("BenchmarkAppend", "ratio"), 0)
	require.Len(t, r[key{"BenchmarkFlushLatency/partitions=1000", "p50-ms"}], 3)
	require.Equal(t, "0.7 [0.5-0.9]", summary(r[key{"BenchmarkAppend", "ratio"}]))
	require.False(t, most("BenchmarkAppend")(r))
	require.True(t, atMost(0.7, "BenchmarkAppend", "ratio")(r))
	require.Error(t, r.parse(strings.NewReader("BenchmarkX-2 1 many ns/op")))
}

// Every figure belongs to a benchmark that is run.
func TestFiguresAreMeasured(t *testing.T) {
	for _, f := range figures() {
		found := false
		for _, g := range groups() {
			found = found || f.bench == g.name || strings.HasPrefix(f.bench, g.name+"/")
		}
		require.True(t, found, f.bench)
	}
}
