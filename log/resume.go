package log

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/log/record"
)

// defaultResumeBytes is how much of the active segment may be without a place to
// resume at. Each costs a few syncs; without, recovery would read the headers of up
// to a whole segment.
const defaultResumeBytes = 64 << 20

// markResume leaves a place in the active segment at which a recovery can begin,
// if the last one is far behind: the index so far, and a snapshot of the producers.
// The caller holds io. A failure costs time at the next start and nothing else.
func (l *Log) markResume() {
	s := l.active()
	l.mu.Lock()
	due := l.resumeDue(s) && l.failed == nil && l.flushed == l.written && s.index != nil
	l.mu.Unlock()
	if !due {
		return
	}
	s.resumeAt = s.size
	if err := l.writeResume(s); err != nil {
		l.logger.Warn("recovery will take longer: the index of the active segment was not saved", "segment", s.path, "error", err)
	}
}

// resumeDue says that markResume has work to do. The caller holds io.
func (l *Log) resumeDue(s *segment) bool { return s.size-s.resumeAt >= l.dir.resumeBytes }

func (l *Log) writeResume(s *segment) error {
	if err := s.seal(l.fs); err != nil {
		return err
	}
	if err := l.writeSnapshot(); err != nil {
		return err
	}
	if err := l.fs.SyncFolder(l.path); err != nil {
		return err
	}
	// Of the snapshots inside of a segment only the newest is of use.
	old, last := l.resumeSnapshot, s.next
	l.resumeSnapshot = last
	if old <= s.base || old >= last {
		return nil
	}
	return l.fs.Remove(filepath.Join(l.path, offsetName(old)+snapshotExt))
}

// resume finds the place in the last segment at which a scan may begin: the last
// index entry that is below the checkpoint and leads to its batch. The index behind
// it goes, on disk too: recovery makes it anew. Without a place it leaves s alone.
func (r *recoverer) resume(s *segment, f io.ReaderAt, size int64) error {
	if !r.holds() || r.l.damage != DamageNone || r.promised.flushed <= s.base {
		return nil
	}
	fsys := r.l.fs
	offsets, err := readFile(fsys, s.path+indexExt)
	if err != nil {
		return missingIsFine(err)
	}
	times, err := readFile(fsys, s.path+timeExt)
	if err != nil {
		return missingIsFine(err)
	}
	x := indexPrefix(offsets, times, size, int64(r.promised.flushed-s.base))
	n := len(x.offsets) - 1
	if n <= 0 { // the first entry is the beginning
		return nil
	}
	last := x.offsets[n]
	head := make([]byte, record.HeaderSize)
	if err := readFull(f, head, int64(last.position)); err != nil {
		return err
	}
	info, ok := record.Peek(head)
	if !ok || info.LastOffset() != s.base+record.Offset(last.relative) || info.LastDelta < 0 || info.BaseOffset <= s.base {
		r.l.logger.Warn("index does not fit its segment and is built anew", "segment", s.path)
		return nil
	}
	x.offsets = x.offsets[:n]
	// Entries of batches from there on are noted again.
	for t := len(x.times); t > 0 && x.times[t-1].relative >= last.relative; t-- {
		x.times = x.times[:t-1]
	}
	keptOffsets, keptTimes := x.encode()
	if len(keptTimes) < len(times) {
		if err := refill(fsys, s.path+timeExt, keptTimes, len(keptTimes)); err != nil {
			return err
		}
	}
	if len(keptOffsets)+indexEntrySize < len(offsets) {
		if err := refill(fsys, s.path+indexExt, offsets[:len(keptOffsets)+indexEntrySize], len(keptOffsets)); err != nil {
			return err
		}
	}
	s.index, s.size, s.next, s.resumeAt = x, int64(last.position), info.BaseOffset, int64(last.position)
	if t := len(x.times); t > 0 {
		s.newest = newestTime{x.times[t-1].ms, s.base + record.Offset(x.times[t-1].relative)}
	}
	return nil
}

func missingIsFine(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// indexPrefix is what can be believed of the index files of a segment that was
// being written to: the entries that ascend, of batches below an offset and a size.
func indexPrefix(offsets, times []byte, size, below int64) *index {
	x := &index{}
	for b := offsets; len(b) >= indexEntrySize; b = b[indexEntrySize:] {
		e, n := decodeIndexEntry(b), len(x.offsets)
		if n == 0 && e.position != 0 || n > 0 && (e.relative <= x.offsets[n-1].relative || e.position <= x.offsets[n-1].position) {
			break
		}
		if e.relative < 0 || int64(e.relative) >= below || int64(e.position)+record.HeaderSize > size {
			break
		}
		x.offsets = append(x.offsets, e)
	}
	for b := times; len(b) >= timeEntrySize; b = b[timeEntrySize:] {
		e, n := decodeTimeEntry(b), len(x.times)
		if e.relative < 0 || int64(e.relative) >= below || n > 0 && (e.ms <= x.times[n-1].ms || e.relative <= x.times[n-1].relative) {
			break
		}
		x.times = append(x.times, e)
	}
	return x
}

// near returns where to begin to look for an offset in a segment: a batch and its
// position, from the index if that leads to one.
func (l *Log) near(s *segment, f io.ReaderAt, off record.Offset) (position int64, base record.Offset, err error) {
	if off <= s.base {
		return 0, s.base, nil
	}
	var e indexEntry
	if s.index != nil {
		e = s.index.entry(int64(off - s.base))
	} else if e, err = searchIndexEntry(l.fs, s.path, int64(off-s.base)); err != nil {
		return 0, s.base, nil //nolint:nilerr // an index is a hint
	}
	if e.position <= 0 || int64(e.position)+record.HeaderSize > s.size {
		return 0, s.base, nil
	}
	head := make([]byte, record.HeaderSize)
	if err := readFull(f, head, int64(e.position)); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", s.path+logExt, err)
	}
	info, ok := record.Peek(head)
	if !ok || info.LastOffset() != s.base+record.Offset(e.relative) || info.BaseOffset > off || info.BaseOffset < s.base || info.LastDelta < 0 {
		return 0, s.base, nil
	}
	return int64(e.position), info.BaseOffset, nil
}
