package log

import (
	"errors"
	"fmt"
	"net"
	"sort"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

const (
	// rangeBatch is the smallest batch in a FileRange: each takes a system call of its
	// own, for its header.
	rangeBatch = 16 << 10
	// rangeLeast is what a FileRange is worth the trouble for.
	rangeLeast = 64 << 10
	// rangeSkip is how many batches may lie between where the index leads and what is wanted.
	rangeSkip = 8
)

// errRangeGone means that the log was truncated while a FileRange of it was being sent.
var errRangeGone = errors.New("log: the file has changed under a range of it")

// FileRange is a run of whole batches that lies in a segment's file, for the kernel to
// send from its page cache: nothing of it is copied on this side, where a read into
// memory and a write from there would copy it twice and cost three times as much.
//
// There is one only of bytes that need no check (see pageCache.sendable). The file stays
// open until Release, also when retention deletes it meanwhile; it may become shorter then,
// which ends the sending with an error. Not safe for concurrent use.
type FileRange struct {
	log        *Log
	generation uint64
	file       *lazyFile
	from, to   int64 // in the file

	sender vfs.Sender
	open   vfs.File     // the same
	memory record.Slice // all of it, when it had to be checked after all
}

// Len is its size in bytes.
func (r *FileRange) Len() int { return int(r.to - r.from) }

// SendTo sends n bytes from the place at on, and says how many it has sent. The rest
// cannot be had after an error: the log was truncated or failed, the bytes are damaged
// (ErrCorrupt), or had to be checked and there is no memory for that (ErrReadMemory).
func (r *FileRange) SendTo(c *net.TCPConn, at, n int) (int, error) {
	l := r.log
	l.mu.Lock()
	gone := l.generation != r.generation || l.failed != nil
	l.mu.Unlock()
	if gone {
		return 0, errRangeGone
	}
	begin := r.from + int64(at)
	if r.memory.Bytes == nil && !l.dir.pages.sendable(r.file, begin, begin+int64(n)) {
		if err := r.load(); err != nil {
			return 0, err
		}
	}
	if r.memory.Bytes != nil {
		return c.Write(r.memory.Bytes[at : at+n])
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	return r.sender.SendTo(raw, begin, n)
}

// load reads and checks all of it: its client took so long that pages may have left the
// page cache. The memory is that of the readers: without any of it left, ErrReadMemory.
func (r *FileRange) load() error {
	arena, size := r.log.dir.arena, int64(r.Len())
	if !arena.TryReserve(size, arena.ReadLimit()) {
		return ErrReadMemory
	}
	defer arena.Unreserve(size) // by then it is pinned
	buf := arena.Get(r.Len())
	defer buf.Release()
	if err := readFull(r.open, buf.Bytes(), r.from); err != nil {
		return fmt.Errorf("%s: %w", r.file.name, err)
	}
	for rest := buf.Bytes(); len(rest) > 0; {
		info, ok := record.Peek(rest)
		reason := "no batch header"
		if ok = ok && info.Size <= len(rest); ok {
			reason = unsound(rest[:info.Size])
		}
		if reason != "" { // whoever reads it next reports it
			return &CorruptionError{Path: r.file.name, Position: r.to - int64(len(rest)), Offset: info.BaseOffset, Reason: reason}
		}
		rest = rest[info.Size:]
	}
	r.memory = record.PinOf(buf, 0, buf.Len())
	return nil
}

// Release ends the use of the file.
func (r *FileRange) Release() {
	r.memory.Release()
	r.log.dir.files.release(r.file)
	r.log.dir.files.lent.Add(-1)
}

// ReadRange answers a read with a range of a file. nil: ReadInto has to, because what is
// wanted is in memory, or not known to be sound, or too little, or not there at all.
func (l *Log) ReadRange(o ReadOptions) *FileRange {
	if o.MaxBytes < rangeLeast {
		return nil
	}
	l.mu.Lock()
	c := l.planRange(o)
	l.mu.Unlock()
	if c == nil {
		return nil
	}
	began := resumePoint{c.file, c.generation, c.next, c.position}
	r := c.walkRange()
	l.mu.Lock()
	if r != nil && (l.generation != c.generation || l.failed != nil || l.closing || o.From < l.start) {
		l.mu.Unlock()
		r.Release()
		return nil
	}
	defer l.mu.Unlock()
	if r == nil {
		if began.next != 0 { // ReadInto goes on there
			c.next, c.position = began.next, began.position
			c.leave()
		}
		return nil
	}
	if c.position < c.size {
		c.leave()
	}
	return r
}

// planRange is nil when there is no range to be had. The caller holds mu.
func (l *Log) planRange(o ReadOptions) *coldRead {
	o.Limit = min(o.Limit, l.flushed)
	if l.closing || l.failed != nil || o.From < l.start || o.From >= o.Limit {
		return nil
	}
	if base, ok := l.tail.base(); ok && o.From >= base {
		return nil
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > o.From }) - 1
	if i < 0 {
		return nil
	}
	return l.cold(nil, l.segments[i], &o)
}

// walkRange finds out how far the range goes by the headers of its batches.
func (c *coldRead) walkRange() *FileRange {
	files := c.l.dir.files
	if !files.lend() {
		return nil
	}
	f, err := files.acquire(c.file)
	if err != nil {
		files.lent.Add(-1)
		return nil
	}
	r := &FileRange{log: c.l, generation: c.generation, file: c.file, open: f}
	var ok bool
	if r.sender, ok = f.(vfs.Sender); ok {
		ok = c.measure(r)
	}
	if !ok {
		r.Release()
		return nil
	}
	return r
}

// measure sets the range's bounds; false: it is none.
func (c *coldRead) measure(r *FileRange) bool {
	if c.position < 0 {
		var err error
		if c.position, err = searchIndexFile(c.l.fs, c.path, int64(c.from-c.base)); err != nil || c.position < 0 || c.position >= c.size {
			return false
		}
	}
	var header [record.HeaderSize]byte
	r.from = -1
	complete := true
	for skipped := 0; c.position < c.size; {
		if readFull(r.open, header[:], c.position) != nil {
			return false
		}
		info, ok := record.Peek(header[:])
		if c.wrong(&info, ok, 0) != "" {
			return false // ReadInto finds out what it means
		}
		end := c.position + int64(info.Size)
		switch {
		case info.NextOffset() <= c.from:
			if skipped++; skipped > rangeSkip {
				return false
			}
		case info.BaseOffset >= c.limit, r.from >= 0 && c.position-r.from >= int64(c.maxBytes), r.from >= 0 && end-r.from > int64(c.most):
			return r.ends(c.position, 0)
		case info.Size < rangeBatch || !c.l.dir.pages.sendable(c.file, c.position, end):
			complete = false
		case r.from < 0:
			r.from = c.position
		}
		if !complete {
			return r.ends(c.position, int64(c.maxBytes/2)) // half of what may be is better than to read it all
		}
		c.next, c.position = info.NextOffset(), end
	}
	return r.ends(c.position, 0)
}

// ends sets where the range ends, and says whether it is worth being one.
func (r *FileRange) ends(at, least int64) bool {
	r.to = at
	return r.from >= 0 && r.to-r.from >= max(least, rangeLeast)
}
