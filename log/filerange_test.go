package log

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// rangedLog is a log of 30 batches of 20 KB on a real file system, which no tail holds
// any more, and a clock.
func rangedLog(t *testing.T, cfg Config) (d *Dir, l *Log, n *listener, age func(time.Duration)) {
	t.Helper()
	var now atomic.Int64
	now.Store(time.Unix(1000, 0).UnixNano())
	opts := testOptions(vfs.OS{})
	opts.Path, opts.Now = t.TempDir(), func() time.Time { return time.Unix(0, now.Load()) }
	d = openTestDir(t, opts)
	t.Cleanup(func() { _ = d.Close(-1) })
	n = newListener()
	cfg.Synced = true
	l, err := d.Open(testSpec(cfg, n))
	require.NoError(t, err)
	n.listen(l)
	add20k(t, l, n, 30)
	evictAll(d)
	return d, l, n, func(by time.Duration) { now.Add(int64(by)) }
}

func add20k(t tester, l *Log, n *listener, count int) {
	t.Helper()
	for i := range count {
		add(t, l, 1, batch(t, int64(i), strings.Repeat(string(rune('a'+i)), 20_000)))
	}
	n.waitFlushed(l.End())
}

// socket is a connection, and what its other end gets until it is closed.
func socket(t *testing.T) (c *net.TCPConn, got func() []byte) {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	dialed, err := new(net.Dialer).DialContext(t.Context(), "tcp", lis.Addr().String())
	require.NoError(t, err)
	client, err := lis.Accept()
	require.NoError(t, err)
	all := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(client)
		_ = client.Close()
		all <- b
	}()
	c, ok := dialed.(*net.TCPConn)
	require.True(t, ok)
	return c, func() []byte {
		_ = c.Close()
		return <-all
	}
}

// sent is what arrives of a range that is sent in pieces.
func sent(t *testing.T, r *FileRange) ([]byte, error) {
	t.Helper()
	c, got := socket(t)
	for at := 0; at < r.Len(); {
		n, err := r.SendTo(c, at, min(30_000, r.Len()-at))
		at += n
		if err != nil {
			return got(), err
		}
	}
	return got(), nil
}

func rangeOf(l *Log, from, limit record.Offset, maxBytes int) *FileRange {
	return l.ReadRange(ReadOptions{From: from, Limit: limit, MaxBytes: maxBytes, Bounded: true})
}

// A range has the bytes that a read into memory gives, from wherever it begins.
func TestARangeIsWhatAReadReturns(t *testing.T) {
	_, l, _, _ := rangedLog(t, Config{SegmentBytes: 250_000, IndexInterval: 50_000})
	for _, maxBytes := range []int{64 << 10, 100_000, 1 << 20} {
		for from := range record.Offset(30) {
			for _, limit := range []record.Offset{from + 1, from + 4, 30} {
				want := readAt(t, l, from, limit, maxBytes)
				r := rangeOf(l, from, limit, maxBytes)
				if len(want) < rangeLeast {
					require.Nil(t, r, "from %d to %d", from, limit)
					continue
				}
				require.NotNil(t, r, "from %d to %d", from, limit)
				got, err := sent(t, r)
				require.NoError(t, err)
				require.Equal(t, want, got, "from %d to %d, %d bytes", from, limit, maxBytes)
				r.Release()
			}
		}
	}
	require.Zero(t, l.dir.files.lent.Load())
}

// A range may go on to the end of the batch in which what was asked for is reached, within
// what all of an answer may be.
func TestARangeEndsWithABatch(t *testing.T) {
	_, l, _, _ := rangedLog(t, Config{SegmentBytes: 1 << 20})
	one := len(readAt(t, l, 0, 1, 1))
	for _, c := range []struct{ maxBytes, most, batches int }{
		{6 * one, 0, 6},
		{6 * one, 20 * one, 6},
		{6*one - 1, 0, 5},
		{6*one + 1, 0, 6},
		{6*one + 1, 20 * one, 7},
		{7*one - 1, 20 * one, 7},
		{7*one - 1, 7*one - 1, 6},
		{7*one - 1, 7 * one, 7},
		{7*one - 1, one, 6},
	} {
		r := l.ReadRange(ReadOptions{From: 0, Limit: 30, MaxBytes: c.maxBytes, Most: c.most, Bounded: true})
		require.NotNil(t, r)
		require.Equal(t, c.batches*one, r.Len(), "%+v of batches of %d bytes", c, one)
		r.Release()
	}
}

