package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// group is benchmarks that run in one process, for so long or so often.
type group struct{ name, time string }

func groups() []group {
	return []group{
		{"BenchmarkAppend", "11x"},
		{"BenchmarkAppendSmall", "3s"},
		{"BenchmarkAppendFlush", "11x"},
		{"BenchmarkFlushLatency", "3x"},
		{"BenchmarkTailRead", "1s"},
		{"BenchmarkColdRead/batch=64KiB", "11x"},
		{"BenchmarkReplayBesideWriters", "5x"},
		{"BenchmarkOpen10000/segments=1", "3x"},
	}
}

// key names one metric of one benchmark.
type key struct{ bench, metric string }

// results are the values of the runs.
type results map[key][]float64

func (r results) median(bench, metric string) float64 { return median(r[key{bench, metric}]) }

// parse takes in what a test binary printed: a name, how often, and pairs of a
// value and its unit.
func (r results) parse(out io.Reader) error {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		bench := fields[0]
		if i := strings.LastIndexByte(bench, '-'); i > 0 { // -2: the number of CPUs
			bench = bench[:i]
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("line %q: %w", lines.Text(), err)
			}
			k := key{bench, fields[i+1]}
			r[k] = append(r[k], v)
		}
	}
	return lines.Err()
}

// figure is a line of the table; without reached it is there to be looked at.
type figure struct {
	what, bench, metric, unit string
	target                    string
	reached                   func(results) bool
}

// most of the machine's own rate is what ratios should reach.
func most(bench string) func(results) bool {
	return func(r results) bool { return r.median(bench, "ratio") >= 0.8 }
}

func atMost(limit float64, bench, metric string) func(results) bool {
	return func(r results) bool { return r.median(bench, metric) <= limit }
}

const (
	appends  = "BenchmarkAppend"
	flushes  = "BenchmarkAppendFlush"
	thousand = "BenchmarkFlushLatency/partitions=1000"
	cold     = "BenchmarkColdRead/batch=64KiB/"
	replay   = "BenchmarkReplayBesideWriters"
	open     = "BenchmarkOpen10000/segments="
)

// figures are the lines of the table.
func figures() []figure {
	return []figure{
		{"append of 1 MiB, not flushed, over plain write", appends, "ratio", "", ">= 0.8", most(appends)},
		{"the same", appends, "MB/s", "MB/s", "", nil},
		{"plain write", appends, "raw-MB/s", "MB/s", "", nil},
		{"append of 1 KiB", "BenchmarkAppendSmall", "ns/op", "ns", "", nil},
		{"allocations of an append", "BenchmarkAppendSmall", "allocs/op", "", "0", atMost(0, "BenchmarkAppendSmall", "allocs/op")},
		{"append and flush, 16 writers of 64 KiB, over write and fdatasync of 1 MiB", flushes, "ratio", "", ">= 0.8", most(flushes)},
		{"the same", flushes, "MB/s", "MB/s", "", nil},
		{"write and fdatasync of 1 MiB", flushes, "raw-MB/s", "MB/s", "", nil},
		{"flush p50, 1 dirty partition", "BenchmarkFlushLatency/partitions=1", "p50-ms", "ms", "", nil},
		{"flush p99, 1 dirty partition", "BenchmarkFlushLatency/partitions=1", "p99-ms", "ms", "", nil},
		{"flush p50, 16", "BenchmarkFlushLatency/partitions=16", "p50-ms", "ms", "", nil},
		{"flush p99, 16", "BenchmarkFlushLatency/partitions=16", "p99-ms", "ms", "", nil},
		{"flush p50, 256", "BenchmarkFlushLatency/partitions=256", "p50-ms", "ms", "", nil},
		{"flush p99, 256", "BenchmarkFlushLatency/partitions=256", "p99-ms", "ms", "", nil},
		{"flush p50, 1,000", thousand, "p50-ms", "ms", "", nil},
		{"flush p99, 1,000", thousand, "p99-ms", "ms", "<= 25 ms, or 10 times that of 1", func(r results) bool {
			return r.median(thousand, "p99-ms") <= 25 || r.median(thousand, "p99-of-1") <= 10
		}},
		{"flush p50, 10,000", "BenchmarkFlushLatency/partitions=10000", "p50-ms", "ms", "", nil},
		{"flush p99, 10,000", "BenchmarkFlushLatency/partitions=10000", "p99-ms", "ms", "", nil},
		{"appends flushed with 10,000 dirty partitions", "BenchmarkFlushLatency/partitions=10000", "appends/s", "1/s", "", nil},
		{"tail read of a batch of 16 KiB", "BenchmarkTailRead", "ns/batch", "ns", "", nil},
		{"system calls of a tail read", "BenchmarkTailRead", "calls/op", "", "0", atMost(0, "BenchmarkTailRead", "calls/op")},
		{"allocations of a tail read", "BenchmarkTailRead", "allocs/op", "", "0", atMost(0, "BenchmarkTailRead", "allocs/op")},
		{"cold read of batches of 64 KiB, checked before, over read from the page cache", cold + "again", "ratio", "", ">= 0.8", most(cold + "again")},
		{"the same, checked for the first time", cold + "first", "ratio", "", "", nil},
		{"the same, out of the page cache, over read from disk", cold + "disk", "ratio", "", "", nil},
		{"writers' p99 at half of their rate beside a replay over that alone", replay, "ratio", "", "<= 2", atMost(2, replay, "ratio")},
		{"the same, alone", replay, "alone-p99-ms", "ms", "", nil},
		{"the same, beside the replay", replay, "beside-p99-ms", "ms", "", nil},
		{"the replay", replay, "replay-MB/s", "MB/s", "", nil},
		{"half of the writers' rate", replay, "write-MB/s", "MB/s", "", nil},
		{"open of 10,000 clean partitions", open + "1", "s/open", "s", "< 2 s", atMost(2, open+"1", "s/open")},
	}
}
