package log

import (
	"bytes"
	"context"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// The inspector's memory does not grow with the log, nor with what a file claims.
func TestInspectingTakesLittleMemory(t *testing.T) {
	at := t.TempDir()
	opts := testOptions(vfs.OS{})
	opts.Path = at
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 8 << 20}, n))
	require.NoError(t, err)
	n.listen(l)
	value := string(bytes.Repeat([]byte("x"), 64<<10))
	const batches = 640 // 40 MiB
	for range batches {
		_, next := add(t, l, 1, batch(t, 1, value))
		if next%64 == 0 {
			n.waitFlushed(next)
		}
	}
	n.waitFlushed(l.End())
	require.NoError(t, d.Close(1))
	first := filepath.Join(at, "orders-0", offsetName(0))

	verify := func() (Verification, []Finding, uint64) {
		var before, after runtime.MemStats
		var all []Finding
		runtime.ReadMemStats(&before)
		in, err := Inspect(InspectOptions{Path: at, Partition: -1})
		require.NoError(t, err)
		sum, err := in.Verify(context.Background(), func(f Finding) { all = append(all, f) })
		require.NoError(t, err)
		runtime.ReadMemStats(&after)
		return sum, all, after.TotalAlloc - before.TotalAlloc
	}
	const little = 12 << 20
	sum, all, took := verify()
	require.Empty(t, all)
	require.EqualValues(t, batches, sum.Batches)
	require.Less(t, took, uint64(little))

	// A batch that claims 256 MiB in a file that has them, and files far larger than any of their kind.
	b, err := readFile(vfs.OS{}, first+logExt)
	require.NoError(t, err)
	info, ok := record.Peek(b)
	require.True(t, ok)
	forged := append(bytes.Clone(b[:info.Size]), b[:record.HeaderSize]...)
	copy(forged[info.Size+8:], []byte{0x10, 0, 0, 0})
	forged[info.Size+7] = 1 // its base offset
	require.NoError(t, create(vfs.OS{}, first+logExt, forged))
	for name, size := range map[string]int64{
		first + logExt: 300 << 20, filepath.Join(at, "orders-0", epochsName): 300 << 20, filepath.Join(at, "orders-0", offsetName(d64(sum))+snapshotExt): 300 << 20,
		filepath.Join(at, "flushed-checkpoint.0"): 300 << 20,
	} {
		f, err := vfs.OS{}.Open(name)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(size)) // a hole
		require.NoError(t, f.Close())
	}
	_, all, took = verify()
	require.NotEmpty(t, all)
	require.Less(t, took, uint64(little))
}

// d64 is the offset of the snapshot at the end of the log.
func d64(sum Verification) record.Offset { return record.Offset(sum.Records) }
