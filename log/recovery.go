package log

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/log/record"
)

// recoverer opens a log's folder: it finds the end of the log, cuts what is torn
// behind it, makes the rest durable and rebuilds what lives in memory.
type recoverer struct {
	l *Log
	// promised is what the checkpoint says; known is false for a log that no
	// checkpoint has seen yet: nothing was promised.
	promised logState
	known    bool

	bases     []record.Offset // of the segment files that matter
	snapshots []record.Offset // ascending
	fresh     epochs          // of the batches that were scanned
	lastEpoch record.Epoch    // of the last batch; UnknownEpoch: it was not looked at
	torn      int64
	again     int64 // bytes rewritten
	// resetting: a reset was interrupted. It has been made good but for its end.
	resetting bool
	// settled: the log was closed in order, so that nothing of it waits to become durable.
	settled bool
}

// recover is called by Dir.Open on a log that nobody else has.
func (l *Log) recover(promised logState, known bool) error {
	// An unknown flushed offset: all checkpoints were lost.
	r := &recoverer{l: l, promised: promised, known: known && promised.flushed >= 0, lastEpoch: record.UnknownEpoch, settled: l.dir.stoppedInOrder(l.key)}
	l.damage, l.sound = promised.damage, record.UnknownOffset
	if promised.soundKnown {
		l.sound = promised.sound
	}
	l.cleaned, l.onDisk = promised.cleaned, promised.cleaned
	if err := r.list(); err != nil {
		return err
	}
	if err := r.finishReset(); err != nil {
		return err
	}
	if r.resetting {
		promised = r.promised
	}
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.segments(); err != nil {
		return err
	}
	if !r.settled { // a process that died may not have synced the names it made
		if err := l.fs.SyncFolder(l.path); err != nil {
			return err
		}
	}
	end := l.active().next
	if l.damage == DamageNone && r.known && end < promised.flushed {
		r.hurt(DamageLostBytes, fmt.Errorf("log ends at offset %d, %d was flushed", end, promised.flushed))
	}
	l.end, l.written, l.flushed = end, end, end
	l.start = min(l.start, end)
	l.highWatermark = min(max(promised.highWatermark, l.start), end)
	l.promised = promised.flushed
	if l.damage == DamageNone { // what a follower was about to get may not have come
		l.cleaned = min(l.cleaned, end)
	}
	l.dirty = min(promised.dirty, end)
	if err := r.age(); err != nil {
		return err
	}
	if err := r.memory(); err != nil {
		return err
	}
	if r.resetting {
		if err := l.endReset(); err != nil {
			return err
		}
	}
	if l.active().size == 0 { // then a close has no index to write, and no snapshot that is there or empty
		l.atRest = len(l.producers.byID) == 0 || slices.Contains(r.snapshots, end)
	}
	l.recovery = Recovery{
		LastEpoch: l.epochs.last(), End: end, Flushed: promised.flushed, Damage: l.damage,
		Cause: l.recovery.Cause, TornBytes: r.torn, RewrittenBytes: r.again,
	}
	return nil
}

// age lets the active segment be as old as its first batch says.
func (r *recoverer) age() error {
	s := r.l.active()
	if s.size == 0 || !s.created.IsZero() {
		return nil
	}
	f, err := r.l.dir.files.acquire(s.file)
	if err != nil {
		return err
	}
	defer r.l.dir.files.release(s.file)
	return r.born(s, f)
}

// born dates a segment by its first batch. A producer may claim anything: a time to
// come counts for now, and one long past rolls the segment at the first append,
// once each start, as it would if it were true.
func (r *recoverer) born(s *segment, f io.ReaderAt) error {
	b := make([]byte, record.HeaderSize)
	if err := readFull(f, b, 0); err != nil {
		return err
	}
	s.created = r.l.dir.now()
	if info, ok := record.Peek(b); ok && info.MaxTimestamp > 0 {
		if at := time.UnixMilli(info.MaxTimestamp); at.Before(s.created) {
			s.created = at
		}
	}
	return nil
}

// hurt notes the first damage.
func (r *recoverer) hurt(d Damage, cause error) {
	if r.l.damage == DamageNone {
		r.l.damage = d
	}
	if r.l.recovery.Cause == nil {
		r.l.recovery.Cause = cause
	}
}

