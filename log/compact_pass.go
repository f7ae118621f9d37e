package log

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

const (
	// compactChunk is how much a pass reads, and writes, at once.
	compactChunk = 1 << 20
	// cleanedExt marks a segment that compaction is still writing.
	cleanedExt = ".cleaned"
)

// pass compacts one log once. What it reads below the cleanable end does not
// change under it, but for truncation, retention and close, which it notices.
type pass struct {
	c   *Cleaner
	l   *Log
	ctx context.Context //nolint:containedctx // of the call that the pass is
	now int64           // ms
	did Compaction

	cfg        Config
	generation uint64
	segments   []*segment // that may be touched, from the log's first
	from, to   record.Offset
	keys       *offsetMap
	// lastOf is the base offset of the last batch below to of each producer that
	// the log remembers; -1: not met yet.
	lastOf map[int64]record.Offset

	filter record.Filter
	window []byte
	out    []byte
	epoch  record.Epoch // of the batch before
}

// plan takes down what the pass works on; false: nothing is dirty.
func (p *pass) plan() bool {
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	p.cfg, p.generation = l.cfg, l.generation
	p.segments = append(p.segments, l.cleanable(l.dir.now())...)
	if !p.cfg.Compact || len(p.segments) == 0 {
		return false
	}
	p.from = max(l.dirty, l.start, p.segments[0].base)
	p.to = p.segments[len(p.segments)-1].next
	if p.from >= p.to {
		return false
	}
	p.lastOf = make(map[int64]record.Offset, len(l.producers.byID))
	for id := range l.producers.byID {
		p.lastOf[id] = record.UnknownOffset
	}
	return true
}

