package log

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

func TestAppendGivesOffsetsAndReadsGiveThemBack(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 400, IndexInterval: 100})
	var want []byte
	for i := range 20 {
		b := batch(t, int64(i), "a", "b")
		first, next := add(t, l, 3, b)
		require.Equal(t, record.Offset(2*i), first)
		require.Equal(t, first+2, next)
		record.Patch(b, first, 3)
		want = append(want, b...)
	}
	require.Equal(t, want, readEverything(t, l), "before the flush")
	n.waitFlushed(40)
	require.Equal(t, record.Offset(40), l.Flushed())
	evictAll(d)
	require.Zero(t, d.tail.bytes.Load())
	require.Equal(t, want, readEverything(t, l), "from disk")
	require.Greater(t, len(l.segments), 3)
	require.Equal(t, record.Epoch(3), l.LastEpoch())
	require.Equal(t, int64(len(want)), l.Size())
}

func TestReadRespectsLimitAndSize(t *testing.T) {
	for _, cold := range []bool{false, true} {
		d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true})
		size := len(batch(t, 0, "v"))
		for range 10 {
			add(t, l, 0, batch(t, 0, "v"))
		}
		n.waitFlushed(10)
		if cold {
			evictAll(d)
		}
		require.Len(t, readAt(t, l, 0, 10, 1), size, "the first batch whatever its size")
		require.Len(t, readAt(t, l, 0, 10, 2*size+1), 2*size)
		require.Len(t, readAt(t, l, 3, 5, math.MaxInt), 2*size, "up to the limit")
		require.Len(t, readAt(t, l, 9, math.MaxInt64, math.MaxInt), size)
		require.Empty(t, readAt(t, l, 10, 20, 100), "at the end")
		require.Empty(t, readAt(t, l, 5, 5, 100), "at the limit")
		_, err := l.Read(11, 20, 100)
		out, ok := errors.AsType[*OffsetError](err)
		require.True(t, ok)
		require.Equal(t, OffsetError{11, 0, 10}, *out)
		require.ErrorIs(t, err, ErrOffsetOutOfRange)
	}
}

func TestReadOfABatchLargerThanTheChunk(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true})
	add(t, l, 0, batch(t, 0, "small"))
	big := batch(t, 0, string(bytes.Repeat([]byte("x"), 3*readChunk)))
	add(t, l, 0, big)
	add(t, l, 0, batch(t, 0, "small"))
	n.waitFlushed(3)
	evictAll(d)
	require.Len(t, readAt(t, l, 1, 3, 10), len(big))
	require.Len(t, readEverything(t, l), len(big)+2*len(batch(t, 0, "small")))
}

func TestTheTailStaysWithinItsBudget(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.TailBytes = 4 << 10
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	for p := range int32(4) {
		n := newListener()
		spec := testSpec(Config{Synced: true}, n)
		spec.Partition = p
		l, err := d.Open(spec)
		require.NoError(t, err)
		n.listen(l)
		fill(t, l, n, 100)
		require.Len(t, readEverything(t, l), 100*len(batch(t, 0, "value 0"))+90)
	}
	d.pool.done.Wait()
	require.LessOrEqual(t, d.tail.bytes.Load(), int64(4<<10))
}

func TestBuffersAreReleased(t *testing.T) {
	arena := record.NewArena(1 << 20)
	opts := testOptions(vfs.NewMem())
	opts.Arena = arena
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, n))
	require.NoError(t, err)
	n.listen(l)
	for range 50 {
		raw := batch(t, 0, "value")
		b := arena.Get(len(raw))
		copy(b.Bytes(), raw)
		_, _, err := l.Append(0, []*record.Buf{b}, 0)
		require.NoError(t, err)
		b.Release()
	}
	n.waitFlushed(50)
	readEverything(t, l)
	evictAll(d)
	readEverything(t, l)
	require.NoError(t, l.TruncateTo(20))
	require.NoError(t, d.Close(1))
	require.Zero(t, arena.InUse())
}