// list finds the segments and removes what an interrupted write left.
func (r *recoverer) list() error {
	entries, err := r.l.fs.List(r.l.path)
	if err != nil {
		return err
	}
	changed, err := r.l.finishCompaction(entries)
	if err != nil {
		return err
	}
	if changed {
		if entries, err = r.l.fs.List(r.l.path); err != nil {
			return err
		}
	}
	for _, e := range entries {
		switch kind, off := logKind(e); kind {
		case KindSegment:
			r.bases = append(r.bases, off)
		case KindReset:
			r.resetting = true
		case KindSnapshot:
			r.snapshots = append(r.snapshots, off)
		case KindTemporary:
			if err := r.l.fs.Remove(filepath.Join(r.l.path, e.Name)); err != nil {
				return err
			}
		case KindDeleted:
			r.l.dir.remover.later(filepath.Join(r.l.path, e.Name))
		case KindStrange:
			r.l.logger.Warn("nothing of ours has that name; it is left alone", "path", filepath.Join(r.l.path, e.Name))
		default:
		}
	}
	slices.Sort(r.bases)
	slices.Sort(r.snapshots)
	return nil
}

// finishReset empties a log whose reset was interrupted. The checkpoint goes
// first, as in the reset itself: it may promise what is about to go.
func (r *recoverer) finishReset() error {
	l := r.l
	if !r.resetting {
		return nil
	}
	b, err := readFile(l.fs, filepath.Join(l.path, resetName))
	if err != nil {
		return err
	}
	start, state, err := decodeReset(b)
	if err != nil { // what it has removed already will count as damage
		l.logger.Warn("reset marker is unreadable", "path", l.path, "error", err)
		return nil
	}
	l.logger.Warn("interrupted reset is finished", "path", l.path, "start", start)
	if err := l.fs.SyncFolder(l.path); err != nil { // of the marker: only the process may have died
		return err
	}
	r.promised, r.known, l.damage = logState{flushed: start, highWatermark: start, start: start, cleaned: start, dirty: start}, true, DamageNone
	l.dir.promise(l.key, r.promised)
	if err := l.dir.checkpoint.write(); err != nil {
		return err
	}
	if err := l.dir.journal.void(l.key); err != nil {
		return err
	}
	r.bases, r.snapshots = nil, nil
	l.cleaned, l.onDisk = start, start
	if err := l.removeAll(); err != nil || len(state) == 0 {
		return err
	}
	r.snapshots = []record.Offset{start}
	return l.writeProducers(start, state)
}

// begin decides where the log starts. A start or a reset is in the checkpoint
// before files are deleted, so segments wholly below the start are leftovers; a
// first segment above it means that files are gone: damage on a log with flushed bytes,
// else its end, and what is behind it is set aside like every other torn end.
func (r *recoverer) begin() error {
	l := r.l
	if !r.known {
		if len(r.bases) > 0 {
			l.start = r.bases[0]
		}
		r.promised = logState{
			flushed: l.start, highWatermark: l.start, start: l.start,
			cleaned: r.promised.cleaned, damage: r.promised.damage,
		}
		return nil
	}
	l.start = r.promised.start
	if len(r.bases) > 0 && r.bases[0] > l.start {
		if !r.holds() && l.damage == DamageNone {
			return r.setAside(0)
		}
		r.hurt(DamageMissing, fmt.Errorf("first segment begins at offset %d, the log at %d", r.bases[0], l.start))
		l.start = r.bases[0]
		return nil
	}
	if len(r.bases) == 0 && r.holds() {
		r.hurt(DamageMissing, fmt.Errorf("no segment; offsets %d to %d were flushed", r.promised.start, r.promised.flushed))
		return nil
	}
	below := 0
	for l.damage == DamageNone && below+1 < len(r.bases) && r.bases[below+1] <= l.start {
		below++
	}
	return r.remove(below)
}

// holds says whether anything was promised. After a reset nothing is, whatever an
// interruption of it left below the new start.
func (r *recoverer) holds() bool { return r.known && r.promised.flushed > r.promised.start }

// remove deletes the first n segments.
func (r *recoverer) remove(n int) error {
	for _, base := range r.bases[:n] {
		s := segment{path: segmentPath(r.l.path, base)}
		if err := s.removeFiles(r.l.fs); err != nil {
			return err
		}
	}
	if r.bases = r.bases[n:]; n > 0 {
		return r.l.fs.SyncFolder(r.l.path)
	}
	return nil
}

