package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// InspectedIndexEntry is an entry of an index file.
type InspectedIndexEntry struct {
	// At is its first byte in the file.
	At int64
	// Offset is absolute: the last one of the batch that begins at Position, or that
	// was the first to reach Timestamp.
	Offset record.Offset
	// Position in the segment file, of an .index.
	Position int64
	// Timestamp in ms, of a .timeindex.
	Timestamp int64
}

// Index reads an .index or .timeindex file as it is, right or wrong. Bytes at the
// end that are no whole entry are an error.
func (in *Inspector) Index(f InspectedFile) iter.Seq2[InspectedIndexEntry, error] {
	return func(yield func(InspectedIndexEntry, error) bool) {
		c, err := in.cursor(f.Path, f.Kind, f.Offset)
		if err != nil {
			yield(InspectedIndexEntry{}, err)
			return
		}
		for {
			e, ok, err := c.peek()
			if err != nil || !ok {
				if err != nil {
					yield(e, err)
				}
				break
			}
			if !yield(e, nil) {
				break
			}
			c.take()
		}
		if err := c.file.Close(); err != nil {
			yield(InspectedIndexEntry{}, err)
		}
	}
}

// indexCursor reads an index file entry by entry, for one that is as large as a
// hostile file system can make it.
type indexCursor struct {
	file  vfs.File
	kind  FileKind
	base  record.Offset
	entry int64 // size of one
	size  int64
	at    int64

	window   []byte
	windowAt int64
}

func (in *Inspector) cursor(path string, kind FileKind, base record.Offset) (*indexCursor, error) {
	f, err := in.fs.Open(path)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c := &indexCursor{file: f, kind: kind, base: base, entry: indexEntrySize, size: size}
	if kind == KindTimeIndex {
		c.entry = timeEntrySize
	}
	return c, nil
}

// peek returns the next entry; ok is false at the end.
func (c *indexCursor) peek() (e InspectedIndexEntry, ok bool, err error) {
	if c.at >= c.size {
		return e, false, nil
	}
	if left := c.size - c.at; left < c.entry {
		return e, false, fmt.Errorf("byte %d: %d bytes at the end are no whole entry of %d", c.at, left, c.entry)
	}
	off := c.at - c.windowAt
	if off < 0 || off+c.entry > int64(len(c.window)) {
		n := min(c.size-c.at, inspectWindow/timeEntrySize*c.entry)
		if int64(cap(c.window)) < n {
			c.window = make([]byte, n)
		}
		c.window, c.windowAt, off = c.window[:n], c.at, 0
		if err := readFull(c.file, c.window, c.at); err != nil {
			return e, false, err
		}
	}
	b := c.window[off : off+c.entry]
	e.At = c.at
	if c.kind == KindTimeIndex {
		e.Timestamp = int64(binary.BigEndian.Uint64(b))
		e.Offset = c.base + record.Offset(int32(binary.BigEndian.Uint32(b[8:])))
		return e, true, nil
	}
	x := decodeIndexEntry(b)
	e.Offset, e.Position = c.base+record.Offset(x.relative), int64(x.position)
	return e, true, nil
}

func (c *indexCursor) take() { c.at += c.entry }

// indexCheck compares the two indexes of a segment with its batches, which it is
// shown in order.
type indexCheck struct {
	in     *Inspector
	report func(kind FileKind, at int64, off record.Offset, problem, want string)

	offsets, times *indexCursor // nil: missing, or found wrong
	newest         newestTime
	lastTime       int64 // of the last time entry that was right
	timed          bool
	closing        error // of closing files
}

// newIndexCheck opens the files; missing ones are told by the caller.
func (in *Inspector) newIndexCheck(path string, base record.Offset) (*indexCheck, error) {
	x := &indexCheck{in: in, newest: noTime()}
	for _, k := range []struct {
		to   **indexCursor
		ext  string
		kind FileKind
	}{{&x.offsets, indexExt, KindIndex}, {&x.times, timeExt, KindTimeIndex}} {
		c, err := in.cursor(path+k.ext, k.kind, base)
		if err != nil && !isMissing(err) {
			return nil, errors.Join(err, x.close())
		}
		if err == nil {
			*k.to = c
		}
	}
	return x, nil
}

// batch takes in the next batch.
func (x *indexCheck) batch(b *InspectedBatch) {
	before := x.newest
	x.newest.note(&b.BatchInfo)
	if x.offsets != nil {
		x.offset(b)
	}
	if x.times != nil {
		x.time(b, x.newest != before)
	}
}

