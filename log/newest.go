package log

import (
	"errors"

	"github.com/penstock/penstock/log/record"
)

// NewestTime returns the first record below limit that has the greatest timestamp
// of all below it. found is false on an empty log, when no record has a time, and
// when the header of a batch claims a later one than what is left of it below limit.
func (l *Log) NewestTime(limit record.Offset) (off record.Offset, at int64, found bool, err error) {
	ms, from := l.newestIndexed(limit)
	for from < limit {
		slices, err := l.Read(from, limit, readChunk)
		if e, ok := errors.AsType[*OffsetError](err); ok && from < e.Start {
			from = e.Start // removed meanwhile
			continue
		}
		if err != nil {
			return record.UnknownOffset, -1, false, err
		}
		if len(slices) == 0 {
			break
		}
		for i := range slices {
			for b := slices[i].Bytes; len(b) > 0; {
				info, ok := record.Peek(b)
				if !ok || info.Size > len(b) {
					break
				}
				ms, from, b = max(ms, info.MaxTimestamp), info.NextOffset(), b[info.Size:]
			}
			slices[i].Release()
		}
	}
	if ms < 0 {
		return record.UnknownOffset, -1, false, nil
	}
	return l.OffsetForTime(ms, limit)
}

// newestIndexed returns the greatest timestamp that the segments know to be in the
// log and below limit, and from where on batches have to be looked at: behind what
// is written, or from a segment whose newest one is not such a one.
func (l *Log) newestIndexed(limit record.Offset) (ms int64, from record.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ms, from = -1, max(l.written, l.start)
	for _, s := range l.segments {
		switch {
		case s.newest.at >= limit || s.newest.at < l.start && s.newest.at >= s.base:
			from = min(from, max(s.base, l.start))
		case s.newest.at >= l.start:
			ms = max(ms, s.newest.ms)
		}
	}
	return ms, from
}
