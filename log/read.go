package log

import (
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"sort"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// ReadOptions say what to read.
type ReadOptions struct {
	// From is an offset in the first batch, or in a gap before it; batches at or above Limit are left out.
	From, Limit record.Offset
	// MaxBytes bounds the batches together; the first one comes whatever its size.
	MaxBytes int
	// Most lets a range of a file, which costs no memory, end with the batch in which
	// MaxBytes are reached instead of before it, as long as it is no longer than this.
	// 0: MaxBytes is all.
	Most int
	// Bounded is for readers who may keep what they get for as long as they please:
	// clients. What they hold together stays within the arena's shares: up to its
	// PinLimit they share the tail's memory, beyond it they get copies out of the
	// file, little at a time, and beyond its ReadLimit ErrReadMemory. The
	// size of one batch may come on top, for a batch is never cut.
	Bounded bool
	// Once is for readers who read what is old, one after the other, and do not come
	// back: followers that catch up. What they read from the disk leaves the page
	// cache soon after, and nothing else has to give way for it.
	Once bool
}

// smallRead is what a bounded read gives when memory is short: of what is kept
// for such reads a sixteenth, so that many readers get some.
func smallRead(a *record.Arena) int {
	return int(min((a.ReadLimit()-a.PinLimit())/16, 64<<10))
}

// Read returns whole batches from the one that holds from on (the next one where
// compaction left a gap), while their base offset is below limit and together they are at most maxBytes; the first batch
// comes whatever its size. The caller releases the slices. from at the end of
// the log, or at or above limit, reads nothing.
//
// Errors: *OffsetError below the start or past the end; *CorruptionError when
// bytes on disk are wrong, after which the log is damaged; *OpenFilesError, which
// passes; ErrClosed.
func (l *Log) Read(from, limit record.Offset, maxBytes int) ([]record.Slice, error) {
	return l.ReadInto(nil, ReadOptions{From: from, Limit: limit, MaxBytes: maxBytes})
}

// ReadInto is Read that appends to dst, so that a read of recent batches
// allocates nothing. On an error dst is returned as it was.
func (l *Log) ReadInto(dst []record.Slice, o ReadOptions) ([]record.Slice, error) {
	for {
		l.mu.Lock()
		out, cold, err := l.plan(dst, o)
		l.mu.Unlock()
		if cold == nil {
			return out, err
		}
		if err = cold.reserve(o.Bounded); err == nil {
			err = cold.run()
			l.dir.tail.evict() // tails give way to what was read
		}
		if again, err := l.settle(cold, err); !again {
			return cold.out, err
		}
	}
}

// plan answers a read from memory, or says how to do it from disk.
func (l *Log) plan(dst []record.Slice, o ReadOptions) ([]record.Slice, *coldRead, error) {
	if l.closing {
		return dst, nil, ErrClosed
	}
	if o.From < l.start || o.From > l.end {
		return dst, nil, &OffsetError{o.From, l.start, l.end}
	}
	o.Limit = min(o.Limit, l.end)
	if o.From >= o.Limit {
		return dst, nil, nil
	}
	if base, ok := l.tail.base(); ok && o.From >= base {
		out, short := l.tail.read(dst, o)
		switch {
		case !short:
			return out, nil, nil
		case o.From >= l.written:
			return dst, nil, ErrReadMemory // the only copy is the one in the tail
		}
		o.MaxBytes = min(o.MaxBytes, smallRead(l.dir.arena))
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > o.From }) - 1
	if i < 0 {
		return dst, nil, &OffsetError{o.From, l.start, l.end}
	}
	return dst, l.cold(dst, l.segments[i], &o), nil
}

