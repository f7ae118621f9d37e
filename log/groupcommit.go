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
	// defaultJournalAt is how many logs must wait for a flush at the same moment
	// (docs/decisions/0001-flush.md).
	defaultJournalAt = 32
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

// commitGroup makes small appends of many logs durable at once: the journal is
// synced while the segments are written. It returns the logs that want a turn of
// their own, and those that did not fit into the group.
func (d *Dir) commitGroup(logs []*Log) (alone, rest []*Log) {
	var staged []stagedLog
	size, room := int64(groupHeader), d.files.room()
	for i, l := range logs {
		if size >= journalGroupMax {
			rest = logs[i:]
			break
		}
		if len(staged) >= room {
			alone = append(alone, logs[i:]...)
			break
		}
		s, ok := l.stage()
		if !ok {
			alone = append(alone, l)
			continue
		}
		staged = append(staged, s)
		size += entrySize(l.folder, s.bytes)
	}
	if len(staged) < max(d.pool.journalAt/4, 1) {
		for _, s := range staged {
			s.log.io.Unlock()
			alone = append(alone, s.log)
		}
		return alone, rest
	}
	if err := d.writeStaged(staged, size); err != nil {
		for i := range staged { // written, not flushed: a turn of their own does the rest
			s := &staged[i]
			s.log.finish(s.before, s.bytes)
			if s.err == nil {
				alone = append(alone, s.log)
			}
		}
		return alone, rest
	}
	for i := range staged {
		s := &staged[i]
		if s.err == nil {
			s.log.flushedByJournal()
		}
		s.log.finish(s.before, s.bytes)
	}
	return alone, rest
}

// writeStaged writes the journal and, while it is synced, the segments. Its error
// is the journal's; those of the segments are in staged.
func (d *Dir) writeStaged(staged []stagedLog, size int64) error {
	buf := d.arena.Get(int(size))
	defer buf.Release()
	g := newGroup(buf.Bytes())
	logs := make(map[logKey]*Log, len(staged))
	var bufs [][]byte
	for i := range staged {
		s := &staged[i]
		bufs = bufs[:0]
		for _, e := range s.entries {
			bufs = append(bufs, e.buf.Bytes())
		}
		active := s.log.active()
		g.add(s.log.key, s.log.folder, active.base, active.size, bufs)
		logs[s.log.key] = s.log
	}
	durable := make(chan error, 1)
	go func() { durable <- d.journal.write(g, logs) }() // awaited below
	for i := range staged {
		s := &staged[i]
		if _, err := s.log.writeGroup(s.entries, s.cfg); err != nil {
			s.err, s.bytes = s.log.latch("write", err), 0
		}
	}
	return <-durable
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
	ok := len(s.entries) > 0 && l.usable() == nil && l.cfg.Synced && !l.epochsDirty && l.cleaned <= l.onDisk && l.flushed == l.written
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
