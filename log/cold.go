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

// checkPiece is how much is read at once when it is checked: it is then still in
// the processor's cache.
const checkPiece = 256 << 10

// coldRead reads from one segment's file, with no lock held.
type coldRead struct {
	l           *Log
	from, limit record.Offset
	maxBytes    int
	most        int // ReadOptions.Most, or maxBytes
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

	sequential bool // the reader comes from the batch before
	once       bool // ReadOptions.Once

	out  []record.Slice
	had  int           // slices in out that are not ours
	got  int           // bytes in out
	next record.Offset // what the next batch must begin with; 0: not known yet
	need int           // bytes that the next batch is known to take
	done bool

	first   int64 // where the first batch in out is in the file
	checked bool  // a CRC was
	damage  error // what ended a read that has got something
}

// cold plans a read of one segment. The caller holds mu.
func (l *Log) cold(dst []record.Slice, s *segment, o *ReadOptions) *coldRead {
	c := &coldRead{
		l: l, from: o.From, limit: o.Limit, maxBytes: o.MaxBytes, most: max(o.Most, o.MaxBytes), generation: l.generation, cleaned: l.cleaned,
		base: s.base, path: s.path, size: s.size, interval: l.cfg.IndexInterval, file: s.file, position: -1, once: o.Once,
		out: dst, had: len(dst),
	}
	switch {
	case c.resume():
	case o.From == s.base:
		c.position, c.sequential = 0, true
	case s.index != nil:
		c.position = s.index.position(int64(o.From - s.base))
	}
	return c
}

// resumePoints is how many readers of one log can go on where they ended.
const resumePoints = 8

// resumePoint is where a cold read ended: the next one of the same reader needs no
// index, and a reader that goes on has the file read ahead for it.
type resumePoint struct {
	file       *lazyFile
	generation uint64
	next       record.Offset
	position   int64
}

// resume lets a read begin where one before it ended. The caller holds Log.mu.
func (c *coldRead) resume() bool {
	for i := range c.l.resume {
		r := &c.l.resume[i]
		if r.next == c.from && r.file == c.file && r.generation == c.generation {
			c.position, c.next, c.sequential = r.position, r.next, true
			*r = resumePoint{}
			return true
		}
	}
	return false
}

// leave notes where a read ended, if need be in place of another such note. The
// caller holds Log.mu.
func (c *coldRead) leave() {
	l := c.l
	p := resumePoint{c.file, c.generation, c.next, c.position}
	for i := range l.resume {
		if l.resume[i] == (resumePoint{}) {
			l.resume[i] = p
			return
		}
	}
	if len(l.resume) < resumePoints {
		l.resume = append(l.resume, p)
		return
	}
	l.resume[l.resumed%resumePoints] = p
	l.resumed++
}

// end takes in what a read that holds has found. The caller holds Log.mu.
func (c *coldRead) end() {
	if c.got > 0 && c.position < c.size { // else it goes on in another segment
		c.leave()
	}
	if c.checked && c.l.failed == nil { // with the lock held: a truncation or failure comes before or after
		c.l.dir.pages.foundSound(c.file, c.first, c.position)
	}
}

func (c *coldRead) release() {
	for i := c.had; i < len(c.out); i++ {
		c.out[i].Release()
	}
	c.out, c.got = c.out[:c.had], 0
}

func (c *coldRead) run() error {
	f, err := c.l.dir.files.acquire(c.file)
	if err != nil {
		return err
	}
	defer c.l.dir.files.release(c.file)
	c.open = f
	if c.sequential {
		c.l.dir.files.readAhead(c.file)
	}
	if c.position < 0 {
		if c.position, err = searchIndexFile(c.l.fs, c.path, int64(c.from-c.base)); err != nil {
			return err
		}
		if c.position < 0 || c.position >= c.size {
			c.position = 0
		}
	}
	begin := c.position
	defer func() {
		if c.once {
			c.l.dir.pages.noteOnce(c.file, begin, c.position)
		} else {
			c.l.dir.pages.note(c.file, begin, c.position)
		}
	}()
	for !c.done && c.position < c.size {
		want := min(max(c.maxBytes-c.got, record.HeaderSize), readChunk)
		if c.got == 0 && !c.sequential {
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
		if err != nil && c.got > 0 && errors.Is(err, ErrCorrupt) {
			c.damage = err
			return nil // the next read begins there, and fails
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
	if !c.l.dir.pages.holds(c.file, c.position, c.position+int64(n)) {
		c.l.dir.pace.wait(n)
	}
	sound, piece := c.l.dir.pages.sound(c.file, c.position, c.position+int64(n)), checkPiece
	if sound {
		piece = n
	}
	lo, at, filled := -1, 0, 0
	c.need = 0
	fill := func(upTo int) error {
		for upTo = min(upTo, n); filled < upTo; {
			more := min(filled+piece, n)
			if err := readFull(c.open, b[filled:more], c.position+int64(filled)); err != nil {
				return c.corrupt(filled, fmt.Sprintf("cannot be read: %v", err))
			}
			filled = more
		}
		return nil
	}
	var bad error // what is before it is kept
	for at < n && !c.done && bad == nil {
		if bad = fill(at + record.HeaderSize); bad != nil {
			break
		}
		info, ok := record.Peek(b[at:filled])
		if left := c.size - c.position - int64(at); !ok && n-at < record.HeaderSize && left >= record.HeaderSize {
			c.need = record.HeaderSize
			break
		}
		if reason := c.wrong(&info, ok, at); reason != "" {
			bad = c.corrupt(at, reason)
			break
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
			if !sound {
				if bad = fill(at + info.Size); bad != nil {
					break
				}
				if reason := unsound(b[at : at+info.Size]); reason != "" {
					bad = c.corrupt(at, reason)
					break
				}
				c.checked = true
			}
			if lo < 0 {
				lo = at
			}
		}
		at, c.next = at+info.Size, info.NextOffset()
	}
	if lo >= 0 {
		if c.got == 0 {
			c.first = c.position + int64(lo)
		}
		c.out = append(c.out, c.keep(buf, lo, at))
		c.got += at - lo
	}
	c.position += int64(at)
	c.done = c.done || c.got > 0 && c.got >= c.maxBytes
	return bad
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
	off := c.from
	switch { // the batches from there on are not whole, whatever was asked for
	case c.next != 0:
		off = c.next
	case c.position+int64(at) == 0:
		off = c.base
	}
	return &CorruptionError{Path: c.path + logExt, Position: c.position + int64(at), Offset: off, Reason: reason}
}
