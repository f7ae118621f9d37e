package broker

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

// doorOf is a door to an arena of 8 MiB with 4 MiB in flight.
func doorOf(unwritten *atomic.Int64) *admission {
	return newAdmission(record.NewArena(8<<20), 4<<20, unwritten.Load, func() {})
}

// unit is a size class, and what a Buf of it counts for. Six fit into what
// producers may fill, four into what may be in flight.
const (
	unitBytes = 896 << 10
	unit      = unitBytes + 96
)

func TestAdmission(t *testing.T) {
	for name, try := range map[string]func(*testing.T, *admission, *atomic.Int64){
		"up to what may be in flight": func(t *testing.T, d *admission, _ *atomic.Int64) {
			t.Helper()
			for range 4 {
				require.True(t, d.enter(t.Context(), unit, time.Second))
			}
			require.False(t, d.enter(t.Context(), unit, time.Second))
			d.release(unit)
			require.True(t, d.enter(t.Context(), unit, time.Second))
		},
		"up to the memory beside what replication is kept": func(t *testing.T, d *admission, _ *atomic.Int64) {
			t.Helper()
			bufs := hold(d.arena, 5)
			mine := hold(d.arena, 1)
			require.True(t, d.enter(t.Context(), unit, time.Second), "the sixth of eight")
			more := hold(d.arena, 1)
			require.False(t, d.enter(t.Context(), unit, time.Second))
			releaseAll(bufs)
			require.True(t, d.enter(t.Context(), unit, time.Second))
			releaseAll(mine)
			releaseAll(more)
		},
		"what waits at the door does not keep the first in line out": func(t *testing.T, d *admission, _ *atomic.Int64) {
			t.Helper()
			full := hold(d.arena, 6)
			require.True(t, d.enter(t.Context(), unit, time.Second), "nothing is in flight: alone")
			waiting := hold(d.arena, 3)
			var in atomic.Int32
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if d.enter(t.Context(), unit, time.Minute) {
						in.Add(1)
					}
				})
			}
			synctest.Wait()
			require.Zero(t, in.Load())
			full[0].Release()
			synctest.Wait()
			require.EqualValues(t, 1, in.Load(), "room for one, no time has passed")
			releaseAll(full[1:])
			wg.Wait()
			require.EqualValues(t, 3, in.Load())
			releaseAll(waiting)
		},
		"what is appended counts until it is written": func(t *testing.T, d *admission, unwritten *atomic.Int64) {
			t.Helper()
			for range 4 {
				require.True(t, d.enter(t.Context(), unit, time.Second))
				unwritten.Add(unit)
				d.release(unit)
			}
			require.False(t, d.enter(t.Context(), unit, time.Second))
			var in atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() { in.Store(d.enter(t.Context(), unit, time.Minute)) })
			synctest.Wait()
			require.False(t, in.Load())
			unwritten.Add(-unit)
			d.wrote()
			synctest.Wait()
			require.True(t, in.Load(), "no time has passed")
			wg.Wait()
		},
		"one that is too large passes alone": func(t *testing.T, d *admission, unwritten *atomic.Int64) {
			t.Helper()
			big := d.arena.Get(20 << 20)
			require.True(t, d.enter(t.Context(), big.Footprint(), time.Second))
			require.False(t, d.enter(t.Context(), big.Footprint(), time.Second))
			d.release(big.Footprint())
			unwritten.Store(2 << 20)
			require.False(t, d.enter(t.Context(), big.Footprint(), time.Second), "appended, and not written")
			unwritten.Store(0)
			require.True(t, d.enter(t.Context(), big.Footprint(), time.Second))
			big.Release()
		},
		"a long line is refused at once": func(t *testing.T, d *admission, _ *atomic.Int64) {
			t.Helper()
			require.True(t, d.enter(t.Context(), 4*unit, time.Second))
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 9 {
				wg.Go(func() { d.enter(ctx, unit, time.Minute) })
			}
			synctest.Wait()
			start := time.Now()
			require.False(t, d.enter(t.Context(), unit, time.Minute))
			require.Zero(t, time.Since(start))
			cancel()
			wg.Wait()
			require.Zero(t, d.waiting)
			require.Empty(t, d.queue)
		},
		"who gives up lets the next one in": func(t *testing.T, d *admission, _ *atomic.Int64) {
			t.Helper()
			require.True(t, d.enter(t.Context(), 3*unit, time.Second))
			var in atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() { d.enter(t.Context(), 2*unit, time.Second) })
			synctest.Wait()
			wg.Go(func() { in.Store(d.enter(t.Context(), unit, time.Minute)) })
			wg.Wait()
			require.True(t, in.Load())
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var unwritten atomic.Int64
				d := doorOf(&unwritten)
				try(t, d, &unwritten)
			})
		})
	}
}

// hold takes n units of an arena.
func hold(a *record.Arena, n int) []*record.Buf {
	bufs := make([]*record.Buf, n)
	for i := range bufs {
		bufs[i] = a.Get(unitBytes)
	}
	return bufs
}
