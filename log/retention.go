package log

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// Retain applies the topic's retention: it rolls an active segment that is too
// old, removes whole segments that are older than RetentionAge or that make the
// log larger than RetentionBytes, never one that reaches past the high watermark
// and never the active one, and forgets expired producers. removed counts
// segments. A log that is latched, damaged or closed is left as it is.
func (l *Log) Retain(now time.Time) (removed int, err error) {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.Lock()
	if l.usable() != nil {
		l.mu.Unlock()
		return 0, nil
	}
	l.producers.expire(now.Add(-l.cfg.ProducerExpiration).UnixMilli())
	s := l.active()
	tooOld := s.size > 0 && now.Sub(s.created) >= l.cfg.SegmentAge
	written := l.written
	l.mu.Unlock()
	if tooOld {
		if err := l.roll(written); err != nil {
			return 0, l.latch("roll", err)
		}
	}
	l.mu.Lock()
	start, ahead := l.expired(now)
	l.mu.Unlock()
	if ahead != nil {
		l.logger.Warn("a segment outlives retention.ms: a record in it claims to be of the future",
			"path", ahead.path, "offset", ahead.newest.at, "timestamp_ms", ahead.newest.ms)
	}
	if start == record.UnknownOffset {
		return 0, nil
	}
	return l.moveStart(start)
}

// expired returns the log start after retention, UnknownOffset: nothing expires.
// ahead is a segment that stays because a record in it claims to be of the
// future, which has not been told yet; nil: none.
func (l *Log) expired(now time.Time) (start record.Offset, ahead *segment) {
	size := l.size()
	start = record.UnknownOffset
	for _, s := range l.segments[:len(l.segments)-1] {
		if s.next > l.highWatermark {
			break
		}
		bySize := l.cfg.RetentionBytes > 0 && size-s.size >= l.cfg.RetentionBytes
		if !bySize && !l.tooOld(s, now) {
			if l.cfg.RetentionAge > 0 && !s.told && s.newest.ms > now.Add(farAhead).UnixMilli() {
				s.told, ahead = true, s
			}
			break
		}
		size -= s.size
		start = s.next
	}
	return start, ahead
}

// farAhead is how far in the future a record must be to be worth a warning: a
// clock that is somewhat off is not.
const farAhead = 24 * time.Hour

// tooOld says whether the newest record of a segment is older than the topic
// keeps records: one old record makes no segment old, one of the future keeps it.
// Where no record has a time, the segment is as old as this process has known it.
func (l *Log) tooOld(s *segment, now time.Time) bool {
	if l.cfg.RetentionAge <= 0 {
		return false
	}
	if s.newest.ms >= 0 {
		return s.newest.ms < now.Add(-l.cfg.RetentionAge).UnixMilli()
	}
	if s.created.IsZero() {
		s.created = now
	}
	return now.Sub(s.created) > l.cfg.RetentionAge
}

// AdvanceStart lets the log begin at off: records below are no longer read, and
// segments wholly below it are removed. It is durable before it returns; an off
// at or below the start does nothing, one past the end is an *OffsetError.
func (l *Log) AdvanceStart(off record.Offset) error {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.Lock()
	err := l.usable()
	if err == nil && off > l.end {
		err = &OffsetError{off, l.start, l.end}
	}
	nothing := off <= l.start
	behind := off > l.flushed
	l.flushDue = l.flushDue || behind
	l.mu.Unlock()
	if err != nil || nothing {
		return err
	}
	if behind { // a log whose end could fall below its start would lose its producers
		if err := l.flushUpTo(off); err != nil {
			return err
		}
	}
	_, err = l.moveStart(off)
	return err
}

// flushUpTo writes and syncs what is appended, in this goroutine. The caller holds io.
func (l *Log) flushUpTo(off record.Offset) error {
	for {
		if _, err := l.writePending(); err != nil {
			return err
		}
		l.mu.Lock()
		written, failed := l.written, l.failed
		l.mu.Unlock()
		if failed != nil {
			return failed
		}
		if written >= off {
			return l.flushWritten()
		}
	}
}

// moveStart persists a new start, then deletes the segments below it: after a
// crash in between they are leftovers. The caller holds io.
func (l *Log) moveStart(off record.Offset) (removed int, err error) {
	l.mu.Lock()
	l.nextStart = off
	l.mu.Unlock()
	err = l.dir.checkpoint.write()
	l.mu.Lock()
	l.nextStart = 0
	if err != nil { // nothing has moved, and the next try begins anew
		l.mu.Unlock()
		return 0, err
	}
	l.start = off
	l.highWatermark = max(l.highWatermark, off)
	advanced := l.epochs.advance(off)
	l.epochsDirty = l.epochsDirty || len(advanced) != len(l.epochs)
	l.epochs = advanced
	var gone []*segment
	for len(l.segments) > 1 && l.segments[1].base <= off {
		gone = append(gone, l.segments[0])
		l.segments = l.segments[1:]
	}
	first := l.segments[0].base
	l.mu.Unlock()
	if len(gone) == 0 {
		return 0, nil
	}
	var large []string
	for _, s := range gone {
		left, err := s.putAway(l.fs, l.dir.remover.piece)
		if err != nil {
			return 0, l.latch("remove segment", err)
		}
		if left != "" {
			large = append(large, left)
		}
	}
	l.forgetFiles(gone)
	if err := l.pruneSnapshots(first); err != nil {
		return 0, l.latch("remove snapshot", err)
	}
	if err := l.fs.SyncFolder(l.path); err != nil {
		return 0, l.latch("remove segment", err)
	}
	for _, name := range large {
		l.dir.remover.later(name)
	}
	return len(gone), nil
}