// segments opens the segment files. Those wholly below the checkpoint are
// checked at their ends, the others batch by batch.
func (r *recoverer) segments() error {
	l := r.l
	epoch := record.UnknownEpoch
	for i, base := range r.bases {
		lastOne := i == len(r.bases)-1
		if !lastOne && r.bases[i+1] <= r.promised.flushed {
			s, err := r.sealed(base, r.bases[i+1])
			if err != nil {
				return err
			}
			if s == nil { // damaged: read it as far as it goes
				s, _, err = r.scan(base, lastOne, &epoch)
				if err != nil {
					return err
				}
				l.segments = append(l.segments, s)
				return nil
			}
			l.segments = append(l.segments, s)
			continue
		}
		if n := len(l.segments); n > 0 && l.segments[n-1].next != base {
			return r.gap(i, l.segments[n-1])
		}
		s, cut, err := r.scan(base, lastOne, &epoch)
		if err != nil {
			return err
		}
		if n := len(l.segments); n > 0 && l.segments[n-1].index != nil {
			if err := r.seal(l.segments[n-1]); err != nil {
				return err
			}
		}
		l.segments = append(l.segments, s)
		if cut {
			return r.drop(i + 1)
		}
	}
	return r.activate()
}

// gap handles a segment that does not continue the one before.
func (r *recoverer) gap(i int, last *segment) error {
	if r.holds() && last.next < r.promised.flushed {
		r.hurt(DamageLostBytes, fmt.Errorf("segment %s ends at offset %d, the next begins at %d", last.path, last.next, r.bases[i]))
	}
	return r.drop(i)
}

// drop handles the segments behind the end of the log: kept as they are on a
// damaged log, else set aside as *.torn.
func (r *recoverer) drop(from int) error {
	if r.l.damage == DamageNone {
		if err := r.setAside(from); err != nil {
			return err
		}
	}
	return r.activate()
}

// setAside keeps what is in the segments from one on as *.torn, and removes them.
func (r *recoverer) setAside(from int) error {
	for _, base := range r.bases[from:] {
		path := segmentPath(r.l.path, base)
		if err := r.cut(path, 0); err != nil {
			return err
		}
		s := segment{path: path}
		if err := s.removeFiles(r.l.fs); err != nil {
			return err
		}
	}
	r.bases = r.bases[:from]
	return r.l.fs.SyncFolder(r.l.path)
}

// activate makes sure that there is an active segment that can be appended to
// and that a log which lies wholly below its start begins there.
func (r *recoverer) activate() error {
	l := r.l
	if n := len(l.segments); n > 0 {
		last := l.segments[n-1]
		if l.damage != DamageNone || last.next >= l.start {
			return nil
		}
		if r.holds() { // flushed bytes at the end are missing
			return nil
		}
		if err := r.remove(len(r.bases)); err != nil {
			return err
		}
		l.segments = nil
	}
	s, err := l.createSegment(l.start)
	if err != nil {
		return err
	}
	l.segments = append(l.segments, s)
	return nil
}

// sealed opens a segment that ended below the checkpoint and must end at next.
// It returns nil when it does not. A bad index is built anew.
func (r *recoverer) sealed(base, next record.Offset) (*segment, error) {
	l := r.l
	s := newSegment(l.path, base)
	s.next = next
	f, err := l.fs.Open(s.path + logExt)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if s.size, err = f.Size(); err != nil {
		return nil, err
	}
	last, err := lastEntries(l.fs, s.path, s.size)
	if err == nil && s.size > 0 {
		_, err = r.fits(last, f, s)
	}
	if err == nil {
		s.newest = last.newest(base)
		return s, nil
	}
	l.logger.Warn("index does not fit its segment and is built anew", "segment", s.path, "error", err)
	s.index = &index{}
	size := s.size
	s.size, s.next = 0, base
	sc := &scanner{file: f, size: size, next: base, epoch: record.UnknownEpoch, crcFrom: next, cleaned: l.cleaned}
	for {
		info, err := sc.step()
		if err != nil {
			if errors.Is(err, io.EOF) && s.next == next {
				break
			}
			if _, torn := errors.AsType[*tornError](err); torn || errors.Is(err, io.EOF) {
				return nil, nil // the caller scans it as damaged
			}
			return nil, err
		}
		s.note(&info, l.cfg.IndexInterval)
	}
	return s, r.seal(s)
}

// endsAt checks that the batches from the last index entry on lead to the end of the
// segment, and that none is newer than the last time entry says. It returns the epoch of
// the last one.
func (x lastIndexEntries) endsAt(f io.ReaderAt, s *segment, cleaned record.Offset) (record.Epoch, error) {
	last := x.offset
	sc := &scanner{file: f, size: s.size, at: int64(last.position), epoch: record.UnknownEpoch, crcFrom: s.next, cleaned: cleaned}
	first, err := sc.bytes(record.HeaderSize)
	if err != nil {
		return sc.epoch, err
	}
	info, ok := record.Peek(first)
	if want := s.base + record.Offset(last.relative); !ok || info.LastOffset() != want {
		return sc.epoch, fmt.Errorf("the batch at byte %d does not end at offset %d, as the index says", last.position, want)
	}
	sc.next = info.BaseOffset
	for {
		info, err := sc.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sc.epoch, err
		}
		if info.MaxTimestamp > x.time.ms { // a crash has cut the time index short
			return sc.epoch, fmt.Errorf("%d ms, at offset %d, have no entry in the time index", info.MaxTimestamp, info.LastOffset())
		}
	}
	if sc.next != s.next {
		return sc.epoch, fmt.Errorf("segment ends at offset %d, want %d", sc.next, s.next)
	}
	return sc.epoch, nil
}

