package log

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"

	"github.com/penstock/penstock/log/record"
)

// writeSnapshot makes the producer state as of the written end durable, but for
// its name in the folder: at a roll, the base of the next segment.
func (l *Log) writeSnapshot() error {
	l.mu.Lock()
	at, b := l.written, l.producers.encode(l.written)
	l.mu.Unlock()
	// There may be one of this offset already, the only one that knows producers
	// whose batches are gone: it must not be torn.
	if err := l.writeProducers(at, b); err != nil {
		return fmt.Errorf("write producer snapshot: %w", err)
	}
	return nil
}

// snapshots lists the offsets of the snapshot files, ascending.
func (l *Log) snapshots() ([]record.Offset, error) {
	entries, err := l.fs.List(l.path)
	if err != nil {
		return nil, err
	}
	var out []record.Offset
	for _, e := range entries {
		if off, ok := parseOffsetName(e.Name, snapshotExt); ok && !e.Folder {
			out = append(out, off)
		}
	}
	slices.Sort(out)
	return out, nil
}

// removeSnapshots deletes snapshots durably: one of records that were truncated
// must not come back once others have their offsets.
func (l *Log) removeSnapshots(which []record.Offset) error {
	if len(which) == 0 {
		return nil
	}
	for _, off := range which {
		if err := l.fs.Remove(filepath.Join(l.path, offsetName(off)+snapshotExt)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.fs.SyncFolder(l.path)
}

// pruneSnapshots removes those that only matter below the first segment; the
// newest of them stays, for it knows producers whose batches are gone.
func (l *Log) pruneSnapshots(first record.Offset) error {
	all, err := l.snapshots()
	if err != nil {
		return err
	}
	i, found := slices.BinarySearch(all, first)
	if !found {
		i--
	}
	if i <= 0 {
		return nil
	}
	return l.removeSnapshots(all[:i])
}

// restoreProducers loads the newest readable one of all snapshots at or below end, removes
// those above, and brings the state up to end by the batches on disk. The caller
// holds io, or is alone with the log.
func (l *Log) restoreProducers(all []record.Offset, end record.Offset) (*producers, error) {
	l.mu.Lock()
	limit := l.cfg.MaxProducers
	l.mu.Unlock()
	n := sort.Search(len(all), func(i int) bool { return all[i] > end })
	if err := l.removeSnapshots(all[n:]); err != nil {
		return nil, err
	}
	all = all[:n]
	for _, off := range slices.Backward(all) {
		b, err := readFile(l.fs, filepath.Join(l.path, offsetName(off)+snapshotExt))
		if err != nil {
			return nil, err
		}
		ps, at, err := decodeProducers(b, limit)
		if err == nil && at == off {
			return ps, l.replay(ps, off)
		}
		// Torn by a crash: an older one and more replay give the same state.
		l.logger.Warn("producer snapshot is unreadable", "path", l.path, "offset", off, "error", err)
	}
	ps := newProducers(limit)
	return ps, l.replay(ps, 0)
}

// replay takes in the batches on disk from an offset on.
func (l *Log) replay(ps *producers, from record.Offset) error {
	now := l.dir.now().UnixMilli()
	for _, s := range l.segments {
		if s.next <= from || s.size == 0 {
			continue
		}
		err := l.walkFrom(s, from, func(info *record.BatchInfo, _ int64) bool {
			if info.BaseOffset >= from {
				ps.update(info, now)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// walk calls visit for the header of each batch of a segment, with its position.
func (l *Log) walk(s *segment, visit func(info *record.BatchInfo, position int64)) error {
	return l.walkFrom(s, s.base, func(info *record.BatchInfo, position int64) bool {
		visit(info, position)
		return true
	})
}

// walkFrom begins at an offset, or a little before, and ends when visit says false.
func (l *Log) walkFrom(s *segment, from record.Offset, visit func(info *record.BatchInfo, position int64) bool) error {
	f, err := l.dir.files.acquire(s.file)
	if err != nil {
		return err
	}
	defer l.dir.files.release(s.file)
	at, next, err := l.near(s, f, from)
	if err != nil {
		return err
	}
	sc := &scanner{file: f, size: s.size, at: at, next: next, epoch: record.UnknownEpoch, crcFrom: s.next, cleaned: l.Cleaned()}
	for sc.at < s.size {
		position := sc.at
		info, err := sc.step()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = sc.torn(fmt.Sprintf("the file ends before byte %d", s.size))
		}
		if err != nil {
			return l.corruption(s.path, sc.next, err)
		}
		if !visit(&info, position) {
			return nil
		}
	}
	return nil
}

// corruption turns what a scanner found among durable bytes into a *CorruptionError.
func (l *Log) corruption(path string, off record.Offset, err error) error {
	if torn, ok := errors.AsType[*tornError](err); ok {
		return &CorruptionError{Path: path + logExt, Position: torn.position, Offset: off, Reason: torn.reason}
	}
	return fmt.Errorf("%s: %w", path+logExt, err)
}
