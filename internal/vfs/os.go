package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	filePerm   = 0o644
	folderPerm = 0o755
	// vecMax is the kernel's IOV_MAX.
	vecMax = 1024
)

// OS is the file system of the operating system. Paths are used as they are.
type OS struct{}

var (
	_ FS     = OS{}
	_ Sender = (*osFile)(nil)
)

// Open implements Files.
func (OS) Open(name string) (File, error) { return openOS(name, os.O_RDWR) }

// Create implements Files.
func (OS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// openOS does without os.OpenFile, which tries to poll each file that it opens:
// five system calls more, in vain for regular files.
func openOS(name string, flags int) (File, error) {
	for {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, filePerm)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return &osFile{os.NewFile(uintptr(fd), name)}, nil
	}
}

// Lock implements Files with flock(2), which the kernel releases when the
// process dies, however it dies.
func (OS) Lock(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return &osFile{f}, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(ErrLocked, f.Close())
	default:
		return nil, errors.Join(&os.PathError{Op: "flock", Path: name, Err: err}, f.Close())
	}
}

// Space implements Files.
func (OS) Space(name string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	return int64(st.Bavail) * st.Frsize, int64(st.Blocks) * st.Frsize, nil // Frsize is the unit of the counts
}

// Mkdir implements Folders.
func (OS) Mkdir(name string) error { return os.MkdirAll(name, folderPerm) }

// List implements Folders.
func (OS) List(name string) ([]Entry, error) {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	out := make([]Entry, len(entries))
	for i, e := range entries {
		out[i] = Entry{Name: e.Name(), Folder: e.IsDir()}
	}
	return out, nil
}

// SyncFolder implements Folders.
func (OS) SyncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Rename implements Names.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements Names.
func (OS) Remove(name string) error { return os.Remove(name) }

// RemoveAll implements Names.
func (OS) RemoveAll(name string) error { return os.RemoveAll(name) }

type osFile struct{ *os.File }

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// WriteVecAt writes bufs with pwritev(2), again after a short write.
func (f *osFile) WriteVecAt(bufs [][]byte, off int64) (int64, error) {
	if len(bufs) == 1 {
		n, err := f.WriteAt(bufs[0], off)
		return int64(n), err
	}
	var done int64
	for len(bufs) > 0 {
		rest := bufs[:min(len(bufs), vecMax)]
		bufs = bufs[len(rest):]
		for len(rest) > 0 {
			n, err := unix.Pwritev(int(f.Fd()), rest, off+done)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err == nil && n == 0 {
				err = errors.New("wrote nothing")
			}
			if err != nil {
				return done, &os.PathError{Op: "pwritev", Path: f.Name(), Err: err}
			}
			done += int64(n)
			rest = advance(rest, n)
		}
	}
	return done, nil
}

// advance drops the first n bytes of bufs, which are the caller's: what a short
// write cuts in two is cut in a copy.
func advance(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs = slices.Clone(bufs)
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

// Datasync asks a second time whether the file system lives. One that is shut down,
// because its device or its own structures failed, or by an ioctl, ends the
// transaction that a sync under way waits for: that fdatasync returns 0, and the new
// length of the file is lost (seen on ext4 of Linux 6.18, internal/chaos
// TestDatasyncWhileTheDiskDies). A write of nothing meets ext4's check for that first.
// It takes a quarter of a microsecond, and waits for a buffered write to the same file.
// xfs does not need it: its fsync fails when the log that it waits for has been shut
// down.
func (f *osFile) Datasync() error {
	fd := int(f.Fd())
	if err := again(func() error { return unix.Fdatasync(fd) }); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	err := again(func() error { _, err := unix.Pwrite(fd, nil, 0); return err })
	if err != nil {
		return &os.PathError{Op: "fdatasync, checked by a write", Path: f.Name(), Err: err}
	}
	return nil
}

// again calls f until no signal interrupts it.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f *osFile) DropCache(off, n int64) error {
	if n <= 0 {
		return nil // to the kernel 0 means: to the end
	}
	if err := unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("fadvise %s: %w", f.Name(), err)
	}
	return nil
}

// ReadAhead doubles the kernel's window for reading ahead of this descriptor.
func (f *osFile) ReadAhead() error {
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL); err != nil {
		return fmt.Errorf("fadvise %s: %w", f.Name(), err)
	}
	return nil
}

// SendTo implements Sender with sendfile(2): the socket refers to the pages of the
// page cache, and nothing is copied on this side.
func (f *osFile) SendTo(socket syscall.RawConn, off int64, n int) (sent int, err error) {
	fd := int(f.Fd())
	ended := socket.Write(func(to uintptr) (done bool) {
		for sent < n {
			at := off + int64(sent)
			var more int
			more, err = unix.Sendfile(int(to), fd, &at, n-sent)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				err = &os.PathError{Op: "sendfile", Path: f.Name(), Err: err}
				return true
			case more == 0:
				err = &os.PathError{Op: "sendfile", Path: f.Name(), Err: io.ErrUnexpectedEOF}
				return true
			}
			sent += more
		}
		return true
	})
	if ended != nil { // closed, or past its deadline, while it waited for room
		err = ended
	}
	return sent, err
}
