package log

import (
	"errors"
	"fmt"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// readChunk is how much of a segment one Buf of a cold read holds; a larger
// batch gets a Buf of its own.
const readChunk = 1 << 20

// coldRead reads from one segment's file, with no lock held.
type coldRead struct {
	l           *Log
	from, limit record.Offset
	maxBytes    int
	generation  uint64
	cleaned     record.Offset

	base     record.Offset
	path     string
	size     int64 // of the segment's valid bytes
	file     *lazyFile
	open     vfs.File // file, while it is read
	position int64    // where to begin; -1: the index is in its file
	interval int

	reserved int64 // of the memory for readers, until the read has ended

	out  []record.Slice
	got  int           // bytes in out
	next record.Offset // what the next batch must begin with; 0: not known yet
	need int           // bytes that the next batch is known to take
	done bool
}

func (c *coldRead) release() {
	for i := range c.out {
		c.out[i].Release()
	}
	c.out, c.got = nil, 0
}

func (c *coldRead) run() error {
	f, err := c.l.dir.files.acquire(c.file)
	if err != nil {
		return err
	}
	defer c.l.dir.files.release(c.file)
	c.open = f
	if c.position < 0 {
		if c.position, err = searchIndexFile(c.l.fs, c.path, int64(c.from-c.base)); err != nil {
			return err
		}
		if c.position < 0 || c.position >= c.size {
			c.position = 0
		}
	}
	begin := c.position
	defer func() { c.l.dir.pages.note(c.file, begin, c.position) }()
	for !c.done && c.position < c.size {
		want := min(max(c.maxBytes-c.got, record.HeaderSize), readChunk)
		if len(c.out) == 0 {
			want = min(want+c.interval, readChunk) // the index points up to so far before
		}
		err := c.chunk(int(min(int64(max(want, c.need)), c.size-c.position)))
		if c.next == 0 && c.position > 0 && errors.Is(err, ErrCorrupt) {
			// An index is a hint: the log is damaged only if the beginning of the
			// segment does not lead to the batch either.
			c.l.logger.Warn("index leads to no batch", "segment", c.path, "offset", c.from, "position", c.position)
			c.position, c.need = 0, 0
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// chunk reads n bytes and takes the whole batches among them.
func (c *coldRead) chunk(n int) error {
	buf := c.l.dir.arena.Get(n)
	defer buf.Release()
	b := buf.Bytes()
	if err := readFull(c.open, b, c.position); err != nil {
		return c.corrupt(0, fmt.Sprintf("cannot be read: %v", err))
	}
	lo, at := -1, 0
	c.need = 0
	for at < n && !c.done {
		info, ok := record.Peek(b[at:])
		if left := c.size - c.position - int64(at); !ok && n-at < record.HeaderSize && left >= record.HeaderSize {
			c.need = record.HeaderSize
			break
		}
		if reason := c.wrong(&info, ok, at); reason != "" {
			return c.corrupt(at, reason)
		}
		if info.NextOffset() > c.from {
			if c.done = c.enough(&info, at, lo); c.done {
				break
			}
		}
		if at+info.Size > n {
			c.need = info.Size
			break
		}
		if info.NextOffset() > c.from {
			if reason := unsound(b[at : at+info.Size]); reason != "" {
				return c.corrupt(at, reason)
			}
			if lo < 0 {
				lo = at
			}
		}
		at, c.next = at+info.Size, info.NextOffset()
	}
	if lo >= 0 {
		c.out = append(c.out, c.keep(buf, lo, at))
		c.got += at - lo
	}
	c.position += int64(at)
	c.done = c.done || c.got > 0 && c.got >= c.maxBytes
	return nil
}

// keep pins what the reader gets of a chunk. Much less than a whole chunk is
// copied: it would keep all of the chunk's memory from being used.
func (c *coldRead) keep(chunk *record.Buf, lo, hi int) record.Slice {
	if hi-lo < chunk.Len()/2 {
		buf := c.l.dir.arena.Get(hi - lo)
		defer buf.Release()
		copy(buf.Bytes(), chunk.Bytes()[lo:hi])
		chunk, lo, hi = buf, 0, hi-lo
	}
	s := record.PinOf(chunk, lo, hi)
	c.unreserve(chunk.Footprint()) // from now on the pin counts
	return s
}

// enough says that the batch at a position is no longer wanted.
func (c *coldRead) enough(info *record.BatchInfo, at, lo int) bool {
	if info.BaseOffset >= c.limit {
		return true
	}
	got := c.got
	if lo >= 0 {
		got += at - lo
	}
	return got > 0 && got+info.Size > c.maxBytes
}

// wrong says why a header among durable bytes cannot be; empty: it can.
func (c *coldRead) wrong(info *record.BatchInfo, ok bool, at int) string {
	switch {
	case !ok:
		return "no batch header"
	case int64(info.Size) > c.size-c.position-int64(at):
		return fmt.Sprintf("batch of %d bytes, %d left", info.Size, c.size-c.position-int64(at))
	case info.LastDelta < 0:
		return fmt.Sprintf("last offset delta is %d", info.LastDelta)
	case c.next != 0 && misplaced(info.BaseOffset, c.next, c.cleaned):
		return fmt.Sprintf("batch at offset %d, want %d", info.BaseOffset, c.next)
	case c.next == 0 && c.position+int64(at) == 0 && misplaced(info.BaseOffset, c.base, c.cleaned):
		return fmt.Sprintf("batch at offset %d, want %d", info.BaseOffset, c.base)
	case c.next == 0 && c.position+int64(at) > 0 && info.BaseOffset > c.from:
		return fmt.Sprintf("batch at offset %d, want one at or below %d", info.BaseOffset, c.from)
	}
	return ""
}

func (c *coldRead) corrupt(at int, reason string) error {
	return &CorruptionError{Path: c.path + logExt, Position: c.position + int64(at), Offset: c.from, Reason: reason}
}
