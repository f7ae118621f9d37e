package log

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/log/record"
)

// groupBytes bounds what one write call takes, so that a sync stays short.
const groupBytes = 16 << 20

// commit is a log's turn in the flush pool: write what has gathered with one
// call, sync it, tell.
func (l *Log) commit() {
	l.io.Lock()
	before := l.Flushed()
	wrote, err := l.writePending()
	if err == nil {
		_ = l.flushWritten() // an error is latched
		l.markResume()
	}
	l.finish(before, wrote)
}

// finish ends a turn, in which the flushed end was at before and so many bytes
// were written: it lets go of io and tells how far the log got.
func (l *Log) finish(before record.Offset, wrote int64) {
	l.mu.Lock()
	p := Progress{Written: l.written, Flushed: l.flushed, Err: l.failed}
	rest := l.tail.waiting() > 0 && l.failed == nil
	news := wrote > 0 || p.Flushed > before || p.Err != nil && !l.failureTold
	l.failureTold = p.Err != nil
	l.mu.Unlock()
	l.io.Unlock()

	if rest {
		l.dir.pool.submit(l)
	}
	if p.Flushed > before {
		l.dir.checkpoint.touch(wrote)
	}
	if wrote > 0 {
		l.dir.tail.wrote(l, p.Written, wrote)
	}
	if l.spec.Notify != nil && news {
		l.spec.Notify(p)
	}
}

// writePending writes the gathered group, in as many segments as it needs. The
// caller holds io.
func (l *Log) writePending() (wrote int64, err error) {
	for wrote < groupBytes {
		group, cfg := l.gather()
		if len(group) == 0 {
			return wrote, nil
		}
		if l.mustRoll(group[0], cfg) {
			if err := l.roll(group[0].base); err != nil {
				return wrote, l.latch("roll", err)
			}
		}
		n, err := l.writeGroup(group, cfg)
		if err != nil {
			return wrote, l.latch("write", err)
		}
		wrote += n
	}
	return wrote, nil
}

// gather returns what waits to be written: nothing on a log that has failed,
// which was reported when it happened. The caller holds io, until it has written.
func (l *Log) gather() ([]tailEntry, Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return nil, l.cfg
	}
	return l.tail.pending(), l.cfg
}

// mustRoll says whether the next entry belongs into a new segment.
func (l *Log) mustRoll(e tailEntry, cfg Config) bool {
	s := l.active()
	if s.size == 0 {
		return false
	}
	return s.size+int64(e.buf.Len()) > cfg.SegmentBytes ||
		e.next-s.base > maxSegmentOffsets ||
		l.dir.now().Sub(s.created) >= cfg.SegmentAge
}