// run gathers the keys of the dirty part and rewrites the segments, the oldest
// first: a tombstone never goes before what it deletes.
func (p *pass) run() error {
	p.keys = newOffsetMap(int64(p.to-p.from), p.c.memory)
	if err := p.gather(); err != nil {
		return err
	}
	p.epoch = record.UnknownEpoch
	for rest := p.segments; len(rest) > 0 && rest[0].base < p.to; {
		n, err := p.rewrite(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	p.did.From, p.did.To = p.from, p.to
	p.l.mu.Lock()
	if p.l.generation == p.generation {
		p.l.dirty = max(p.l.dirty, p.to)
	}
	p.l.mu.Unlock()
	p.l.dir.checkpoint.touch(0)
	return nil
}

// gather fills the map with the latest offset of each dirty key. When the map is
// full the pass ends there: p.to falls. Of the clean part before, only the headers
// are read, for the producers' last batches.
func (p *pass) gather() error {
	for _, s := range p.segments {
		if s.next <= p.from && len(p.lastOf) == 0 {
			continue
		}
		crcFrom := record.Offset(0)
		if s.next <= p.from {
			crcFrom = s.next
		}
		full := false
		err := p.walk(s, crcFrom, func(info *record.BatchInfo, b []byte, _ bool) error {
			if _, known := p.lastOf[info.ProducerID]; known && !info.Attributes.Control() {
				p.lastOf[info.ProducerID] = info.BaseOffset
			}
			if info.NextOffset() <= p.from || info.Attributes.Control() {
				return nil
			}
			err := p.filter.Reset(b, record.Limits{}, func(off record.Offset, key []byte, _ bool) bool {
				if full || off < p.from || key == nil {
					return false
				}
				if full = !p.keys.put(hashKey(key), off); full {
					p.to = off
				}
				return false
			})
			if err == nil && full {
				return errEnough
			}
			return err
		})
		if err != nil || full {
			return err
		}
	}
	return nil
}

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// rewrite writes what stays of the first segments, as many as one new segment
// takes, and puts that in their place. n is how many they were.
func (p *pass) rewrite(segments []*segment) (n int, err error) {
	if err := p.room(segments); err != nil {
		return 0, err
	}
	first := segments[0]
	w := &cleanedWriter{p: p, name: first.path + cleanedExt, segment: newSegment(p.l.path, first.base)}
	w.segment.index = &index{}
	if w.file, err = p.l.fs.Create(w.name); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil || !w.changed(segments[:n]) {
			// An unfinished file that stays is removed by the next open.
			err = errors.Join(err, w.discard())
		}
	}()
	for more := true; more; n++ {
		err := p.walk(segments[n], 0, func(info *record.BatchInfo, b []byte, atEnd bool) error {
			if atEnd {
				more = p.more(w, segments[n+1:], int64(info.Size))
			}
			return p.batch(w, info, b, atEnd && !more)
		})
		if err != nil {
			return 0, err
		}
	}
	group := segments[:n]
	if err := w.finish(); err != nil || !w.changed(group) {
		return n, err
	}
	if err := p.swap(w, group); err != nil {
		return 0, err
	}
	for _, s := range group {
		p.did.Before += s.size
	}
	p.did.After += w.segment.size
	return n, nil
}

// more says whether the new segment takes the next old one too, with so many
// bytes before it.
func (p *pass) more(w *cleanedWriter, next []*segment, bytes int64) bool {
	return len(next) > 0 && next[0].base < p.to &&
		w.segment.size+bytes+next[0].size <= p.cfg.SegmentBytes &&
		next[0].next-w.segment.base <= maxSegmentOffsets
}

// room refuses to begin when the new segment could take the disk so far below its
// reserve that others would feel it: half of it is theirs.
func (p *pass) room(segments []*segment) error {
	free, reserve, err := p.l.dir.space.left()
	if err != nil {
		return err
	}
	var size int64
	for _, s := range segments {
		size += s.size
	}
	size = min(size, max(p.cfg.SegmentBytes, segments[0].size))
	if free-size < reserve/2 {
		return &DiskFullError{Path: p.l.dir.path, Free: free, Reserve: reserve / 2, Wanted: size}
	}
	return nil
}

// batch decides about one batch. last: it is the last one of its group, which a
// segment always keeps, so that its end can be read from its file.
func (p *pass) batch(w *cleanedWriter, info *record.BatchInfo, b []byte, last bool) error {
	// The first batch of a leader epoch stays too: where epochs begin decides where
	// replicas' logs part, and a follower knows it from batches alone.
	needed := last || info.Epoch > p.epoch || p.lastOf[info.ProducerID] == info.BaseOffset && info.ProducerID >= 0
	p.epoch = max(p.epoch, info.Epoch)
	if info.BaseOffset >= p.to || info.Attributes.Control() || info.Count == 0 && needed {
		return w.write(info, b)
	}
	if info.Count == 0 {
		return nil
	}
	expired := info.Attributes.DeleteHorizon() && info.BaseTimestamp <= p.now
	err := p.filter.Reset(b, record.Limits{}, func(off record.Offset, key []byte, tombstone bool) bool {
		return p.keep(off, key, tombstone && expired)
	})
	if err != nil {
		return err
	}
	dropped := p.filter.Dropped()
	p.did.Dropped += int64(dropped)
	horizon := int64(0)
	if p.filter.Tombstones() > 0 && !info.Attributes.DeleteHorizon() && info.NextOffset() <= p.to {
		horizon = max(p.now+p.cfg.DeleteRetention.Milliseconds(), 1)
	}
	switch {
	case p.filter.Kept() == 0 && !needed:
		return nil
	case dropped == 0 && horizon == 0:
		return w.write(info, b)
	}
	if p.out, err = p.filter.Append(p.out[:0], horizon); err != nil {
		return err
	}
	rewritten, _ := record.Peek(p.out)
	w.filtered = true
	return w.write(&rewritten, p.out)
}

// keep says whether a record stays.
func (p *pass) keep(off record.Offset, key []byte, expired bool) bool {
	if off >= p.to {
		return true
	}
	if key == nil {
		p.did.Keyless++
		return false
	}
	if expired {
		return false
	}
	latest, ok := p.keys.latest(hashKey(key))
	return !ok || latest <= off
}

// walk calls visit for each batch of a segment. Those from crcFrom on come with
// their bytes, whose CRC is right. atEnd: the segment ends with the batch.
func (p *pass) walk(s *segment, crcFrom record.Offset, visit func(info *record.BatchInfo, b []byte, atEnd bool) error) error {
	f, err := p.l.dir.files.acquire(s.file)
	if err != nil {
		return p.interrupted(err)
	}
	defer p.l.dir.files.release(s.file)
	sc := &scanner{
		file: &meteredReader{f, p}, size: s.size, next: s.base, epoch: record.UnknownEpoch, crcFrom: crcFrom,
		cleaned: p.l.Cleaned(), ahead: compactChunk, window: p.window,
	}
	defer func() {
		p.window = sc.window[:0]
		p.l.dir.pages.note(s.file, 0, sc.at)
	}()
	for sc.at < s.size {
		info, err := sc.step()
		if err != nil {
			return p.interrupted(p.l.corruption(s.path, sc.next, err))
		}
		err = visit(&info, sc.whole, sc.at >= s.size)
		if errors.Is(err, errEnough) {
			return nil
		}
		if _, bad := errors.AsType[*record.InvalidError](err); bad {
			return &CorruptionError{Path: s.path + logExt, Position: sc.at - int64(info.Size), Offset: info.BaseOffset, Reason: err.Error()}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// interrupted tells an error of a log that goes on from one of a log whose
// segments were taken away.
func (p *pass) interrupted(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		if alive := p.alive(); alive != nil {
			return alive
		}
	}
	return err
}

// alive says why the pass must end; nil: it goes on.
func (p *pass) alive() error {
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if l.generation != p.generation || l.start >= p.to {
		return ErrBusy
	}
	return nil
}

// spend accounts for bytes that were moved, and waits for the next ones.
func (p *pass) spend(n int) error {
	if err := p.alive(); err != nil {
		return err
	}
	return p.c.throttle.wait(p.ctx, n)
}

// meteredReader counts and throttles what a pass reads.
type meteredReader struct {
	vfs.File
	p *pass
}

func (r *meteredReader) ReadAt(b []byte, off int64) (int, error) {
	if err := r.p.spend(len(b)); err != nil {
		return 0, err
	}
	r.p.did.Read += int64(len(b))
	return r.File.ReadAt(b, off)
}

// cleanedWriter writes the segment that takes the place of a group.
type cleanedWriter struct {
	p       *pass
	name    string
	file    vfs.File // nil: closed
	segment *segment
	buf     []byte
	written int64
	// filtered: a batch lost records, or got a delete horizon.
	filtered bool
	// gaps is where the last gap in the segment ends; 0: there is none.
	gaps record.Offset
}

func (w *cleanedWriter) write(info *record.BatchInfo, b []byte) error {
	if info.BaseOffset > w.segment.next {
		w.gaps = info.BaseOffset
	}
	w.segment.note(info, w.p.cfg.IndexInterval)
	if len(w.buf) > 0 && len(w.buf)+len(b) > compactChunk {
		if err := w.drain(); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, b...)
	return nil
}

func (w *cleanedWriter) drain() error {
	if err := w.p.spend(len(w.buf)); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(w.buf, w.written); err != nil {
		return err
	}
	w.written += int64(len(w.buf))
	w.p.did.Written += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// changed says whether the new segment is another one than its group.
func (w *cleanedWriter) changed(group []*segment) bool {
	return len(group) > 1 || w.filtered || w.segment.size != group[0].size
}

// finish makes the content durable.
func (w *cleanedWriter) finish() error {
	if err := w.drain(); err != nil {
		return err
	}
	err := w.file.Datasync()
	err = errors.Join(err, w.file.Close())
	w.file = nil
	return err
}

// discard removes the file.
func (w *cleanedWriter) discard() error {
	var err error
	if w.file != nil {
		err = w.file.Close()
	}
	if removed := w.p.l.fs.Remove(w.name); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}
