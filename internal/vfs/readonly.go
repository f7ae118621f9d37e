package vfs

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReadOnly is the operating system's file system for those who only look: files
// are opened for reading, and whatever would change something answers EROFS. It
// therefore works on a directory that the user may only read, and on one that a
// living process writes.
type ReadOnly struct{}

var _ FS = ReadOnly{}

// Open opens a regular file for reading. Anything else, a pipe or a device, is
// refused: reading it could wait for ever.
func (ReadOnly) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = pathError("open", name, errors.New("not a regular file"))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osFile{f}, nil
}

// Locked says whether a living process holds the named lock file. It asks for a
// shared lock and gives it back at once; it never waits.
func (ReadOnly) Locked(name string) (held bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		held, err = true, nil
	case err != nil:
		err = &os.PathError{Op: "flock", Path: name, Err: err}
	}
	return held, errors.Join(err, f.Close())
}

// Create implements Files.
func (ReadOnly) Create(name string) (File, error) { return nil, refused("create", name) }

// Lock implements Files.
func (ReadOnly) Lock(name string) (File, error) { return nil, refused("lock", name) }

// Space implements Files.
func (ReadOnly) Space(name string) (free, total int64, err error) { return OS{}.Space(name) }

// Mkdir implements Folders.
func (ReadOnly) Mkdir(name string) error { return refused("mkdir", name) }

// List implements Folders.
func (ReadOnly) List(name string) ([]Entry, error) { return OS{}.List(name) }

// SyncFolder implements Folders.
func (ReadOnly) SyncFolder(name string) error { return refused("sync", name) }

// Rename implements Names.
func (ReadOnly) Rename(from, _ string) error { return refused("rename", from) }

// Remove implements Names.
func (ReadOnly) Remove(name string) error { return refused("remove", name) }

// RemoveAll implements Names.
func (ReadOnly) RemoveAll(name string) error { return refused("remove", name) }

func refused(op, name string) error { return pathError(op, name, syscall.EROFS) }
