package vfs_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
)

// Whoever only looks changes nothing, takes no lock, waits for no pipe, and learns
// whether somebody else has the lock.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	require.NoError(t, os.WriteFile(name, []byte("bytes"), 0o400))
	var fsys vfs.ReadOnly

	f, err := fsys.Open(name)
	require.NoError(t, err)
	b := make([]byte, 5)
	_, err = f.ReadAt(b, 0)
	require.NoError(t, err)
	require.Equal(t, "bytes", string(b))
	_, err = f.WriteAt(b, 0)
	require.Error(t, err)
	require.Error(t, f.Truncate(0))
	require.NoError(t, f.Close())

	for what, err := range map[string]error{
		"create": second(fsys.Create(filepath.Join(dir, "new"))), "lock": second(fsys.Lock(name)), "mkdir": fsys.Mkdir(filepath.Join(dir, "d")),
		"sync": fsys.SyncFolder(dir), "rename": fsys.Rename(name, name+"2"), "remove": fsys.Remove(name), "remove all": fsys.RemoveAll(name),
	} {
		require.ErrorIs(t, err, syscall.EROFS, what)
	}
	entries, err := fsys.List(dir)
	require.NoError(t, err)
	require.Equal(t, []vfs.Entry{{Name: "f"}}, entries)

	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	_, err = fsys.Open(filepath.Join(dir, "pipe"))
	require.ErrorContains(t, err, "not a regular file")
	_, err = fsys.Open(dir)
	require.ErrorContains(t, err, "not a regular file")

	lock := filepath.Join(dir, "lock")
	held, err := fsys.Locked(lock)
	require.NoError(t, err)
	require.False(t, held, "there is none")
	holder, err := vfs.OS{}.Lock(lock)
	require.NoError(t, err)
	held, err = fsys.Locked(lock)
	require.NoError(t, err)
	require.True(t, held)
	require.NoError(t, holder.Close())
	held, err = fsys.Locked(lock)
	require.NoError(t, err)
	require.False(t, held)
	again, err := vfs.OS{}.Lock(lock)
	require.NoError(t, err, "looking holds nothing")
	require.NoError(t, again.Close())
}

func second(_ vfs.File, err error) error { return err }
