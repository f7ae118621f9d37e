package log

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// Appenders, readers, retention and crashes at once: what was reported flushed
// before the power cut is there afterwards, and readers see whole batches only.
func TestEverythingAtOnce(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(mem)
	opts.TailBytes = 8 << 10
	d := openTestDir(t, opts)
	const partitions, appends = 4, 300
	cfg := Config{Synced: true, SegmentBytes: 2000, IndexInterval: 100, RetentionBytes: 10_000}
	var wg sync.WaitGroup
	var logs []*Log
	for p := range int32(partitions) {
		n := newListener()
		spec := testSpec(cfg, n)
		spec.Partition = p
		l, err := d.Open(spec)
		require.NoError(t, err)
		n.listen(l)
		logs = append(logs, l)
		wg.Go(func() {
			for i := range appends {
				if _, _, err := tryAdd(l, 0, batch(t, 0, fmt.Sprintf("%d of partition %d", i, p))); err != nil {
					t.Error(err)
					return
				}
			}
			n.waitFlushed(appends)
		})
		for range 2 {
			wg.Go(func() { chase(t, l, appends) })
		}
		wg.Go(func() {
			for range 20 {
				l.SetHighWatermark(l.Flushed())
				if _, err := l.Retain(time.Now()); err != nil {
					t.Error(err)
				}
				_, _, _, _ = l.OffsetForTime(0, math.MaxInt64)
			}
		})
	}
	for seed := range uint64(5) {
		flushed := make([]record.Offset, partitions)
		for p, l := range logs {
			flushed[p] = l.Flushed()
		}
		verifyCrash(t, mem.CrashClone(rand.New(rand.NewPCG(seed, 0))), cfg, flushed)
	}
	wg.Wait()
	require.NoError(t, d.Close(1))
}

// chase reads a log to its end while it grows.
func chase(t *testing.T, l *Log, until record.Offset) {
	t.Helper()
	for off := record.Offset(0); off < until; {
		slices, err := l.Read(off, math.MaxInt64, 500)
		if errors.Is(err, ErrOffsetOutOfRange) {
			off = l.Start()
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		for i := range slices {
			for b := slices[i].Bytes; len(b) > 0; {
				info, ok := record.Peek(b)
				if !ok || info.BaseOffset != off || !record.VerifyCRC(b[:info.Size]) {
					t.Errorf("bad batch at %d: %+v", off, info)
					return
				}
				off, b = info.NextOffset(), b[info.Size:]
			}
			slices[i].Release()
		}
	}
}

func verifyCrash(t *testing.T, mem *vfs.Mem, cfg Config, flushed []record.Offset) {
	t.Helper()
	d := openTestDir(t, testOptions(mem))
	for p := range flushed {
		spec := testSpec(cfg, nil)
		spec.Partition = int32(p)
		l, err := d.Open(spec)
		require.NoError(t, err)
		require.Equal(t, DamageNone, l.Damage(), "%v", l.Recovery().Cause)
		require.GreaterOrEqual(t, l.End(), flushed[p])
		readEverything(t, l)
	}
	require.NoError(t, d.Close(1))
}

// Truncation under readers: they see the old bytes or the new ones, whole.
func TestTruncationUnderReaders(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 1000})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				slices, err := l.Read(5, math.MaxInt64, 300)
				if err != nil && !errors.Is(err, ErrOffsetOutOfRange) {
					t.Error(err)
					return
				}
				for i := range slices {
					if info, ok := record.Peek(slices[i].Bytes); !ok || !record.VerifyCRC(slices[i].Bytes[:info.Size]) {
						t.Errorf("bad batch")
					}
					slices[i].Release()
				}
			}
		})
	}
	for round := range 30 {
		for i := range 20 {
			add(t, l, record.Epoch(round), batch(t, 0, fmt.Sprintf("%d in round %d", i, round)))
		}
		n.waitFlushed(l.End())
		evictAll(d)
		require.NoError(t, l.TruncateTo(record.Offset(round%8)))
	}
	close(stop)
	wg.Wait()
}

