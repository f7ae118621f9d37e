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
