package log

import (
	"bytes"
	"os"
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// at builds a batch of so many records that begins at an offset, as a follower gets it.
func at(t tester, base record.Offset, epoch record.Epoch, records int) *record.Buf {
	t.Helper()
	values := make([]string, records)
	for i := range values {
		values[i] = "a value of some length"
	}
	b := batch(t, 1000+int64(base), values...)
	record.Patch(b, base, epoch)
	return record.NewBuf(b)
}

// gapped fills a log as a follower of a compacted leader would: batches at 3, 10
// to 12, 20, 30 and 31, in several segments, with gaps below 30.
func gapped(t tester, l *Log, n *listener) {
	t.Helper()
	push := func(from, to record.Offset, bufs ...*record.Buf) {
		require.NoError(t, l.AppendFollower(from, to, 30, bufs))
		n.waitFlushed(to)
	}
	push(0, 13, at(t, 3, 1, 1), at(t, 10, 1, 3))
	push(13, 21, at(t, 20, 2, 1))
	push(21, 32, at(t, 30, 2, 1), at(t, 31, 2, 1))
}

// bases lists the base offsets of the batches that reads from a place return.
func bases(t tester, l *Log, from record.Offset) []record.Offset {
	t.Helper()
	var out []record.Offset
	for from < l.End() {
		b := readAt(t, l, from, l.End(), 1)
		require.NotEmpty(t, b, "nothing at offset %d of %d", from, l.End())
		info, ok := record.Peek(b)
		require.True(t, ok)
		require.Greater(t, info.NextOffset(), from)
		out, from = append(out, info.BaseOffset), info.NextOffset()
	}
	return out
}

var gappedConfig = Config{Synced: true, SegmentBytes: 250, IndexInterval: 64}

// Reads, look-ups by time and restarts pass over gaps, from memory and from disk.
func TestGaps(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, gappedConfig)
	gapped(t, l, n)
	check := func(l *Log) {
		t.Helper()
		require.Equal(t, record.Offset(32), l.End())
		require.Equal(t, record.Offset(30), l.Cleaned())
		require.Equal(t, record.Epoch(2), l.LastEpoch())
		require.Equal(t, []record.Offset{3, 10, 20, 30, 31}, bases(t, l, 0))
		for from, want := range map[record.Offset]record.Offset{3: 3, 4: 10, 11: 10, 13: 20, 20: 20, 21: 30, 29: 30, 31: 31} {
			require.Equal(t, want, bases(t, l, from)[0], "from %d", from)
		}
		off, _, found, err := l.OffsetForTime(1015, l.End())
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, record.Offset(20), off)
	}
	check(l)
	evictAll(d)
	check(l)
	require.Greater(t, len(l.segments), 2)

	for name, crashed := range map[string]*vfs.Mem{"after a power cut": mem.CrashClone(nil), "after a stop": mem} {
		if crashed == mem {
			require.NoError(t, d.Close(1))
		}
		d2 := openTestDir(t, testOptions(crashed))
		l2, err := d2.Open(testSpec(gappedConfig, nil))
		require.NoError(t, err)
		require.Equal(t, Recovery{LastEpoch: 2, End: 32, Flushed: 32}, recoveryOf(l2), name)
		check(l2)
		require.NoError(t, d2.Close(-1))
	}
}

// recoveryOf leaves out what depends on when the checkpoint was written.
func recoveryOf(l *Log) Recovery {
	r := l.Recovery()
	r.RewrittenBytes, r.Flushed = 0, r.End
	return r
}

// A gap that nothing explains is damage, wherever the segment lies, and a read
// that meets one says so.
func TestGapAboveTheCleanedOffsetIsDamage(t *testing.T) {
	for _, cleaned := range []record.Offset{0, 2, 9, 19, 29, 30} {
		mem := vfs.NewMem()
		d, l, n := openTestLog(t, mem, gappedConfig)
		gapped(t, l, n)
		require.NoError(t, d.Close(-1))
		setPromise(t, mem, logState{flushed: 32, cleaned: cleaned})
		removeIndexes(t, mem) // a sealed segment's headers are read to build its index only
		d = openTestDir(t, testOptions(mem))
		l, err := d.Open(testSpec(gappedConfig, nil))
		require.NoError(t, err)
		if cleaned == 30 {
			require.Equal(t, DamageNone, l.Damage())
		} else {
			require.NotEqual(t, DamageNone, l.Damage(), "cleaned %d", cleaned)
		}
		require.NoError(t, d.Close(-1))
	}

	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, gappedConfig)
	gapped(t, l, n)
	evictAll(d)
	l.mu.Lock()
	l.cleaned = 9
	l.mu.Unlock()
	before := nextOf(t, readAt(t, l, 0, l.End(), 1<<20))
	require.Less(t, before, l.End(), "the gap is not read over")
	_, err := l.Read(before, l.End(), 1<<20)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
}

