package log

import (
	"errors"

	"github.com/penstock/penstock/log/record"
)

// OffsetForTime returns the first record below limit whose timestamp is at least
// ms (in milliseconds), with its timestamp. found is false when there is none.
func (l *Log) OffsetForTime(ms int64, limit record.Offset) (off record.Offset, at int64, found bool, err error) {
	from := l.timeStart(ms)
	for {
		slices, err := l.Read(from, limit, readChunk)
		if e, ok := errors.AsType[*OffsetError](err); ok && from < e.Start {
			from = e.Start // removed meanwhile
			continue
		}
		if err != nil || len(slices) == 0 {
			return record.UnknownOffset, -1, false, err
		}
		off, at, next, err := firstAtOrAfter(slices, ms, from)
		for i := range slices {
			slices[i].Release()
		}
		if err != nil || off >= limit {
			return record.UnknownOffset, -1, false, err
		}
		if off >= 0 {
			return off, at, true, nil
		}
		from = next
	}
}

// timeStart finds an offset before which every record is older than ms.
func (l *Log) timeStart(ms int64) record.Offset {
	l.mu.Lock()
	var s *segment
	for _, candidate := range l.segments {
		if candidate.newest.at >= 0 && candidate.newest.ms >= ms {
			s = candidate
			break
		}
	}
	start, written := l.start, l.written
	if s == nil {
		l.mu.Unlock()
		return max(start, written) // what is not written is not indexed
	}
	seg := s.extent()
	front := max(start, seg.base)
	if x := s.index; x != nil {
		t, hint, ok := x.before(ms)
		l.mu.Unlock()
		return max(front, l.timed(&seg, t, hint, ok))
	}
	l.mu.Unlock()
	x, err := loadIndex(l.fs, seg.path, seg.size)
	if err != nil {
		return front // without its index the segment is read from the beginning
	}
	t, hint, ok := x.before(ms)
	return max(front, l.timed(&seg, t, hint, ok))
}

// timed is the offset of an entry of a time index that the batches vouch for; else the
// beginning of the segment.
func (l *Log) timed(s *segment, t timeEntry, hint indexEntry, ok bool) record.Offset {
	if !ok {
		return s.base
	}
	f, err := l.dir.files.acquire(s.file)
	if err != nil {
		return s.base // whoever reads there finds out
	}
	defer l.dir.files.release(s.file)
	off := s.base + record.Offset(t.relative)
	if right, err := t.tells(s, f, hint); err != nil || !right {
		l.logger.Warn("the time index does not fit its segment", "segment", s.path, "offset", off, "ms", t.ms, "error", err)
		return s.base
	}
	return off
}

// firstAtOrAfter looks through batches for the first record at or above from
// that is not older than ms; off is UnknownOffset when there is none, and next
// where to go on.
func firstAtOrAfter(slices []record.Slice, ms int64, from record.Offset) (off record.Offset, at int64, next record.Offset, err error) {
	next = from
	for _, s := range slices {
		for b := s.Bytes; len(b) > 0; {
			info, ok := record.Peek(b)
			if !ok {
				return record.UnknownOffset, -1, next, &InvalidBatchError{Reason: "bytes that are not a batch"}
			}
			if info.MaxTimestamp >= ms {
				off, at, err := firstInBatch(b[:info.Size], &info, ms, from)
				if err != nil || off >= 0 {
					return off, at, next, err
				}
			}
			b, next = b[info.Size:], info.NextOffset()
		}
	}
	return record.UnknownOffset, -1, next, nil
}

func firstInBatch(b []byte, info *record.BatchInfo, ms int64, from record.Offset) (record.Offset, int64, error) {
	if info.Attributes.LogAppendTime() && info.Count == info.LastDelta+1 { // else compaction took records out
		return max(info.BaseOffset, from), info.MaxTimestamp, nil
	}
	for rec, err := range record.Records(b, record.Limits{Internal: true}) {
		if err != nil {
			return record.UnknownOffset, -1, err
		}
		if rec.Timestamp >= ms && rec.Offset >= from {
			return rec.Offset, rec.Timestamp, nil
		}
	}
	return record.UnknownOffset, -1, nil
}