// 1,000 readers that never let go do not hold back appends or flushes.
func TestStalledReadersHoldNothingBack(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.TailBytes = 16 << 10
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, n))
	require.NoError(t, err)
	n.listen(l)
	fill(t, l, n, 10)
	var held []record.Slice
	for range 1000 {
		s, err := l.Read(0, 10, 10_000)
		require.NoError(t, err)
		held = append(held, s...)
	}
	fill(t, l, n, 500)
	for i := range held {
		held[i].Release()
	}
	require.NoError(t, d.Close(1))
}

// gate is a Flusher that holds the files of one partition back.
type gate struct {
	held    func(f vfs.File) bool
	entered chan struct{}
	open    chan struct{}
}

func (g gate) Flush(f vfs.File) error {
	if g.held(f) {
		close(g.entered)
		<-g.open
	}
	return f.Datasync()
}

// A flush that hangs holds back its own log only, and is seen to hang.
func TestNoLogWaitsForAnother(t *testing.T) {
	now := time.Unix(1000, 0)
	var mu sync.Mutex // guards now and slow
	var slow vfs.File
	g := gate{entered: make(chan struct{}), open: make(chan struct{})}
	g.held = func(f vfs.File) bool {
		mu.Lock()
		defer mu.Unlock()
		return f == slow
	}
	opts := testOptions(vfs.NewMem())
	opts.Flusher = FlusherOptions{Workers: 2, Flusher: g}
	opts.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	d := openTestDir(t, opts)
	n, n2 := newListener(), newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, n))
	require.NoError(t, err)
	n.listen(l)
	spec := testSpec(Config{Synced: true}, n2)
	spec.Partition = 1
	other, err := d.Open(spec)
	require.NoError(t, err)
	n2.listen(other)
	mu.Lock()
	slow = l.active().file.file
	mu.Unlock()

	add(t, l, 1, batch(t, 0, "held"))
	<-g.entered
	fill(t, other, n2, 10)
	add(t, l, 1, batch(t, 0, "appends go on"))
	require.Len(t, readAt(t, l, 0, 2, 1000), len(batch(t, 0, "held"))+len(batch(t, 0, "appends go on")), "reads too")
	require.Zero(t, l.Flushed())
	mu.Lock()
	now = now.Add(7 * time.Second)
	slow = nil
	mu.Unlock()
	require.Equal(t, 7*time.Second, d.OldestFlush())
	close(g.open)
	n.waitFlushed(2)
	require.NoError(t, d.Close(1))
	require.Zero(t, d.OldestFlush())
}

// What gathers while a flush runs goes out with one write and one sync.
func TestGroupsShareOneWriteAndOneSync(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	g := gate{entered: make(chan struct{}), open: make(chan struct{})}
	var once sync.Once
	g.held = func(vfs.File) (first bool) {
		once.Do(func() { first = true })
		return first
	}
	opts := testOptions(faults)
	opts.Flusher.Flusher = g
	opts.CheckpointInterval = time.Hour
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, n))
	require.NoError(t, err)
	n.listen(l)
	add(t, l, 1, batch(t, 0, "first"))
	<-g.entered
	for range 100 {
		add(t, l, 1, batch(t, 0, "gathered"))
	}
	writes, syncs := faults.Count(vfs.OpWrite), faults.Count(vfs.OpSync)
	close(g.open)
	n.waitFlushed(101)
	// The first group's sync and its epochs (a write and a sync), and the second group.
	require.Equal(t, []int{writes + 2, syncs + 3}, []int{faults.Count(vfs.OpWrite), faults.Count(vfs.OpSync)})
	require.NoError(t, d.Close(1))
}

// The same on a real file system.
func TestOnDisk(t *testing.T) {
	opts := testOptions(vfs.OS{})
	opts.Path = t.TempDir() + "/not/yet"
	opts.PageCacheBytes = 1000
	cfg := Config{Synced: true, SegmentBytes: 2000}
	var want []byte
	for round := range 3 {
		d := openTestDir(t, opts)
		n := newListener()
		l, err := d.Open(testSpec(cfg, n))
		require.NoError(t, err)
		n.listen(l)
		require.Equal(t, want, append([]byte(nil), readEverything(t, l)...))
		fill(t, l, n, 50)
		evictAll(d)
		require.NoError(t, l.TruncateTo(record.Offset(40*(round+1))))
		want = readEverything(t, l)
		require.NoError(t, d.CheckReserve())
		require.NoError(t, d.Close(int64(round)))
	}
}
