package log

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// corrupt flips a bit in the middle of the batch that holds an offset.
func corrupt(t *testing.T, mem vfs.FS, l *Log, off record.Offset) {
	t.Helper()
	l.mu.Lock()
	s := l.segmentOf(off)
	l.mu.Unlock()
	position := int64(-1)
	require.NoError(t, l.walk(s, func(info *record.BatchInfo, at int64) {
		if info.BaseOffset <= off && off < info.NextOffset() {
			position = at + int64(info.Size) - 1
		}
	}))
	require.GreaterOrEqual(t, position, int64(0))
	f, err := mem.Open(s.path + logExt)
	require.NoError(t, err)
	b := make([]byte, 1)
	require.NoError(t, readFull(f, b, position))
	b[0] ^= 4
	_, err = f.WriteAt(b, position)
	require.NoError(t, err)
	require.NoError(t, f.Datasync())
	require.NoError(t, f.Close())
}

// damaged opens a log of 30 records in several segments, and damages the 14th.
func damaged(t *testing.T, mem vfs.FS) (*Dir, *Log, *listener) {
	t.Helper()
	d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700})
	fill(t, l, n, 30)
	require.NoError(t, d.checkpoint.write()) // what it does not promise may be torn
	corrupt(t, mem, l, 13)
	evictAll(d)
	_, err := NewScrubber(ScrubberOptions{BytesPerSecond: -1}).Scrub(t.Context(), l)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
	require.NoError(t, d.checkpoint.write())
	return d, l, n
}

// segmentsIn returns what is in the segments of a folder, in order.
func segmentsIn(t *testing.T, fsys vfs.FS, folder string) string {
	t.Helper()
	entries, err := fsys.List(folder)
	require.NoError(t, err)
	var out strings.Builder
	for _, e := range entries {
		if kind, _ := logKind(e); kind == KindSegment {
			b, err := readFile(fsys, filepath.Join(folder, e.Name))
			require.NoError(t, err)
			out.Write(b)
		}
	}
	return out.String()
}

// keptFolders are those that rebuilds have kept.
func keptFolders(t *testing.T, fsys vfs.FS) (out []string) {
	t.Helper()
	entries, err := fsys.List(testPath)
	require.NoError(t, err)
	for _, e := range entries {
		if rootKind(e, nil) == KindDamaged {
			out = append(out, filepath.Join(testPath, e.Name))
		}
	}
	return out
}

// What is left of a damaged log outlives its rebuild, a restart and another rebuild,
// until it is dropped.
func TestRebuildKeepsTheOldCopy(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := damaged(t, mem)
	old := segmentsIn(t, mem, l.path)
	kept, err := l.Rebuild(false)
	require.NoError(t, err)
	require.True(t, kept)
	require.Equal(t, DamageNone, l.Damage())
	require.Zero(t, l.End())
	require.True(t, l.KeepsDamaged())
	folders := keptFolders(t, mem)
	require.Len(t, folders, 1)
	require.Equal(t, old, segmentsIn(t, mem, folders[0]))
	id, err := d.readMetadata(folders[0])
	require.NoError(t, err)
	require.Equal(t, testID, id)
	fill(t, l, n, 5)
	require.NoError(t, d.Close(1))

	d, l, n = openTestLog(t, mem, Config{Synced: true})
	require.Equal(t, DamageNone, l.Damage(), "%v", l.Recovery().Cause)
	require.Equal(t, record.Offset(5), l.End())
	require.True(t, l.KeepsDamaged())
	require.Equal(t, old, segmentsIn(t, mem, folders[0]))

	corrupt(t, mem, l, 2)
	evictAll(d)
	_, err = NewScrubber(ScrubberOptions{BytesPerSecond: -1}).Scrub(t.Context(), l)
	require.ErrorIs(t, err, ErrCorrupt)
	kept, err = l.Rebuild(false)
	require.NoError(t, err)
	require.True(t, kept)
	require.Len(t, keptFolders(t, mem), 2)
	fill(t, l, n, 1)

	dropped, err := l.DropDamaged(0)
	require.NoError(t, err)
	require.Equal(t, 2, dropped)
	require.False(t, l.KeepsDamaged())
	require.Empty(t, keptFolders(t, mem))
	require.NoError(t, l.Err())
	require.NoError(t, d.Close(1))
}

// There is nothing to keep of an empty log, and no room on a full disk.
func TestRebuildWithoutACopy(t *testing.T) {
	mem := vfs.NewMem()
	d, l, _ := openTestLog(t, mem, Config{Synced: true})
	kept, err := l.Rebuild(false)
	require.NoError(t, err)
	require.False(t, kept)
	require.NoError(t, d.Close(-1))

	mem = vfs.NewMem()
	d, l, _ = damaged(t, mem)
	d.space.reserve = 1 << 62
	d.space.until.Store(0)
	d.space.mu.Lock()
	d.space.asked = time.Time{}
	d.space.mu.Unlock()
	kept, err = l.Rebuild(false)
	require.NoError(t, err)
	require.False(t, kept)
	require.Zero(t, l.End())
	require.Empty(t, keptFolders(t, mem))
	require.NoError(t, d.Close(-1))
}

