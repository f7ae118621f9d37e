package log

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
)

// Rebuild empties a damaged log so that it can be copied anew, as Reset(0) does, and
// keeps what is left of it until DropDamaged: a copy that was being replaced may turn
// out to be the last. kept is false when there was nothing, or when the disk has no room
// for both.
//
// The folder is renamed as a whole and made anew. A crash in between leaves a log whose
// files are missing, which is damaged as it was before.
func (l *Log) Rebuild() (kept bool, err error) {
	err = l.reset(0, nil, func() error {
		if l.Damage() == DamageNone || !l.worthKeeping() {
			return nil
		}
		kept = true
		return l.moveDamaged()
	})
	return kept, err
}

// worthKeeping says whether the log holds anything, and whether the disk has room for a
// copy of its size besides.
func (l *Log) worthKeeping() bool {
	l.mu.Lock()
	size := l.size()
	l.mu.Unlock()
	free, reserve, err := l.dir.space.left()
	if size > 0 && err == nil && free-size < reserve {
		l.logger.Warn("what is left of a damaged log is not kept: there is no room for it and the new copy",
			"path", l.path, "bytes", size, "free", free, "reserve", reserve)
	}
	return size > 0 && err == nil && free-size >= reserve
}

// moveDamaged renames the folder and makes an empty one. The caller holds io, and keeps
// everyone else from changing the log.
func (l *Log) moveDamaged() error {
	l.mu.Lock()
	segments := l.segments
	l.mu.Unlock()
	l.forgetFiles(segments)
	to, err := l.dir.freeName(l.path, damagedExt, l.key)
	if err != nil {
		return err
	}
	if err := l.fs.Rename(l.path, to); err != nil {
		return err
	}
	l.dir.noteDamagedCopy(l.key, to)
	if err := l.fs.SyncFolder(l.dir.path); err != nil {
		return err
	}
	if err := l.fs.Mkdir(l.path); err != nil {
		return err
	}
	l.logger.Info("what is left of the damaged log is kept until the new copy is in sync", "path", to)
	return l.dir.finishFolder(l.path, create(l.fs, filepath.Join(l.path, metadataName), encodeMetadata(l.spec.TopicID)))
}

func (d *Dir) noteDamagedCopy(key logKey, path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.damaged[key] = append(d.damaged[key], path)
}

// KeepsDamaged reports whether there is something for DropDamaged.
func (l *Log) KeepsDamaged() bool {
	l.dir.mu.Lock()
	defer l.dir.mu.Unlock()
	return len(l.dir.damaged[l.key]) > 0
}

// DropDamaged deletes what Rebuild kept of this partition, in earlier processes too: its
// replacement is whole.
func (l *Log) DropDamaged() error { return l.dir.dropDamaged(l.path, l.key) }

func (d *Dir) dropDamaged(path string, key logKey) error {
	gone, err := d.moveDamagedAway(path, key)
	for _, folder := range gone {
		err = errors.Join(err, d.remover.remove(folder))
	}
	return err
}

// moveDamagedAway gives the copies names by which the next start finishes their deletion.
func (d *Dir) moveDamagedAway(path string, key logKey) (gone []string, err error) {
	d.mu.Lock()
	copies := slices.Clone(d.damaged[key])
	d.mu.Unlock()
	for _, kept := range copies {
		to, err := d.freeName(path, deletedExt, key)
		if err != nil {
			return gone, err
		}
		if err := d.fs.Rename(kept, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return gone, err
		}
		gone = append(gone, to)
		d.mu.Lock()
		d.damaged[key] = slices.DeleteFunc(d.damaged[key], func(p string) bool { return p == kept })
		if len(d.damaged[key]) == 0 {
			delete(d.damaged, key)
		}
		d.mu.Unlock()
	}
	return gone, nil
}