func TestFollowerAppendIsChecked(t *testing.T) {
	_, l, _ := openTestLog(t, vfs.NewMem(), Config{Synced: true})
	at := func(off record.Offset, epoch record.Epoch, values ...string) []byte {
		b := batch(t, 0, values...)
		record.Patch(b, off, epoch)
		return b
	}
	follow := func(from, to record.Offset, bs ...[]byte) error {
		var bufs []*record.Buf
		for _, b := range bs {
			bufs = append(bufs, record.NewBuf(b))
		}
		return l.AppendFollower(from, to, 0, bufs)
	}
	run := append(at(0, 2, "a"), at(1, 2, "b", "c")...)
	require.NoError(t, follow(0, 3, run), "a run of batches in one Buf")
	require.Len(t, readAt(t, l, 1, 2, 1000), len(at(0, 0, "b", "c")), "from the middle of a run")
	bad := at(3, 2, "x")
	bad[len(bad)-1]++
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"gap":         {follow(4, 5, at(4, 2, "x")), ErrNotContiguous},
		"overlap":     {follow(2, 3, at(2, 2, "x")), ErrNotContiguous},
		"range":       {follow(3, 5, at(3, 2, "x")), ErrNotContiguous},
		"base":        {follow(3, 4, at(9, 2, "x")), ErrNotContiguous},
		"nothing":     {follow(3, 4), ErrNotContiguous},
		"epoch":       {follow(3, 4, at(3, 1, "x")), ErrStaleEpoch},
		"epoch falls": {follow(3, 5, at(3, 5, "x"), at(4, 4, "y")), ErrStaleEpoch},
		"crc":         {follow(3, 4, bad), ErrInvalidBatch},
		"torn":        {follow(3, 4, at(3, 2, "x")[:40]), ErrInvalidBatch},
		"empty":       {follow(3, 4, nil), ErrInvalidBatch},
	} {
		require.ErrorIs(t, c.err, c.want, name)
	}
	require.NoError(t, follow(3, 3), "an empty range")
	require.NoError(t, follow(3, 4, at(3, 2, "x")))
	require.Equal(t, record.Offset(4), l.End())
	_, _, err := tryAdd(l, 1, batch(t, 0, "x"))
	require.ErrorIs(t, err, ErrStaleEpoch)
	_, _, err = tryAdd(l, 2, run)
	require.ErrorIs(t, err, ErrInvalidBatch)
}

func TestEpochEnd(t *testing.T) {
	_, l, _ := openTestLog(t, vfs.NewMem(), Config{Synced: true})
	epoch, end := l.EpochEnd(7)
	require.Equal(t, record.UnknownEpoch, epoch)
	require.Zero(t, end)
	add(t, l, 2, batch(t, 0, "a", "b"))
	add(t, l, 5, batch(t, 0, "c"))
	for asked, want := range map[record.Epoch]epochStart{
		1: {record.UnknownEpoch, 0}, 2: {2, 2}, 4: {2, 2}, 5: {5, 3}, 9: {5, 3},
	} {
		epoch, end := l.EpochEnd(asked)
		require.Equal(t, want, epochStart{epoch, end}, "epoch %d", asked)
	}
}

func TestOffsetForTime(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 400, IndexInterval: 1})
	for i := range 20 {
		add(t, l, 0, batch(t, int64(100*i), "a", "b", "c")) // 100i, +1, +2
	}
	check := func() {
		t.Helper()
		for i := range 20 {
			for j := range 3 {
				off, at, ok, err := l.OffsetForTime(int64(100*i+j), 60)
				require.NoError(t, err)
				require.True(t, ok)
				require.Equal(t, record.Offset(3*i+j), off)
				require.Equal(t, int64(100*i+j), at)
			}
		}
		off, _, _, err := l.OffsetForTime(1050, 60)
		require.NoError(t, err)
		require.Equal(t, record.Offset(33), off, "between two batches")
		_, _, ok, err := l.OffsetForTime(1050, 33)
		require.NoError(t, err)
		require.False(t, ok, "at the limit")
		_, _, ok, err = l.OffsetForTime(5000, 60)
		require.NoError(t, err)
		require.False(t, ok, "later than all")
	}
	check()
	n.waitFlushed(60)
	evictAll(d)
	check()
}

