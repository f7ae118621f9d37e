package log

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// slowFlusher takes its time.
type slowFlusher struct{ takes time.Duration }

func (s *slowFlusher) Flush(f vfs.File) error {
	time.Sleep(s.takes)
	if f == nil {
		return nil
	}
	return f.Datasync()
}

func TestReadersGiveWayToFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowFlusher{takes: time.Millisecond}
		p := &readPace{Flusher: slow, now: time.Now}
		reads := func(n, bytes int) time.Duration {
			begin := time.Now()
			for range n {
				p.wait(bytes)
			}
			return time.Since(begin)
		}
		require.Zero(t, reads(1000, 1<<20), "nobody writes")
		for range 200 {
			require.NoError(t, p.Flush(nil))
		}
		const one = flushesAMiB * time.Millisecond
		require.Zero(t, reads(1, 1<<20))
		require.InDelta(t, 5*one, reads(5, 1<<20), float64(one/100), "a MiB in the time of some flushes")
		require.InDelta(t, one+4*one/4, reads(5, 1<<18), float64(one/100), "by bytes; the last one is owed")

		require.NoError(t, p.Flush(nil))
		begin := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { reads(4, 1<<20) })
		}
		wg.Wait()
		require.InDelta(t, 11*one, time.Since(begin), float64(one/2), "all readers share one pace")

		slow.takes = time.Hour
		require.NoError(t, p.Flush(nil))
		require.LessOrEqual(t, reads(2, 1<<20), flushesAMiB*3*time.Millisecond, "a disk that hung counts little")
		time.Sleep(paceMemory + 1)
		require.Zero(t, reads(1000, 1<<20), "nobody writes any more")
	})
}

// What is in the page cache costs no wait; what is not does, while others flush.
func TestOnlyReadersOfTheDiskWait(t *testing.T) {
	for _, cached := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			opts := testOptions(vfs.NewMem())
			opts.Flusher.Flusher = &slowFlusher{takes: 10 * time.Millisecond}
			if !cached {
				opts.PageCacheBytes = 1
			}
			d := openTestDir(t, opts)
			n := newListener()
			l, err := d.Open(testSpec(Config{Synced: true}, n))
			require.NoError(t, err)
			n.listen(l)
			fill(t, l, n, 20)
			d.pages.done.Wait()
			evictAll(d)
			begin := time.Now()
			for off := range record.Offset(20) {
				require.NotEmpty(t, readAt(t, l, off, 20, 1))
			}
			require.Equal(t, cached, time.Since(begin) == 0)
			require.NoError(t, d.Close(-1))
		})
	}
}