// Where the old copy may be all that there is of some records, nothing is begun anew as
// long as the disk has no room for both.
func TestRebuildOfAnOnlyCopy(t *testing.T) {
	mem := vfs.NewMem()
	d, l, _ := damaged(t, mem)
	old := segmentsIn(t, mem, l.path)
	reserve := func(n int64) {
		d.space.reserve = n
		d.space.until.Store(0)
		d.space.mu.Lock()
		d.space.asked = time.Time{}
		d.space.mu.Unlock()
	}
	reserve(1 << 62)
	_, err := l.Rebuild(true)
	require.ErrorIs(t, err, ErrDiskFull)
	require.NoError(t, l.Err())
	require.Equal(t, DamageCorrupt, l.Damage())
	require.Equal(t, old, segmentsIn(t, mem, l.path))
	reserve(-1)
	kept, err := l.Rebuild(true)
	require.NoError(t, err)
	require.True(t, kept)
	require.NoError(t, d.Close(-1))
}

// A kept copy goes by itself unless an election since its last leader epoch may have lost what
// it holds; then only an operator takes it, also where the partition moves away.
func TestCopiesStayAfterALoss(t *testing.T) {
	for name, tt := range map[string]struct {
		since record.Epoch
		spoil bool // nobody can tell where the copy ends
		kept  int
	}{
		"no loss": {0, false, 0}, "a loss before": {1, false, 0}, "a loss since": {2, false, 1},
		"no loss, unknown": {0, true, 0}, "a loss some time": {1, true, 1},
	} {
		for _, moves := range []bool{false, true} {
			mem := vfs.NewMem()
			d, l, n := damaged(t, mem) // in epoch 1
			kept, err := l.Rebuild(false)
			require.NoError(t, err)
			require.True(t, kept)
			fill(t, l, n, 3)
			folder := keptFolders(t, mem)[0]
			require.Equal(t, []Found{{Topic: "orders", TopicID: testID, HasID: true, Path: folder}}, d.KeptDamaged())
			if tt.spoil {
				require.NoError(t, mem.Remove(filepath.Join(folder, epochsName)))
			}
			if moves {
				require.NoError(t, d.RemoveMoved(l, tt.since))
				require.NotContains(t, listNames(t, mem, testPath), "orders-0")
			} else {
				dropped, err := l.DropDamaged(tt.since)
				require.NoError(t, err)
				require.Equal(t, 1-tt.kept, dropped, name)
				require.Equal(t, tt.kept == 1, l.KeepsDamaged(), name)
			}
			require.Len(t, keptFolders(t, mem), tt.kept, name)
			require.Len(t, d.KeptDamaged(), tt.kept, name)
			require.NoError(t, d.Close(-1))
		}
	}
}

func listNames(t *testing.T, fsys vfs.FS, folder string) (out []string) {
	t.Helper()
	entries, err := fsys.List(folder)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}

// A rebuild that fails or is cut short anywhere leaves what was there in one of both
// folders, and a log that the next start knows to be damaged, or empty and whole.
func TestRebuildCutShort(t *testing.T) {
	for _, f := range []vfs.Fault{
		{Op: vfs.OpRename, Pattern: "*.damaged"},
		{Op: vfs.OpFolder, Pattern: "data"},
		{Op: vfs.OpCreate, Pattern: "partition.metadata"},
		{Op: vfs.OpFolder, Pattern: "orders-0"},
		{Op: vfs.OpCreate, Pattern: "reset.tmp"},
		{Op: vfs.OpRename, Pattern: "reset"},
		{Op: vfs.OpWrite, Pattern: "flushed-checkpoint.*"},
		{Op: vfs.OpCreate, Pattern: "*.log"},
	} {
		t.Run(string(f.Op)+" "+f.Pattern, func(t *testing.T) {
			mem := vfs.NewMem()
			faults := vfs.NewFaults(mem)
			d, l, _ := damaged(t, faults)
			old := segmentsIn(t, mem, l.path)
			f.Err = syscall.EIO
			faults.Inject(f)
			_, err := l.Rebuild(false)
			require.Error(t, err)
			require.ErrorIs(t, l.Err(), ErrFailed)
			killed, cut := mem.KillClone(), mem.CrashClone(nil)
			_ = d.Close(-1) // says how it failed
			for name, disk := range map[string]*vfs.Mem{"killed": killed, "power cut": cut} {
				d, l, _ := openTestLog(t, disk, Config{Synced: true, SegmentBytes: 700})
				where := l.path
				if kept := keptFolders(t, disk); len(kept) > 0 {
					require.True(t, l.KeepsDamaged(), name)
					where = kept[0]
				}
				require.Equal(t, old, segmentsIn(t, disk, where), name)
				if l.Damage() == DamageNone {
					require.Zero(t, l.End(), name)
					require.NotEqual(t, l.path, where, name)
				} else {
					_, err := l.Rebuild(false)
					require.NoError(t, err, name)
				}
				require.NoError(t, d.Close(-1), name)
			}
		})
	}
}

