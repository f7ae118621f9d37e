package record_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

func TestArenaReuses(t *testing.T) {
	a := record.NewArena(1 << 20)
	b := a.Get(1000)
	require.Len(t, b.Bytes(), 1000)
	require.Equal(t, 1000, b.Len())
	require.EqualValues(t, 1024, a.InUse())
	first := &b.Bytes()[0]
	b.Release()
	require.Zero(t, a.InUse())
	c := a.Get(900) // 896 is a class, 900 is above it
	require.Same(t, first, &c.Bytes()[0])
	c.Release()
	perGet := testing.AllocsPerRun(100, func() { a.Get(900).Release() })
	require.LessOrEqual(t, perGet, 1.0, "the Buf alone")
}

func TestArenaClasses(t *testing.T) {
	a := record.NewArena(0)
	for n := 0; n < 20<<20; n += 1 + n/5 {
		b := a.Get(n)
		require.Len(t, b.Bytes(), n)
		slack := a.InUse() - int64(n)
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
	require.Equal(t, 1024, known, "half of the used 2 MiB fits the limit")
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
