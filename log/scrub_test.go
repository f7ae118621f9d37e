package log

import (
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

func scrubAll(t *testing.T, l *Log) error {
	t.Helper()
	evictAll(l.dir)
	_, err := NewScrubber(ScrubberOptions{BytesPerSecond: -1}).Scrub(t.Context(), l)
	return err
}

// A sector that gives an error is damage like one that gives other bytes, and what is
// before it is whole, no more: whoever compares copies must not believe in the rest.
func TestScrubOfABadSector(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	d, l, n := openTestLog(t, faults, Config{Synced: true, SegmentBytes: 700})
	fill(t, l, n, 40)
	require.Greater(t, len(l.segments), 3)
	fourth := l.segments[3].base
	faults.Inject(vfs.Fault{Op: vfs.OpRead, Pattern: "*.log", After: 3, Err: syscall.EIO, Count: 1})
	err := scrubAll(t, l)
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
	_, end := l.Readable()
	require.Equal(t, fourth, end)
	require.NoError(t, d.Close(-1))

	_, l, _ = openTestLog(t, faults, Config{Synced: true, SegmentBytes: 700})
	_, end = l.Readable()
	require.Equal(t, fourth, end)
	require.NoError(t, l.dir.Close(-1))
}

// A file that is gone ends what is whole where its segment begins, whoever misses it.
func TestWhereMissingBegins(t *testing.T) {
	for name, find := range map[string]func(t *testing.T, l *Log) error{
		"a scrub": scrubAll,
		"a read": func(_ *testing.T, l *Log) error {
			_, err := l.Read(l.segments[2].base+1, l.End(), 1<<20)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700})
			fill(t, l, n, 40)
			evictAll(d)
			third := l.segments[2]
			d.files.forget(third.file)
			require.NoError(t, mem.Remove(third.file.name))
			require.ErrorIs(t, find(t, l), os.ErrNotExist)
			require.Equal(t, DamageMissing, l.Damage())
			_, end := l.Readable()
			require.Equal(t, third.base, end)
			require.NoError(t, d.Close(-1))
		})
	}
}

// The first place counts, also where none was known, and where a read asked for what lies
// behind it.
func TestTheFirstDamageCounts(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700})
	fill(t, l, n, 30)
	last := l.active().file.name
	require.NoError(t, d.Close(1))
	require.NoError(t, mem.Remove(last))
	d, l, _ = openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700})
	require.Equal(t, DamageLostBytes, l.Damage())
	_, end := l.Readable()
	require.Equal(t, l.End(), end)
	require.Negative(t, l.sound)

	second := l.segments[1]
	f, err := mem.Open(second.file.name)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{0xff}, 0) // the header of its first batch
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = l.Read(second.base+1, l.End(), 1<<20)
	require.ErrorIs(t, err, ErrCorrupt)
	_, end = l.Readable()
	require.Equal(t, second.base, end)
	require.NoError(t, d.Close(-1))
}

// listening calls once, when it is armed, before a folder is listed.
type listening struct {
	vfs.FS
	once atomic.Pointer[func()]
}

func (f *listening) List(name string) ([]vfs.Entry, error) {
	if call := f.once.Swap(nil); call != nil {
		(*call)()
	}
	return f.FS.List(name)
}

// Damage that was met in what a reset has taken meanwhile is none of the new log.
func TestScrubBesideAReset(t *testing.T) {
	fsys := &listening{FS: vfs.NewMem()}
	d, l, n := openTestLog(t, fsys, Config{Synced: true, SegmentBytes: 700})
	fill(t, l, n, 40)
	evictAll(d)
	second := l.segments[1].file
	d.files.forget(second)
	require.NoError(t, fsys.Remove(second.name))
	reset := func() { require.NoError(t, l.Reset(0)) }
	fsys.once.Store(&reset)
	require.ErrorIs(t, scrubAll(t, l), os.ErrNotExist)
	require.Nil(t, fsys.once.Load(), "the reset did not come between")
	require.Equal(t, DamageNone, l.Damage())
	fill(t, l, n, 3)
	require.NoError(t, scrubAll(t, l))
	require.NoError(t, d.Close(-1))
}

// A scrub that comes back to a segment which was truncated and written on meanwhile
// begins it again: where it had been may be the middle of a batch.
func TestScrubBesideATruncation(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true})
	large := func(bytes int) {
		_, next := add(t, l, 1, batch(t, 0, strings.Repeat("v", bytes)))
		n.waitFlushed(next)
	}
	for range 3 {
		large(600 << 10)
	}
	evictAll(d)
	s := NewScrubber(ScrubberOptions{BytesPerSecond: -1})
	at := scrubPlace{next: record.UnknownOffset, until: l.End()}
	_, done, err := s.piece(t.Context(), l, &at)
	require.NoError(t, err)
	require.False(t, done)
	require.Equal(t, record.Offset(2), at.next)
	require.NoError(t, l.TruncateTo(1))
	for range 3 {
		large(500 << 10)
	}
	evictAll(d)
	for !done {
		_, done, err = s.piece(t.Context(), l, &at)
		require.NoError(t, err)
	}
	require.Equal(t, DamageNone, l.Damage())
	require.NoError(t, d.Close(-1))
}

// A log that is closed under a scrub has ended it: its caller has asked for no end.
func TestScrubOfALogThatCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := vfs.NewFaults(vfs.NewMem())
		d, l, n := openTestLog(t, faults, Config{Synced: true, SegmentBytes: 700})
		fill(t, l, n, 20)
		evictAll(d)
		hold := make(chan struct{})
		faults.Inject(vfs.Fault{Op: vfs.OpRead, Pattern: "*.log", Hold: hold, Count: 1})
		scrubbed, closed := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := NewScrubber(ScrubberOptions{BytesPerSecond: -1}).Scrub(t.Context(), l)
			scrubbed <- err
		}()
		synctest.Wait()
		go func() { closed <- l.Close() }()
		synctest.Wait()
		require.Empty(t, closed, "it waits for the read")
		close(hold)
		require.ErrorIs(t, <-scrubbed, ErrClosed)
		require.NoError(t, <-closed)
		require.NoError(t, d.Close(-1))
	})
}
