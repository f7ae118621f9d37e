package log

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// coldLog is a log of so many batches that are in its files only, and a clock.
func coldLog(t *testing.T, fsys vfs.FS, cfg Config, count int) (d *Dir, l *Log, n *listener, age func(time.Duration)) {
	t.Helper()
	var now atomic.Int64
	now.Store(time.Unix(1000, 0).UnixNano())
	opts := testOptions(fsys)
	opts.Now = func() time.Time { return time.Unix(0, now.Load()) }
	d = openTestDir(t, opts)
	t.Cleanup(func() { _ = d.Close(-1) })
	n = newListener()
	l, err := d.Open(testSpec(cfg, n))
	require.NoError(t, err)
	n.listen(l)
	fill(t, l, n, count)
	evictAll(d)
	return d, l, n, func(by time.Duration) { now.Add(int64(by)) }
}

// rot changes a byte of a batch's payload under a log that is open.
func rot(t *testing.T, fsys vfs.FS, l *Log, off record.Offset) {
	t.Helper()
	at, position := int64(-1), int64(0)
	require.NoError(t, l.walk(l.segmentOf(off), func(info *record.BatchInfo, p int64) {
		if info.BaseOffset == off {
			at, position = p, p+int64(info.Size)-1
		}
	}))
	require.GreaterOrEqual(t, at, int64(0))
	f, err := fsys.Open(l.segmentOf(off).path + logExt)
	require.NoError(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], position)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], position)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// A reader that goes on where it ended looks nothing up, also when several do; and
// all of them get every batch once.
func TestReadersGoOnWithoutTheIndex(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	_, l, _, _ := coldLog(t, faults, Config{Synced: true, SegmentBytes: 1500, IndexInterval: 1}, 100)
	all := readEverything(t, l)
	var got [resumePoints][]byte
	var at [resumePoints]record.Offset
	for i := range at { // each at another place
		at[i] = record.Offset(5 * i)
	}
	opens := faults.Count(vfs.OpOpen)
	for range 100 {
		for i := range at {
			slices, err := l.Read(at[i], 100, 300)
			require.NoError(t, err)
			for j := range slices {
				got[i] = append(got[i], slices[j].Bytes...)
				for b := slices[j].Bytes; len(b) > 0; {
					info, _ := record.Peek(b)
					require.Equal(t, at[i], info.BaseOffset)
					at[i], b = info.NextOffset(), b[info.Size:]
				}
				slices[j].Release()
			}
		}
	}
	for i := range at {
		require.Equal(t, record.Offset(100), at[i])
		require.True(t, bytes.HasSuffix(all, got[i]), "reader %d", i)
	}
	require.Less(t, faults.Count(vfs.OpOpen)-opens, 2*resumePoints, "only the first read of each looks up where to begin")
}

// Where a reader ended means nothing once the log was cut there and goes on with
// other batches.
func TestReadersDoNotGoOnIntoAnotherHistory(t *testing.T) {
	d, l, n, _ := coldLog(t, vfs.NewMem(), Config{Synced: true}, 10)
	readAt(t, l, 0, 7, 1<<20)
	require.NoError(t, l.TruncateTo(5))
	for i := range 5 {
		add(t, l, 2, batch(t, 0, fmt.Sprintf("a longer value than before %d", i)))
	}
	n.waitFlushed(10)
	evictAll(d)
	require.NotEmpty(t, readAt(t, l, 7, 10, 1<<20))
	require.Equal(t, DamageNone, l.Damage())
}

// Every byte that comes from the disk is checked by whoever reads it first; what
// is in the page cache is believed for a while.
func TestWhenReadsCheck(t *testing.T) {
	mem := vfs.NewMem()
	cfg := Config{Synced: true, SegmentBytes: 1 << 20}
	for name, tc := range map[string]struct {
		before func(d *Dir, l *Log, n *listener)
		age    time.Duration
		found  bool
	}{
		"first read":            {func(*Dir, *Log, *listener) {}, 0, true},
		"other bytes were read": {func(_ *Dir, l *Log, _ *listener) { readAt(t, l, 0, 7, 1<<20) }, 0, true},
		"read a moment ago":     {func(_ *Dir, l *Log, _ *listener) { readEverything(t, l) }, soundFor - 1, false},
		"read long ago":         {func(_ *Dir, l *Log, _ *listener) { readEverything(t, l) }, soundFor, true},
		"read and dropped": {func(d *Dir, l *Log, _ *listener) {
			readEverything(t, l)
			d.pages.mu.Lock()
			d.pages.limit = 0
			d.pages.mu.Unlock()
			d.pages.note(l.active().file, 0, 1)
			d.pages.done.Wait()
		}, 0, true},
		"read, then written anew": {func(d *Dir, l *Log, n *listener) {
			readEverything(t, l)
			require.NoError(t, l.TruncateTo(5))
			fill(t, l, n, 5)
			evictAll(d)
		}, 0, true},
		"written anew, read before": {func(d *Dir, l *Log, n *listener) {
			readEverything(t, l)
			require.NoError(t, l.TruncateTo(9))
			fill(t, l, n, 1)
			evictAll(d)
			readAt(t, l, 9, 10, 1<<20)
		}, soundFor / 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			mem = vfs.NewMem()
			d, l, n, age := coldLog(t, mem, cfg, 10)
			tc.before(d, l, n)
			age(tc.age)
			rot(t, mem, l, 7)
			slices, err := l.Read(7, 10, 1<<20)
			for i := range slices {
				slices[i].Release()
			}
			if !tc.found {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrCorrupt)
			require.Equal(t, DamageCorrupt, l.Damage())
		})
	}
}

