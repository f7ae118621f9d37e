package log

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// segment is a run of the log in one file. Its fields are guarded by Log.mu;
// those that change are changed with Log.io held as well, so that its holder may
// read them without Log.mu.
type segment struct {
	base record.Offset
	path string // without extension

	next    record.Offset // written end
	size    int64         // of the valid bytes
	newest  newestTime
	created time.Time // of the first batch; zero: empty

	// Only the active segment, the last one, has these.
	file  *sharedFile
	index *index
	// unsynced: written since the last flush.
	unsynced bool
}

func segmentPath(folder string, base record.Offset) string {
	return filepath.Join(folder, offsetName(base))
}

// note takes in a batch that was written at the end.
func (s *segment) note(info *record.BatchInfo, interval int) {
	s.index.note(s.base, info, s.size, interval, s.newest)
	s.newest.note(info)
	s.size += int64(info.Size)
	s.next = info.NextOffset()
}

// createSegment makes an empty segment durable.
func createSegment(fsys vfs.FS, folder string, base record.Offset) (*segment, error) {
	s := &segment{base: base, path: segmentPath(folder, base), next: base, newest: noTime(), index: &index{}}
	f, err := fsys.Create(s.path + logExt)
	if err != nil {
		return nil, err
	}
	if err := fsys.SyncFolder(folder); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.file = newSharedFile(f)
	return s, nil
}

// seal writes the index of a segment that takes no more batches; the folder is
// not synced.
func (s *segment) seal(fsys vfs.FS) error {
	x := *s.index // readers may be in the original's times
	x.times = slices.Clone(x.times)
	x.noteTime(s.base, s.newest)
	return writeIndex(fsys, s.path, &x)
}

// removeFiles deletes a segment's files; those that are gone already do not matter.
func (s *segment) removeFiles(fsys vfs.FS) error {
	for _, ext := range []string{logExt, indexExt, timeExt} {
		if err := fsys.Remove(s.path + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sharedFile is the active segment's file. Readers that found it under Log.mu
// keep it open until they are done, though the log may have gone on to another.
type sharedFile struct {
	vfs.File
	refs atomic.Int32
}

func newSharedFile(f vfs.File) *sharedFile {
	s := &sharedFile{File: f}
	s.refs.Store(1)
	return s
}

// acquire is called with Log.mu held, while the log's own reference exists.
func (s *sharedFile) acquire() *sharedFile {
	s.refs.Add(1)
	return s
}

func (s *sharedFile) release() error {
	if s.refs.Add(-1) == 0 {
		return s.Close()
	}
	return nil
}
