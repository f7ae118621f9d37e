package log

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

// BenchmarkColdRead reads a log from its files, which are in the page cache, from
// front to back as a consumer does, 1 MiB at a time. Each pass is followed by its
// raw twin, plain reads of the same file of the same size into one buffer. It
// reports the medians of both rates and of their ratio; "first" forgets before each pass that the
// bytes were found sound, "disk" takes them out of the page cache.
func BenchmarkColdRead(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 256 << 10} {
		for _, mode := range []string{"first", "again", "disk"} {
			b.Run(fmt.Sprintf("batch=%dKiB/%s", size>>10, mode), func(b *testing.B) {
				benchColdRead(b, size, mode)
			})
		}
	}
}

func benchColdRead(b *testing.B, size int, mode string) {
	b.Helper()
	const total, atOnce = 256 << 20, 1 << 20
	opts := testOptions(hasty{})
	opts.Path, opts.TailBytes = filepath.Join(b.TempDir(), "data"), 1<<20
	d := openTestDir(b, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{}, n))
	require.NoError(b, err)
	n.listen(l)
	payload := batch(b, 1000, strings.Repeat("x", size-100))
	for range total / len(payload) {
		add(b, l, 1, payload)
		if l.End()%100 == 0 {
			n.waitWritten(l.End())
		}
	}
	require.NoError(b, l.Close())
	require.NoError(b, syncRaw(l.active().path+logExt))
	l, err = d.Open(testSpec(Config{}, n))
	require.NoError(b, err)
	buf := make([]byte, atOnce)
	var bytes int64
	var out []record.Slice
	var logRates, rawRates, ratios []float64
	prepare := func() {
		if mode != "again" {
			d.pages.unsound(l.active().file, 0)
		}
		if mode == "disk" {
			f, err := d.files.acquire(l.active().file)
			require.NoError(b, err)
			require.NoError(b, f.DropCache(0, total))
			d.files.release(l.active().file)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		prepare()
		b.StartTimer()
		start := time.Now()
		bytes = 0
		for off := record.Offset(0); off < l.End(); {
			out, err = l.ReadInto(out[:0], ReadOptions{From: off, Limit: l.End(), MaxBytes: atOnce})
			if err != nil || len(out) == 0 {
				b.Fatalf("at %d: %d slices, %v", off, len(out), err)
			}
			for i := range out {
				bytes += int64(len(out[i].Bytes))
				out[i].Release()
			}
			off = record.Offset(bytes / int64(len(payload)))
		}
		logTime := time.Since(start).Seconds()
		b.StopTimer()
		prepare()
		start = time.Now()
		require.Equal(b, bytes, readRaw(b, l.active().path+logExt, buf))
		rawTime := time.Since(start).Seconds()
		logRates, rawRates = append(logRates, float64(bytes)/logTime/1e9), append(rawRates, float64(bytes)/rawTime/1e9)
		ratios = append(ratios, rawTime/logTime)
		b.StartTimer()
	}
	b.ReportMetric(median(logRates), "log-GB/s")
	b.ReportMetric(median(rawRates), "raw-GB/s")
	b.ReportMetric(median(ratios), "ratio")
	require.NoError(b, d.Close(-1))
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}

// syncRaw makes clean what hasty left dirty, so that it can be dropped.
func syncRaw(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// readRaw is the twin: the file by plain reads.
func readRaw(b *testing.B, name string, buf []byte) (bytes int64) {
	b.Helper()
	f, err := os.Open(name)
	require.NoError(b, err)
	defer f.Close()
	for {
		n, _ := f.Read(buf)
		if n == 0 {
			return bytes
		}
		bytes += int64(n)
	}
}
