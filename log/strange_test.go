package log

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// warnings counts, by path, what a directory warns of.
type warnings struct {
	slog.Handler
	mu    sync.Mutex // guards paths
	paths map[string]int
}

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Level < slog.LevelWarn {
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "path" {
			w.paths[a.Value.String()]++
		}
		return true
	})
	return nil
}
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *warnings) WithGroup(string) slog.Handler            { return w }
func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

// strangers are files, and folders with a file in them, that no log has written.
func strangers() (root, inside []string) {
	root = []string{
		"notes.txt", "orders-9", ".hidden", "flushed-checkpoint.2", "clean-stop.bak", "orders-0.log",
		"x-1/notes.txt", "x-1/00000000000000000000.idx", "backup.deleted/precious", "orders-0.deleted/precious", "orders-0.12345.deleted/precious",
		"old.stray/precious", "00000000000000000000.log/precious", "a-b/precious", "lock.d/precious", "orders-007/precious", "tmp.tmp/precious",
	}
	inside = []string{
		"notes.tmp", "notes.log", "notes.index", "abc.snapshot", "0.log", "000000000000000000000.log", "-0000000000000000001.log",
		"00000000000000000000.log.bak", "00000000000000000000.LOG", "00000000000000000000.log.x.torn", "partition.metadata.bak", "leader-epoch-checkpoint.old",
		"99999999999999999999.log", "00000000000000007777.log/precious", "00000000000000007777.index/precious",
		"00000000000000007778.snapshot/precious", "x.tmp/precious", "leader-epoch-checkpoint.tmp.d/precious", "orders-1/precious",
	}
	return root, inside
}

// Files that are not ours stay as they are through start, work, crash, clean stop
// and reset; they are told once at each start, and disturb nothing.
func TestStrangeFilesAreLeftAlone(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.OS{}} {
		t.Run(name, func(t *testing.T) { leaveAlone(t, fsys) })
	}
}

func leaveAlone(t *testing.T, fsys vfs.FS) {
	t.Helper()
	at := "/data"
	_, disk := fsys.(vfs.OS)
	if disk {
		at = t.TempDir()
	}
	folder := filepath.Join(at, "orders-0")
	root, inside := strangers()
	var told []string // what is warned of: the first part of the name
	put := func(in string, names []string) {
		for _, name := range names {
			path := filepath.Join(in, name)
			require.NoError(t, fsys.Mkdir(filepath.Dir(path)))
			require.NoError(t, create(fsys, path, []byte("precious: "+name)))
			first, _, _ := strings.Cut(name, "/")
			told = append(told, filepath.Join(in, first))
		}
	}
	put(at, root)
	put(folder, inside)
	if disk {
		for _, in := range []string{at, folder} {
			link := filepath.Join(in, "link-0")
			require.NoError(t, os.Symlink(filepath.Join(at, "notes.txt"), link))
			told = append(told, link)
		}
	}
	require.NoError(t, fsys.Mkdir(filepath.Join(at, "lost+found")))
	require.NoError(t, fsys.Mkdir(filepath.Join(at, "raft")))
	told = slices.DeleteFunc(told, func(path string) bool { return filepath.Base(path) == "x-1" }) // Scan tells of it
	slices.Sort(told)
	told = slices.Compact(told)
	before := precious(t, fsys, at)
	require.Len(t, before, len(root)+len(inside)+map[bool]int{true: 2}[disk])

	start := func() (*Dir, *Log, *listener) {
		w := &warnings{paths: map[string]int{}}
		opts := testOptions(fsys)
		opts.Path, opts.Logger, opts.Others = at, slog.New(w), []string{"raft"}
		d := openTestDir(t, opts)
		n := newListener()
		l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 300, RetentionBytes: 600}, n))
		require.NoError(t, err)
		n.listen(l)
		for path, times := range w.paths {
			require.Equal(t, 1, times, path)
		}
		require.Equal(t, told, slices.Sorted(maps.Keys(w.paths)))
		found, err := d.Scan()
		require.NoError(t, err)
		require.Len(t, found, 2, "x-1, which does not say whose it is, and orders-0")
		require.False(t, slices.ContainsFunc(found, func(f Found) bool { return f.HasID && f.Topic != "orders" }))
		require.Equal(t, before, precious(t, fsys, at), "after the start")
		return d, l, n
	}
	d, l, n := start()
	require.Equal(t, record.Offset(0), l.End())
	fill(t, l, n, 20)
	l.SetHighWatermark(20)
	_, err := l.Retain(d.now())
	require.NoError(t, err)
	require.NoError(t, l.TruncateTo(17))
	require.NoError(t, d.Close(1))
	require.Equal(t, before, precious(t, fsys, at), "after a clean stop")

	d, l, n = start()
	require.Equal(t, record.Offset(17), l.End())
	require.Equal(t, DamageNone, l.Damage())
	fill(t, l, n, 1)
	readEverything(t, l)
	require.NoError(t, d.Close(-1))
	d, l, _ = start()
	require.Equal(t, record.Offset(18), l.End())
	require.NoError(t, l.Reset(5))
	require.NoError(t, d.Close(1))
	require.Equal(t, before, precious(t, fsys, at), "after a reset")

	in, err := Inspect(InspectOptions{FS: fsys, Path: at, Partition: -1, Others: []string{"raft"}})
	require.NoError(t, err)
	strange := map[string]bool{}
	sum, err := in.Verify(t.Context(), func(f Finding) {
		if f.Severity == SeverityStrange && !strings.Contains(f.Path, "x-1") {
			strange[f.Path] = true
		}
	})
	require.NoError(t, err)
	require.Zero(t, sum.Damages)
	require.Equal(t, told, slices.Sorted(maps.Keys(strange)))
}

// precious reads every file that holds the word.
func precious(t *testing.T, fsys vfs.FS, at string) map[string]string {
	t.Helper()
	out := contents(t, fsys, at)
	maps.DeleteFunc(out, func(_, b string) bool { return !strings.HasPrefix(b, "precious") })
	return out
}

// A removal that a crash interrupted is finished, and the checkpoint no longer
// promises what it removed; a partition that came back meanwhile keeps its promise.
func TestInterruptedRemovalIsFinished(t *testing.T) {
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprint("back ", back), func(t *testing.T) {
			mem := vfs.NewMem()
			d, l, n := openTestLog(t, mem, Config{Synced: true})
			fill(t, l, n, 3)
			require.NoError(t, d.Close(-1))
			folder := testPath + "/orders-0"
			if !back {
				require.NoError(t, mem.Rename(folder, folder+".0a010203.deleted"))
			} else {
				loaded := contents(t, mem, folder)
				require.NoError(t, mem.Mkdir(folder+".0a010203.deleted"))
				require.NoError(t, create(mem, folder+".0a010203.deleted/"+metadataName, []byte(loaded[folder+"/"+metadataName])))
			}
			d = openTestDir(t, testOptions(mem))
			entries, err := mem.List(testPath)
			require.NoError(t, err)
			require.False(t, slices.ContainsFunc(entries, func(e vfs.Entry) bool { return strings.HasSuffix(e.Name, deletedExt) }))
			if back { // its promise is not forgotten
				require.NoError(t, create(mem, folder+"/"+offsetName(0)+logExt, nil))
			}
			l, err = d.Open(testSpec(Config{Synced: true}, nil))
			require.NoError(t, err)
			require.Equal(t, map[bool]Damage{true: DamageLostBytes}[back], l.Damage())
			require.Equal(t, record.Offset(0), l.End())
			require.NoError(t, d.Close(-1))
		})
	}
}
