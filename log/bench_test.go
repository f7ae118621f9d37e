package log

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// The benchmarks of this package measure what a log makes of the machine's own
// limits: each round runs the log and its raw twin one after the other, on memory
// that was touched right before, and the metric "ratio" is the median over the
// rounds of the log's rate over its twin's. `make bench-log` runs them all
// and compares with the targets.

const benchDirEnv = "PENSTOCK_BENCH_DIR"

// benchFolder makes a folder on a real disk.
func benchFolder(b *testing.B) string {
	b.Helper()
	folder := b.TempDir()
	if parent := os.Getenv(benchDirEnv); parent != "" {
		var err error
		folder, err = os.MkdirTemp(parent, "penstock-log-bench-") //nolint:usetesting // where the caller says
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, os.RemoveAll(folder)) })
	}
	var st unix.Statfs_t
	require.NoError(b, unix.Statfs(folder, &st))
	if st.Type == unix.TMPFS_MAGIC {
		b.Skipf("%s is on a tmpfs, which has no disk: set %s to a folder that has one", folder, benchDirEnv)
	}
	return folder
}

// warmMemory touches so much memory and gives it back: a hypervisor may have
// taken away what was free, and getting it again is slower than a disk.
func warmMemory(b *testing.B, bytes int) {
	b.Helper()
	m, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	require.NoError(b, err)
	for i := 0; i < len(m); i += os.Getpagesize() {
		m[i] = 1
	}
	require.NoError(b, unix.Munmap(m))
}

// benchPart is one partition under a benchmark.
type benchPart struct {
	*Log
	progress *listener
}

// benchParts is a directory with partitions and the memory of their batches.
type benchParts struct {
	dir    *Dir
	folder string
	arena  *record.Arena
	parts  []*benchPart
	batch  []byte
	whole  bool // batches are read from disk: their bodies must be right
	size   int  // of a batch
}

// openBenchParts opens so many partitions for batches of one size.
func openBenchParts(b *testing.B, fsys vfs.FS, partitions, batchSize int, cfg Config) *benchParts {
	b.Helper()
	p := &benchParts{folder: benchFolder(b), arena: record.NewArena(128 << 20), size: batchSize, parts: make([]*benchPart, partitions)}
	p.batch = sizedBatch(b, batchSize)
	p.dir = openTestDir(b, DirOptions{FS: fsys, Path: filepath.Join(p.folder, "data"), Arena: p.arena, DiskReserve: -1, Logger: slog.New(slog.DiscardHandler)})
	b.Cleanup(func() { require.NoError(b, p.dir.Close(-1)) })
	var wg sync.WaitGroup
	errs := make([]error, partitions)
	slots := make(chan struct{}, defaultWorkers)
	for i := range partitions {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			n := newListener()
			spec := testSpec(cfg, n)
			spec.Partition = int32(i)
			l, err := p.dir.Open(spec)
			if errs[i] = err; err == nil {
				n.listen(l)
				p.parts[i] = &benchPart{l, n}
			}
		})
	}
	wg.Wait()
	require.NoError(b, errors.Join(errs...))
	return p
}

// sizedBatch builds a batch of one record that takes exactly size bytes.
func sizedBatch(b *testing.B, size int) []byte {
	b.Helper()
	n := size / 2 // its lengths take as many bytes as the whole's
	n += size - len(batch(b, 1, strings.Repeat("x", n)))
	raw := batch(b, 1, strings.Repeat("x", n))
	require.Len(b, raw, size)
	return raw
}

// append appends one batch. Its memory comes from the arena, as a received
// batch's does; what it takes to receive one is not measured.
func (p *benchParts) append(l *Log) (next record.Offset, err error) {
	buf := p.arena.Get(p.size)
	if p.whole {
		copy(buf.Bytes(), p.batch)
	} else {
		copy(buf.Bytes(), p.batch[:record.HeaderSize])
	}
	_, next, err = l.Append(1, []*record.Buf{buf}, 0)
	buf.Release()
	return next, err
}

// rawTwin writes to a file what a log would, out of as much memory.
type rawTwin struct {
	file   vfs.File
	memory [][]byte
	at     int64
}

func openRawTwin(b *testing.B, folder string, size int) *rawTwin {
	b.Helper()
	f, err := vfs.OS{}.Create(filepath.Join(folder, "raw"))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, f.Close()) })
	t := &rawTwin{file: f}
	for range 64 << 20 / size {
		m := make([]byte, size)
		for i := range m {
			m[i] = byte(i)
		}
		t.memory = append(t.memory, m)
	}
	return t
}

