package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/penstock/penstock/log/record"
)

// Remove closes a log and deletes it from disk: its topic is gone, or moved away.
// It has no files any more when Remove returns; the space of a large one comes
// free in the background.
func (d *Dir) Remove(l *Log) error { return d.RemoveAll([]*Log{l})[0] }

// RemoveMoved is Remove of a log whose partition is elsewhere now. What DropDamaged keeps
// stays, for since as there.
func (d *Dir) RemoveMoved(l *Log, since record.Epoch) error { return d.removeAll([]*Log{l}, since)[0] }

// RemoveAll is Remove of many logs, with one sync of the directory and one
// checkpoint for all of them. It returns the error of each, or nil.
func (d *Dir) RemoveAll(logs []*Log) []error { return d.removeAll(logs, 0) }

func (d *Dir) removeAll(logs []*Log, since record.Epoch) []error {
	errs := make([]error, len(logs))
	gone := make([][]string, len(logs)) // folders
	each := func(f func(i int, l *Log) error) {
		for i, l := range logs {
			if errs[i] != nil {
				continue
			}
			if err := f(i, l); err != nil {
				errs[i] = fmt.Errorf("remove %s: %w", l.path, err)
			}
		}
	}
	for i, err := range closeEach(logs) {
		if err != nil && !errors.Is(err, ErrFailed) {
			errs[i] = err
		}
	}
	// What rebuilds have kept goes first, durably: once the log's own folder is gone,
	// nobody asks for it again.
	kept := false
	each(func(i int, l *Log) (err error) {
		gone[i], err = d.moveDamagedAway(l.path, l.key, since)
		kept = kept || len(gone[i]) > 0
		return err
	})
	if kept {
		err := d.fs.SyncFolder(d.path)
		each(func(int, *Log) error { return err })
	}
	each(func(i int, l *Log) error {
		to, err := d.moveAway(l.path, deletedExt, l.key)
		gone[i] = append(gone[i], to)
		return err
	})
	err := d.forgetAway(logs, errs)
	each(func(int, *Log) error { return err })
	each(func(i int, _ *Log) (err error) {
		for _, folder := range gone[i] {
			if len(logs) > manyLogs {
				d.remover.later(folder)
			} else {
				err = errors.Join(err, d.remover.remove(folder))
			}
		}
		return err
	})
	return errs
}

// manyLogs are more than somebody should wait for whose topic is deleted.
const manyLogs = 16

// forgetAway makes it durable that folders were moved away, and forgets what was
// promised of their logs; not of those that have an error.
func (d *Dir) forgetAway(logs []*Log, errs []error) error {
	if err := d.fs.SyncFolder(d.path); err != nil {
		return err
	}
	d.mu.Lock()
	for i, l := range logs {
		if errs[i] == nil {
			delete(d.states, l.key)
		}
	}
	d.mu.Unlock()
	// Durably: a partition may come back, and would count as one whose files are missing.
	return d.checkpoint.write()
}

// SetAside renames a folder that the metadata does not mention to *.stray, where
// nothing looks for it and an operator finds it. The partition must not be open.
// Path may be empty: the partition's usual folder; what its partition.metadata
// says comes before TopicID.
func (d *Dir) SetAside(f Found) error {
	if f.Path == "" {
		f.Path = filepath.Join(d.path, folderName(f.Topic, f.Partition))
	}
	if id, err := d.readMetadata(f.Path); err == nil {
		f.TopicID, f.HasID = id, true
	}
	key := logKey{f.TopicID, f.Partition}
	d.mu.Lock()
	open := f.HasID && d.opened[key]
	d.mu.Unlock()
	if open {
		return fmt.Errorf("set aside %s: %w", f.Path, ErrOpen)
	}
	if _, _, err := d.CleanMarker(); err != nil {
		return err
	}
	if _, err := d.putAway(f.Path, strayExt, key); err != nil {
		return fmt.Errorf("set aside %s: %w", f.Path, err)
	}
	return nil
}

// putAway gives a folder a free name with an extension, which it returns, and
// forgets its state.
func (d *Dir) putAway(path, ext string, key logKey) (string, error) {
	to, err := d.moveAway(path, ext, key)
	if err != nil {
		return "", err
	}
	if err := d.fs.SyncFolder(d.path); err != nil {
		return "", err
	}
	d.mu.Lock()
	delete(d.states, key)
	d.mu.Unlock()
	// Durably: the partition may come back, and would count as one whose files are missing.
	return to, d.checkpoint.write()
}

// moveAway is the part of putAway that is not durable yet.
func (d *Dir) moveAway(path, ext string, key logKey) (string, error) {
	to, err := d.freeName(path, ext, key)
	if err != nil {
		return "", err
	}
	if err := d.journal.void(key); err != nil { // the partition may come back under the same name
		return "", err
	}
	return to, d.fs.Rename(path, to)
}

// freeName is a name with an extension that nothing has yet, for a partition's folder.
func (d *Dir) freeName(path, ext string, key logKey) (string, error) {
	name := fmt.Sprintf("%s.%x", path, key.topicID[:4])
	for n := 1; ; n++ {
		if _, err := d.fs.List(name + ext); errors.Is(err, fs.ErrNotExist) {
			return name + ext, nil
		} else if err != nil {
			return "", err
		}
		name = fmt.Sprintf("%s.%x.%d", path, key.topicID[:4], n)
	}
}