// seal gives a scanned segment its index files.
func (r *recoverer) seal(s *segment) error {
	if err := s.seal(r.l.fs); err != nil {
		return err
	}
	s.index = nil
	return nil
}

// scan reads a segment that reaches above the checkpoint. cut is true when the
// log ends inside it.
func (r *recoverer) scan(base record.Offset, lastOne bool, epoch *record.Epoch) (s *segment, cut bool, err error) {
	l := r.l
	s = newSegment(l.path, base)
	s.index = &index{}
	f, err := l.fs.Open(s.path + logExt)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, false, err
	}
	if lastOne && r.clean(s, f, size) {
		r.settled = true
		return s, false, nil
	}
	if lastOne {
		if err := r.resume(s, f, size); err != nil {
			return nil, false, err
		}
	}
	sc := &scanner{file: f, size: size, at: s.size, next: s.next, epoch: *epoch, crcFrom: r.crcFrom(base), cleaned: l.cleaned}
	unsure := int64(-1) // where the bytes above the checkpoint begin
	for {
		info, stepErr := sc.step()
		if stepErr != nil {
			err = r.ended(s, sc, size, lastOne, stepErr)
			cut = !errors.Is(stepErr, io.EOF)
			break
		}
		if unsure < 0 && info.NextOffset() > r.promised.flushed {
			unsure = s.size
		}
		r.fresh.note(info.Epoch, info.BaseOffset)
		s.note(&info, l.cfg.IndexInterval)
	}
	if err != nil {
		return nil, false, err
	}
	*epoch, r.lastEpoch = sc.epoch, sc.epoch
	if s.size > 0 {
		if err := r.born(s, f); err != nil {
			return nil, false, err
		}
	}
	switch {
	case unsure >= 0:
		err = r.rewrite(f, unsure, s.size)
	case !r.settled && l.damage == DamageNone: // a truncation may not be durable
		err = f.Datasync()
	}
	return s, cut, err
}

// crcFrom is the offset from which CRCs are checked: some batches before the
// checkpoint too would cost much for little, so exactly from there.
func (r *recoverer) crcFrom(base record.Offset) record.Offset {
	return max(r.promised.flushed, base)
}

// clean recognizes a segment that was closed in order: its index files and a
// producer snapshot at the very end are there and agree with the checkpoint.
func (r *recoverer) clean(s *segment, f io.ReaderAt, size int64) bool {
	if !r.known || r.l.damage != DamageNone || size == 0 {
		return false
	}
	if !slices.Contains(r.snapshots, r.promised.flushed) {
		return false
	}
	last, err := lastEntries(r.l.fs, s.path, size)
	if err != nil {
		return false
	}
	probe := segment{base: s.base, path: s.path, size: size, next: r.promised.flushed}
	if r.lastEpoch, err = r.fits(last, f, &probe); err != nil {
		return false
	}
	if err := r.born(s, f); err != nil {
		return false
	}
	s.index, s.size, s.next, s.newest, s.resumeAt = nil, size, probe.next, last.newest(s.base), size
	r.l.atRest = true
	return true
}

// ended decides what the end of the batches in a segment means.
func (r *recoverer) ended(s *segment, sc *scanner, size int64, lastOne bool, stepErr error) error {
	if _, torn := errors.AsType[*tornError](stepErr); !torn && !errors.Is(stepErr, io.EOF) {
		return fmt.Errorf("%s: %w", s.path+logExt, stepErr)
	}
	if r.holds() && sc.next < r.promised.flushed {
		switch {
		case errors.Is(stepErr, io.EOF) && !lastOne:
			// the gap to the next segment will tell
		case errors.Is(stepErr, io.EOF):
			r.hurt(DamageLostBytes, fmt.Errorf("%s ends at offset %d, %d was flushed", s.path+logExt, sc.next, r.promised.flushed))
		default:
			r.hurt(DamageCorrupt, r.l.corruption(s.path, sc.next, stepErr))
		}
		return nil
	}
	if s.size == size || r.l.damage != DamageNone {
		return nil
	}
	return r.cut(s.path, s.size)
}
