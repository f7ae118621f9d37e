package log

import (
	"errors"
	"math"
	"path"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

func TestSequences(t *testing.T) {
	_, l, _ := openTestLog(t, vfs.NewMem(), Config{Synced: true})
	send := func(epoch int16, sequence int32, values ...string) (record.Offset, record.Offset, error) {
		return tryAdd(l, 1, idempotent(t, 7, epoch, sequence, values...))
	}
	refused := func(reason error, epoch int16, sequence, expected int32) {
		t.Helper()
		_, _, err := send(epoch, sequence, "x")
		require.ErrorIs(t, err, reason)
		seq, ok := errors.AsType[*SequenceError](err)
		require.True(t, ok)
		require.Equal(t, expected, seq.Expected)
	}
	refused(ErrUnknownProducer, 0, 3, 0)
	for i := range int32(7) {
		first, next, err := send(0, 2*i, "a", "b")
		require.NoError(t, err)
		require.Equal(t, record.Offset(2*i), first)
		require.Equal(t, first+2, next)
	}
	for i := int32(2); i < 7; i++ { // the last five
		_, _, err := send(0, 2*i, "a", "b")
		require.ErrorIs(t, err, ErrDuplicate)
		require.Equal(t, &DuplicateError{record.Offset(2 * i), record.Offset(2*i + 2)}, err)
	}
	refused(ErrOutOfOrderSequence, 0, 2, 14) // too old to be told from a new one
	refused(ErrOutOfOrderSequence, 0, 15, 14)
	refused(ErrOutOfOrderSequence, 1, 5, 0)
	require.Equal(t, record.Offset(14), l.End())

	_, _, err := send(1, 0, "new epoch")
	require.NoError(t, err)
	refused(ErrProducerFenced, 0, 14, 0)
	_, _, err = send(1, 0, "new epoch")
	require.ErrorIs(t, err, ErrDuplicate)
}

func TestSequenceWraps(t *testing.T) {
	ps := newProducers(10)
	ps.update(&record.BatchInfo{ProducerID: 1, BaseSequence: math.MaxInt32 - 1, LastDelta: 2}, 0)
	require.Equal(t, int32(0), ps.byID[1].newest().lastSeq)
	_, dup, err := ps.check(&record.BatchInfo{ProducerID: 1, BaseSequence: 1}, nil)
	require.NoError(t, err)
	require.False(t, dup)
}

func TestAnAppendOfSeveralBatches(t *testing.T) {
	_, l, _ := openTestLog(t, vfs.NewMem(), Config{Synced: true})
	a, b, c := idempotent(t, 7, 0, 0, "a"), idempotent(t, 7, 0, 1, "b"), idempotent(t, 7, 0, 2, "c")
	_, _, err := tryAdd(l, 1, a, c)
	require.ErrorIs(t, err, ErrOutOfOrderSequence)
	require.Zero(t, l.End(), "all or nothing")
	first, next := add(t, l, 1, a, b)
	require.Equal(t, []record.Offset{0, 2}, []record.Offset{first, next})
	_, _, err = tryAdd(l, 1, a, b)
	require.Equal(t, &DuplicateError{0, 2}, err)
	first, next = add(t, l, 1, b, c)
	require.Equal(t, []record.Offset{2, 3}, []record.Offset{first, next}, "only what is new")
}

func TestProducerStateSurvives(t *testing.T) {
	for name, restart := range map[string]func(mem *vfs.Mem, d *Dir) *vfs.Mem{
		"clean": func(mem *vfs.Mem, d *Dir) *vfs.Mem { require.NoError(t, d.Close(1)); return mem },
		"crash": func(mem *vfs.Mem, d *Dir) *vfs.Mem { return mem.CrashClone(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			cfg := Config{Synced: true, SegmentBytes: 200}
			d, l, n := openTestLog(t, mem, cfg)
			for i := range int32(10) {
				add(t, l, 1, idempotent(t, 7, 0, i, "v"))
				n.waitFlushed(record.Offset(i + 1))
			}
			add(t, l, 1, idempotent(t, 8, 0, 0, "v"))
			n.waitFlushed(11)
			require.NoError(t, l.AdvanceStart(10))
			after := restart(mem, d)
			_, l, _ = openTestLog(t, after, cfg)
			_, _, err := tryAdd(l, 1, idempotent(t, 7, 0, 9, "v"))
			require.Equal(t, &DuplicateError{9, 10}, err, "known though its segment is gone")
			_, _, err = tryAdd(l, 1, idempotent(t, 8, 0, 0, "v"))
			require.Equal(t, &DuplicateError{10, 11}, err)
			add(t, l, 1, idempotent(t, 7, 0, 10, "v"))
		})
	}
}

func TestTruncationRestoresProducerState(t *testing.T) {
	_, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 200})
	for i := range int32(10) {
		add(t, l, 1, idempotent(t, 7, 0, i, "v"))
		n.waitFlushed(record.Offset(i + 1))
	}
	add(t, l, 1, idempotent(t, 8, 0, 0, "v"))
	require.NoError(t, l.TruncateTo(5))
	_, _, err := tryAdd(l, 2, idempotent(t, 7, 0, 9, "v"))
	require.ErrorIs(t, err, ErrOutOfOrderSequence)
	_, _, err = tryAdd(l, 2, idempotent(t, 7, 0, 4, "v"))
	require.Equal(t, &DuplicateError{4, 5}, err)
	first, _ := add(t, l, 2, idempotent(t, 7, 0, 5, "v"))
	require.Equal(t, record.Offset(5), first)
	first, _ = add(t, l, 2, idempotent(t, 8, 0, 0, "v"))
	require.Equal(t, record.Offset(6), first)
}

