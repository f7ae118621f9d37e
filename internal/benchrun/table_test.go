package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBenchFormat holds the lines to Go's benchmark format, which is an interface:
// a name without spaces, a count, pairs of value and unit.
func TestBenchFormat(t *testing.T) {
	tb := table{Machine: "2 CPUs", GitRev: "abc"}
	tb.add(figure{"produce, 1 KiB: share of that third", "s", "%", []float64{70.5}})
	tb.add(figure{"latency p50", "s", "ms", []float64{1.25, 1.5}})
	tb.add(figure{"produce: CPU of the three brokers together", "s", "s a million records", []float64{0.6}})
	var out bytes.Buffer
	require.NoError(t, tb.writeBench(&out))
	require.Contains(t, out.String(), "Unit % better=higher\nBenchmarkProduce1KiBShareOfThatThird 1 70.5 %\n")
	require.Contains(t, out.String(), "Unit ms better=lower\nBenchmarkLatencyP50 1 1.25 ms\nBenchmarkLatencyP50 1 1.5 ms\n")
	require.Contains(t, out.String(), "BenchmarkProduceCPUOfTheThreeBrokersTogether 1 0.6 s-a-million-records\n")
}

// TestRevisionsCanBeCompared: benchstat puts results side by side only where all lines
// of the form key: value are the same.
func TestRevisionsCanBeCompared(t *testing.T) {
	keys := func(rev string) (found []string) {
		tb := table{Machine: "2 CPUs", GitRev: rev}
		var out bytes.Buffer
		require.NoError(t, tb.writeBench(&out))
		require.Contains(t, out.String(), rev)
		for line := range strings.Lines(out.String()) {
			if key, _, ok := strings.Cut(line, ":"); ok && strings.ToLower(key) == key && key[0] != '#' {
				found = append(found, line)
			}
		}
		return found
	}
	require.Len(t, keys("abc"), 4)
	require.Equal(t, keys("abc"), keys("def"))
}