func removeIndexes(t *testing.T, fsys vfs.FS) {
	t.Helper()
	entries, err := fsys.List(testPath + "/orders-0")
	require.NoError(t, err)
	for _, e := range entries {
		if ext := path.Ext(e.Name); ext == indexExt || ext == timeExt {
			require.NoError(t, fsys.Remove(path.Join(testPath, "orders-0", e.Name)))
		}
	}
}

// Above what was flushed a gap that the checkpoint does not know ends the log.
func TestGapEndsAnUnflushedTail(t *testing.T) {
	for cleaned, end := range map[record.Offset]record.Offset{30: 32, 29: 21, 20: 21, 19: 13, 3: 4, 0: 0} {
		mem := vfs.NewMem()
		cfg := gappedConfig
		cfg.SegmentBytes = 1 << 20
		d, l, n := openTestLog(t, mem, cfg)
		gapped(t, l, n)
		require.NoError(t, d.Close(-1))
		setPromise(t, mem, logState{cleaned: cleaned})
		d = openTestDir(t, testOptions(mem))
		l, err := d.Open(testSpec(cfg, nil))
		require.NoError(t, err)
		require.Equal(t, DamageNone, l.Damage())
		require.Equal(t, end, l.End(), "cleaned %d", cleaned)
		require.Equal(t, min(cleaned, end), l.Cleaned())
		require.NoError(t, d.Close(-1))
	}
}

func TestFollowerAppendChecksGaps(t *testing.T) {
	tests := map[string]struct {
		from, to, cleaned record.Offset
		bufs              []*record.Buf
		err               error
	}{
		"a gap below the leader's cleaned offset":      {4, 9, 8, []*record.Buf{at(t, 8, 1, 1)}, nil},
		"a gap that ends above it":                     {4, 9, 7, []*record.Buf{at(t, 8, 1, 1)}, ErrNotContiguous},
		"a gap between batches":                        {4, 9, 8, []*record.Buf{at(t, 4, 1, 2), at(t, 8, 1, 1)}, nil},
		"a gap between batches that ends above it":     {4, 9, 6, []*record.Buf{at(t, 4, 1, 2), at(t, 8, 1, 1)}, ErrNotContiguous},
		"a batch that begins before the range":         {4, 9, 100, []*record.Buf{at(t, 3, 1, 6)}, ErrNotContiguous},
		"batches that overlap":                         {4, 9, 100, []*record.Buf{at(t, 4, 1, 4), at(t, 7, 1, 2)}, ErrNotContiguous},
		"a range that does not end with a batch":       {4, 10, 100, []*record.Buf{at(t, 8, 1, 1)}, ErrNotContiguous},
		"a range without a batch":                      {4, 10, 100, nil, ErrNotContiguous},
		"a buffer that covers more than a segment":     {4, 1<<31 + 10, 1 << 40, []*record.Buf{run(at(t, 4, 1, 1), at(t, 1<<31+9, 1, 1))}, ErrInvalidBatch},
		"an epoch that falls behind a gap":             {4, 9, 8, []*record.Buf{at(t, 8, 0, 1)}, ErrStaleEpoch},
		"a range that does not begin at the log's end": {5, 9, 8, []*record.Buf{at(t, 8, 1, 1)}, ErrNotContiguous},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true})
			require.NoError(t, l.AppendFollower(0, 4, 0, []*record.Buf{at(t, 0, 1, 4)}))
			n.waitFlushed(4)
			err := l.AppendFollower(tt.from, tt.to, tt.cleaned, tt.bufs)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				require.Equal(t, record.Offset(4), l.End())
				require.Zero(t, l.Cleaned())
				return
			}
			require.NoError(t, err)
			n.waitFlushed(tt.to)
			require.Equal(t, tt.to, l.End())
			require.Equal(t, record.Offset(8), l.Cleaned())
		})
	}
}

// run makes one buffer of several.
func run(bufs ...*record.Buf) *record.Buf {
	var b []byte
	for _, buf := range bufs {
		b = append(b, buf.Bytes()...)
	}
	return record.NewBuf(b)
}