func TestProducersExpireAndAreBounded(t *testing.T) {
	_, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, MaxProducers: 20, ProducerExpiration: time.Hour})
	for i := range int64(100) {
		add(t, l, 1, idempotent(t, i, 0, 0, "v"))
	}
	n.waitFlushed(100)
	require.LessOrEqual(t, len(l.producers.byID), 20)
	require.Contains(t, l.producers.byID, int64(99), "the longest idle go first")
	_, err := l.Retain(time.Now().Add(2 * time.Hour))
	require.NoError(t, err)
	require.Empty(t, l.producers.byID)
}

func TestATornSnapshotFallsBackToTheLog(t *testing.T) {
	mem := vfs.NewMem()
	d, l, _ := openTestLog(t, mem, Config{Synced: true})
	for i := range int32(3) {
		add(t, l, 1, idempotent(t, 7, 0, i, "v"))
	}
	require.NoError(t, d.Close(1))
	rawFile(t, mem, path.Join(testPath, "orders-0", offsetName(3)+snapshotExt), func(b []byte) []byte { return b[:len(b)-3] })
	d, l, _ = openTestLog(t, mem, Config{Synced: true})
	_, _, err := tryAdd(l, 1, idempotent(t, 7, 0, 2, "v"))
	require.Equal(t, &DuplicateError{2, 3}, err)
	require.NoError(t, d.Close(-1)) // unchecked: the torn snapshot is still there
}

// The snapshot of records that were truncated must not come back with a power
// cut, when other records have got their offsets meanwhile.
func TestATruncatedSnapshotStaysAway(t *testing.T) {
	mem := vfs.NewMem()
	d, l, _ := openTestLog(t, mem, Config{Synced: true})
	add(t, l, 1, batch(t, 0, "stays, and the epoch with it"))
	for i := range int32(3) {
		add(t, l, 1, idempotent(t, 7, 0, i, "old"))
	}
	require.NoError(t, d.Close(1)) // a snapshot at 4
	d, l, n := openTestLog(t, mem, Config{Synced: true})
	require.NoError(t, l.TruncateTo(1))
	for range 4 {
		add(t, l, 1, batch(t, 0, "other"))
	}
	n.waitFlushed(5)
	after := mem.CrashClone(nil)
	require.NoError(t, d.Close(1))
	_, l, _ = openTestLog(t, after, Config{Synced: true})
	_, _, err := tryAdd(l, 1, idempotent(t, 7, 0, 2, "old"))
	require.ErrorIs(t, err, ErrUnknownProducer)
	add(t, l, 1, idempotent(t, 7, 0, 0, "old"))
}