func TestLogAppendTime(t *testing.T) {
	_, l, _ := openTestLog(t, vfs.NewMem(), Config{Synced: true, LogAppendTime: true})
	b := record.NewBuf(batch(t, 5, "a"))
	_, _, err := l.Append(0, []*record.Buf{b}, 777)
	require.NoError(t, err)
	info, _ := record.Peek(b.Bytes())
	require.Equal(t, int64(777), info.MaxTimestamp)
	require.True(t, record.VerifyCRC(b.Bytes()))
	off, at, ok, err := l.OffsetForTime(700, 1)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, record.Offset(0), off)
	require.Equal(t, int64(777), at)
}

func TestReplicatedTopicsFlushLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTestDir(t, testOptions(vfs.NewMem()))
		n := newListener()
		l, err := d.Open(testSpec(Config{FlushInterval: time.Minute}, n))
		require.NoError(t, err)
		n.listen(l)
		add(t, l, 0, batch(t, 0, "a"))
		synctest.Wait()
		require.Equal(t, record.Offset(1), l.Written())
		require.Zero(t, l.Flushed())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, record.Offset(1), l.Flushed())
		add(t, l, 0, batch(t, 0, "b"))
		synctest.Wait()
		require.Equal(t, record.Offset(1), l.Flushed())
		l.Configure(Config{Synced: true})
		synctest.Wait()
		require.Equal(t, record.Offset(2), l.Flushed(), "a topic that becomes synced flushes at once")
		require.NoError(t, d.Close(-1))
	})
}

// A log that nobody waits for is synced by the megabyte, or a moment after it was
// written; one that is waited for again, at once.
func TestUnhurriedLogsFlushLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := vfs.NewFaults(vfs.NewMem())
		d := openTestDir(t, testOptions(faults))
		n := newListener()
		l, err := d.Open(testSpec(Config{Synced: true}, n))
		require.NoError(t, err)
		n.listen(l)
		l.Unhurried(true)
		add(t, l, 0, batch(t, 0, "a"))
		synctest.Wait()
		require.Equal(t, record.Offset(1), l.Written())
		require.Zero(t, l.Flushed())
		time.Sleep(unhurriedTime)
		synctest.Wait()
		require.Equal(t, record.Offset(1), l.Flushed())

		large := strings.Repeat("v", 100<<10)
		syncs := faults.Count(vfs.OpSync)
		const batches = 3 * unhurriedBytes / (100 << 10)
		for range batches {
			add(t, l, 0, batch(t, 0, large))
			synctest.Wait()
		}
		require.Equal(t, 2, faults.Count(vfs.OpSync)-syncs, "as soon as two megabytes are there")
		require.Less(t, l.Flushed(), l.Written())
		l.Unhurried(false)
		synctest.Wait()
		require.Equal(t, l.End(), l.Flushed(), "somebody waits")
		for range 3 {
			add(t, l, 0, batch(t, 0, "b"))
			synctest.Wait()
			require.Equal(t, l.End(), l.Flushed())
		}
		l.Unhurried(true)
		add(t, l, 0, batch(t, 0, "c"))
		synctest.Wait()
		require.Less(t, l.Flushed(), l.End())
		require.NoError(t, l.AdvanceStart(l.End()), "what needs it flushes")
		require.Equal(t, l.End(), l.Flushed())
		add(t, l, 0, batch(t, 0, "d"))
		require.NoError(t, l.Close())
		require.Equal(t, l.End(), l.Flushed())
		require.NoError(t, d.Close(-1))
	})
}