// read takes references to the entries that hold what o wants. short: there is
// something, and memory for readers is too short to share any of it.
func (t *tail) read(dst []record.Slice, o ReadOptions) (_ []record.Slice, short bool) {
	limit := int64(math.MaxInt64)
	if o.Bounded {
		limit = t.budget.arena.PinLimit()
	}
	n, room := len(dst), o.MaxBytes
	for i := t.find(o.From); i < t.entries.len() && t.entries.at(i).base < o.Limit; i++ {
		e := t.entries.at(i)
		lo, hi := cut(e.buf.Bytes(), o.From, o.Limit, room, len(dst) == n)
		if lo == hi {
			break
		}
		s, ok := record.TryPinOf(e.buf, lo, hi, limit)
		if !ok {
			return dst, len(dst) == n
		}
		dst = append(dst, s)
		if room -= hi - lo; hi < e.buf.Len() {
			break
		}
	}
	return dst, false
}

// reserve counts what the read is about to take, as far as it is bounded. With
// little room it becomes a small one.
func (c *coldRead) reserve(bounded bool) error {
	if !bounded {
		return nil
	}
	arena := c.l.dir.arena
	small := smallRead(arena)
	if n := c.estimate(); c.maxBytes > small && arena.TryReserve(n, arena.PinLimit()) {
		c.reserved = n
		return nil
	}
	c.maxBytes = min(c.maxBytes, small)
	n := c.estimate()
	if !arena.TryReserve(n, arena.ReadLimit()) {
		return ErrReadMemory
	}
	c.reserved = n
	return nil
}

// unreserve ends up to n bytes of the reservation.
func (c *coldRead) unreserve(n int64) {
	if n = min(n, c.reserved); n > 0 {
		c.reserved -= n
		c.l.dir.arena.Unreserve(n)
	}
}

// estimate is about what the read takes of the arena: a Buf may have a quarter of slack.
func (c *coldRead) estimate() int64 {
	n := int64(c.maxBytes) + int64(c.interval)
	return n + n/4
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
	c.unreserve(c.reserved)
	l.mu.Lock()
	stale, start, end, closing := c.generation != l.generation, l.start, l.end, l.closing
	failed, flushed := l.failed, l.flushed
	if err == nil && failed != nil && c.limit > flushed {
		err = c.damage // nothing of such a log is served in part
	}
	if !stale && err == nil {
		c.end()
	}
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
	case failed != nil && c.limit > flushed:
		// The kernel may have dropped what was written and not synced.
		return false, failed
	}
	l.noteDamage(err, func() bool { return l.generation == c.generation })
	return false, err
}

// noteDamage makes the log read-only if what a read of durable bytes came upon is damage
// of what the log still is: still is asked with mu held, for a reset may have come since
// the read, and what it began anew is whole.
func (l *Log) noteDamage(err error, still func() bool) {
	if corrupt, ok := errors.AsType[*CorruptionError](err); ok {
		if l.reportDamage(DamageCorrupt, corrupt.Offset, still) {
			l.logger.Error("durable data is corrupt", "path", corrupt.Path, "position", corrupt.Position, "offset", corrupt.Offset, "reason", corrupt.Reason)
		}
	} else if errors.Is(err, fs.ErrNotExist) {
		if at := l.firstMissing(); l.reportDamage(DamageMissing, at, still) {
			l.logger.Error("durable data is missing", "offset", at, "error", err)
		}
	}
}

// firstMissing is where the first segment begins that has no file; UnknownOffset: all
// have one, or nobody can tell.
func (l *Log) firstMissing() record.Offset {
	l.mu.Lock()
	segments := l.segments
	l.mu.Unlock()
	entries, err := l.fs.List(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return record.UnknownOffset
	}
	for _, s := range segments {
		name := filepath.Base(s.file.name)
		if !slices.ContainsFunc(entries, func(e vfs.Entry) bool { return e.Name == name }) {
			return s.base
		}
	}
	return record.UnknownOffset
}

// FirstBatch is where the batch begins that holds the start of the log: at the
// start, or below it when records inside of a batch were deleted.
func (l *Log) FirstBatch() record.Offset {
	start := l.Start()
	slices, err := l.ReadInto(nil, ReadOptions{From: start, Limit: start + 1, MaxBytes: 1})
	if err != nil || len(slices) == 0 {
		return start // an empty log, a gap, or bytes that nobody can read
	}
	defer slices[0].Release()
	if info, ok := record.Peek(slices[0].Bytes); ok {
		return min(info.BaseOffset, start)
	}
	return start
}
