package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// systems are the implementations, each with a root folder that may be filled.
func systems(t *testing.T) map[string]struct {
	fs   FS
	root string
} {
	t.Helper()
	return map[string]struct {
		fs   FS
		root string
	}{
		"os":     {OS{}, t.TempDir()},
		"mem":    {NewMem(), "/"},
		"faults": {NewFaults(NewMem()), "/"},
		"watched": {func() FS {
			m := NewMem()
			m.Watch(func(Event) { m.CrashClone(nil) })
			return m
		}(), "/"},
		"faults on os": {NewFaults(OS{}), t.TempDir()},
	}
}

// One suite for all implementations.
func TestContract(t *testing.T) {
	for name, s := range systems(t) {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(s.root, "a", "b")
			_, err := s.fs.List(dir)
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.NoError(t, s.fs.Mkdir(dir))
			require.NoError(t, s.fs.Mkdir(dir), "it may exist")
			file := filepath.Join(dir, "f")
			_, err = s.fs.Open(file)
			require.ErrorIs(t, err, fs.ErrNotExist)
			f, err := s.fs.Create(file)
			require.NoError(t, err)

			n, err := f.WriteVecAt([][]byte{[]byte("one"), nil, []byte("two"), []byte("three")}, 2)
			require.NoError(t, err)
			require.Equal(t, int64(11), n)
			size, err := f.Size()
			require.NoError(t, err)
			require.Equal(t, int64(13), size)
			b := make([]byte, 20)
			got, err := f.ReadAt(b, 0)
			require.ErrorIs(t, err, io.EOF)
			require.Equal(t, "\x00\x00onetwothree", string(b[:got]))
			_, err = f.WriteAt([]byte("TWO"), 5)
			require.NoError(t, err)
			require.NoError(t, f.Datasync())
			require.NoError(t, f.DropCache(0, size))
			require.NoError(t, f.Truncate(8))
			got, err = f.ReadAt(b[:8], 0)
			require.True(t, err == nil || errors.Is(err, io.EOF))
			require.Equal(t, "\x00\x00oneTWO", string(b[:got]))
			require.NoError(t, f.Close())
			require.Error(t, f.Datasync())

			require.NoError(t, s.fs.Rename(file, file+"2"))
			require.NoError(t, s.fs.SyncFolder(dir))
			entries, err := s.fs.List(dir)
			require.NoError(t, err)
			require.Equal(t, []Entry{{Name: "f2"}}, entries)
			require.Error(t, s.fs.Remove(dir), "not empty")
			require.NoError(t, s.fs.Remove(file+"2"))
			require.ErrorIs(t, s.fs.Remove(file+"2"), fs.ErrNotExist)

			lock, err := s.fs.Lock(file)
			require.NoError(t, err)
			_, err = s.fs.Lock(file)
			require.ErrorIs(t, err, ErrLocked)
			require.NoError(t, lock.Close())
			lock, err = s.fs.Lock(file)
			require.NoError(t, err)
			require.NoError(t, lock.Close())

			free, total, err := s.fs.Space(dir)
			require.NoError(t, err)
			require.Positive(t, free)
			require.GreaterOrEqual(t, total, free)
			require.NoError(t, s.fs.RemoveAll(filepath.Join(s.root, "a")))
			require.NoError(t, s.fs.RemoveAll(filepath.Join(s.root, "a")), "it may be absent")
			_, err = s.fs.List(dir)
			require.ErrorIs(t, err, fs.ErrNotExist)
		})
	}
}

func TestVectorsLongerThanTheKernelTakes(t *testing.T) {
	f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	var bufs [][]byte
	var want []byte
	for i := range 2500 {
		b := fmt.Appendf(nil, "%d,", i)
		bufs, want = append(bufs, b), append(want, b...)
	}
	n, err := f.WriteVecAt(bufs, 0)
	require.NoError(t, err)
	require.Equal(t, int64(len(want)), n)
	got := make([]byte, len(want))
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, f.Close())
}

func TestAdvance(t *testing.T) {
	bufs := [][]byte{[]byte("abc"), []byte("de"), []byte("f")}
	require.Equal(t, [][]byte{[]byte("e"), []byte("f")}, advance(bufs, 4))
	require.Empty(t, advance([][]byte{[]byte("a")}, 1))
}

