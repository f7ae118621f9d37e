package log

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// killed fills a log, lets the checkpoint catch up, appends some more, and
// returns what the death of the process leaves.
func killed(t *testing.T, opts DirOptions, cfg Config, size, above int64) (mem *vfs.Mem, end record.Offset) {
	t.Helper()
	mem = vfs.NewMem()
	opts.FS, opts.CheckpointInterval = mem, time.Hour
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(cfg, n))
	require.NoError(t, err)
	n.listen(l)
	grow := func(to int64) {
		for l.Size() < to {
			var bufs []*record.Buf
			for range 100 {
				b := idempotent(t, int64(l.End()%3), 0, int32(l.End()/3)+int32(len(bufs)), "forty bytes or so, as small as they come")
				record.Patch(b, l.End()+record.Offset(len(bufs)), 1)
				bufs = append(bufs, record.NewBuf(b))
			}
			require.NoError(t, l.AppendFollower(l.End(), l.End()+100, 0, bufs))
			require.NoError(t, n.waitFlushed(l.End()).Err)
		}
	}
	grow(size)
	require.NoError(t, d.checkpoint.write())
	grow(size + above)
	mem2 := mem.KillClone()
	end = l.End()
	require.NoError(t, d.Close(-1))
	return mem2, end
}

// What recovery reads is bounded by what was written since the checkpoint and
// between two places to resume at, whatever the size of the segment and of the log.
func TestWhatRecoveryReadsDoesNotGrowWithTheLog(t *testing.T) {
	const kib = 1 << 10
	opts := testOptions(nil)
	opts.resumeBytes = 32 * kib
	for name, segment := range map[string]int64{"one segment": DefaultSegmentBytes, "many segments": 100 * kib} {
		t.Run(name, func(t *testing.T) {
			var read []int64
			for _, size := range []int64{200 * kib, 3200 * kib} {
				mem, end := killed(t, opts, Config{Synced: true, SegmentBytes: segment}, size, 16*kib)
				counted := vfs.NewFaults(mem)
				opened := opts
				opened.FS = counted
				d := openTestDir(t, opened)
				l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: segment}, nil))
				require.NoError(t, err)
				require.Equal(t, end, l.End())
				require.Equal(t, DamageNone, l.Damage())
				read = append(read, counted.Bytes(vfs.OpRead))
				require.NoError(t, d.Close(-1))
			}
			t.Logf("read %v bytes", read)
			limit := 2 * read[0] // the index of the active segment is read, too
			if segment < DefaultSegmentBytes {
				limit += 3200 * kib / segment * 6 * kib // the batches behind the last index entry
			}
			require.Less(t, read[1], limit)
		})
	}
}

// A recovery that resumes in the midst of a segment comes to the same as one that
// reads all of it: records, index, times, producers, epochs.
func TestResumedRecoveryIsTheSame(t *testing.T) {
	opts := testOptions(nil)
	opts.resumeBytes = 2000
	cfg := Config{Synced: true, IndexInterval: 300}
	for seed := range uint64(40) {
		mem, _ := killed(t, opts, cfg, 20_000, 3000)
		random := rand.New(rand.NewPCG(seed, 3))
		mem = mem.CrashClone(random)
		whole := mem.KillClone()
		path := testPath + "/orders-0/" + offsetName(0)
		for _, ext := range []string{indexExt, timeExt} {
			_ = whole.Remove(path + ext)
		}
		open := func(mem *vfs.Mem) (*Log, func()) {
			o := opts
			o.FS = mem
			d := openTestDir(t, o)
			l, err := d.Open(testSpec(cfg, nil))
			require.NoError(t, err)
			return l, func() { require.NoError(t, d.Close(-1)) }
		}
		a, closeA := open(mem)
		b, closeB := open(whole)
		require.Equal(t, b.End(), a.End())
		require.Equal(t, b.epochs, a.epochs)
		require.Equal(t, b.active().newest, a.active().newest)
		require.Equal(t, b.active().index, a.active().index)
		require.NoError(t, sameProducers(a.producers, b.producers))
		require.Equal(t, readEverything(t, b), readEverything(t, a))
		closeA()
		closeB()
	}
}

// The index of an earlier history must not be believed: a crash in a truncation may
// leave it.
func TestAStaleIndexIsNotResumedFrom(t *testing.T) {
	x := &index{offsets: []indexEntry{{0, 0}, {9, 900}, {19, 1900}, {15, 2500}}, times: []timeEntry{{5, 0}, {7, 12}, {6, 30}}}
	offsets, times := x.encode()
	require.Equal(t, &index{offsets: x.offsets[:3], times: x.times[:2]}, indexPrefix(offsets, times, 1<<20, 1000))
	require.Equal(t, &index{offsets: x.offsets[:2], times: x.times[:1]}, indexPrefix(offsets, times, 1<<20, 10))
	require.Equal(t, &index{offsets: x.offsets[:1], times: x.times[:2]}, indexPrefix(offsets[:15], times[:30], 1<<20, math.MaxInt64))
	require.Equal(t, x.offsets[:2], indexPrefix(offsets, times, 1900, 1000).offsets)
	require.Empty(t, indexPrefix(offsets[8:], times, 1<<20, 1000).offsets)
}
