package log

import (
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// openAllocLog opens a log on a real disk, with an arena and no checkpoints, whose
// few allocations are by time and not by append.
func openAllocLog(t *testing.T, arenaBytes int64, cfg Config, journalAt int) (*Log, *record.Arena) {
	t.Helper()
	arena := record.NewArena(arenaBytes)
	d := openTestDir(t, DirOptions{
		FS: vfs.OS{}, Path: t.TempDir(), Arena: arena, DiskReserve: -1,
		Logger: slog.New(slog.DiscardHandler), CheckpointInterval: time.Hour,
		Flusher: FlusherOptions{Flusher: noSync{}, JournalAt: journalAt}, // what the disk takes is not asked here
	})
	t.Cleanup(func() {
		require.NoError(t, d.Close(-1))
		require.Zero(t, arena.InUse(), "referenced after the log was closed")
	})
	l, err := d.Open(testSpec(cfg, nil))
	require.NoError(t, err)
	return l, arena
}

type noSync struct{}

func (noSync) Flush(vfs.File) error { return nil }

// awaitFlushed waits until no more than lag records are not flushed. It spins: a
// condition variable would be a part of what is measured.
func awaitFlushed(l *Log, lag record.Offset) {
	for l.Flushed() < l.End()-lag {
		runtime.Gosched()
	}
}

const allocRuns = 2000

func TestAppendAllocatesNothing(t *testing.T) {
	skipUnderRace(t)
	for _, tt := range []struct {
		batches   int
		lag       record.Offset
		journalAt int // 1: each append goes through the journal
	}{{1, 0, 2}, {1, 200, 2}, {4, 0, 2}, {4, 200, 2}, {1, 0, 1}, {4, 200, 1}} {
		batches, lag := tt.batches, tt.lag
		t.Run(fmt.Sprintf("batches=%d/lag=%d/journal=%d", batches, lag, tt.journalAt), func(t *testing.T) {
			l, arena := openAllocLog(t, 1<<20, Config{Synced: true}, tt.journalAt)
			raw := idempotent(t, 7, 0, 0, "a value", "another")
			sequence := int32(0)
			bufs := make([]*record.Buf, batches)
			appendOnce := func() {
				for i := range bufs {
					bufs[i] = arena.Get(len(raw))
					copy(bufs[i].Bytes(), raw)
					record.SetProducer(bufs[i].Bytes(), 7, 0, sequence)
					sequence += 2
				}
				if _, _, err := l.Append(0, bufs, 0); err != nil {
					t.Fatal(err)
				}
				for _, b := range bufs {
					b.Release()
				}
				awaitFlushed(l, lag)
			}
			for range 5000 { // until the tail is full: from then on it gives way
				appendOnce()
			}
			awaitFlushed(l, 0)
			require.Zero(t, testing.AllocsPerRun(allocRuns, appendOnce))
			awaitFlushed(l, 0)
			require.Equal(t, tt.journalAt == 1, l.dir.journal.live(l.key), "the journal was used")
		})
	}
}

func TestFollowerAppendAllocatesNothing(t *testing.T) {
	skipUnderRace(t)
	l, arena := openAllocLog(t, 1<<20, Config{Synced: true}, 2)
	raw := batch(t, 1, "a value", "another")
	bufs := make([]*record.Buf, 3)
	appendOnce := func() {
		from := l.End()
		for i := range bufs {
			bufs[i] = arena.Get(len(raw))
			copy(bufs[i].Bytes(), raw)
			record.Patch(bufs[i].Bytes(), from+record.Offset(2*i), 3)
		}
		if err := l.AppendFollower(from, from+6, 0, bufs); err != nil {
			t.Fatal(err)
		}
		for _, b := range bufs {
			b.Release()
		}
		awaitFlushed(l, 200)
	}
	for range 5000 {
		appendOnce()
	}
	require.Zero(t, testing.AllocsPerRun(allocRuns, appendOnce))
	awaitFlushed(l, 0)
}

// A read of recent batches costs no allocation and no system call.
func TestTailReadCostsNothing(t *testing.T) {
	for _, bounded := range []bool{false, true} {
		faults := vfs.NewFaults(vfs.NewMem())
		opts := testOptions(faults)
		opts.Arena = record.NewArena(1 << 20)
		d := openTestDir(t, opts)
		n := newListener()
		l, err := d.Open(testSpec(Config{Synced: true}, n))
		require.NoError(t, err)
		n.listen(l)
		raw := batch(t, 1, "a value")
		for range 100 {
			b := opts.Arena.Get(len(raw))
			copy(b.Bytes(), raw)
			_, _, err := l.Append(0, []*record.Buf{b}, 0)
			require.NoError(t, err)
			b.Release()
		}
		n.waitFlushed(100)
		d.pool.done.Wait()

		before := faults.Count(vfs.OpRead)
		slices := make([]record.Slice, 0, 100)
		got := 0
		read := func() {
			var err error
			slices, err = l.ReadInto(slices[:0], ReadOptions{From: 0, Limit: 100, MaxBytes: math.MaxInt, Bounded: bounded})
			if err != nil {
				t.Fatal(err)
			}
			got = len(slices)
			for i := range slices {
				slices[i].Release()
			}
		}
		if !raceEnabled {
			require.Zero(t, testing.AllocsPerRun(allocRuns, read))
		}
		read()
		require.Equal(t, 100, got)
		require.Equal(t, before, faults.Count(vfs.OpRead), "the tail was read from the file")
		evictAll(d)
		read()
		require.Equal(t, 1, got, "one run from the file")
		require.NotEqual(t, before, faults.Count(vfs.OpRead), "nothing is counted")
		require.NoError(t, d.Close(-1))
		require.Zero(t, opts.Arena.InUse())
		require.Zero(t, opts.Arena.Pinned())
	}
}

func skipUnderRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
}