// writeGroup writes as many entries as fit into the active segment.
func (l *Log) writeGroup(group []tailEntry, cfg Config) (int64, error) {
	s := l.active()
	vec := l.dir.lendVector()
	defer l.dir.takeVector(vec)
	var bytes int64
	for _, e := range group {
		n := int64(e.buf.Len())
		if len(*vec) > 0 && (s.size+bytes+n > cfg.SegmentBytes || e.next-s.base > maxSegmentOffsets || bytes+n > groupBytes) {
			break
		}
		*vec = append(*vec, e.buf.Bytes())
		bytes += n
	}
	if err := l.needIndex(s); err != nil {
		return 0, err
	}
	file, err := l.dir.files.acquire(s.file)
	if err != nil {
		return 0, err
	}
	l.atRest = false
	if _, err := file.WriteVecAt(*vec, s.size); err != nil {
		l.dir.files.release(s.file)
		return 0, fmt.Errorf("%s: %w", s.path+logExt, err)
	}
	l.hold(s)
	if s.ours < 0 {
		s.ours = s.size
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.size == 0 {
		s.created = l.dir.now()
	}
	for _, b := range *vec {
		for len(b) > 0 {
			info, ok := record.Peek(b)
			if !ok {
				return 0, fmt.Errorf("%s: a batch in memory is damaged", s.path)
			}
			s.note(&info, cfg.IndexInterval)
			b = b[info.Size:]
		}
	}
	l.tail.wrote(len(*vec))
	l.written = s.next
	return bytes, nil
}

// lendVector lends an array for a write call; a log that is idle has none.
func (d *Dir) lendVector() *[][]byte {
	if vec, ok := d.vectors.Get().(*[][]byte); ok {
		return vec
	}
	return new([][]byte)
}

func (d *Dir) takeVector(vec *[][]byte) {
	clear(*vec)
	*vec = (*vec)[:0]
	d.vectors.Put(vec)
}

// flushWritten syncs the active segment if it is due. The caller holds io.
func (l *Log) flushWritten() error {
	s := l.active()
	l.mu.Lock()
	written, failed := l.written, l.failed
	hurry, interval := l.cfg.Synced, l.cfg.FlushInterval
	if hurry && l.unhurried {
		hurry, interval = s.size-s.noted >= unhurriedBytes, unhurriedTime
	}
	due := hurry || l.flushDue || l.dir.files.crowded()
	idle := l.flushed >= written
	if !due && !idle && l.flushTimer == nil {
		l.flushTimer = time.AfterFunc(interval, l.flushLater)
	}
	l.mu.Unlock()
	if failed != nil || idle || !due {
		return nil
	}
	if err := l.syncTo(written); err != nil {
		return l.latch("flush", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushDue = l.tail.waiting() > 0 && l.closing
	return nil
}

// flushLater runs when the flush interval of a log that need not be synced at once
// is over.
func (l *Log) flushLater() {
	l.mu.Lock()
	l.flushDue, l.flushTimer = true, nil
	closing := l.closing
	l.mu.Unlock()
	if !closing {
		l.dir.pool.submit(l)
	}
}

// syncTo makes everything up to the written end durable: the active segment, and
// before it counts, the epochs of its batches and where gaps among them may be.
func (l *Log) syncTo(written record.Offset) error {
	if err := l.syncActive(); err != nil {
		return err
	}
	if err := l.writeEpochs(); err != nil {
		return err
	}
	if err := l.writeCleaned(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushed = max(l.flushed, written)
	return nil
}

// writeCleaned makes the cleaned offset durable if it has risen: recovery would
// take a gap above it for the end of the log.
func (l *Log) writeCleaned() error {
	l.mu.Lock()
	cleaned, risen := l.cleaned, l.cleaned > l.onDisk
	l.mu.Unlock()
	if !risen {
		return nil
	}
	if err := l.dir.checkpoint.write(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onDisk = max(l.onDisk, min(cleaned, l.cleaned))
	return nil
}

// syncActive makes the active segment's own pages durable. The caller holds io.
func (l *Log) syncActive() error {
	s := l.active()
	if !s.unsynced {
		return nil
	}
	err := l.dir.flusher.Flush(s.file.file)
	l.letGo(s)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path+logExt, err)
	}
	l.dir.pages.synced(s)
	return nil
}

// writeEpochs makes the epoch history durable if it has changed.
func (l *Log) writeEpochs() error {
	l.mu.Lock()
	dirty, b := l.epochsDirty, []byte(nil)
	if dirty {
		b = l.epochs.encode()
	}
	l.epochsDirty = false
	l.mu.Unlock()
	if !dirty {
		return nil
	}
	if err := replace(l.fs, filepath.Join(l.path, epochsName), b); err != nil {
		return fmt.Errorf("write the leader epochs: %w", err)
	}
	return nil
}

// roll seals the active segment and begins the next one at base. Everything
// written is synced first: a later segment must not be durable before an earlier one.
func (l *Log) roll(base record.Offset) error {
	old := l.active()
	l.mu.Lock()
	written := l.written
	l.mu.Unlock()
	if err := l.syncTo(written); err != nil {
		return err
	}
	if err := old.seal(l.fs); err != nil {
		return err
	}
	if err := l.writeSnapshot(); err != nil {
		return err
	}
	// Names reach the disk in any order: a segment must not have a successor before
	// it has its snapshot, for recovery may go by the successor and delete it.
	if err := l.fs.SyncFolder(l.path); err != nil {
		return err
	}
	s, err := l.createSegment(base)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old.index = nil
	l.segments = append(slices.Clip(l.segments), s)
	l.mu.Unlock()
	l.atRest = true // the snapshot is written, and the new segment is empty
	return nil
}