// What a follower has flushed survives a power cut though a gap lies in it, at
// every moment from the flush on: no checkpoint may come too late.
func TestFollowerPersistsGapsBeforeTheFlushCounts(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(mem)
	opts.CheckpointInterval = 1 << 40 // none but those that must be
	d := openTestDir(t, opts)
	t.Cleanup(func() { _ = d.Close(-1) })
	flushed := make(chan *vfs.Mem, 16)
	spec := testSpec(Config{Synced: true}, nil)
	spec.Notify = func(p Progress) { flushed <- mem.CrashClone(nil) }
	l, err := d.Open(spec)
	require.NoError(t, err)
	require.NoError(t, l.AppendFollower(0, 9, 8, []*record.Buf{at(t, 8, 1, 1)}))
	crashed := openTestDir(t, testOptions(<-flushed))
	defer func() { require.NoError(t, crashed.Close(-1)) }()
	l2, err := crashed.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	require.Equal(t, record.Offset(9), l2.End())
	require.Equal(t, []record.Offset{8}, bases(t, l2, 0))
}

// A log does not end in a gap: truncation into one goes back to the batch before.
func TestTruncationIntoAGap(t *testing.T) {
	for _, cold := range []bool{false, true} {
		for off, end := range map[record.Offset]record.Offset{31: 31, 30: 21, 25: 21, 21: 21, 20: 13, 13: 13, 11: 4, 7: 4, 2: 0, 0: 0} {
			mem := vfs.NewMem()
			d, l, n := openTestLog(t, mem, gappedConfig)
			gapped(t, l, n)
			if cold {
				evictAll(d)
			}
			require.NoError(t, l.TruncateTo(off))
			require.Equal(t, end, l.End(), "to %d", off)
			require.Equal(t, min(end, 30), l.Cleaned())
			add(t, l, 3, batch(t, 0, "new"))
			n.waitFlushed(end + 1)
			got := bases(t, l, 0)
			require.Equal(t, end, got[len(got)-1])

			d2 := openTestDir(t, testOptions(mem.CrashClone(nil)))
			l2, err := d2.Open(testSpec(gappedConfig, nil))
			require.NoError(t, err)
			require.Equal(t, DamageNone, l2.Damage())
			require.Equal(t, end+1, l2.End())
			require.Equal(t, got, bases(t, l2, 0))
			require.NoError(t, d2.Close(-1))
		}
	}
}

// A checkpoint of version 1, which knew no compaction, is read as what it says.
func TestOldCheckpointOpens(t *testing.T) {
	entries, err := os.ReadDir("testdata/checkpoint-v1")
	require.NoError(t, err)
	require.Len(t, entries, 2)
	for _, e := range entries {
		dump, err := os.ReadFile(path.Join("testdata", "checkpoint-v1", e.Name()))
		require.NoError(t, err)
		b := undump(t, string(dump))
		require.Equal(t, []byte{0, 1}, b[4:6])
		_, states, err := decodeCheckpoint(b)
		require.NoError(t, err)
		if len(states) > 0 {
			require.Equal(t, map[logKey]logState{{testID, 0}: {flushed: 6, highWatermark: 5}}, states)
		}
		now, err := os.ReadFile(path.Join("testdata", "golden", e.Name()))
		require.NoError(t, err)
		newer := undump(t, string(now))
		require.Equal(t, []byte{0, 2}, newer[4:6])
		_, same, err := decodeCheckpoint(newer)
		require.NoError(t, err)
		require.Equal(t, states, same)
		require.False(t, bytes.Equal(b, newer))
	}
}

// A look-up by time finds a record, not a place in a batch where one was.
func TestTimeInACompactedBatch(t *testing.T) {
	for kept, want := range map[record.Offset]record.Offset{0: 5, 2: 2, 3: 3} {
		_, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true})
		first, second := at(t, 0, 1, 4), at(t, 5, 1, 1)
		record.SetAppendTime(first.Bytes(), 2000)
		record.SetAppendTime(second.Bytes(), 3000)
		var f record.Filter
		require.NoError(t, f.Reset(first.Bytes(), record.Limits{}, func(off record.Offset, _ []byte, _ bool) bool { return off == kept && kept > 0 }))
		b, err := f.Append(nil, 0)
		require.NoError(t, err)
		require.NoError(t, l.AppendFollower(0, 6, 5, []*record.Buf{record.NewBuf(b), second}))
		n.waitFlushed(6)
		off, _, found, err := l.OffsetForTime(1500, 6)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, want, off)
	}
}
