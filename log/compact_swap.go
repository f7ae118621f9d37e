package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// swapExt marks a complete segment that is about to take the place of others;
// its name says which: those from its base to below its end.
const swapExt = ".swap"

func swapName(base, end record.Offset) string {
	return offsetName(base) + "-" + offsetName(end) + swapExt
}

func parseSwapName(name string) (base, end record.Offset, ok bool) {
	first, second, found := strings.Cut(name, "-")
	if !found {
		return 0, 0, false
	}
	base, ok1 := parseOffsetName(first, "")
	end, ok2 := parseOffsetName(second, swapExt)
	return base, end, ok1 && ok2 && base < end
}

// swap puts the new segment in its group's place. What a crash leaves at any
// point, the next open either removes (before the name says that the segment is
// complete) or finishes.
//
// Readers hold no lock while they read files. Those that looked before the list of
// segments changes find that the log's generation has moved, and look again;
// those that look afterwards read the new segment under its interim name, which
// is kept open until its own name is free.
func (p *pass) swap(w *cleanedWriter, group []*segment) error {
	l := p.l
	l.io.Lock()
	defer l.io.Unlock()
	if err := p.still(group); err != nil {
		return err
	}
	// An entry of the journal that holds would bring old bytes back.
	if err := l.unjournal(); err != nil {
		return l.latch("compact", err)
	}
	if err := p.permitGaps(w.gaps); err != nil {
		return err
	}
	s := w.segment
	s.next, s.created = group[len(group)-1].next, group[0].created
	interim := *s
	interim.file = &lazyFile{name: filepath.Join(l.path, swapName(s.base, s.next))}
	if err := l.fs.Rename(w.name, interim.file.name); err != nil {
		return err
	}
	if err := p.replace(&interim, s, group); err != nil {
		return l.latch("compact", err)
	}
	return nil
}

// still checks, with io held, that the group is what it was.
func (p *pass) still(group []*segment) error {
	if err := p.alive(); err != nil {
		return err
	}
	l := p.l
	i := slices.Index(l.segments, group[0])
	if i < 0 || len(l.segments) <= i+len(group) || !slices.Equal(l.segments[i:i+len(group)], group) {
		return ErrBusy
	}
	return nil
}

// permitGaps makes it durable that there are gaps, before there are any.
func (p *pass) permitGaps(end record.Offset) error {
	l := p.l
	l.mu.Lock()
	l.cleaned = max(l.cleaned, end)
	l.mu.Unlock()
	return l.writeCleaned()
}

// replace carries the swap out. From here on an error leaves files that only an
// open of the log can put in order.
func (p *pass) replace(interim, s *segment, group []*segment) error {
	l := p.l
	if _, err := l.dir.files.acquire(interim.file); err != nil {
		return err
	}
	defer l.dir.files.forget(interim.file)
	defer l.dir.files.release(interim.file)
	if err := l.fs.SyncFolder(l.path); err != nil {
		return err
	}
	p.install(group, interim)
	l.forgetFiles(group)
	if err := l.clearPlace(s.base, s.next); err != nil {
		return err
	}
	if err := s.seal(l.fs); err != nil {
		return err
	}
	if err := l.fs.SyncFolder(l.path); err != nil {
		return err
	}
	if err := l.fs.Rename(interim.file.name, s.path+logExt); err != nil {
		return err
	}
	if err := l.fs.SyncFolder(l.path); err != nil {
		return err
	}
	s.index = nil
	p.install([]*segment{interim}, s)
	l.dir.pages.note(s.file, 0, s.size)
	return nil
}

// install puts a segment in the place of others in memory.
func (p *pass) install(old []*segment, s *segment) {
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.segments, old[0])
	l.segments = slices.Concat(l.segments[:i], []*segment{s}, l.segments[i+len(old):])
	l.generation++
	p.generation = l.generation // this change is the pass's own
}

// clearPlace removes what a complete segment of [base, end) replaces, but for the
// file whose name it takes, and the producer snapshots inside.
func (l *Log) clearPlace(base, end record.Offset) error {
	entries, err := l.fs.List(l.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		ext := filepath.Ext(e.Name)
		off, ok := parseOffsetName(e.Name, ext)
		if !ok || e.Folder || off < base || off >= end {
			continue
		}
		switch {
		case ext == indexExt, ext == timeExt, off > base && (ext == logExt || ext == snapshotExt):
			if err := l.fs.Remove(filepath.Join(l.path, e.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// finishCompaction brings a folder in order that a crash during a compaction left
// behind: unfinished segments go, complete ones take their places.
func (l *Log) finishCompaction(entries []vfs.Entry) (changed bool, err error) {
	for _, e := range entries {
		if e.Folder {
			continue
		}
		name := filepath.Join(l.path, e.Name)
		if _, ok := parseOffsetName(e.Name, cleanedExt); ok {
			if err := l.fs.Remove(name); err != nil {
				return changed, err
			}
			changed = true
		}
		base, end, ok := parseSwapName(e.Name)
		if !ok {
			continue
		}
		changed = true
		l.logger.Info("finishing a compaction that was interrupted", "path", name)
		if err := l.clearPlace(base, end); err != nil {
			return changed, err
		}
		if err := l.fs.SyncFolder(l.path); err != nil {
			return changed, err
		}
		if err := l.fs.Rename(name, segmentPath(l.path, base)+logExt); err != nil {
			return changed, err
		}
		if err := l.fs.SyncFolder(l.path); err != nil {
			return changed, fmt.Errorf("finish the compaction: %w", err)
		}
	}
	return changed, nil
}