func TestAFailedFlushLatchesThatLogOnly(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault vfs.Fault
	}{
		{"sync", vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Count: 1, Err: syscall.EIO}},
		{"write", vfs.Fault{Op: vfs.OpWrite, Pattern: "*.log", Count: 1, Err: syscall.ENOSPC, Partial: 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewMem()
			faults := vfs.NewFaults(mem)
			d := openTestDir(t, testOptions(faults))
			n, n2 := newListener(), newListener()
			l, err := d.Open(testSpec(Config{Synced: true}, n))
			require.NoError(t, err)
			n.listen(l)
			spec := testSpec(Config{Synced: true}, n2)
			spec.Partition = 1
			other, err := d.Open(spec)
			require.NoError(t, err)
			n2.listen(other)
			fill(t, l, n, 3)

			faults.Inject(c.fault)
			add(t, l, 1, batch(t, 0, "lost"))
			p := n.waitFlushed(4)
			require.ErrorIs(t, p.Err, ErrFailed)
			require.ErrorIs(t, p.Err, c.fault.Err)
			require.Equal(t, record.Offset(3), p.Flushed)
			_, _, err = tryAdd(l, 1, batch(t, 0, "x"))
			require.ErrorIs(t, err, ErrFailed, "for good, though the disk is well again")
			require.ErrorIs(t, l.Err(), ErrFailed)
			require.ErrorIs(t, l.TruncateTo(1), ErrFailed)
			require.Len(t, readAt(t, l, 0, 3, 1), len(batch(t, 0, "value 0")), "reads go on")

			fill(t, other, n2, 3)
			require.NoError(t, other.Err())

			require.ErrorIs(t, d.Close(5), ErrFailed)
			after := mem.CrashClone(nil)
			d = openTestDir(t, testOptions(after))
			_, clean, err := d.CleanMarker()
			require.NoError(t, err)
			require.False(t, clean, "no clean marker after a failure")
			l, err = d.Open(testSpec(Config{Synced: true}, nil))
			require.NoError(t, err)
			require.Equal(t, record.Offset(3), l.End(), "what was not flushed may be gone, and is")
			require.Equal(t, DamageNone, l.Damage())
			require.NoError(t, d.Close(-1))
		})
	}
}

// A page that a failed flush dropped reads well until the machine restarts:
// opening the log again must write it once more.
func TestRecoveryRewritesWhatIsAboveTheCheckpoint(t *testing.T) {
	mem := vfs.NewMem()
	faults := vfs.NewFaults(mem)
	d := openTestDir(t, testOptions(faults))
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, n))
	require.NoError(t, err)
	n.listen(l)
	fill(t, l, n, 3)
	faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Count: 1, Err: syscall.EIO})
	add(t, l, 1, batch(t, 0, "readable, not durable"))
	n.waitFlushed(4)
	require.ErrorIs(t, l.Close(), ErrFailed)

	l, err = d.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	require.Equal(t, record.Offset(4), l.Flushed())
	require.Positive(t, l.Recovery().RewrittenBytes)
	after := mem.CrashClone(nil)
	require.NoError(t, d.Close(-1))

	d = openTestDir(t, testOptions(after))
	l, err = d.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	require.Equal(t, record.Offset(4), l.End())
	require.Equal(t, DamageNone, l.Damage())
	require.NoError(t, d.Close(-1))
}

func TestRetention(t *testing.T) {
	mem := vfs.NewMem()
	size := int64(len(batch(t, 0, "value 0")))
	cfg := Config{Synced: true, SegmentBytes: 2 * size}
	d, l, n := openTestLog(t, mem, cfg)
	fill(t, l, n, 10) // segments at 0, 2, 4, 6, 8; records from 1,000 to 1,009 ms

	cfg.RetentionBytes = 5 * size
	l.Configure(cfg)
	removed, err := l.Retain(time.UnixMilli(2000))
	require.NoError(t, err)
	require.Zero(t, removed, "never past the high watermark")
	l.SetHighWatermark(3)
	removed, err = l.Retain(time.UnixMilli(2000))
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.Equal(t, record.Offset(2), l.Start())
	l.SetHighWatermark(10)
	removed, err = l.Retain(time.UnixMilli(2000))
	require.NoError(t, err)
	require.Equal(t, 1, removed, "down to the size, and not below it")

	cfg.RetentionBytes, cfg.RetentionAge = 0, 100*time.Millisecond
	l.Configure(cfg)
	removed, err = l.Retain(time.UnixMilli(1106))
	require.NoError(t, err)
	require.Equal(t, 1, removed, "4 and 5 are older, 6 is not")
	require.Equal(t, record.Offset(6), l.Start())
	_, err = l.Read(5, 10, 100)
	require.ErrorIs(t, err, ErrOffsetOutOfRange)
	readEverything(t, l)

	require.NoError(t, d.Close(-1))
	d, l, _ = openTestLog(t, mem, cfg)
	require.Equal(t, record.Offset(6), l.Start())
	require.Equal(t, record.Offset(10), l.HighWatermark())
	require.NoError(t, d.Close(-1))
}

