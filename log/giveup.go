package log

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// maxGivenUp bounds what one placeholder stands for: it is read, sent and kept in memory as
// a batch like any other.
const maxGivenUp = 64 << 20

// GivenUp is a run of offsets that cannot be read any more, in one segment.
type GivenUp struct {
	From, Next record.Offset // [From, Next)
	Bytes      int64
}

// GiveUpBatches ends the damage of a log that is corrupt inside: where batches cannot be read
// it writes a placeholder (record.BuildPlaceholder), byte for byte in their place, so that
// what is behind them stays where it is, at its offsets. What cannot be read is kept as *.torn.
// The whole log is read. Followers copy placeholders like batches.
//
// Nothing is done to a log that ends before what it had flushed, for its end is not known. A
// crash on the way leaves a log that is damaged as before, in fewer places.
func (l *Log) GiveUpBatches() ([]GivenUp, error) {
	l.io.Lock()
	defer l.io.Unlock()
	if err := l.enterGivingUp(); err != nil {
		return nil, err
	}
	defer l.leaveTruncation()
	if err := l.unjournal(); err != nil {
		return nil, l.latch("give up batches", err)
	}
	var given []GivenUp
	var found epochs
	for _, s := range l.segments {
		g := giver{l: l, s: s, epochs: &found}
		if err := g.run(); err != nil {
			return nil, fmt.Errorf("%s: %w", s.path+logExt, err)
		}
		given = append(given, g.given...)
	}
	l.mu.Lock()
	l.tail.dropBack(0) // what is read is what the disk has
	l.damage, l.sound = DamageNone, record.UnknownOffset
	l.dirty = l.start // compaction goes by the whole of it: of a damaged log it was not kept
	l.epochs, l.epochsDirty = found.truncate(l.end).advance(l.start), true
	l.mu.Unlock()
	if err := l.truncateState(); err != nil {
		return nil, l.latch("give up batches", err)
	}
	if err := l.dir.checkpoint.write(); err != nil { // from here on it is whole
		return nil, l.latch("give up batches", err)
	}
	return given, nil
}

// enterGivingUp keeps everybody else from changing the log, and readers from what is about
// to change.
func (l *Log) enterGivingUp() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.damage == DamageNone || l.failed != nil || l.closing || l.busy:
		if err := l.usable(); err != nil {
			return err
		}
		return errors.New("the log is not damaged")
	case l.damage != DamageCorrupt || l.end < l.promised:
		return &DamagedError{l.path, l.damage}
	case l.written < l.end:
		return ErrBusy
	}
	l.busy = true
	l.generation++
	return nil
}

// giver gives up what cannot be read of one segment. Its caller holds io.
type giver struct {
	l      *Log
	s      *segment
	file   vfs.File
	source io.ReaderAt // file, with zeros where it cannot be read
	marks  []mark
	epochs *epochs // of all batches so far
	given  []GivenUp
}

// mark is where a batch begins for certain: the broker said so when it wrote it.
type mark struct {
	position int64
	last     record.Offset // of that batch
}

func (g *giver) run() error {
	f, err := g.l.dir.files.acquire(g.s.file)
	if err != nil {
		return err
	}
	defer g.l.dir.files.release(g.s.file)
	g.file, g.source = f, &unreadableAsZeros{f, g.l.dir}
	g.marks = g.l.marks(g.s)
	sc := g.scan(0, g.s.base, record.UnknownEpoch)
	for {
		info, err := sc.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if _, torn := errors.AsType[*tornError](err); torn {
			if err = g.giveUp(sc); err == nil {
				sc = g.scan(sc.at, sc.next, sc.epoch)
				continue
			}
		}
		if err != nil {
			return err
		}
		g.epochs.note(info.Epoch, info.BaseOffset)
	}
	if sc.next != g.s.next {
		return fmt.Errorf("it ends at offset %d, want %d", sc.next, g.s.next)
	}
	if len(g.given) == 0 {
		return nil
	}
	return g.finish()
}

// scan walks the segment from a place on, and checks everything.
func (g *giver) scan(at int64, next record.Offset, epoch record.Epoch) *scanner {
	return &scanner{file: g.source, size: g.s.size, at: at, next: next, epoch: epoch, crcFrom: g.s.base, cleaned: g.l.Cleaned()}
}

// giveUp puts a placeholder where the scanner stands.
func (g *giver) giveUp(sc *scanner) error {
	until, next, last := g.resume(sc)
	lost := GivenUp{From: sc.next, Next: next, Bytes: until - sc.at}
	if lost.Bytes > maxGivenUp {
		return fmt.Errorf("no whole batch within %d bytes from byte %d on", lost.Bytes, sc.at)
	}
	g.l.mu.Lock()
	epoch := min(g.l.epochs.truncate(sc.next+1).last(), last)
	g.l.mu.Unlock()
	placeholder, err := record.BuildPlaceholder(int(lost.Bytes), lost.From, lost.Next, max(epoch, sc.epoch, 0), g.l.dir.now().UnixMilli())
	if err != nil {
		return err
	}
	if err := copyTorn(g.l.fs, g.source, g.s.path, sc.at, until); err != nil {
		return err
	}
	g.l.dir.pages.unsound(g.s.file, 0)
	if _, err := g.file.WriteAt(placeholder, sc.at); err != nil {
		return g.l.latch("give up batches", err)
	}
	g.l.logger.Warn("batches that cannot be read were given up", "segment", g.s.path+logExt, "position", sc.at,
		"from", lost.From, "to", lost.Next, "bytes", lost.Bytes)
	g.given = append(g.given, lost)
	return nil
}