// There is a range of what was checked and has been in the page cache since, and of
// nothing else.
func TestWhenThereIsARange(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(t tester, d *Dir, l *Log, n *listener, age func(time.Duration))
		is     bool
	}{
		"written a moment ago": {func(tester, *Dir, *Log, *listener, func(time.Duration)) {}, true},
		"written long ago": {func(_ tester, _ *Dir, _ *Log, _ *listener, age func(time.Duration)) {
			age(soundFor)
		}, false},
		"written long ago, read since": {func(t tester, _ *Dir, l *Log, _ *listener, age func(time.Duration)) {
			age(soundFor)
			readEverything(t, l)
		}, true},
		"dropped from the page cache": {func(_ tester, d *Dir, l *Log, _ *listener, _ func(time.Duration)) {
			d.pages.mu.Lock()
			d.pages.limit = 0
			d.pages.mu.Unlock()
			d.pages.note(l.active().file, 0, 1)
			d.pages.done.Wait()
		}, false},
		"written anew": {func(t tester, d *Dir, l *Log, n *listener, _ func(time.Duration)) {
			require.NoError(t, l.TruncateTo(5))
			add20k(t, l, n, 25)
			evictAll(d)
		}, true},
		"in memory": {func(t tester, _ *Dir, l *Log, n *listener, _ func(time.Duration)) {
			require.NoError(t, l.TruncateTo(0))
			add20k(t, l, n, 30)
		}, false},
		"in batches too small": {func(t tester, d *Dir, l *Log, n *listener, _ func(time.Duration)) {
			require.NoError(t, l.TruncateTo(0))
			fill(t, l, n, 1000)
			evictAll(d)
		}, false},
		"in batches too small behind a large one": {func(t tester, d *Dir, l *Log, n *listener, _ func(time.Duration)) {
			require.NoError(t, l.TruncateTo(0))
			add(t, l, 1, batch(t, 0, strings.Repeat("x", 100_000)))
			fill(t, l, n, 1000)
			evictAll(d)
		}, false},
		"of a log that failed": {func(_ tester, _ *Dir, l *Log, _ *listener, _ func(time.Duration)) {
			_ = l.latch("write", io.ErrClosedPipe)
		}, false},
		"with too many lent": {func(_ tester, d *Dir, _ *Log, _ *listener, _ func(time.Duration)) {
			d.files.limit = 7
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, l, n, age := rangedLog(t, Config{SegmentBytes: 1 << 20})
			tc.before(t, d, l, n, age)
			r := rangeOf(l, 0, l.End(), 1<<20)
			require.Equal(t, tc.is, r != nil)
			if r != nil {
				require.Equal(t, int(l.Size()), r.Len())
				r.Release()
			}
			require.Zero(t, d.files.lent.Load())
			require.Zero(t, l.segmentOf(0).file.users)
		})
	}
}

// What another process wrote, or this one before it was opened again, is read and
// checked first; also when more is written behind it.
func TestThereIsNoRangeOfWhatAnotherProcessWrote(t *testing.T) {
	d, l, _, _ := rangedLog(t, Config{SegmentBytes: 1 << 20})
	path := strings.TrimSuffix(l.path, "/orders-0")
	require.NoError(t, d.Close(-1))
	opts := testOptions(vfs.OS{})
	opts.Path = path
	d = openTestDir(t, opts)
	t.Cleanup(func() { _ = d.Close(-1) })
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 1 << 20}, n))
	require.NoError(t, err)
	n.listen(l)
	add20k(t, l, n, 10)
	evictAll(d)
	require.Nil(t, rangeOf(l, 0, 40, 1<<20))
	require.Nil(t, rangeOf(l, 27, 40, 1<<20))
	r := rangeOf(l, 30, 40, 1<<20)
	require.NotNil(t, r)
	r.Release()
	readEverything(t, l)
	r = rangeOf(l, 0, 40, 1<<20)
	require.NotNil(t, r)
	r.Release()
}

