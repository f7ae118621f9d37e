package log

import (
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/penstock/penstock/log/record"
)

// Rebuild empties a damaged log so that it can be copied anew, as Reset(0) does, and
// keeps what is left of it until DropDamaged: a copy that was being replaced may turn
// out to be the last. kept is false when there was nothing, or when the disk has no room
// for both. Where what is left may be all that there is of some records (only), nothing is
// done then, and the error is a *DiskFullError.
//
// The folder is renamed as a whole and made anew. A crash in between leaves a log whose
// files are missing, which is damaged as it was before.
func (l *Log) Rebuild(only bool) (kept bool, err error) {
	if only {
		if err := l.roomBeside(); err != nil {
			return false, err
		}
	}
	err = l.reset(0, nil, func() error {
		if l.Damage() == DamageNone || !l.worthKeeping(only) {
			return nil
		}
		kept = true
		return l.moveDamaged()
	})
	return kept, err
}

// worthKeeping says whether the log holds anything, and whether, unless it is kept all
// the same, the disk has room for a copy of its size besides.
func (l *Log) worthKeeping(always bool) bool {
	size := l.Size()
	if size == 0 || always {
		return size > 0
	}
	err := l.roomBeside()
	if full, ok := errors.AsType[*DiskFullError](err); ok {
		l.logger.Warn("what is left of a damaged log is not kept: there is no room for it and the new copy",
			"path", l.path, "bytes", size, "free", full.Free, "reserve", full.Reserve)
	}
	return err == nil
}

// roomBeside says whether the disk has room for another log of this one's size.
func (l *Log) roomBeside() error {
	size := l.Size()
	free, reserve, err := l.dir.space.left()
	if err == nil && free-size < reserve {
		err = &DiskFullError{Path: l.path, Free: max(free, 0), Reserve: reserve, Wanted: size}
	}
	return err
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
// replacement is whole. Copies that end in an older leader epoch than since, the last one
// whose election may have lost records (0: none), stay: they may hold what was lost.
func (l *Log) DropDamaged(since record.Epoch) (dropped int, err error) {
	gone, err := l.dir.moveDamagedAway(l.path, l.key, since)
	for _, folder := range gone {
		err = errors.Join(err, l.dir.remover.remove(folder))
	}
	return len(gone), err
}

// lastEpochIn is the last leader epoch of a folder that is no open log, or an older one;
// UnknownEpoch when nothing says so.
func (d *Dir) lastEpochIn(folder string) record.Epoch {
	b, err := readFile(d.fs, filepath.Join(folder, epochsName))
	if err != nil {
		return record.UnknownEpoch
	}
	all, err := decodeEpochs(b)
	if err != nil {
		return record.UnknownEpoch
	}
	return all.last()
}

// KeptDamaged lists what rebuilds have kept, by path, also of partitions that are no
// longer here.
func (d *Dir) KeptDamaged() []Found {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Found
	for key, copies := range d.damaged {
		for _, path := range copies {
			topic, _, _ := parsePutAway(filepath.Base(path), damagedExt)
			out = append(out, Found{Topic: topic, Partition: key.partition, TopicID: key.topicID, HasID: true, Path: path})
		}
	}
	slices.SortFunc(out, func(a, b Found) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// moveDamagedAway gives the copies that DropDamaged deletes names by which the next start
// finishes their deletion.
func (d *Dir) moveDamagedAway(path string, key logKey, since record.Epoch) (gone []string, err error) {
	d.mu.Lock()
	copies := slices.Clone(d.damaged[key])
	d.mu.Unlock()
	for _, kept := range copies {
		if since > 0 && d.lastEpochIn(kept) < since {
			continue
		}
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
