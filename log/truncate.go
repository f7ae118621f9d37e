package log

import (
	"path/filepath"
	"slices"

	"github.com/penstock/penstock/log/record"
)

// TruncateTo removes the records from off on; a batch that holds off goes as a
// whole, and the gap in front of it, so End may then be lower than off. Segments, indexes, leader epochs and
// producer state follow, and everything is durable before it returns. It does
// nothing when off is at or past the end. Errors: *OffsetError below the start,
// a latched *FailedError, *DamagedError, ErrClosed.
//
// The checkpoint goes first: bytes that are about to vanish must no longer be
// promised when a crash comes between.
func (l *Log) TruncateTo(off record.Offset) error {
	l.io.Lock()
	defer l.io.Unlock()
	if err := l.enterTruncation(); err != nil {
		return err
	}
	defer l.leaveTruncation()

	l.mu.Lock()
	if off < l.start {
		err := &OffsetError{off, l.start, l.end}
		l.mu.Unlock()
		return err
	}
	if off >= l.end {
		l.mu.Unlock()
		return nil
	}
	written := l.written
	l.mu.Unlock()

	position := int64(-1)
	if off < written {
		var err error
		if off, position, err = l.batchAt(off); err != nil {
			l.noteDamage(err, func() bool { return true }) // io keeps a reset away
			return err
		}
	}
	if position >= 0 {
		if err := l.unjournal(); err != nil {
			return l.latch("truncate", err)
		}
	}
	old := l.segments
	lowered := l.forgetFrom(off, position)
	if lowered {
		if err := l.dir.checkpoint.write(); err != nil {
			return l.latch("truncate", err)
		}
	}
	if position >= 0 {
		if err := l.truncateFiles(old); err != nil {
			return l.latch("truncate", err)
		}
	}
	if err := l.truncateState(); err != nil {
		return l.latch("truncate", err)
	}
	return nil
}

func (l *Log) enterTruncation() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.busy = true
	return nil
}

func (l *Log) leaveTruncation() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = false
}

// batchAt finds the written batch that holds an offset, or the first one behind
// it: where the batch before ends, and its position. A log never ends in a gap, so
// that what its end should be can always be read from its files.
func (l *Log) batchAt(off record.Offset) (end record.Offset, position int64, err error) {
	s := l.segmentOf(off)
	end, position = s.base, -1
	err = l.walk(s, func(info *record.BatchInfo, at int64) {
		switch {
		case position >= 0:
		case info.NextOffset() > off:
			position = at
		default:
			end = info.NextOffset()
		}
	})
	return end, position, err
}

// segmentOf returns the segment that holds a written offset. The caller holds io.
func (l *Log) segmentOf(off record.Offset) *segment {
	i := len(l.segments) - 1
	for i > 0 && l.segments[i].base > off {
		i--
	}
	return l.segments[i]
}

// forgetFrom ends the log at off in memory; it reports whether the checkpoint promises too much.
func (l *Log) forgetFrom(off record.Offset, position int64) (lowered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	// A Buf of the tail may be a run of batches that off cuts in two. Not yet
	// written, all of it goes; written, the part that stays is on disk only, and
	// with it all before, for the tail has no gaps.
	i := l.tail.find(off)
	if i < l.tail.entries.len() && l.tail.entries.at(i).base < off {
		if i >= l.tail.written {
			off = l.tail.entries.at(i).base
		} else {
			i = 0
		}
	}
	l.tail.dropBack(i)
	l.end = off
	l.written = min(l.written, off)
	l.highWatermark = min(l.highWatermark, off)
	l.epochs = l.epochs.truncate(off)
	l.epochsDirty = true
	if position >= 0 {
		// Readers must not go by a size that the file is about to lose.
		s := l.segmentOf(off)
		cut := *s
		cut.next, cut.size, cut.noted, cut.ours = off, position, min(s.noted, position), min(s.ours, position)
		l.segments = append(slices.Clone(l.segments[:slices.Index(l.segments, s)]), &cut)
	}
	lowered = l.flushed > off || l.start > off || l.onDisk > off || l.dirty > off
	l.flushed = min(l.flushed, off)
	l.cleaned, l.onDisk, l.dirty = min(l.cleaned, off), min(l.onDisk, off), min(l.dirty, off)
	l.start = min(l.start, off) // it may lie inside the batch that goes
	return lowered
}

// truncateFiles cuts the files to what forgetFrom left of the segments, whose
// last one becomes the active one. old are the segments before. The caller holds io.
func (l *Log) truncateFiles(old []*segment) error {
	s := l.active()
	for _, later := range slices.Backward(old[len(l.segments):]) {
		if err := later.removeFiles(l.fs); err != nil {
			return err
		}
		l.forgetFiles([]*segment{later})
	}
	if err := s.removeIndex(l.fs); err != nil {
		return err
	}
	if err := l.truncateFile(s); err != nil {
		return err
	}
	x, newest, err := l.buildIndex(s)
	if err != nil {
		return err
	}
	l.atRest = false
	l.mu.Lock()
	s.index, s.newest, s.saved, s.resumeAt = x, newest, savedIndex{}, 0
	if s.created.IsZero() {
		s.created = l.dir.now()
	}
	l.mu.Unlock()
	return l.fs.SyncFolder(l.path)
}