func TestAnOldActiveSegmentIsRolledAndExpires(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	opts := testOptions(vfs.NewMem())
	opts.Now = func() time.Time { return now }
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentAge: time.Minute, RetentionAge: time.Hour}, n))
	require.NoError(t, err)
	n.listen(l)
	fill(t, l, n, 3)
	l.SetHighWatermark(3)
	removed, err := l.Retain(now.Add(2 * time.Hour))
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.Equal(t, record.Offset(3), l.Start())
	require.Zero(t, l.Size())
	first, _ := add(t, l, 1, batch(t, 0, "x"))
	require.Equal(t, record.Offset(3), first)
}

func TestRetentionUnderAReader(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 100})
	_ = d
	fill(t, l, n, 5)
	evictAll(d)
	l.mu.Lock()
	_, cold, err := l.plan(nil, ReadOptions{From: 0, Limit: 5, MaxBytes: 100})
	l.mu.Unlock()
	require.NoError(t, err)
	require.NoError(t, l.AdvanceStart(3))
	err = cold.run()
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = l.settle(cold, err)
	require.ErrorIs(t, err, ErrOffsetOutOfRange)
	require.Equal(t, DamageNone, l.Damage())
}

func TestAdvanceStartSurvives(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true})
	fill(t, l, n, 5)
	require.ErrorIs(t, l.AdvanceStart(6), ErrOffsetOutOfRange)
	require.NoError(t, l.AdvanceStart(3))
	require.NoError(t, l.AdvanceStart(1), "only forward")
	require.Equal(t, record.Offset(3), l.Start())
	after := mem.CrashClone(nil)
	_, l2, _ := openTestLog(t, after, Config{Synced: true})
	require.Equal(t, record.Offset(3), l2.Start())
	require.Equal(t, record.Offset(5), l2.End())
	_ = d
}

func TestReset(t *testing.T) {
	mem := vfs.NewMem()
	_, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 200})
	fill(t, l, n, 5)
	for _, start := range []record.Offset{1000, 2} {
		require.NoError(t, l.Reset(start))
		require.Equal(t, start, l.Start())
		require.Equal(t, start, l.End())
		require.Equal(t, record.UnknownEpoch, l.LastEpoch())
		after := mem.CrashClone(nil)
		d2, l2, _ := openTestLog(t, after, Config{Synced: true})
		require.Equal(t, start, l2.Start())
		require.Equal(t, start, l2.End())
		require.Equal(t, DamageNone, l2.Damage())
		require.NoError(t, d2.Close(-1))
		first, next := add(t, l, 1, batch(t, 0, "x"))
		require.Equal(t, start, first)
		n.waitFlushed(next)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	for want, err := range map[string]error{
		"data directory /d is in use by process 7":                  &LockedError{"/d", 7},
		"offset 9 is out of range: the log holds [1, 5)":            &OffsetError{9, 1, 5},
		"/d has 1 bytes free, fewer than its reserve of 2":          &DiskFullError{Path: "/d", Free: 1, Reserve: 2},
		"/d has 3 bytes free and keeps 2 in reserve: no room for 4": &DiskFullError{"/d", 3, 2, 4},
		"batch is already at offsets [1, 5)":                        &DuplicateError{1, 5},
	} {
		require.EqualError(t, err, want)
	}
	require.Contains(t, fmt.Sprint(&FailedError{"/d", "flush", syscall.EIO}), "input/output error")
}
