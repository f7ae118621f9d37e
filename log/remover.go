package log

import (
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/vfs"
)

// Deleting a large file at once keeps the file system's journal busy for as long
// as it takes to free its blocks (and, on a disk that is told of them, to discard
// them): 100 ms a GiB, in which no fdatasync of any other file ends. So what is
// large is freed a piece at a time, with pauses that let others through. A piece
// holds others up for half a millisecond where the disk is told.
const (
	removePiece = 4 << 20              // bytes, freed at once
	removePause = 5 * time.Millisecond // 800 MB/s at most
)

// remover frees folders and segments that nothing refers to any more: put away
// under another name, durably. It works in a goroutine of its own while there is
// something to do, so that neither who deletes a topic nor who appends beside
// retention waits for the disk. What is left at a stop, the next start finds by its
// name. A reader that still has such a file open comes to its end early, and learns
// that the log begins later now (coldRead, settle).
type remover struct {
	fs     vfs.FS
	logger *slog.Logger
	piece  int64 // bytes

	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex // guards what follows
	queue   []string
	working bool
	closed  bool
}

func newRemover(fsys vfs.FS, logger *slog.Logger, piece int64) *remover {
	if piece <= 0 {
		piece = removePiece
	}
	return &remover{fs: fsys, logger: logger, piece: piece, stop: make(chan struct{})}
}

// remove deletes a folder: at once where it is small, else soon.
func (r *remover) remove(folder string) error {
	if small, err := r.small(folder); err != nil || small {
		return errors.Join(err, r.fs.RemoveAll(folder))
	}
	r.later(folder)
	return nil
}

// later deletes a folder or a file soon.
func (r *remover) later(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.queue = append(r.queue, name)
	if !r.working {
		r.working = true
		r.done.Go(r.work)
	}
}

// close stops after the piece under way.
func (r *remover) close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.stop)
	}
	r.mu.Unlock()
	r.done.Wait()
}

func (r *remover) work() {
	for {
		r.mu.Lock()
		if len(r.queue) == 0 || r.closed {
			r.working = false
			r.mu.Unlock()
			return
		}
		name := r.queue[0]
		r.queue = r.queue[1:]
		r.mu.Unlock()
		free := r.free
		if strings.HasSuffix(name, logExt+deletedExt) {
			free = r.freeFile
		}
		if err := free(name); err != nil && !errors.Is(err, errStopped) && !errors.Is(err, fs.ErrNotExist) {
			r.logger.Error("what was deleted could not be removed; the next start tries again", "path", name, "error", err)
		}
	}
}

var errStopped = errors.New("log: the remover was stopped")

// free empties a folder file by file, and removes it.
func (r *remover) free(folder string) error {
	entries, err := r.fs.List(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Folder {
			continue // none of ours; RemoveAll sees to it
		}
		if err := r.freeFile(filepath.Join(folder, e.Name)); err != nil {
			return err
		}
	}
	return r.fs.RemoveAll(folder)
}

func (r *remover) freeFile(name string) error {
	if err := r.shrink(name); err != nil {
		return err
	}
	return r.fs.Remove(name)
}

// shrink truncates a file piece by piece until one is left.
func (r *remover) shrink(name string) error {
	f, err := r.fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing in it is wanted
	size, err := f.Size()
	if err != nil {
		return err
	}
	for size > r.piece {
		// At whole pieces: to cut within a block the file system has to read it first.
		size = (size - 1) / r.piece * r.piece
		if err := f.Truncate(size); err != nil {
			return err
		}
		if !r.pause() {
			return errStopped
		}
	}
	return nil
}

func (r *remover) pause() bool {
	t := time.NewTimer(removePause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.stop:
		return false
	}
}

// small says whether all files of a folder together are at most a piece.
func (r *remover) small(folder string) (bool, error) {
	entries, err := r.fs.List(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	sum := int64(0)
	for _, e := range entries {
		if err != nil || sum > r.piece {
			return false, err
		}
		if e.Folder {
			continue
		}
		var size int64
		size, err = r.size(filepath.Join(folder, e.Name))
		sum += size
	}
	return sum <= r.piece, err
}

func (r *remover) size(name string) (int64, error) {
	f, err := r.fs.Open(name)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}
