package log

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// findings verifies a directory and returns what is not a note.
func findings(t tester, fsys vfs.FS, at string) (bad, notes []Finding, sum Verification) {
	t.Helper()
	in, err := Inspect(InspectOptions{FS: fsys, Path: at, Partition: -1})
	require.NoError(t, err)
	sum, err = in.Verify(context.Background(), func(f Finding) {
		if f.Severity == SeverityNote {
			notes = append(notes, f)
		} else {
			bad = append(bad, f)
		}
	})
	require.NoError(t, err)
	return bad, notes, sum
}

// busyLog fills a log with all that a log can hold: several segments, epochs,
// producers, batches of several records.
func busyLog(t *testing.T, l *Log, n *listener) {
	t.Helper()
	seq := map[int64]int32{}
	for i := range 60 {
		epoch := record.Epoch(i / 20)
		if i%3 == 0 {
			id := int64(i % 2)
			add(t, l, epoch, idempotent(t, id, 0, seq[id], "one", "two"))
			seq[id] += 2
		} else {
			add(t, l, epoch, batch(t, int64(1000*(i%7)), fmt.Sprintf("value %d", i), "more"))
		}
		if i%10 == 0 {
			n.waitFlushed(l.End())
		}
	}
	n.waitFlushed(l.End())
}

func TestVerifyOfAWellLog(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700, IndexInterval: 200})
	busyLog(t, l, n)
	require.Greater(t, len(l.segments), 5)

	bad, _, sum := findings(t, mem, testPath)
	require.Empty(t, bad, "while it is open")
	require.EqualValues(t, 60, sum.Batches)
	require.EqualValues(t, 120, sum.Records)

	bad, _, _ = findings(t, mem.CrashClone(nil), testPath)
	require.Empty(t, bad, "after a crash")

	require.NoError(t, d.Close(5))
	bad, notes, sum := findings(t, mem, testPath)
	require.Empty(t, bad)
	require.Empty(t, notes)
	require.EqualValues(t, 1, sum.Partitions)

	for _, at := range []string{"orders-0", "orders-0/00000000000000000000.log", "orders-0/00000000000000000000.index", "flushed-checkpoint.0", "clean-stop", "orders-0/leader-epoch-checkpoint"} {
		bad, notes, _ := findings(t, mem, path.Join(testPath, at))
		require.Empty(t, bad, at)
		require.Empty(t, notes, at)
	}
}

// Every byte of a log that was stopped in order matters: whichever is changed,
// it is found, and told with its file.
func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700, IndexInterval: 200})
	busyLog(t, l, n)
	require.NoError(t, d.Close(5))
	entries, err := mem.List(testPath + "/orders-0")
	require.NoError(t, err)
	for _, e := range entries {
		name := testPath + "/orders-0/" + e.Name
		whole, err := readFile(mem, name)
		require.NoError(t, err)
		for at := range whole {
			b := bytes.Clone(whole)
			b[at] ^= 0x15
			require.NoError(t, create(mem, name, b))
			bad, _, _ := findings(t, mem, testPath)
			require.NotEmpty(t, bad, "%s: byte %d of %d", e.Name, at, len(whole))
			require.Equal(t, SeverityDamage, bad[0].Severity)
		}
		require.NoError(t, create(mem, name, whole))
	}
}