// A client that takes long gets nothing that nobody has looked at since its pages may
// have come from the disk again.
func TestARangeIsCheckedOnceItsPagesMayHaveGone(t *testing.T) {
	_, l, _, age := rangedLog(t, Config{SegmentBytes: 1 << 20})
	want := readAt(t, l, 0, 30, 1<<20)
	r := rangeOf(l, 0, 30, 1<<20)
	require.NotNil(t, r)
	age(soundFor)
	got, err := sent(t, r)
	require.NoError(t, err)
	require.Equal(t, want, got)
	r.Release()

	readEverything(t, l)
	r = rangeOf(l, 0, 30, 1<<20)
	require.NotNil(t, r)
	age(soundFor)
	rot(t, vfs.OS{}, l, 20)
	got, err = sent(t, r)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Empty(t, got)
	r.Release()
	_, err = l.Read(20, 30, 1<<20)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
}

// Clients that take long hold no more memory than all readers may.
func TestARangeIsCheckedInTheMemoryOfReaders(t *testing.T) {
	d, l, _, age := rangedLog(t, Config{SegmentBytes: 1 << 20})
	r := rangeOf(l, 0, 30, 1<<20)
	require.NotNil(t, r)
	age(soundFor)
	rest := d.arena.ReadLimit() - d.arena.Pinned() - int64(r.Len())
	require.True(t, d.arena.TryReserve(rest+1, d.arena.ReadLimit()))
	got, err := sent(t, r)
	require.ErrorIs(t, err, ErrReadMemory)
	require.Empty(t, got)
	d.arena.Unreserve(1)
	got, err = sent(t, r)
	require.NoError(t, err)
	require.Len(t, got, r.Len())
	require.Positive(t, d.arena.Pinned()-rest, "what is sent from memory counts as the readers'")
	r.Release()
	require.Equal(t, rest, d.arena.Pinned())
	d.arena.Unreserve(rest)
}

// Nothing of another history follows what was sent of one.
func TestARangeEndsWithItsHistory(t *testing.T) {
	d, l, n, _ := rangedLog(t, Config{SegmentBytes: 1 << 20})
	r := rangeOf(l, 0, 30, 1<<20)
	require.NotNil(t, r)
	require.NoError(t, l.TruncateTo(10))
	add20k(t, l, n, 30)
	evictAll(d)
	got, err := sent(t, r)
	require.ErrorIs(t, err, errRangeGone)
	require.Empty(t, got)
	r.Release()
}

// Retention deletes a file under a client that is being sent it, and waits for nobody.
func TestARangeOutlivesRetention(t *testing.T) {
	_, l, _, _ := rangedLog(t, Config{SegmentBytes: 250_000})
	want := readAt(t, l, 0, 12, 1<<20)
	r := rangeOf(l, 0, 12, 1<<20)
	require.NotNil(t, r)
	require.NoError(t, l.AdvanceStart(20))
	require.Nil(t, rangeOf(l, 0, 12, 1<<20))
	got, err := sent(t, r)
	require.NoError(t, err)
	require.Equal(t, want, got)
	r.Release()
}

// Ranges go on where one ended without the index, as reads do, and reads go on where
// there was no range.
func TestRangesGoOnWithoutTheIndex(t *testing.T) {
	d, l, _, age := rangedLog(t, Config{SegmentBytes: 1 << 20})
	points := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		n := 0
		for _, p := range l.resume {
			if p != (resumePoint{}) {
				n++
			}
		}
		return n
	}
	rangeOf(l, 0, 30, 100_000).Release()
	require.Equal(t, 1, points())
	rangeOf(l, 4, 30, 100_000).Release()
	require.Equal(t, 1, points(), "the same reader")
	age(soundFor)
	require.Nil(t, rangeOf(l, 8, 30, 100_000))
	require.Equal(t, 1, points(), "it is left to the read")
	require.NotEmpty(t, readAt(t, l, 8, 30, 100_000))
	require.Equal(t, 1, points())
	require.Zero(t, d.files.lent.Load())
}