func write(t require.TestingT, m FS, name, content string) File {
	f, err := m.Create(name)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	require.NoError(t, err)
	return f
}

func content(t require.TestingT, m FS, name string) string {
	f, err := m.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	require.NoError(t, err)
	size, err := f.Size()
	require.NoError(t, err)
	b := make([]byte, size)
	_, err = f.ReadAt(b, 0)
	require.True(t, err == nil || errors.Is(err, io.EOF))
	return string(b)
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	m := NewMem()
	synced := write(t, m, "/synced", "abc")
	require.NoError(t, synced.Datasync())
	write(t, m, "/content lost", "abc")
	require.NoError(t, m.SyncFolder("/"))
	nameless := write(t, m, "/name lost", "abc")
	require.NoError(t, nameless.Datasync())
	_, err := synced.WriteAt([]byte("def"), 3)
	require.NoError(t, err)

	c := m.CrashClone(nil)
	require.Equal(t, "abc", content(t, c, "/synced"))
	require.Empty(t, content(t, c, "/content lost"))
	require.Equal(t, "absent", content(t, c, "/name lost"))
	require.Equal(t, "abcdef", content(t, m, "/synced"), "the original goes on")
	require.NoError(t, m.Rename("/synced", "/renamed"))
	require.Equal(t, "abc", content(t, m.CrashClone(nil), "/synced"))
	require.NoError(t, m.SyncFolder("/"))
	require.Equal(t, "abc", content(t, m.CrashClone(nil), "/renamed"))
	require.Equal(t, "absent", content(t, m.CrashClone(nil), "/synced"))
}

// With a seed anything may survive, but what was synced does.
func TestRandomCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMem()
		f := write(t, m, "/f", "")
		require.NoError(t, m.SyncFolder("/"))
		want := []byte{}
		dirty := map[int]bool{}
		for range rapid.IntRange(0, 6).Draw(t, "writes") {
			at := rapid.IntRange(0, 3*pageSize).Draw(t, "at")
			b := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "fill"))}, rapid.IntRange(1, 2*pageSize).Draw(t, "size"))
			for len(want) < at+len(b) {
				dirty[len(want)/pageSize] = true
				want = append(want, 0)
			}
			_, err := f.WriteAt(b, int64(at))
			require.NoError(t, err)
			copy(want[at:], b)
			for i := at; i < at+len(b); i++ {
				dirty[i/pageSize] = true
			}
			if rapid.Bool().Draw(t, "sync") {
				require.NoError(t, f.Datasync())
				clear(dirty)
			}
		}
		got := content(t, m.CrashClone(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))), "/f")
		for i := range min(len(got), len(want)) {
			if !dirty[i/pageSize] {
				require.Equal(t, want[i], got[i], "byte %d was synced", i)
			}
		}
		if len(dirty) == 0 {
			require.Len(t, got, len(want))
		}
	})
}

