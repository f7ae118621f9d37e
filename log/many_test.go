package log

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// hasty is the operating system's file system without its syncs: for set-ups.
type hasty struct{ vfs.OS }

func (h hasty) Open(name string) (vfs.File, error) { return hastyFile{}.of(h.OS.Open(name)) }

func (h hasty) Create(name string) (vfs.File, error) { return hastyFile{}.of(h.OS.Create(name)) }

func (hasty) SyncFolder(string) error { return nil }

type hastyFile struct{ vfs.File }

func (hastyFile) of(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return hastyFile{f}, nil
}

func (hastyFile) Datasync() error { return nil }

// manyTopics and partitions of each make a directory of many logs.
const manyPartitions = 100

func manySpec(i int, cfg Config) Spec {
	return Spec{
		Topic: "topic-" + strconv.Itoa(i/manyPartitions), TopicID: [16]byte{1, byte(i / manyPartitions)},
		Partition: int32(i % manyPartitions), Config: cfg,
	}
}

// forMany does something for each of count logs, side by side as a broker opens them.
func forMany(count int, do func(i int) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards err
		err  error
		next = make(chan int)
	)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if e := do(i); e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
				}
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	wg.Wait()
	return err
}

// makeMany makes a directory of count logs, cleanly stopped, each with a few
// batches in each of so many segments.
func makeMany(tb testing.TB, path string, count, segments int) {
	tb.Helper()
	opts := testOptions(hasty{})
	opts.Path, opts.CheckpointInterval = path, time.Hour
	d := openTestDir(tb, opts)
	payload := batch(tb, 1000, strings.Repeat("x", 1000))
	require.NoError(tb, forMany(count, func(i int) error {
		l, err := d.Open(manySpec(i, Config{SegmentBytes: 4000}))
		if err != nil {
			return err
		}
		for range 3 * segments {
			if _, _, err := tryAdd(l, 1, payload); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(tb, d.Close(1))
}

// reopenMany opens what makeMany made.
func reopenMany(tb testing.TB, path string, count int) (*Dir, []*Log) {
	tb.Helper()
	opts := testOptions(vfs.OS{})
	opts.Path, opts.CheckpointInterval = path, 0
	opts.Logger = slog.New(slog.NewJSONHandler(new(bytes.Buffer), nil)) // each log has one with its name
	d := openTestDir(tb, opts)
	logs := make([]*Log, count)
	require.NoError(tb, forMany(count, func(i int) (err error) {
		logs[i], err = d.Open(manySpec(i, Config{Synced: true}))
		return err
	}))
	return d, logs
}

// BenchmarkOpen10000 opens 10,000 logs that were stopped cleanly, as a broker
// does: 16 at once. It reports the system calls' share through -cpuprofile only.
func BenchmarkOpen10000(b *testing.B) {
	const count = 10_000
	for _, segments := range []int{1, 4} {
		b.Run(fmt.Sprintf("segments=%d", segments), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "data")
			makeMany(b, path, count, segments)
			for b.Loop() {
				start := time.Now()
				d, _ := reopenMany(b, path, count)
				b.ReportMetric(time.Since(start).Seconds(), "s/open")
				b.StopTimer()
				start = time.Now()
				require.NoError(b, d.Close(1))
				b.ReportMetric(time.Since(start).Seconds(), "s/stop")
				b.StartTimer()
			}
		})
	}
}

// An idle partition takes little memory and no open file. PENSTOCK_TEST_LOGS=10000
// makes it the figure that docs/performance.md quotes.
func TestIdleLogs(t *testing.T) {
	count := 300
	if testing.Short() {
		count = 200
	}
	if v, err := strconv.Atoi(os.Getenv("PENSTOCK_TEST_LOGS")); err == nil {
		count = v
	}
	path := filepath.Join(t.TempDir(), "data")
	makeMany(t, path, count, 1)
	before := heap()
	d, logs := reopenMany(t, path, count)
	perLog := (heap() - before) / int64(count)
	t.Logf("%d idle logs: %d bytes each", count, perLog)
	open, _ := d.files.counts()
	t.Logf("%d descriptors", descriptors(t))
	require.Zero(t, open)
	require.Less(t, perLog, int64(10<<10))
	require.Equal(t, record.Offset(3), logs[count-1].End())
	require.NoError(t, d.Close(-1))
}

// What a burst took is given back, the index of what was written too.
func TestIdleLogsAfterABurst(t *testing.T) {
	const count, batches = 100, 3000
	opts := testOptions(hasty{})
	opts.Path = filepath.Join(t.TempDir(), "data")
	opts.TailBytes, opts.CheckpointInterval, opts.OpenFiles = 16<<10, time.Hour, 1
	payloads := make([][]byte, batches)
	for i := range payloads {
		payloads[i] = batch(t, int64(i), "a value")
	}
	before := heap()
	d := openTestDir(t, opts)
	logs := make([]*Log, count)
	for i := range logs {
		var err error
		logs[i], err = d.Open(manySpec(i, Config{Synced: true, IndexInterval: 100}))
		require.NoError(t, err)
	}
	for _, l := range logs {
		for _, payload := range payloads {
			add(t, l, 1, payload)
		}
	}
	for _, l := range logs {
		awaitFlushed(l, 0)
	}
	evictAll(d)
	for _, l := range logs {
		require.NoError(t, l.Rest())
		require.NoError(t, l.Rest())
	}
	perLog := (heap() - before) / count
	t.Logf("%d bytes each", perLog)
	require.Less(t, perLog, int64(10<<10))
	require.NoError(t, d.Close(-1))
}

func heap() int64 {
	for range 3 { // what pools hold goes in two turns
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func descriptors(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(tb, err)
	return len(entries)
}

// A clean stop leaves little to do: an open reads six files of a log, the segment once more for
// what vouches for the epochs, and writes none, and a stop after which nothing was written writes none either.
func TestCleanReopenTouchesLittle(t *testing.T) {
	mem, batches := stopped(t, 10)
	faults := vfs.NewFaults(mem)
	opts := testOptions(faults)
	opts.CheckpointInterval = time.Hour
	d := openTestDir(t, opts)
	_, _, err := d.CleanMarker()
	require.NoError(t, err)
	counts := func() (out []int) {
		for _, op := range []vfs.Op{vfs.OpOpen, vfs.OpCreate, vfs.OpWrite, vfs.OpSync, vfs.OpFolder, vfs.OpRename, vfs.OpRemove} {
			out = append(out, faults.Count(op))
		}
		return out
	}
	want := counts()
	l, err := d.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	want[0] += len([]string{metadataName, logExt, indexExt, timeExt, epochsName, logExt, snapshotExt})
	require.Equal(t, want, counts())
	require.NoError(t, l.Close())
	require.Equal(t, want, counts())
	open, _ := d.files.counts()
	require.Zero(t, open)

	l, err = d.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	require.Nil(t, l.active().index)
	off, _, found, err := l.OffsetForTime(1005, 10)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, record.Offset(5), off)
	require.Equal(t, string(batches[7]), string(readAt(t, l, 7, 8, 1)))
	require.Nil(t, l.active().index, "look-ups need no memory")
	require.NoError(t, d.Close(1))
}

// Index files whose ends are right and whose middle is not: they are hints only.
func TestMisleadingIndexFiles(t *testing.T) {
	for name, mangle := range map[string]func(b []byte){
		"into a batch":   func(b []byte) { b[2*indexEntrySize+7]++ },
		"behind the log": func(b []byte) { b[2*indexEntrySize+5]++ },
		"negative":       func(b []byte) { b[2*indexEntrySize+4] |= 0x80 },
		"another batch":  func(b []byte) { copy(b[2*indexEntrySize+4:3*indexEntrySize], b[5*indexEntrySize+4:]) },
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			cfg := Config{Synced: true, IndexInterval: 1}
			d, l, n := openTestLog(t, mem, cfg)
			fill(t, l, n, 10)
			want := readEverything(t, l)
			require.NoError(t, d.Close(1))
			rawFile(t, mem, strings.TrimSuffix(logFile, logExt)+indexExt, func(b []byte) []byte {
				mangle(b)
				return b
			})
			d, l, n = openTestLog(t, mem, cfg)
			for off := record.Offset(9); off >= 0; off-- { // no reader goes on where another ended
				require.NotEmpty(t, readAt(t, l, off, off+1, 1))
			}
			require.Equal(t, want, readEverything(t, l))
			require.Equal(t, DamageNone, l.Damage())
			fill(t, l, n, 1)
			require.Equal(t, record.Offset(11), l.Flushed())
			for off := record.Offset(10); off >= 0; off-- {
				require.NotEmpty(t, readAt(t, l, off, off+1, 1))
			}
			require.Equal(t, DamageNone, l.Damage())
			require.NoError(t, d.Close(-1)) // unchecked: the index is still wrong
		})
	}
}

// BenchmarkCheckpoint10000 writes the checkpoint of 10,000 logs, as each of their
// truncations, resets and removals of segments does.
func BenchmarkCheckpoint10000(b *testing.B) {
	opts := testOptions(hasty{})
	opts.Path, opts.CheckpointInterval = b.TempDir(), time.Hour
	d := openTestDir(b, opts)
	for i := range 10_000 {
		s := manySpec(i, Config{})
		d.logs[logKey{s.TopicID, s.Partition}] = d.newLog(opts.Path, s)
	}
	for b.Loop() {
		require.NoError(b, d.checkpoint.write())
	}
	clear(d.logs)
	require.NoError(b, d.Close(-1))
}
