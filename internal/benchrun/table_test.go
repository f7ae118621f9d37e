package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

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

// TestTheRuleForQuotedFiguresIsObeyedOrNot: what a table says of itself does not depend
// on which flag brought the numbers about.
func TestTheRuleForQuotedFiguresIsObeyedOrNot(t *testing.T) {
	o := options{runs: quoteRuns, kills: quoteKills, duration: quoteDuration, warmup: quoteWarmup, warm: 1}
	require.True(t, o.quoted())
	for _, spoil := range []func(*options){
		func(o *options) { o.runs-- },
		func(o *options) { o.kills-- },
		func(o *options) { o.duration-- },
		func(o *options) { o.warmup-- },
		func(o *options) { o.warm = 0 },
	} {
		short := o
		spoil(&short)
		require.False(t, short.quoted())
	}
	require.Contains(t, (&table{}).heading(), "shorter than the rule")
	require.Contains(t, (&table{Quote: true}).heading(), "by the rule")
}

func TestHowLongItTakes(t *testing.T) {
	o := options{runs: 5, duration: time.Minute, warmup: 10 * time.Second, only: "produce,tail"}
	require.Equal(t, 4*5*(70*time.Second+turnOverhead)+2*fillMost, o.estimate())
}

func TestSharesAreOfOneRun(t *testing.T) {
	require.Equal(t, []float64{50, 25}, shares([]float64{1, 1}, []float64{2, 4}))
}
