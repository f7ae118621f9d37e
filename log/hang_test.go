package log

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// A disk that hangs, at whatever step of a group: OldestFlush shows since when,
// appends and reads from memory go on, other logs flush, and nothing counts as
// flushed before the disk answers, which may be with an error.
func TestAHangingDiskShows(t *testing.T) {
	for name, fault := range map[string]vfs.Fault{
		"write":            {Op: vfs.OpWrite, Pattern: "*.log"},
		"sync":             {Op: vfs.OpSync, Pattern: "*.log"},
		"sync that fails":  {Op: vfs.OpSync, Pattern: "*.log", Err: syscall.EIO},
		"sync of epochs":   {Op: vfs.OpSync, Pattern: epochsName + temporary},
		"sync of a folder": {Op: vfs.OpFolder, Pattern: "orders-0"},
		"roll":             {Op: vfs.OpCreate, Pattern: "*" + snapshotExt + temporary},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hang(t, fault) })
		})
	}
}

func hang(t *testing.T, fault vfs.Fault) {
	t.Helper()
	faults := vfs.NewFaults(vfs.NewMem())
	opts := testOptions(faults)
	opts.Flusher.Workers = 2
	opts.CheckpointInterval = time.Hour
	d := openTestDir(t, opts)
	n, n2 := newListener(), newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 150}, n))
	require.NoError(t, err)
	n.listen(l)
	spec := testSpec(Config{Synced: true}, n2)
	spec.Topic, spec.TopicID = "payments", [16]byte{7}
	other, err := d.Open(spec)
	require.NoError(t, err)
	n2.listen(other)
	fill(t, l, n, 1)
	require.Zero(t, d.OldestFlush())

	hold := make(chan struct{})
	fault.Count, fault.Hold = 1, hold
	faults.Inject(fault)
	for range 3 { // the second or third rolls
		add(t, l, 2, batch(t, 0, "held"))
	}
	synctest.Wait()
	require.Equal(t, 1, faults.Held())
	time.Sleep(7 * time.Second)
	require.Equal(t, 7*time.Second, d.OldestFlush())
	flushed := l.Flushed()
	require.Less(t, flushed, l.End())
	fill(t, other, n2, 5)
	_, next := add(t, l, 2, batch(t, 0, "more"))
	require.Equal(t, record.Offset(5), next)
	require.Len(t, readEverything(t, l), 4*len(batch(t, 0, "held"))+len(batch(t, 0, "value 0")))
	require.Equal(t, flushed, l.Flushed())
	require.Equal(t, 7*time.Second, d.OldestFlush())

	close(hold)
	if p := n.waitFlushed(next); fault.Err != nil {
		require.ErrorIs(t, p.Err, fault.Err)
		require.Equal(t, flushed, p.Flushed)
	} else {
		require.NoError(t, p.Err)
		require.Equal(t, next, p.Flushed)
	}
	synctest.Wait()
	require.Zero(t, d.OldestFlush())
	if fault.Err != nil {
		require.ErrorIs(t, d.Close(1), ErrFailed)
		return
	}
	require.NoError(t, d.Close(1))
}

// Readers of what only the disk has wait for it; nobody else does.
func TestAHangingReadHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := vfs.NewFaults(vfs.NewMem())
		opts := testOptions(faults)
		d := openTestDir(t, opts)
		n := newListener()
		l, err := d.Open(testSpec(Config{Synced: true}, n))
		require.NoError(t, err)
		n.listen(l)
		fill(t, l, n, 3)
		evictAll(d)
		hold := make(chan struct{})
		faults.Inject(vfs.Fault{Op: vfs.OpRead, Pattern: "*.log", Count: 1, Hold: hold})
		got := make(chan int)
		go func() {
			n := 0
			slices, _ := l.Read(0, 3, 1<<20) // nothing comes with an error
			for i := range slices {
				n += len(slices[i].Bytes)
				slices[i].Release()
			}
			got <- n
		}()
		synctest.Wait()
		require.Equal(t, 1, faults.Held())
		fill(t, l, n, 3)
		require.NoError(t, l.TruncateTo(5))
		require.Len(t, readAt(t, l, 3, 6, 1<<20), 2*len(batch(t, 0, "value 0")))
		close(hold)
		require.Equal(t, 3*len(batch(t, 0, "value 0")), <-got)
		require.NoError(t, d.Close(1))
	})
}