// A read that meets damage returns what is whole before it, and the next one fails: the
// last holder of a partition serves every batch that it can.
func TestAReadEndsBeforeDamage(t *testing.T) {
	mem := vfs.NewMem()
	_, l, _, age := coldLog(t, mem, Config{Synced: true, SegmentBytes: 1 << 20}, 10)
	whole := readAt(t, l, 2, 7, 1<<20)
	rot(t, mem, l, 7)
	age(soundFor)
	require.True(t, bytes.Equal(whole, readAt(t, l, 2, 10, 1<<20)))
	_, err := l.Read(7, 10, 1<<20)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
	require.True(t, bytes.Equal(whole, readAt(t, l, 2, 10, 1<<20)), "it is served still")
	require.NotEmpty(t, readAt(t, l, 8, 10, 1<<20), "what lies behind is whole too")
}

// A truncation looks for the place to cut; the damage that it meets is damage.
func TestATruncationThatMeetsDamage(t *testing.T) {
	mem := vfs.NewMem()
	_, l, _, _ := coldLog(t, mem, Config{Synced: true, SegmentBytes: 1 << 20}, 10)
	size := int64(0)
	require.NoError(t, l.walk(l.active(), func(info *record.BatchInfo, _ int64) { size = int64(info.Size) }))
	f, err := mem.Open(l.active().path + logExt)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{0x7f}, 3*size+8) // the length of batch 3
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.ErrorIs(t, l.TruncateTo(7), ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
	require.ErrorIs(t, l.TruncateTo(9), ErrDamaged)
	require.NoError(t, l.Reset(0), "it may start over")
}

// So is a file that has become shorter than it must be.
func TestATruncationThatMeetsTheEndOfAFile(t *testing.T) {
	mem := vfs.NewMem()
	_, l, _, _ := coldLog(t, mem, Config{Synced: true, SegmentBytes: 1 << 20}, 10)
	f, err := mem.Open(l.active().path + logExt)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(l.active().size/2))
	require.NoError(t, f.Close())
	require.ErrorIs(t, l.TruncateTo(7), ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
	require.NoError(t, l.Reset(0), "it may start over")
}

// nextOf is the offset after the last batch.
func nextOf(t *testing.T, batches []byte) (next record.Offset) {
	t.Helper()
	for len(batches) > 0 {
		info, ok := record.Peek(batches)
		require.True(t, ok)
		next, batches = info.NextOffset(), batches[info.Size:]
	}
	return next
}

// Batches larger than what is read at once, and such that end exactly there.
func TestColdReadsOfAllSizes(t *testing.T) {
	for _, size := range []int{100, checkPiece - 200, checkPiece, readChunk - 100, readChunk + 1, 3 * readChunk} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			d, l, n, _ := coldLog(t, vfs.NewMem(), Config{Synced: true}, 1)
			var want []byte
			want = append(want, readEverything(t, l)...)
			for i := range 5 {
				value := make([]byte, size+i)
				value[size/2] = byte(i)
				off, _ := add(t, l, 1, batch(t, 0, string(value)))
				want = append(want, readAt(t, l, off, off+1, 1)...)
			}
			n.waitFlushed(l.End())
			evictAll(d)
			for range 2 { // checked, and believed
				require.True(t, bytes.Equal(want, readEverything(t, l)))
				require.True(t, bytes.Equal(want, readAt(t, l, 0, l.End(), len(want))))
				require.NotEmpty(t, readAt(t, l, 3, l.End(), size))
			}
		})
	}
}

// A reader that goes on allocates the plan of its read and nothing else, whatever
// it reads.
func TestColdReadAllocations(t *testing.T) {
	skipUnderRace(t)
	d, l, _, _ := coldLog(t, vfs.NewMem(), Config{Synced: true}, 2000)
	_ = readEverything(t, l)
	var out []record.Slice
	var err error
	off := record.Offset(1)
	got := testing.AllocsPerRun(100, func() {
		out, err = l.ReadInto(out[:0], ReadOptions{From: off, Limit: l.End(), MaxBytes: 1000})
		if err != nil || len(out) == 0 {
			t.Fatal(len(out), err)
		}
		for i := range out {
			for b := out[i].Bytes; len(b) > 0; {
				info, _ := record.Peek(b)
				off, b = info.NextOffset(), b[info.Size:]
			}
			out[i].Release()
		}
	})
	require.LessOrEqual(t, got, 1.0)
	require.Zero(t, d.arena.InUse())
}

// What was read before its flush failed is checked again: the kernel may have
// dropped the pages, and the disk has others.
func TestAFailedFlushEndsTrust(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	d, l, n, _ := coldLog(t, faults, Config{FlushInterval: time.Hour}, 10)
	n.waitWritten(10)
	evictAll(d)
	readEverything(t, l)
	faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Err: syscall.EIO})
	l.Configure(Config{Synced: true})
	require.ErrorIs(t, n.waitFlushed(10).Err, syscall.EIO)
	rot(t, faults, l, 7)
	slices, err := l.Read(6, 10, 1<<20)
	require.ErrorIs(t, err, ErrFailed)
	require.Empty(t, slices)
}
