package log

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/penstock/penstock/internal/vfs"
)

// rewriteChunk is how much recovery reads and writes at once.
const rewriteChunk = 1 << 20

// cut copies what follows a position of a segment to a *.torn file, unless it is
// all zero, and truncates the segment there. Both are durable before it returns.
func (r *recoverer) cut(path string, at int64) (err error) {
	fsys := r.l.fs
	f, err := fsys.Open(path + logExt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	zero, err := allZero(f, at, size)
	if err != nil {
		return err
	}
	if !zero {
		if err := copyTorn(fsys, f, path, at, size); err != nil {
			return err
		}
	}
	r.torn += size - at
	r.l.logger.Warn("end of the log was torn and is cut", "segment", path+logExt, "position", at, "bytes", size-at, "zero", zero)
	if err := f.Truncate(at); err != nil {
		return err
	}
	return f.Datasync()
}

func allZero(f io.ReaderAt, from, to int64) (bool, error) {
	b := make([]byte, min(to-from, rewriteChunk))
	for ; from < to; from += int64(len(b)) {
		b = b[:min(to-from, int64(len(b)))]
		if err := readFull(f, b, from); err != nil {
			return false, err
		}
		for _, c := range b {
			if c != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// copyTorn keeps bytes of a segment in a file of their own, durably.
func copyTorn(fsys vfs.FS, f io.ReaderAt, path string, from, to int64) (err error) {
	name := fmt.Sprintf("%s%s.%d", path, logExt, from)
	for n := 1; ; n++ { // never over an earlier one
		probe, err := fsys.Open(name + tornExt)
		if err != nil {
			break
		}
		if err := probe.Close(); err != nil {
			return err
		}
		name = fmt.Sprintf("%s%s.%d.%d", path, logExt, from, n)
	}
	out, err := fsys.Create(name + tornExt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := copyRange(f, from, to, out, 0); err != nil {
		return err
	}
	if err := out.Datasync(); err != nil {
		return err
	}
	return fsys.SyncFolder(filepath.Dir(path))
}

// rewrite writes what can be read once more and syncs it: after a failed flush
// the kernel may show pages as clean that never reached the disk.
func (r *recoverer) rewrite(f vfs.File, from, to int64) error {
	if from >= to {
		return nil
	}
	if err := copyRange(f, from, to, f, from); err != nil {
		return err
	}
	r.again += to - from
	return f.Datasync()
}

func copyRange(src io.ReaderAt, from, to int64, dst io.WriterAt, at int64) error {
	b := make([]byte, min(to-from, rewriteChunk))
	for from < to {
		b = b[:min(to-from, int64(len(b)))]
		if err := readFull(src, b, from); err != nil {
			return err
		}
		if _, err := dst.WriteAt(b, at); err != nil {
			return err
		}
		from, at = from+int64(len(b)), at+int64(len(b))
	}
	return nil
}
