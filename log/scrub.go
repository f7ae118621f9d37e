package log

import (
	"context"
	"errors"
	"io"
	"io/fs"
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
	next     record.Offset // UnknownOffset: at the beginning
	file     *lazyFile
	position int64
	epoch    record.Epoch
	until    record.Offset
}

// piece reads on for a piece, in one segment. It counts as a pass: what changes the
// log's files waits for it or has it end.
func (s *Scrubber) piece(ctx context.Context, l *Log, at *scrubPlace) (read int64, done bool, err error) {
	ctx, leave, err := l.enterPass(ctx)
	if errors.Is(err, ErrBusy) { // a compaction may take its time: not worth waiting here
		return 0, true, err
	}
	if err != nil {
		return 0, false, err
	}
	defer leave()
	seg, generation, ok := at.find(l)
	if !ok {
		return 0, true, nil
	}
	before := at.position
	err = s.read(ctx, l, &seg, at)
	if err == nil || ctx.Err() != nil {
		return at.position - before, false, ctx.Err()
	}
	return at.position - before, false, l.scrubbed(err, seg.file, generation)
}

// find returns the segment to go on in, as it is now; false: the log was read.
func (at *scrubPlace) find(l *Log) (seg segment, generation uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.next >= at.until {
		return segment{}, 0, false
	}
	for i, s := range l.segments {
		if s.file == at.file && at.position < s.size {
			return *s, l.generation, true
		}
		if s.file == at.file || s.next <= at.next || s.size == 0 {
			continue
		}
		if i > 0 && at.next < 0 { // it begins with the first
			continue
		}
		at.file, at.position, at.next, at.epoch = s.file, 0, s.base, record.UnknownEpoch
		return *s, l.generation, true
	}
	return segment{}, 0, false
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
// since retention or a truncation took it, means nothing. A sector that cannot be read is damage, unless nothing can be read: a
// whole disk that fails shows elsewhere.
func (l *Log) scrubbed(err error, file *lazyFile, generation uint64) error {
	l.mu.Lock()
	there := l.generation == generation
	if there {
		there = false
		for _, s := range l.segments {
			there = there || s.file == file
		}
	}
	l.mu.Unlock()
	if !there { // it goes on in what there is now
		return nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = &CorruptionError{Path: file.name, Position: -1, Offset: record.UnknownOffset, Reason: err.Error()}
	}
	if errors.Is(err, syscall.EIO) && l.dir.readable() {
		err = errors.Join(err, &CorruptionError{Path: file.name, Position: -1, Offset: record.UnknownOffset, Reason: "it cannot be read"})
	}
	l.noteDamage(err)
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