func (l *Log) truncateFile(s *segment) error {
	l.dir.pages.unsound(s.file, s.size)
	f, err := l.dir.files.acquire(s.file)
	if err != nil {
		return err
	}
	defer l.dir.files.release(s.file)
	if err := f.Truncate(s.size); err != nil {
		return err
	}
	if err := f.Datasync(); err != nil {
		return err
	}
	l.letGo(s)
	return nil
}

// truncateState brings epochs and producers back to the log's new end. busy keeps
// appends away from the producer state meanwhile.
func (l *Log) truncateState() error {
	if err := l.writeEpochs(); err != nil {
		return err
	}
	l.mu.Lock()
	end, written := l.end, l.written
	l.mu.Unlock()
	all, err := l.snapshots()
	if err != nil {
		return err
	}
	ps, err := l.restoreProducers(all, end)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.producers = ps
	now := l.dir.now().UnixMilli()
	for i := l.tail.written; i < l.tail.entries.len(); i++ { // not on disk to be replayed
		for b := l.tail.entries.at(i).buf.Bytes(); len(b) > 0; {
			info, ok := record.Peek(b)
			if !ok {
				break
			}
			if info.BaseOffset >= written {
				ps.appended(&info, now, written)
			}
			b = b[info.Size:]
		}
	}
	return nil
}

// Reset empties the log and lets it begin at start: for a replica that begins
// anew, or whose damage has been dealt with. It knows no producers then. It is
// durable before it returns and ends damage, not a latched failure.
func (l *Log) Reset(start record.Offset) error { return l.reset(start, nil, nil) }

// reset lets before run, if it is not nil, while nobody else can change the log.
func (l *Log) reset(start record.Offset, state []byte, before func() error) error {
	if start < 0 {
		return &OffsetError{start, 0, l.End()}
	}
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.Lock()
	if l.failed != nil || l.closing || l.busy {
		defer l.mu.Unlock()
		return l.usable()
	}
	l.busy = true
	l.mu.Unlock()
	defer l.leaveTruncation()
	if before != nil {
		if err := before(); err != nil {
			return l.latch("reset", err)
		}
	}
	// Durable from here on: recovery finishes a reset that has begun.
	if err := replace(l.fs, filepath.Join(l.path, resetName), encodeReset(start, state)); err != nil {
		return l.latch("reset", err)
	}
	l.mu.Lock()
	l.generation++
	l.tail.dropBack(0)
	l.start, l.end, l.written, l.flushed, l.highWatermark, l.promised = start, start, start, start, start, start
	l.cleaned, l.onDisk, l.dirty = start, start, start
	l.damage = DamageNone
	l.epochs, l.epochsDirty = nil, true
	l.producers = newProducers(l.cfg.MaxProducers)
	if ps, _, err := decodeProducers(state, l.cfg.MaxProducers); err == nil {
		l.producers = ps
		for len(ps.byID) > l.cfg.MaxProducers {
			ps.evict()
		}
	}
	l.mu.Unlock()
	if err := l.resetFiles(start, state); err != nil {
		return l.latch("reset", err)
	}
	return nil
}

func (l *Log) resetFiles(start record.Offset, state []byte) error {
	if err := l.dir.checkpoint.write(); err != nil {
		return err
	}
	// Only now: until the checkpoint no longer promises them, the bytes must be somewhere.
	if err := l.dir.journal.void(l.key); err != nil {
		return err
	}
	if err := l.removeAll(); err != nil {
		return err
	}
	l.forgetFiles(l.segments)
	l.atRest = false
	if err := l.writeProducers(start, state); err != nil {
		return err
	}
	s, err := l.createSegment(start)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.segments = []*segment{s}
	l.mu.Unlock()
	if err := l.writeEpochs(); err != nil {
		return err
	}
	return l.endReset()
}

// endReset says that the reset is complete.
func (l *Log) endReset() error {
	if err := l.fs.Remove(filepath.Join(l.path, resetName)); err != nil {
		return err
	}
	return l.fs.SyncFolder(l.path)
}

// removeAll deletes the segments and what goes with them durably; a damaged log may
// hold some that were not opened.
func (l *Log) removeAll() error {
	entries, err := l.fs.List(l.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch kind, _ := logKind(e); kind {
		case KindSegment, KindIndex, KindTimeIndex, KindSnapshot:
			if err := l.fs.Remove(filepath.Join(l.path, e.Name)); err != nil {
				return err
			}
		default:
		}
	}
	return l.fs.SyncFolder(l.path)
}
