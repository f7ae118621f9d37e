package log

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// maxSegmentOffsets is how many offsets a segment covers at most: positions in
// the indexes are relative, in 31 bits.
const maxSegmentOffsets = 1<<31 - 1

// segment is a run of the log in one file. Its fields are guarded by Log.mu;
// those that change are changed with Log.io held as well, so that its holder may
// read them without Log.mu.
type segment struct {
	base record.Offset
	path string // without extension

	next    record.Offset // written end
	size    int64         // of the valid bytes
	newest  newestTime
	created time.Time // of the first batch; zero: empty, or sealed before this process began
	told    bool      // that a record of the future keeps it

	file *lazyFile
	// index is the active segment's. nil: it is in the index files, as that of the
	// other segments and of an active one since the last clean stop.
	index *index
	// unsynced: written since the last flush. The segment then holds its file
	// open, see openFiles. Guarded by Log.io.
	unsynced bool
	// saved is how much of index is in the files, resumeAt the size at which
	// markResume last left a place. Guarded by Log.io.
	saved    savedIndex
	resumeAt int64
	// noted is how far the page cache's account reaches. Guarded by Log.io.
	noted int64
	// ours is where this process began to write; -1: it has not. Guarded by Log.io.
	ours int64
}

func newSegment(folder string, base record.Offset) *segment {
	path := segmentPath(folder, base)
	return &segment{base: base, path: path, next: base, newest: noTime(), file: &lazyFile{name: path + logExt}, ours: -1}
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
func (l *Log) createSegment(base record.Offset) (*segment, error) {
	s := newSegment(l.path, base)
	s.index = &index{}
	if _, err := l.dir.files.create(s.file); err != nil {
		return nil, err
	}
	l.dir.files.release(s.file)
	if err := l.fs.SyncFolder(l.path); err != nil {
		l.dir.files.forget(s.file)
		return nil, err
	}
	return s, nil
}

// hold keeps the file of a segment open that has just been written to, until
// letGo. It takes over the caller's use of the file. The caller holds io.
func (l *Log) hold(s *segment) {
	if s.unsynced {
		l.dir.files.release(s.file)
		return
	}
	s.unsynced = true
	l.dir.files.held.Add(1)
}

// letGo ends hold: the bytes are synced, or their loss is known or means
// nothing any more. The caller holds io.
func (l *Log) letGo(s *segment) {
	if s.unsynced {
		s.unsynced = false
		l.dir.files.held.Add(-1)
		l.dir.files.release(s.file)
	}
}

// forgetFiles closes the files of segments that are deleted or of a closed log.
// The caller holds io.
func (l *Log) forgetFiles(segments []*segment) {
	for _, s := range segments {
		l.letGo(s)
		l.dir.files.forget(s.file)
	}
}

// seal writes the index as it is by now, unless it is in its files; the folder is
// not synced.
func (s *segment) seal(fsys vfs.FS) error {
	if s.index == nil {
		return nil
	}
	x := *s.index // readers may be in the original's times
	x.times = slices.Clone(x.times)
	x.noteTime(s.base, s.newest)
	saved := s.saved
	s.saved = savedIndex{}
	if err := writeIndex(fsys, s.path, &x, saved); err != nil {
		return err
	}
	s.saved = savedIndex{len(s.index.offsets), len(s.index.times)}
	return nil
}

// removeFiles deletes a segment's files; those that are gone already do not matter.
func (s *segment) removeFiles(fsys vfs.FS) error {
	if err := fsys.Remove(s.path + logExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.removeIndex(fsys)
}

// putAway takes a segment out of its folder. The file of a large one has another
// name then, which it returns, and is to be freed once that is durable.
func (s *segment) putAway(fsys vfs.FS, large int64) (left string, err error) {
	if s.size <= large {
		return "", s.removeFiles(fsys)
	}
	left = s.path + logExt + deletedExt
	if err := fsys.Rename(s.path+logExt, left); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", s.removeIndex(fsys)
		}
		return "", err
	}
	return left, s.removeIndex(fsys)
}

func (s *segment) removeIndex(fsys vfs.FS) error {
	for _, ext := range []string{indexExt, timeExt} {
		if err := fsys.Remove(s.path + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
