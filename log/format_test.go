package log

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; then review the difference")

// golden compares bytes with testdata/golden/<name>, kept as a hex dump for reviews.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := path.Join("testdata", "golden", name+".hex")
	dump := hex.Dump(got)
	if *rewrite {
		require.NoError(t, os.MkdirAll(path.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(dump), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), dump, "%s: the format on disk has changed", name)
}

// A directory with one log, made by a fixed history, is the same to the byte as
// it always was. docs/FORMAT.md walks through these files.
func TestFormat(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(mem)
	opts.CheckpointInterval = time.Hour
	opts.Flusher.JournalBytes = -1 // its salts are random
	opts.Now = func() time.Time { return time.UnixMilli(1_800_000_000_000) }
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 300, IndexInterval: 100}, n))
	require.NoError(t, err)
	n.listen(l)
	raw := [][]byte{
		idempotent(t, 42, 1, 0, "first", "second"), batch(t, 1_700_000_000_000, "third"),
		batch(t, 1_700_000_000_500, "fourth"), idempotent(t, 42, 1, 2, "fifth"), batch(t, 1_600_000_000_000, "sixth"),
	}
	for i, b := range raw {
		buf := record.NewBuf(bytes.Clone(b))
		_, next, err := l.Append(record.Epoch(3+i/3), []*record.Buf{buf}, 1_800_000_000_000)
		require.NoError(t, err)
		n.waitFlushed(next)
	}
	l.SetHighWatermark(5)
	require.NoError(t, d.Close(77))

	files := map[string]string{}
	for _, folder := range []string{testPath, testPath + "/orders-0"} {
		entries, err := mem.List(folder)
		require.NoError(t, err)
		for _, e := range entries {
			if e.Folder || e.Name == lockName {
				continue
			}
			name := path.Join(folder, e.Name)
			files[strings.TrimPrefix(name, testPath+"/")] = name
		}
	}
	entries, err := os.ReadDir("testdata/golden")
	if !*rewrite {
		require.NoError(t, err)
		require.Len(t, entries, len(files), "files on disk")
	}
	for short, name := range files {
		b, err := readFile(mem, name)
		require.NoError(t, err)
		golden(t, strings.ReplaceAll(short, "/", "_"), b)
	}
}

// The golden files, put back into a directory, open as what they were.
func TestOldFilesOpen(t *testing.T) {
	mem := vfs.NewMem()
	require.NoError(t, mem.Mkdir(testPath+"/orders-0"))
	entries, err := os.ReadDir("testdata/golden")
	require.NoError(t, err)
	for _, e := range entries {
		dump, err := os.ReadFile(path.Join("testdata", "golden", e.Name()))
		require.NoError(t, err)
		name := strings.TrimSuffix(e.Name(), ".hex")
		require.NoError(t, create(mem, path.Join(testPath, strings.Replace(name, "orders-0_", "orders-0/", 1)), undump(t, string(dump))))
	}
	d := openTestDir(t, testOptions(mem))
	epoch, clean, err := d.CleanMarker()
	require.NoError(t, err)
	require.True(t, clean)
	require.Equal(t, int64(77), epoch)
	l, err := d.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	require.Equal(t, Recovery{LastEpoch: 4, End: 6, Flushed: 6}, l.Recovery())
	require.Equal(t, record.Offset(5), l.HighWatermark())
	readEverything(t, l)
	_, _, err = tryAdd(l, 4, idempotent(t, 42, 1, 2, "fifth"))
	require.Equal(t, &DuplicateError{4, 5}, err)
	require.NoError(t, d.Close(-1))
}

func undump(t *testing.T, dump string) []byte {
	t.Helper()
	var out []byte
	for line := range strings.Lines(dump) {
		if len(line) < 60 {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(line[9:58]), " ", ""))
		require.NoError(t, err)
		out = append(out, b...)
	}
	return out
}
