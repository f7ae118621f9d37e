package log

import (
	"github.com/penstock/penstock/log/record"
)

const (
	// smallAppend is how much a log may have gathered to go through the journal,
	// where it is written twice.
	smallAppend = 64 << 10
	// groupLogs bounds the logs of one group.
	groupLogs = 4096
	// fewLogs is how many segments are written before the journal, and not beside it.
	fewLogs = 16
	// defaultJournalAt is how many logs must wait for a flush at the same moment
	// (docs/decisions/0001-flush.md).
	defaultJournalAt = 4
)

// stagedLog is a log whose pending entries go through the journal. Its io is held.
type stagedLog struct {
	log     *Log
	entries []tailEntry
	cfg     Config
	before  record.Offset // flushed
	bytes   int64
	err     error
}

// groupScratch is what a group needs while it is made; only one is under way.
type groupScratch struct {
	staged      []stagedLog
	alone, rest []*Log
	bufs        [][]byte
	group       group
}

// clear lets go of what it holds; what it returned stays valid until the next group.
func (s *groupScratch) clear() {
	clear(s.staged)
	clear(s.bufs)
	s.staged, s.bufs = s.staged[:0], s.bufs[:0]
}

// commitGroup makes small appends of the logs durable at once: the journal is
// synced instead of the segments. It returns the logs that want a turn of
// their own, and those that did not fit into the group; both are valid until the
// next call. One call is under way at a time.
func (d *Dir) commitGroup(logs []*Log) (alone, rest []*Log) {
	g := &d.group
	defer g.clear()
	g.alone, g.rest = g.alone[:0], g.rest[:0]
	size, room := int64(groupHeader), d.files.room()
	for i, l := range logs {
		if size >= journalGroupMax {
			g.rest = append(g.rest, logs[i:]...)
			break
		}
		if len(g.staged) >= room {
			g.alone = append(g.alone, logs[i:]...)
			break
		}
		s, ok := l.stage()
		if !ok {
			g.alone = append(g.alone, l)
			continue
		}
		g.staged = append(g.staged, s)
		size += entrySize(l.folder, s.bytes)
	}
	if len(g.staged) < max(d.pool.journalAt/4, 1) {
		for i := range g.staged {
			s := &g.staged[i]
			s.log.io.Unlock()
			g.alone = append(g.alone, s.log)
		}
		return g.alone, g.rest
	}
	if err := d.writeStaged(size); err != nil {
		for i := range g.staged { // written, not flushed: a turn of their own does the rest
			s := &g.staged[i]
			s.log.finish(s.before, s.bytes)
			if s.err == nil {
				g.alone = append(g.alone, s.log)
			}
		}
		return g.alone, g.rest
	}
	for i := range g.staged {
		s := &g.staged[i]
		if s.err == nil {
			s.log.flushedByJournal()
		}
		s.log.finish(s.before, s.bytes)
	}
	return g.alone, g.rest
}

// writeStaged writes the segments and the journal; when there are many segments,
// while the journal is synced. Its error is the journal's; those of the segments are in staged.
func (d *Dir) writeStaged(size int64) error {
	staged := d.group.staged
	buf := d.arena.Get(int(size))
	defer buf.Release()
	g := &d.group.group
	g.begin(buf.Bytes())
	defer g.end()
	for i := range staged {
		s := &staged[i]
		bufs := d.group.bufs[:0]
		for _, e := range s.entries {
			bufs = append(bufs, e.buf.Bytes())
		}
		active := s.log.active()
		g.add(s.log.key, s.log.folder, active.base, active.size, bufs)
		d.group.bufs = bufs
	}
	if len(staged) <= fewLogs { // another goroutine costs more than the writes
		writeSegments(staged)
		return d.journal.write(g, staged)
	}
	durable := make(chan error, 1)
	go func() { durable <- d.journal.write(g, staged) }() // awaited below
	writeSegments(staged)
	return <-durable
}

func writeSegments(staged []stagedLog) {
	for i := range staged {
		s := &staged[i]
		if _, err := s.log.writeGroup(s.entries, s.cfg); err != nil {
			s.err, s.bytes = s.log.latch("write", err), 0
		}
	}
}

// stage takes a log into a group if that is right for it: all it has waiting is
// small, goes into the active segment, and is all that is not flushed. On true io
// is held.
func (l *Log) stage() (stagedLog, bool) {
	if !l.io.TryLock() {
		return stagedLog{}, false
	}
	s := stagedLog{log: l}
	l.mu.Lock()
	s.entries, s.before = l.tail.pending(), l.flushed
	ok := len(s.entries) > 0 && l.usable() == nil && l.cfg.Synced && !l.unhurried && !l.epochsDirty && l.cleaned <= l.onDisk && l.flushed == l.written
	s.cfg = l.cfg
	l.mu.Unlock()
	if ok {
		for _, e := range s.entries {
			s.bytes += int64(e.buf.Len())
		}
		ok = s.bytes <= smallAppend && !l.resumeDue(l.active()) && !l.mustRoll(s.entries[0], s.cfg) && l.fits(s.entries, s.bytes, s.cfg)
	}
	if !ok {
		l.io.Unlock()
		return stagedLog{}, false
	}
	return s, true
}

// fits says whether the active segment takes all of the entries. The caller holds io.
func (l *Log) fits(entries []tailEntry, bytes int64, cfg Config) bool {
	a := l.active()
	return a.size+bytes <= cfg.SegmentBytes && int64(entries[len(entries)-1].next-a.base) <= 1<<31-1
}

// flushedByJournal counts what was written as flushed: the journal has it. The
// caller holds io.
func (l *Log) flushedByJournal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushed = max(l.flushed, l.written)
	l.flushDue = false
}

// syncJournaled makes the segment's own pages durable, so that the journal need
// not keep their bytes. A segment that was rolled since, and those of a log that
// was closed, were synced then.
func (l *Log) syncJournaled() error {
	l.io.Lock()
	defer l.io.Unlock()
	if err := l.Err(); err != nil || l.closed {
		return err
	}
	if err := l.syncActive(); err != nil {
		err = l.latch("flush", err)
		l.dir.pool.submit(l) // a turn tells who waits
		return err
	}
	return nil
}

// unjournal lets bytes of the log's segments change: what the journal says of
// them is durable in the segments afterwards and no longer in the journal. The
// caller holds io.
func (l *Log) unjournal() error {
	if !l.dir.journal.live(l.key) {
		return nil
	}
	if err := l.syncActive(); err != nil {
		return err
	}
	return l.dir.journal.void(l.key)
}