func TestAFailedSyncLosesPagesForGood(t *testing.T) {
	m := NewMem()
	faults := NewFaults(m)
	f := write(t, faults, "/f", "old")
	require.NoError(t, f.Datasync())
	require.NoError(t, faults.SyncFolder("/"))
	faults.Inject(Fault{Op: OpSync, Count: 1, Err: syscall.EIO})
	_, err := f.WriteAt([]byte("new"), 0)
	require.NoError(t, err)
	require.ErrorIs(t, f.Datasync(), syscall.EIO)
	require.NoError(t, f.Datasync(), "the second one succeeds, as on Linux")
	require.Equal(t, "new", content(t, m, "/f"))
	require.Equal(t, "old", content(t, m.CrashClone(nil), "/f"))
	_, err = f.WriteAt([]byte("new"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Datasync())
	require.Equal(t, "new", content(t, m.CrashClone(nil), "/f"), "written again, it is safe")
}

func TestFaults(t *testing.T) {
	faults := NewFaults(NewMem())
	f := write(t, faults, "/a.log", "0123456789")
	faults.Inject(Fault{Op: OpWrite, Pattern: "*.log", After: 1, Count: 2, Err: syscall.ENOSPC, Partial: 4})
	_, err := f.WriteAt([]byte("x"), 0)
	require.NoError(t, err, "the first passes")
	for range 2 {
		n, err := f.WriteVecAt([][]byte{[]byte("ab"), []byte("cdef")}, 0)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.Equal(t, int64(4), n)
	}
	require.Equal(t, "abcd456789", content(t, faults, "/a.log"))
	_, err = f.WriteAt([]byte("x"), 0)
	require.NoError(t, err, "and it is over")
	other := write(t, faults, "/b.index", "x")
	faults.Inject(Fault{Op: OpWrite, Pattern: "*.log", Err: syscall.EIO})
	_, err = other.WriteAt([]byte("x"), 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, syscall.EIO)
	faults.Heal()
	_, err = f.WriteAt([]byte("x"), 0)
	require.NoError(t, err)
	require.NoError(t, faults.Mkdir("/x-1"))
	require.NoError(t, faults.Mkdir("/x-2"))
	one, two := write(t, faults, "/x-1/a.log", "x"), write(t, faults, "/x-2/a.log", "x")
	faults.Inject(Fault{Op: OpSync, Pattern: "*.log", Folder: "x-1", Err: syscall.EIO})
	require.ErrorIs(t, one.Datasync(), syscall.EIO)
	require.NoError(t, two.Datasync(), "a file of that name in another folder")
	faults.Heal()
	write(t, faults, "/e", "")
	for op, try := range map[Op]func() error{
		OpOpen:     func() error { _, err := faults.Open("/a.log"); return err },
		OpCreate:   func() error { _, err := faults.Create("/c"); return err },
		OpRead:     func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
		OpTruncate: func() error { return f.Truncate(1) },
		OpSync:     func() error { return f.Datasync() },
		OpFolder:   func() error { return faults.SyncFolder("/") },
		OpRename:   func() error { return faults.Rename("/b.index", "/d") },
		OpRemove:   func() error { return faults.Remove("/e") },
	} {
		faults.Inject(Fault{Op: op, Count: 1, Err: syscall.EIO})
		before := faults.Count(op)
		require.ErrorIs(t, try(), syscall.EIO, "%s", op)
		require.Equal(t, before+1, faults.Count(op))
		require.NoError(t, try(), "%s", op)
	}
}

func TestOSErrorsNameTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x")
	_, _, err := OS{}.Space(name)
	require.ErrorContains(t, err, name)
	_, err = OS{}.Lock(filepath.Join(name, "lock"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestWatchTellsOfEveryChangeTwice(t *testing.T) {
	m := NewMem()
	var got []Event
	var durable []string
	m.Watch(func(e Event) {
		got = append(got, e)
		if e.Op == OpSync {
			durable = append(durable, content(t, m.CrashClone(nil), "/a/f"))
		}
	})
	require.NoError(t, m.Mkdir("/a"))
	f := write(t, m, "/a/f", "abc")
	require.NoError(t, m.SyncFolder("/a"))
	require.NoError(t, m.SyncFolder("/"))
	require.NoError(t, f.Datasync())
	require.NoError(t, f.Truncate(1))
	require.NoError(t, m.Rename("/a/f", "/a/g"))
	require.NoError(t, m.Remove("/a/g"))
	require.NoError(t, m.RemoveAll("/a"))
	var want []Event
	for _, e := range []Event{
		{Op: OpCreate, Name: "/a"},
		{Op: OpCreate, Name: "/a/f"},
		{Op: OpWrite, Name: "/a/f"},
		{Op: OpFolder, Name: "/a"},
		{Op: OpFolder, Name: "/"},
		{Op: OpSync, Name: "/a/f"},
		{Op: OpTruncate, Name: "/a/f"},
		{Op: OpRename, Name: "/a/g"},
		{Op: OpRemove, Name: "/a/g"},
		{Op: OpRemove, Name: "/a"},
	} {
		want = append(want, e)
		e.Done = true
		want = append(want, e)
	}
	require.Equal(t, want, got)
	require.Equal(t, []string{"", "abc"}, durable, "before and after")
	m.Watch(nil)
	write(t, m, "/f", "")
	require.Len(t, got, len(want))
}

// What a failed sync left behind: a page that is written again in part reaches
// the disk whole, one that is not may be read as the disk has it.
func TestPagesOfAFailedSync(t *testing.T) {
	faults := NewFaults(NewMem())
	m := faults.FS.(*Mem)
	f := write(t, faults, "/f", strings.Repeat("a", 3*pageSize))
	require.NoError(t, faults.SyncFolder("/"))
	faults.Inject(Fault{Op: OpSync, Count: 1, Err: syscall.EIO})
	require.Error(t, f.Datasync())
	_, err := f.WriteAt([]byte("b"), 10)
	require.NoError(t, err)
	require.NoError(t, f.Datasync())
	got := content(t, m.CrashClone(nil), "/f")
	require.Equal(t, strings.Repeat("a", 10)+"b"+strings.Repeat("a", pageSize-11)+strings.Repeat("\x00", 2*pageSize), got)
	require.NotContains(t, content(t, m, "/f"), "\x00")
	require.NoError(t, f.Truncate(2*pageSize))
	m.EvictLost()
	require.Equal(t, got[:2*pageSize], content(t, m, "/f"))
	some := false
	for seed := range uint64(20) { // they may have got there
		faults.Inject(Fault{Op: OpSync, Count: 1, Err: syscall.EIO})
		_, err = f.WriteAt([]byte("c"), pageSize)
		require.NoError(t, err)
		require.Error(t, f.Datasync())
		some = some || strings.Contains(content(t, m.CrashClone(rand.New(rand.NewPCG(seed, 0))), "/f"), "c")
		require.NotContains(t, content(t, m.CrashClone(nil), "/f"), "c")
	}
	require.True(t, some)
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := NewFaults(NewMem())
		f := write(t, faults, "/f", "abc")
		for _, op := range []Op{OpSync, OpRead, OpWrite} {
			for _, want := range []error{nil, syscall.EIO} {
				hold := make(chan struct{})
				faults.Inject(Fault{Op: op, Count: 1, Hold: hold, Err: want})
				done := make(chan error)
				go func() {
					var err error
					switch op {
					case OpSync:
						err = f.Datasync()
					case OpRead:
						_, err = f.ReadAt(make([]byte, 1), 0)
					default:
						_, err = f.WriteAt([]byte("x"), 0)
					}
					done <- err
				}()
				synctest.Wait()
				require.Equal(t, 1, faults.Held())
				close(hold)
				require.ErrorIs(t, <-done, want)
				require.Zero(t, faults.Held())
			}
		}
	})
}

func TestFaultsCountBytes(t *testing.T) {
	faults := NewFaults(NewMem())
	f := write(t, faults, "/f", "abcdef")
	_, err := f.ReadAt(make([]byte, 4), 0)
	require.NoError(t, err)
	require.Equal(t, []int64{6, 4}, []int64{faults.Bytes(OpWrite), faults.Bytes(OpRead)})
}

func TestKillKeepsWhatWasWrittenAndAtRisk(t *testing.T) {
	m := NewMem()
	f := write(t, m, "/f", "abc")
	require.NoError(t, f.Datasync())
	require.NoError(t, m.SyncFolder("/"))
	_, err := f.WriteAt([]byte("def"), 3)
	require.NoError(t, err)
	require.NoError(t, m.Rename("/f", "/g"))
	c := m.KillClone()
	_, err = f.WriteAt([]byte("ghi"), 6)
	require.NoError(t, err)
	require.NoError(t, m.Remove("/g"))
	require.Equal(t, "abcdef", content(t, c, "/g"))
	require.Equal(t, "abc", content(t, c.CrashClone(nil), "/f"))
	require.NoError(t, c.SyncFolder("/"))
	require.Equal(t, "abc", content(t, c.CrashClone(nil), "/g"))
	g, err := c.Open("/g")
	require.NoError(t, err)
	require.NoError(t, g.Datasync())
	require.Equal(t, "abcdef", content(t, c.CrashClone(nil), "/g"))
}