// resume finds the next whole batch behind the one at which the scanner stands, or the end
// of the segment: its position, and the offset up to which all is lost. epoch is that of the
// batch, or the log's last.
//
// Where a batch's own length leads to a whole one, only its content is bad. Where it does not,
// every byte behind may be the beginning of one. But what looks like a batch may be
// part of a record, copied there by whoever wrote it. Such a one ends within its record, and
// nothing that follows it is a batch. So one counts if the batches from it on lead,
// without a break, to a place that the broker itself noted: an entry of the index, or
// the end of the segment.
func (g *giver) resume(sc *scanner) (until int64, next record.Offset, epoch record.Epoch) {
	look := g.scan(sc.at, sc.next, sc.epoch) // for its window
	own := int64(-1)
	if head, err := look.bytes(record.HeaderSize); err == nil {
		if info, ok := record.Peek(head); ok && int64(info.Size) <= g.s.size-sc.at {
			own = sc.at + int64(info.Size)
		}
	}
	if own == g.s.size {
		return g.s.size, g.s.next, g.l.LastEpoch()
	}
	beyond := min(g.s.size, sc.at+maxGivenUp)
	for at := sc.at; at < beyond; at++ {
		if at == sc.at && own > 0 {
			look.at = own
		} else {
			look.at = at + 1
		}
		if info, ok := g.follows(sc, look); ok && g.leads(look.at, &info) {
			return look.at, info.BaseOffset, info.Epoch
		}
	}
	if look.at = own; own > 0 { // more is bad before the next place that is known
		if info, ok := g.follows(sc, look); ok {
			return own, info.BaseOffset, info.Epoch
		}
	}
	return g.s.size, g.s.next, g.l.LastEpoch()
}

// follows reports whether a whole batch is where look stands that can be behind the one at
// which the scanner stands.
func (g *giver) follows(sc, look *scanner) (info record.BatchInfo, ok bool) {
	head, err := look.bytes(record.HeaderSize)
	if err != nil {
		return info, false
	}
	info, ok = record.Peek(head)
	if !ok || info.BaseOffset <= sc.next || info.LastDelta < 0 || info.NextOffset() > g.s.next || info.Epoch < sc.epoch || info.Epoch > g.l.LastEpoch() {
		return info, false
	}
	_, err = g.scan(look.at, info.BaseOffset, sc.epoch).step()
	return info, err == nil
}

// leads reports whether the batches from a position on, of which info is the first, lead to a
// place that is known.
func (g *giver) leads(at int64, info *record.BatchInfo) bool {
	sc := g.scan(at, info.BaseOffset, info.Epoch)
	for {
		from := sc.at
		info, err := sc.step()
		switch {
		case err != nil:
			return errors.Is(err, io.EOF) && sc.next == g.s.next
		case slices.Contains(g.marks, mark{from, info.LastOffset()}):
			return true
		}
	}
}

// finish makes what was written durable, and the indexes anew.
func (g *giver) finish() error {
	l, s := g.l, g.s
	if err := g.file.Datasync(); err != nil {
		return l.latch("give up batches", err)
	}
	if err := s.removeIndex(l.fs); err != nil {
		return l.latch("give up batches", err)
	}
	x, newest, err := l.buildIndex(s)
	if err != nil {
		return err
	}
	active := s == l.active()
	l.mu.Lock()
	s.index, s.newest, s.saved, s.resumeAt = x, newest, savedIndex{}, 0
	l.mu.Unlock()
	if active {
		l.atRest = false
		return l.fs.SyncFolder(l.path)
	}
	if err := s.seal(l.fs); err != nil {
		return l.latch("give up batches", err)
	}
	l.mu.Lock()
	s.index = nil
	l.mu.Unlock()
	return l.fs.SyncFolder(l.path)
}

// marks are the places that the index of a segment has, as far as it can be read.
func (l *Log) marks(s *segment) []mark {
	x := s.index
	if x == nil {
		var err error
		if x, err = loadIndex(l.fs, s.path, s.size); err != nil {
			return nil
		}
	}
	out := make([]mark, len(x.offsets))
	for i, e := range x.offsets {
		out[i] = mark{int64(e.position), s.base + record.Offset(e.relative)}
	}
	return out
}

// unreadableAsZeros reads what can be read of a file, sector by sector where need be: one
// bad sector must not take the batches around it. What is zero for that has a wrong CRC.
type unreadableAsZeros struct {
	vfs.File
	dir *Dir
}

const sectorSize = 512

// ReadAt implements io.ReaderAt.
func (u *unreadableAsZeros) ReadAt(b []byte, off int64) (int, error) {
	n, err := u.File.ReadAt(b, off)
	if !errors.Is(err, syscall.EIO) || !u.dir.readable() {
		return n, err
	}
	for n = 0; n < len(b); {
		piece := b[n:min(len(b), n+sectorSize-int((off+int64(n))%sectorSize))]
		got, err := u.File.ReadAt(piece, off+int64(n))
		switch {
		case errors.Is(err, syscall.EIO):
			clear(piece)
		case err != nil:
			return n + got, err
		}
		n += len(piece)
	}
	return n, nil
}
