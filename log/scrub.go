package log

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// DefaultScrubRate is the default of ScrubberOptions.BytesPerSecond: a disk of 4 TB is
// read in six days.
const DefaultScrubRate = 8 << 20

const (
	// scrubPiece is how much of a log is read between two looks at whether it goes on:
	// compaction, truncation and close wait for a piece at most.
	scrubPiece = 1 << 20
	// scrubWindow is how much is read at once.
	scrubWindow = 256 << 10
)

// ScrubberOptions bound what scrubbing costs a node.
type ScrubberOptions struct {
	// BytesPerSecond is how much is read, over all logs; 0: DefaultScrubRate, below 0:
	// no bound but for what flushes need of the disk.
	BytesPerSecond int64
}

// Scrubber reads what nobody reads, so that damage is found while another replica can
// still make it good. It owns no goroutine, and one goroutine uses it at a time.
type Scrubber struct {
	throttle throttle
	window   []byte
}

// NewScrubber makes a Scrubber.
func NewScrubber(opts ScrubberOptions) *Scrubber {
	if opts.BytesPerSecond == 0 {
		opts.BytesPerSecond = DefaultScrubRate
	}
	return &Scrubber{throttle: throttle{rate: opts.BytesPerSecond}}
}

// Scrub reads the batches of a log from its start to what its end is when it begins, a
// piece at a time, and checks them like a consumer's read does: CRCs, and that each
// batch continues the one before. What it finds becomes the damage of the log, as if a
// consumer had found it. It gives way to flushes as cold reads do, and leaves nothing
// in the page cache that was not there.
//
// It returns how much it read. The error is a *CorruptionError, or of the file system;
// ErrClosed, ErrBusy, ErrFailed or ErrDamaged where the log is not to be read; ctx's.
func (s *Scrubber) Scrub(ctx context.Context, l *Log) (read int64, err error) {
	at := scrubPlace{next: record.UnknownOffset, until: l.End()}
	for {
		n, done, err := s.piece(ctx, l, &at)
		if read += n; err != nil || done {
			return read, err
		}
		if err := s.throttle.wait(ctx, int(n)); err != nil {
			return read, err
		}
	}
}

// scrubPlace is where a scrub goes on: in a segment's file, or where the segment begins
// that holds an offset by now.
type scrubPlace struct {
	next       record.Offset // UnknownOffset: at the beginning
	file       *lazyFile
	generation uint64 // of the log, when the place was found
	position   int64
	epoch      record.Epoch
	until      record.Offset
}

// piece reads on for a piece, in one segment. It counts as a pass: what changes the
// log's files waits for it or has it end.
func (s *Scrubber) piece(asked context.Context, l *Log, at *scrubPlace) (read int64, done bool, err error) {
	ctx, leave, err := l.enterPass(asked)
	if errors.Is(err, ErrBusy) { // a compaction may take its time: not worth waiting here
		return 0, true, err
	}
	if err != nil {
		return 0, false, err
	}
	defer leave()
	seg, ok := at.find(l)
	if !ok {
		return 0, true, nil
	}
	before := at.position
	err = s.read(ctx, l, &seg, at)
	read = at.position - before
	switch {
	case ctx.Err() == nil && err != nil:
		err = l.scrubbed(err, at)
	case asked.Err() == nil && ctx.Err() != nil: // Close has it end
		err = ErrClosed
	default:
		err = ctx.Err()
	}
	return read, false, err
}

// find returns the segment to go on in, as it is now; false: the log was read. Where the
// log has become another one meanwhile, a position may lie within a batch.
func (at *scrubPlace) find(l *Log) (seg segment, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.next >= at.until {
		return segment{}, false
	}
	if at.generation != l.generation {
		at.generation, at.file = l.generation, nil
	}
	for i, s := range l.segments {
		if s.file == at.file && at.position < s.size {
			return s.extent(), true
		}
		if s.file == at.file || s.next <= at.next || s.size == 0 {
			continue
		}
		if i > 0 && at.next < 0 { // it begins with the first
			continue
		}
		at.file, at.position, at.next, at.epoch = s.file, 0, s.base, record.UnknownEpoch
		return s.extent(), true
	}
	return segment{}, false
}

// extent is what l.mu guards of a segment; the rest belongs to who writes it (Log.io).
func (s *segment) extent() segment {
	return segment{file: s.file, path: s.path, base: s.base, next: s.next, size: s.size}
}

// read reads up to a piece of a segment.
func (s *Scrubber) read(ctx context.Context, l *Log, seg *segment, at *scrubPlace) error {
	f, err := l.dir.files.acquire(seg.file)
	if err != nil {
		return err
	}
	defer l.dir.files.release(seg.file)
	sc := &scanner{
		file: &scrubReader{l.dir, f}, size: seg.size, at: at.position, next: at.next, epoch: at.epoch, crcFrom: seg.base,
		cleaned: l.Cleaned(), ahead: scrubWindow, window: s.window[:0], windowAt: at.position,
	}
	from := at.position
	defer func() {
		s.window = sc.window[:0]
		l.dir.pages.noteOnce(seg.file, from, sc.at)
	}()
	for sc.at < seg.size && sc.at-from < scrubPiece && ctx.Err() == nil {
		if _, err := sc.step(); err != nil {
			return l.corruption(seg.path, sc.next, err)
		}
		at.position, at.next, at.epoch = sc.at, sc.next, sc.epoch
	}
	return nil
}

// scrubbed judges an error of a read. That of a segment which is no longer the log's,
// since retention, a truncation or a reset took it, means nothing. A sector that cannot be
// read is damage from the batch on in which it is, unless nothing can be read: a whole disk
// that fails shows elsewhere.
func (l *Log) scrubbed(err error, at *scrubPlace) error {
	there := func() bool {
		return l.generation == at.generation && slices.ContainsFunc(l.segments, func(s *segment) bool { return s.file == at.file })
	}
	l.mu.Lock()
	gone := !there()
	l.mu.Unlock()
	switch {
	case gone: // it goes on in what there is now
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EIO) && l.dir.readable():
		err = errors.Join(&CorruptionError{Path: at.file.name, Position: at.position, Offset: at.next, Reason: "it cannot be read"}, err)
	}
	l.noteDamage(err, there)
	return err
}

// readable reports whether the file system of the directory still answers.
func (d *Dir) readable() bool {
	_, err := d.fs.List(d.path)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// scrubReader gives way to those who wait for flushes.
type scrubReader struct {
	dir *Dir
	vfs.File
}

// ReadAt implements io.ReaderAt.
func (r *scrubReader) ReadAt(b []byte, off int64) (int, error) {
	r.dir.pace.wait(len(b))
	return r.File.ReadAt(b, off)
}
