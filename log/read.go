package log

import (
	"errors"
	"io/fs"
	"sort"

	"github.com/penstock/penstock/log/record"
)

// Read returns whole batches from the one that holds from on, while their base
// offset is below limit and together they are at most maxBytes; the first batch
// comes whatever its size. The caller releases the slices. from at the end of
// the log, or at or above limit, reads nothing.
//
// Errors: *OffsetError below the start or past the end; *CorruptionError when
// bytes on disk are wrong, after which the log is damaged; *OpenFilesError, which
// passes; ErrClosed.
func (l *Log) Read(from, limit record.Offset, maxBytes int) ([]record.Slice, error) {
	for {
		l.mu.Lock()
		slices, cold, err := l.plan(from, limit, maxBytes)
		l.mu.Unlock()
		if cold == nil {
			return slices, err
		}
		err = cold.run()
		if again, err := l.settle(cold, err); !again {
			return cold.out, err
		}
	}
}

// plan answers a read from memory, or says how to do it from disk.
func (l *Log) plan(from, limit record.Offset, maxBytes int) ([]record.Slice, *coldRead, error) {
	if l.closing {
		return nil, nil, ErrClosed
	}
	if from < l.start || from > l.end {
		return nil, nil, &OffsetError{from, l.start, l.end}
	}
	limit = min(limit, l.end)
	if from >= limit {
		return nil, nil, nil
	}
	if base, ok := l.tail.base(); ok && from >= base {
		return l.tail.read(from, limit, maxBytes), nil, nil
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > from }) - 1
	if i < 0 {
		return nil, nil, &OffsetError{from, l.start, l.end}
	}
	s := l.segments[i]
	c := &coldRead{
		l: l, from: from, limit: limit, maxBytes: maxBytes, generation: l.generation,
		base: s.base, path: s.path, size: s.size, interval: l.cfg.IndexInterval, file: s.file, position: -1,
	}
	if s.index != nil {
		c.position = s.index.position(int64(from - s.base))
	}
	return nil, c, nil
}

// read takes references to the entries that hold [from, limit).
func (t *tail) read(from, limit record.Offset, maxBytes int) []record.Slice {
	var out []record.Slice
	for i := t.find(from); i < len(t.entries) && t.entries[i].base < limit; i++ {
		e := &t.entries[i]
		lo, hi := cut(e.buf.Bytes(), from, limit, maxBytes, len(out) == 0)
		if lo == hi {
			break
		}
		out = append(out, record.SliceOf(e.buf, lo, hi))
		if maxBytes -= hi - lo; hi < e.buf.Len() {
			break
		}
	}
	return out
}

// cut returns the part of a run of whole batches that a read wants: from the
// batch that holds from, up to limit and maxBytes; atLeastOne takes a first batch
// of any size.
func cut(b []byte, from, limit record.Offset, maxBytes int, atLeastOne bool) (lo, hi int) {
	for at := 0; at < len(b); {
		info, ok := record.Peek(b[at:])
		switch {
		case !ok:
			return lo, hi
		case info.NextOffset() <= from:
			at += info.Size
			lo, hi = at, at
			continue
		case info.BaseOffset >= limit,
			at+info.Size-lo > maxBytes && (hi > lo || !atLeastOne):
			return lo, hi
		}
		at += info.Size
		hi = at
	}
	return lo, hi
}

// settle decides whether what a cold read got holds: a truncation in between
// means to try again; retention means out of range; a close, that no file need be there.
func (l *Log) settle(c *coldRead, err error) (again bool, _ error) {
	l.mu.Lock()
	stale, start, end, closing := c.generation != l.generation, l.start, l.end, l.closing
	l.mu.Unlock()
	if stale || err != nil {
		c.release()
	}
	switch {
	case stale:
		return true, nil
	case err == nil:
		return false, nil
	case c.from < start:
		return false, &OffsetError{c.from, start, end}
	case closing:
		return false, ErrClosed
	}
	if corrupt, ok := errors.AsType[*CorruptionError](err); ok {
		l.logger.Error("durable data is corrupt", "path", corrupt.Path, "position", corrupt.Position, "offset", corrupt.Offset, "reason", corrupt.Reason)
		l.reportDamage(DamageCorrupt)
	} else if errors.Is(err, fs.ErrNotExist) {
		l.reportDamage(DamageMissing)
	}
	return false, err
}
