package log

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// openArenaLog opens a log with an arena of so many bytes on a file system that counts.
func openArenaLog(t *testing.T, arenaBytes int64) (*Dir, *Log, *listener, *vfs.Faults) {
	t.Helper()
	faults := vfs.NewFaults(vfs.NewMem())
	opts := testOptions(faults)
	opts.Arena = record.NewArena(arenaBytes)
	d := openTestDir(t, opts)
	t.Cleanup(func() { _ = d.Close(-1) })
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, n))
	require.NoError(t, err)
	n.listen(l)
	return d, l, n, faults
}

func bounded(l *Log, from record.Offset) ([]record.Slice, error) {
	return l.ReadInto(nil, ReadOptions{From: from, Limit: from + 1, MaxBytes: math.MaxInt32, Bounded: true})
}

func releaseSlices(slices []record.Slice) {
	for i := range slices {
		slices[i].Release()
	}
}

// Readers who keep what they get share the tail up to half of the arena, then get
// copies, then nothing; and all of it again once they have let go.
func TestReadersStayWithinTheirShare(t *testing.T) {
	const arenaBytes = 1 << 20
	d, l, n, faults := openArenaLog(t, arenaBytes)
	arena := d.arena
	value := strings.Repeat("x", 4000)
	var last record.Offset
	grow := func(count int) {
		for range count {
			_, last = add(t, l, 1, batch(t, 0, value))
		}
		n.waitFlushed(last)
		d.pool.done.Wait()
	}
	var held []record.Slice
	shared, copied := 0, 0
	for i := 0; ; i++ {
		require.Less(t, i, 1000, "readers never met their limit")
		grow(1)
		before := faults.Count(vfs.OpRead)
		got, err := bounded(l, last-1) // the newest batch: it is in the tail
		require.LessOrEqual(t, arena.Pinned(), arena.ReadLimit())
		if err != nil {
			require.ErrorIs(t, err, ErrReadMemory)
			break
		}
		require.Len(t, got, 1)
		held = append(held, got...)
		if faults.Count(vfs.OpRead) == before {
			shared++
			require.Zero(t, copied, "shared again after a copy, though nobody let go")
			require.LessOrEqual(t, arena.Pinned(), arena.PinLimit())
		} else {
			copied++
		}
	}
	footprint := arena.PinLimit() / int64(shared)
	require.InDelta(t, 4000, footprint, 1200, "%d shared", shared)
	require.Greater(t, copied, 10)
	require.Greater(t, arena.Pinned(), arena.PinLimit())

	// Those who are not bounded go on.
	var free []record.Slice
	for off := last - 20; off < last; off++ {
		got, err := l.Read(off, off+1, 1<<20)
		require.NoError(t, err)
		free = append(free, got...)
	}
	releaseSlices(free)

	// The tail gives way to what readers hold, and appends go on.
	grow(300)
	require.LessOrEqual(t, arena.InUse(), int64(arenaBytes)*3/4)

	releaseSlices(held)
	require.Zero(t, arena.Pinned())
	grow(1)
	before := faults.Count(vfs.OpRead)
	got, err := bounded(l, last-1)
	require.NoError(t, err)
	releaseSlices(got)
	require.Equal(t, before, faults.Count(vfs.OpRead), "shared again")
}

func TestAThousandReadersOfOneBatchPinItOnce(t *testing.T) {
	d, l, n, faults := openArenaLog(t, 64<<10)
	_, next := add(t, l, 1, batch(t, 0, strings.Repeat("x", 20_000)))
	n.waitFlushed(next)
	before := faults.Count(vfs.OpRead)
	var held []record.Slice
	for range 1000 {
		got, err := bounded(l, 0)
		require.NoError(t, err)
		held = append(held, got...)
	}
	require.Equal(t, held[0].Buf().Footprint(), d.arena.Pinned())
	require.Equal(t, before, faults.Count(vfs.OpRead))
	evictAll(d)
	require.Equal(t, held[0].Buf().Footprint(), d.arena.InUse(), "the tail let go, the readers did not")
	releaseSlices(held)
	require.Zero(t, d.arena.InUse())
}

// What is not written yet has no other copy: a bounded read of it waits.
func TestNoCopyOfWhatIsNotWritten(t *testing.T) {
	d, l, n, faults := openArenaLog(t, 128<<10)
	_, next := add(t, l, 1, batch(t, 0, strings.Repeat("x", 30_000)))
	n.waitFlushed(next)
	held, err := bounded(l, 0)
	require.NoError(t, err)
	hold := make(chan struct{})
	faults.Inject(vfs.Fault{Op: vfs.OpWrite, Pattern: "*" + logExt, Hold: hold})
	_, next = add(t, l, 1, batch(t, 0, "y"))
	reserved := d.arena.PinLimit() - d.arena.Pinned()
	require.True(t, d.arena.TryReserve(reserved, math.MaxInt64))
	_, err = bounded(l, next-1)
	require.ErrorIs(t, err, ErrReadMemory)
	close(hold)
	n.waitFlushed(next)
	got, err := bounded(l, next-1)
	require.NoError(t, err, "a copy, now that it is written")
	releaseSlices(got)
	d.arena.Unreserve(reserved)
	releaseSlices(held)
}

// A topic that is synced once a second must not hold all of that second in memory.
func TestTheTailLetsGoOfWhatIsWrittenButNotSynced(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	opts := testOptions(faults)
	opts.Arena = record.NewArena(256 << 10)
	d := openTestDir(t, opts)
	t.Cleanup(func() { _ = d.Close(-1) })
	n := newListener()
	l, err := d.Open(testSpec(Config{FlushInterval: math.MaxInt64}, n))
	require.NoError(t, err)
	n.listen(l)
	for i := range 200 {
		_, next := add(t, l, 1, batch(t, int64(i), strings.Repeat("x", 8000)))
		n.waitWritten(next)
	}
	d.pool.done.Wait()
	require.Zero(t, l.Flushed())
	require.LessOrEqual(t, d.arena.InUse(), int64(160<<10))
	require.Len(t, readAt(t, l, 0, 1, 1), len(batch(t, 0, strings.Repeat("x", 8000))))
}
