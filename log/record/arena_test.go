package record_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

// overhead is what a Buf counts for beside its bytes.
const overhead = 96

func TestArenaReuses(t *testing.T) {
	a := record.NewArena(1 << 20)
	b := a.Get(1000)
	require.Len(t, b.Bytes(), 1000)
	require.Equal(t, 1000, b.Len())
	require.EqualValues(t, 1024+overhead, a.InUse())
	first := &b.Bytes()[0]
	b.Release()
	require.Zero(t, a.InUse())
	c := a.Get(900) // 896 is a class, 900 is above it
	require.Same(t, first, &c.Bytes()[0])
	c.Release()
	perGet := testing.AllocsPerRun(100, func() { a.Get(900).Release() })
	require.Zero(t, perGet)
}

func TestArenaClasses(t *testing.T) {
	a := record.NewArena(0)
	for n := 0; n < 20<<20; n += 1 + n/5 {
		b := a.Get(n)
		require.Len(t, b.Bytes(), n)
		slack := a.InUse() - int64(n) - overhead
		require.GreaterOrEqual(t, slack, int64(0))
		require.LessOrEqual(t, slack, int64(max(n/4, 64)), "slack of %d bytes", n)
		b.Release()
		require.Zero(t, a.InUse())
	}
}

// Idle memory of one size must not add to the used memory of another, and what is
// given back beyond the limit is not kept.
func TestArenaKeepsWithinItsLimit(t *testing.T) {
	a := record.NewArena(1 << 20)
	seen := map[*byte]bool{}
	held := func(n, size int) (bufs []*record.Buf, known int) {
		for range n {
			b := a.Get(size)
			bufs = append(bufs, b)
			if seen[&b.Bytes()[0]] {
				known++
			}
			seen[&b.Bytes()[0]] = true
		}
		return bufs, known
	}
	release := func(bufs []*record.Buf) {
		for _, b := range bufs {
			b.Release()
		}
	}
	small, _ := held(2048, 1024)
	release(small)
	small, known := held(2048, 1024)
	require.Equal(t, (1<<20)/(1024+overhead), known, "half of the used 2 MiB fits the limit")
	release(small)

	large, _ := held(8, 128<<10) // all of the limit: the small ones are dropped
	small, known = held(8, 1024)
	require.Zero(t, known)
	release(small)
	release(large)
	require.Zero(t, a.InUse())
	require.Equal(t, int64(1<<20), a.Limit())
}

func TestReleaseTooOftenPanics(t *testing.T) {
	for _, b := range []*record.Buf{record.NewArena(1 << 20).Get(10), record.NewBuf([]byte("x"))} {
		b.Retain()
		require.Equal(t, 2, b.Refs())
		b.Release()
		b.Release()
		require.Panics(t, b.Release)
		require.Panics(t, func() { b.Retain() })
	}
}

func TestSliceReferences(t *testing.T) {
	a := record.NewArena(1 << 20)
	b := a.Get(100)
	s := record.SliceOf(b, 10, 20)
	again := s.Retain()
	b.Release()
	require.Len(t, s.Bytes, 10)
	require.Equal(t, 10, cap(s.Bytes), "an append must not reach the neighbour")
	s.Release()
	s.Release() // the zero Slice has nothing to give back
	require.NotZero(t, a.InUse())
	again.Release()
	require.Zero(t, a.InUse())
	var none record.Slice
	none = none.Retain()
	none.Release()
}

func TestArenaConcurrently(t *testing.T) {
	a := record.NewArena(256 << 10)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				b := a.Get((g*977 + i*131) % 40_000)
				for j := range b.Bytes() {
					b.Bytes()[j] = byte(g)
				}
				s := record.SliceOf(b, 0, b.Len())
				b.Release()
				for _, x := range s.Bytes {
					if x != byte(g) {
						t.Error("memory in use was handed out again")
						break
					}
				}
				s.Release()
			}
		})
	}
	wg.Wait()
	require.Zero(t, a.InUse())
}

func TestPinsCountABufOnceHoweverManyReaders(t *testing.T) {
	a := record.NewArena(1 << 20)
	b := a.Get(1000)
	owner := record.SliceOf(b, 0, 10)
	require.Zero(t, a.Pinned(), "an owner is no reader")
	var readers []record.Slice
	for range 1000 {
		readers = append(readers, record.PinOf(b, 0, 500))
	}
	require.Equal(t, b.Footprint(), a.Pinned())
	again := readers[0].Retain()
	for i := range readers {
		readers[i].Release()
	}
	require.Equal(t, b.Footprint(), a.Pinned(), "a copy of a reader's slice pins")
	owner.Release()
	b.Release()
	require.NotZero(t, a.InUse(), "a reader holds it though the owners are gone")
	again.Release()
	require.Zero(t, a.Pinned())
	require.Zero(t, a.InUse())
}

func TestTryPinStopsAtTheLimit(t *testing.T) {
	a := record.NewArena(1 << 20)
	one, two := a.Get(1000), a.Get(1000)
	limit := one.Footprint()
	first, ok := record.TryPinOf(one, 0, 10, limit)
	require.True(t, ok)
	_, ok = record.TryPinOf(two, 0, 10, limit)
	require.False(t, ok)
	shared, ok := record.TryPinOf(one, 0, 10, 0)
	require.True(t, ok, "it is pinned already and costs nothing more")
	require.Equal(t, limit, a.Pinned())
	first.Release()
	shared.Release()
	third, ok := record.TryPinOf(two, 0, 10, limit)
	require.True(t, ok)
	third.Release()
	require.True(t, a.TryReserve(limit, limit))
	_, ok = record.TryPinOf(two, 0, 10, limit)
	require.False(t, ok, "a reservation counts")
	a.Unreserve(limit)
	one.Release()
	two.Release()
	require.Zero(t, a.Pinned())
}

func TestWatchHearsOfWhatFalls(t *testing.T) {
	a := record.NewArena(1 << 20)
	var inUse, pinned int
	a.WatchInUse(&record.Watch{Level: 2000, Fell: func() { inUse++ }})
	a.WatchPinned(&record.Watch{Level: 0, Fell: func() { pinned++ }})
	one, two := a.Get(1000), a.Get(1000)
	s := record.PinOf(one, 0, 1)
	two.Release()
	require.Equal(t, 1, inUse, "one Buf of 1,120 bytes is left")
	require.Zero(t, pinned)
	one.Release()
	require.Equal(t, 1, inUse, "a reader still holds it")
	s.Release()
	require.Equal(t, 2, inUse)
	require.Equal(t, 1, pinned)
	a.Charge(100)
	require.EqualValues(t, 100, a.InUse())
	a.Charge(-100)
	require.Equal(t, 2, pinned)
	a.WatchInUse(nil)
	a.Get(1).Release()
	require.Equal(t, 3, inUse)
}

// Many readers pin and unpin the same few Bufs at once: nothing is counted twice
// or lost.
func TestPinsConcurrently(t *testing.T) {
	a := record.NewArena(1 << 20)
	bufs := []*record.Buf{a.Get(100), a.Get(200), a.Get(300)}
	limit := bufs[0].Footprint() + bufs[1].Footprint()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				if s, ok := record.TryPinOf(bufs[(g+i)%3], 0, 1, limit); ok {
					s.Release()
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, a.Pinned())
	for _, b := range bufs {
		require.Equal(t, 1, b.Refs())
		b.Release()
	}
	require.Zero(t, a.InUse())
}