func (t *rawTwin) write(n int, sync bool) error {
	for i := range n {
		m := t.memory[i%len(t.memory)]
		if _, err := t.file.WriteAt(m, t.at); err != nil {
			return err
		}
		if t.at += int64(len(m)); sync {
			if err := t.file.Datasync(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *rawTwin) empty() error {
	t.at = 0
	return t.file.Truncate(0)
}

// rounds gathers what a log and its twin did.
type rounds struct{ log, raw runs }

type runs struct{ mbPerSecond, cpuPerGB []float64 }

// time runs what moves so many bytes.
func (r *runs) time(b *testing.B, bytes int, do func() error) {
	b.Helper()
	begin, cpu := time.Now(), cpuTime(b)
	require.NoError(b, do())
	r.mbPerSecond = append(r.mbPerSecond, float64(bytes)/1e6/time.Since(begin).Seconds())
	r.cpuPerGB = append(r.cpuPerGB, (cpuTime(b)-cpu).Seconds()/(float64(bytes)/1e9))
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (r *rounds) report(b *testing.B) {
	b.Helper()
	ratios := make([]float64, len(r.log.mbPerSecond))
	for i := range ratios {
		ratios[i] = r.log.mbPerSecond[i] / r.raw.mbPerSecond[i]
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(r.log.mbPerSecond), "MB/s")
	b.ReportMetric(median(r.raw.mbPerSecond), "raw-MB/s")
	b.ReportMetric(median(r.log.cpuPerGB), "CPU-s/GB")
	b.ReportMetric(median(r.raw.cpuPerGB), "raw-CPU-s/GB")
	b.ReportMetric(0, "ns/op")
}

// Batches of 1 MiB that no flush follows, against writes of 1 MiB.
func BenchmarkAppend(b *testing.B) {
	const size, count, window = 1 << 20, 512, 16
	p := openBenchParts(b, vfs.OS{}, 1, size, Config{FlushInterval: time.Hour})
	twin := openRawTwin(b, p.folder, size)
	l := p.parts[0]
	warmMemory(b, 2*size*count)
	var r rounds
	for b.Loop() {
		r.raw.time(b, size*count, func() error { return twin.write(count, false) })
		require.NoError(b, twin.empty())
		r.log.time(b, size*count, func() error {
			for range count {
				next, err := p.append(l.Log)
				if err != nil {
					return err
				}
				l.progress.waitWritten(next - window) // a broker bounds what is under way, too
			}
			l.progress.waitWritten(l.End())
			return l.Err()
		})
		require.NoError(b, l.Reset(0))
	}
	r.report(b)
}

// Small batches, a few hundred under way: what one costs, and that it allocates
// nothing; waiting for them is the broker's.
func BenchmarkAppendSmall(b *testing.B) {
	const size, window = 1 << 10, 512
	p := openBenchParts(b, vfs.OS{}, 1, size, Config{FlushInterval: time.Hour})
	l := p.parts[0]
	for range 200_000 { // the arena and the tail fill up
		next, err := p.append(l.Log)
		require.NoError(b, err)
		l.progress.waitWritten(next - window)
	}
	b.ReportAllocs()
	b.SetBytes(size)
	for b.Loop() {
		next, err := p.append(l.Log)
		if err != nil {
			b.Fatal(err)
		}
		if next%window == 0 {
			l.progress.waitWritten(next - window)
		}
	}
}

// Sixteen writers of one partition, each waiting for the flush of its 64 KiB
// before it writes the next, against one that writes and syncs 1 MiB at a time.
func BenchmarkAppendFlush(b *testing.B) {
	const size, writers, rawSize, total = 64 << 10, 16, 1 << 20, 256 << 20
	p := openBenchParts(b, vfs.OS{}, 1, size, Config{Synced: true})
	twin := openRawTwin(b, p.folder, rawSize)
	l := p.parts[0]
	warmMemory(b, 2*total)
	var r rounds
	for b.Loop() {
		r.raw.time(b, total, func() error { return twin.write(total/rawSize, true) })
		require.NoError(b, twin.empty())
		r.log.time(b, total, func() error {
			return together(writers, func(int) error {
				for range total / size / writers {
					next, err := p.append(l.Log)
					if err != nil {
						return err
					}
					if err := l.progress.waitFlushed(next).Err; err != nil {
						return err
					}
				}
				return nil
			})
		})
		require.NoError(b, l.Reset(0))
	}
	r.report(b)
}

// together runs n of a kind and waits for them.
func together(n int, do func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// One appender a partition writes 1 KiB, waits for its flush and writes the
// next: as many partitions are dirty at a time as there are.
func BenchmarkFlushLatency(b *testing.B) {
	var p99OfOne float64
	for _, partitions := range []int{1, 16, 256, 1000, 10_000} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			const size, warmup, window = 1 << 10, time.Second, 3 * time.Second
			p := openBenchParts(b, vfs.OS{}, partitions, size, Config{Synced: true})
			// The first batch of a leader epoch also writes the epochs' file.
			require.NoError(b, together(partitions, func(i int) error { return p.write(p.parts[i], 1) }))
			var p50, p99, perSecond []float64
			for b.Loop() {
				begin := time.Now().Add(warmup)
				all := make([][]time.Duration, partitions)
				require.NoError(b, together(partitions, func(i int) (err error) {
					all[i], err = p.closedLoop(p.parts[i], begin, begin.Add(window))
					return err
				}))
				took := slices.Concat(all...)
				slices.Sort(took)
				p50 = append(p50, quantile(took, 50))
				p99 = append(p99, quantile(took, 99))
				perSecond = append(perSecond, float64(len(took))/window.Seconds())
			}
			if partitions == 1 {
				p99OfOne = median(p99)
			} else if p99OfOne > 0 {
				b.ReportMetric(median(p99)/p99OfOne, "p99-of-1")
			}
			b.ReportMetric(median(p50), "p50-ms")
			b.ReportMetric(median(p99), "p99-ms")
			b.ReportMetric(median(perSecond), "appends/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// closedLoop returns how long appends took from Append to their flush, of those
// that began between two moments.
func (p *benchParts) closedLoop(l *benchPart, from, to time.Time) (took []time.Duration, err error) {
	for {
		begin := time.Now()
		if begin.After(to) {
			return took, nil
		}
		next, err := p.append(l.Log)
		if err != nil {
			return nil, err
		}
		if err := l.progress.waitFlushed(next).Err; err != nil {
			return nil, err
		}
		if begin.After(from) {
			took = append(took, time.Since(begin))
		}
	}
}

// quantile of sorted times, in ms.
func quantile(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)*percent/100, len(sorted)-1)].Microseconds()) / 1000
}
