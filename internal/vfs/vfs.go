package vfs

import (
	"errors"
	"io"
	"syscall"
)

// ErrLocked is what Lock answers when another process holds the file.
var ErrLocked = errors.New("vfs: file is locked")

// FS is a file system. Names are slash-separated paths as in package os.
// Errors match fs.ErrNotExist, fs.ErrExist and syscall.Errno as those of
// package os do.
type FS interface {
	Files
	Folders
	Names
}

// Files opens files.
type Files interface {
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Create makes a file, empty if it exists.
	Create(name string) (File, error)
	// Lock takes an exclusive lock on the named file, which it creates, until
	// the File is closed or the process ends. It does not wait: ErrLocked.
	Lock(name string) (File, error)
	// Space returns how many bytes of the file system around a folder are
	// available to this process, and its size.
	Space(name string) (free, total int64, err error)
}

// Folders handles folders.
type Folders interface {
	// Mkdir makes a folder and its missing parents; it may exist.
	Mkdir(name string) error
	// List returns the entries of a folder, sorted by name.
	List(name string) ([]Entry, error)
	// SyncFolder makes the creations, renames and removals in a folder durable.
	SyncFolder(name string) error
}

// Names changes names. Nothing is durable before SyncFolder.
type Names interface {
	// Rename moves a file or folder within one folder and replaces a file of the new name.
	Rename(from, to string) error
	// Remove deletes a file or an empty folder.
	Remove(name string) error
	// RemoveAll deletes a folder with all it holds; it may be absent.
	RemoveAll(name string) error
}

// Entry is a name in a folder.
type Entry struct {
	Name   string
	Folder bool
}

// File is an open file. ReadAt, WriteAt and Datasync may run at once.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sizer
	Syncer
}

// Sizer is the part of a File about its length and layout.
type Sizer interface {
	Size() (int64, error)
	Truncate(size int64) error
	// WriteVecAt writes bufs one after the other at off, with as few system
	// calls as the platform allows (pwritev: one for 1024 bufs).
	WriteVecAt(bufs [][]byte, off int64) (int64, error)
}

// Syncer is the part of a File about the disk.
type Syncer interface {
	// Datasync makes the content and the length durable, not the times.
	Datasync() error
	// DropCache tells the kernel that the n bytes at off will not be needed soon:
	// whole clean pages in the range leave its page cache, others may stay.
	DropCache(off, n int64) error
	// ReadAhead tells the kernel that the file will be read from front to back.
	ReadAhead() error
}

// Sender is a File that the kernel can send from by itself. Not every one is.
type Sender interface {
	// SendTo sends the n bytes at off to a socket, and says how many it took. Fewer
	// come with an error; of a file that ends before them with io.ErrUnexpectedEOF.
	SendTo(socket syscall.RawConn, off int64, n int) (int, error)
}