// doubt passes over a batch that is wrong itself: what the indexes say of it tells nothing.
func (x *indexCheck) doubt(b *InspectedBatch) {
	if x.offsets != nil {
		if e, ok, err := x.offsets.peek(); err == nil && ok && e.Position == b.Position {
			x.offsets.take()
		}
	}
	x.leave(&x.times)
}

func (x *indexCheck) offset(b *InspectedBatch) {
	e, ok, err := x.offsets.peek()
	switch {
	case err != nil:
		x.bad(&x.offsets, x.offsets.at, b.BaseOffset, err.Error(), "whole entries of 8 bytes")
	case !ok:
		if x.offsets.at == 0 {
			x.bad(&x.offsets, 0, b.BaseOffset, "no entry", "a first entry at position 0")
		}
	case e.Position < b.Position:
		x.bad(&x.offsets, e.At, e.Offset, fmt.Sprintf("the entry points at byte %d, where no batch begins", e.Position), "entries that ascend, each at a batch")
	case x.offsets.at == 0 && e.Position != 0:
		x.bad(&x.offsets, 0, e.Offset, fmt.Sprintf("the first entry points at byte %d", e.Position), "a first entry at position 0")
	case e.Position > b.Position:
	case e.Offset != indexed(&b.BatchInfo):
		x.bad(&x.offsets, e.At, e.Offset, fmt.Sprintf("the entry says offset %d", e.Offset),
			fmt.Sprintf("offset %d, for the batch at byte %d", indexed(&b.BatchInfo), b.Position))
	default:
		x.offsets.take()
	}
}

// time looks at the time entries that name the batch; first: it is newer than all before.
func (x *indexCheck) time(b *InspectedBatch, first bool) {
	e, ok, err := x.times.peek()
	switch {
	case err != nil:
		x.bad(&x.times, x.times.at, b.BaseOffset, err.Error(), "whole entries of 12 bytes")
	case !ok || e.Offset > indexed(&b.BatchInfo):
	case e.Offset < indexed(&b.BatchInfo):
		x.bad(&x.times, e.At, e.Offset, fmt.Sprintf("the entry names offset %d, which no batch has in the place due", e.Offset), "entries that ascend, each naming a batch")
	case e.Timestamp != b.MaxTimestamp || !first:
		x.bad(&x.times, e.At, e.Offset, fmt.Sprintf("the entry says that the batch was the first to reach %d ms", e.Timestamp),
			fmt.Sprintf("%d ms, which offset %d was the first to reach", x.newest.ms, x.newest.at))
	default:
		x.lastTime, x.timed = e.Timestamp, true
		x.times.take()
	}
}

// end compares what is left in the indexes with the end of the segment. whole:
// the indexes must reach it.
func (x *indexCheck) end(size int64, whole bool) {
	if c := x.offsets; c != nil {
		if e, ok, err := c.peek(); err != nil {
			x.bad(&x.offsets, c.at, record.UnknownOffset, err.Error(), "whole entries of 8 bytes")
		} else if ok {
			x.bad(&x.offsets, e.At, e.Offset, fmt.Sprintf("the entry points at byte %d, behind the last batch", e.Position), fmt.Sprintf("positions below %d", size))
		}
	}
	c := x.times
	if c == nil {
		return
	}
	e, ok, err := c.peek()
	switch {
	case err != nil:
		x.bad(&x.times, c.at, record.UnknownOffset, err.Error(), "whole entries of 12 bytes")
	case ok:
		x.bad(&x.times, e.At, e.Offset, fmt.Sprintf("the entry names offset %d, behind the last batch", e.Offset), "entries of batches that are there")
	case whole && x.newest.at >= 0 && (!x.timed || x.lastTime != x.newest.ms):
		x.bad(&x.times, c.at, x.newest.at, "the greatest timestamp of the segment has no entry", fmt.Sprintf("a last entry of %d ms for offset %d", x.newest.ms, x.newest.at))
	}
}

// bad reports an index and looks no further into it: one wrong entry makes the
// rest worthless.
func (x *indexCheck) bad(c **indexCursor, at int64, off record.Offset, problem, want string) {
	x.report((*c).kind, at, off, problem, want)
	x.leave(c)
}

// leave closes an index before its end.
func (x *indexCheck) leave(c **indexCursor) {
	if *c != nil {
		x.closing = errors.Join(x.closing, (*c).file.Close())
		*c = nil
	}
}

func (x *indexCheck) close() error {
	x.leave(&x.offsets)
	x.leave(&x.times)
	return x.closing
}

// indexed is the offset under which the indexes know a batch.
func indexed(info *record.BatchInfo) record.Offset { return info.LastOffset() }