// Where a log ceases to be whole is known after a restart, too, and the lowest place
// counts.
func TestWhereDamageBeginsIsKept(t *testing.T) {
	mem := vfs.NewMem()
	d, l, _ := damaged(t, mem)
	epoch, end := l.Readable()
	require.Equal(t, record.Offset(13), end)
	require.Equal(t, record.Epoch(1), epoch)
	require.Equal(t, record.Offset(30), l.End())
	require.NoError(t, d.Close(1))

	d, l, _ = openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700})
	require.Equal(t, DamageCorrupt, l.Damage())
	_, end = l.Readable()
	require.Equal(t, record.Offset(13), end)
	corrupt(t, mem, l, 4)
	_, err := l.Read(4, 5, 1<<20)
	require.ErrorIs(t, err, ErrCorrupt)
	_, end = l.Readable()
	require.Equal(t, record.Offset(4), end)
	_, err = l.Rebuild(false)
	require.NoError(t, err)
	_, end = l.Readable()
	require.Zero(t, end)
	require.NoError(t, d.Close(1))
}

// A scrub reads all that there is, finds nothing in a log that is well, and goes on
// beside appends, truncation and retention.
func TestScrubOfASoundLog(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 700})
	s := NewScrubber(ScrubberOptions{BytesPerSecond: -1})
	read, err := s.Scrub(t.Context(), l)
	require.NoError(t, err)
	require.Zero(t, read)
	fill(t, l, n, 40)
	evictAll(d)
	read, err = s.Scrub(t.Context(), l)
	require.NoError(t, err)
	require.Equal(t, l.Size(), read)

	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 30 {
			if _, err := s.Scrub(t.Context(), l); err != nil && !errors.Is(err, ErrBusy) {
				t.Errorf("scrub %d: %v", i, err)
			}
		}
	}()
	for i := range record.Offset(30) {
		fill(t, l, n, 2)
		require.NoError(t, l.TruncateTo(l.End()-1))
		require.NoError(t, l.AdvanceStart(i))
	}
	<-done
	require.Equal(t, DamageNone, l.Damage())
	require.NoError(t, d.Close(-1))
	_, err = s.Scrub(t.Context(), l)
	require.ErrorIs(t, err, ErrClosed)
}

// A scrub takes its time.
func TestScrubKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true})
		for range 6 {
			_, next := add(t, l, 1, batch(t, 0, strings.Repeat("v", 900<<10)))
			n.waitFlushed(next)
		}
		evictAll(d)
		begin := time.Now()
		read, err := NewScrubber(ScrubberOptions{BytesPerSecond: 1 << 20}).Scrub(t.Context(), l)
		require.NoError(t, err)
		require.Equal(t, l.Size(), read)
		require.GreaterOrEqual(t, time.Since(begin), 3*time.Second)
		require.NoError(t, d.Close(-1))
	})
}

// Whatever cuts the removal of a partition short, nothing of it stays for good: neither
// its folder nor what a rebuild had kept.
func TestRemoveTakesTheKeptCopy(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpRename, vfs.OpFolder, vfs.OpRemove, vfs.OpWrite} {
		for after := range 6 {
			mem := vfs.NewMem()
			faults := vfs.NewFaults(mem)
			d, l, n := damaged(t, faults)
			kept, err := l.Rebuild(false)
			require.NoError(t, err)
			require.True(t, kept)
			fill(t, l, n, 3)
			require.NoError(t, l.Close())
			faults.Inject(vfs.Fault{Op: op, After: after, Err: syscall.EIO})
			_ = d.Remove(l) // it may fail
			disks := map[string]*vfs.Mem{"killed": mem.KillClone(), "power cut": mem.CrashClone(nil)}
			for seed := range uint64(8) { // what was not synced got to the disk in part
				disks[fmt.Sprint("power cut ", seed)] = mem.CrashClone(rand.New(rand.NewPCG(seed, 7)))
			}
			faults.Heal()
			_ = d.Close(-1)
			for name, disk := range disks {
				d := openTestDir(t, testOptions(disk))
				found, err := d.Scan()
				require.NoError(t, err)
				for range found { // the metadata says again that it is to go
					l, err := d.Open(testSpec(Config{Synced: true}, newListener()))
					require.NoError(t, err)
					require.NoError(t, d.Remove(l))
				}
				require.NoError(t, d.Close(-1))
				entries, err := disk.List(testPath)
				require.NoError(t, err)
				for _, e := range entries {
					require.False(t, e.Folder, "%s %d %s: %s is left", op, after, name, e.Name)
				}
			}
		}
	}
}
