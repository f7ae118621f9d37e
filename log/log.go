package log

import (
	"log/slog"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// Log is one partition's log. Open it with Dir.Open. All methods are safe for
// concurrent use; a log has one appender by design (the leader, or the
// replication stream), and truncation and reset must not race with appends:
// appends then answer ErrBusy.
type Log struct {
	dir      *Dir
	fs       vfs.FS
	path     string
	folder   string // the last part of path
	key      logKey
	spec     Spec
	recovery Recovery
	logger   *slog.Logger

	// turn belongs to the flush pool and is guarded by its mutex.
	turn turn

	// io is held by whoever changes the files; see the package comment.
	io sync.Mutex
	// atRest: the index files and the snapshot of the active segment are as a
	// close would write them. Guarded by io.
	atRest bool
	// resumeSnapshot is where markResume last left a snapshot; guarded by io.
	resumeSnapshot record.Offset
	// closed: the files are closed, everything in them synced; guarded by io.
	closed bool

	mu            sync.Mutex // guards everything below
	cfg           Config
	start         record.Offset
	nextStart     record.Offset // is being made durable; 0: none
	end           record.Offset
	written       record.Offset
	flushed       record.Offset
	highWatermark record.Offset
	segments      []*segment // ascending, at least one; the last is active
	tail          tail
	epochs        epochs
	epochsDirty   bool // the file is behind
	producers     *producers
	// cleaned is where the part of the log ends in which compaction, here or on a
	// leader, may have left gaps; onDisk is what the checkpoint says of it at least.
	// dirty is where the part begins that compaction here has not gone through.
	cleaned, onDisk, dirty record.Offset
	// promised is the flushed offset that the checkpoint keeps for a damaged log.
	promised record.Offset
	damage   Damage
	// sound is the first offset that cannot be read of a log whose damage was found
	// inside of it; UnknownOffset: not known.
	sound  record.Offset
	failed error // latched
	// failureTold: Notify has heard of it.
	failureTold bool
	closing     bool // takes no appends any more
	busy        bool // being truncated or reset
	// generation counts truncations and resets: a reader that spans one tries again.
	generation uint64
	// resume holds where cold readers ended; resumed counts those that took another's place.
	resume  []resumePoint
	resumed int
	// rested is the end at the last call of Rest.
	rested record.Offset
	// flushDue: sync with the next turn though the topic is not synced, or nobody waits.
	flushDue   bool
	flushTimer *time.Timer
	// unhurried: nobody waits for the flush of what is appended; see Unhurried.
	unhurried bool
	// pass is the compaction that runs; nil: none.
	pass *running
}

// Topic is the topic's name.
func (l *Log) Topic() string { return l.spec.Topic }

// TopicID is the topic's id.
func (l *Log) TopicID() [16]byte { return l.spec.TopicID }

// Partition is the partition's number.
func (l *Log) Partition() int32 { return l.spec.Partition }

// Recovery says what opening the log found.
func (l *Log) Recovery() Recovery { return l.recovery }

// Start is the first readable offset.
func (l *Log) Start() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start
}

// End is the offset that the next record will get.
func (l *Log) End() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// Written is the end of what the operating system has.
func (l *Log) Written() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// Flushed is the end of what survives power loss.
func (l *Log) Flushed() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushed
}

// Cleaned is the end of what compaction may have left gaps in: at or above it
// offsets are dense.
func (l *Log) Cleaned() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cleaned
}

// LastEpoch is the leader epoch of the last batch, UnknownEpoch without one.
func (l *Log) LastEpoch() record.Epoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.last()
}

// Size is the length of the written segments in bytes.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size()
}

func (l *Log) size() int64 {
	var sum int64
	for _, s := range l.segments {
		sum += s.size
	}
	return sum
}

// Err is the latched failure, nil while the log is well.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Damage says whether durable bytes are known to be lost or wrong: found at
// open, or by a read since.
func (l *Log) Damage() Damage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.damage
}

// Readable returns how far the log is whole, as far as is known, and the last epoch in
// that: its end, but for a log whose damage was found inside of it.
func (l *Log) Readable() (record.Epoch, record.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.damage == DamageNone || l.sound < 0 || l.sound >= l.end {
		return l.epochs.last(), l.end
	}
	end := max(l.sound, l.start)
	return l.epochs.truncate(end).last(), end
}

// EpochEnd returns the largest leader epoch of the log at or below e, and the
// offset after its last record. Below all epochs it returns UnknownEpoch and
// where the first one begins; on an empty log, the log's end (KIP-101, KIP-279).
func (l *Log) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.end(e, l.end)
}

// SetHighWatermark remembers how far the partition is committed, for retention
// and for the next start. It is clamped to the log and checkpointed lazily.
func (l *Log) SetHighWatermark(off record.Offset) {
	l.mu.Lock()
	off = min(max(off, l.start), l.end)
	changed := off != l.highWatermark
	l.highWatermark = off
	l.mu.Unlock()
	if changed {
		l.dir.checkpoint.touchLazily()
	}
}

// HighWatermark is what was last set, or recovered: a lower bound within [Start, End].
func (l *Log) HighWatermark() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.highWatermark
}

// Configure changes the topic's configuration; it holds from the next append on.
func (l *Log) Configure(cfg Config) {
	l.mu.Lock()
	l.cfg = cfg.withDefaults()
	l.producers.limit = l.cfg.MaxProducers
	behind := l.cfg.Synced && l.flushed < l.written
	l.flushDue = l.flushDue || behind
	l.mu.Unlock()
	if behind {
		l.dir.pool.submit(l)
	}
}

// What a log gathers before it is synced while it is unhurried.
const (
	unhurriedBytes = 2 << 20
	unhurriedTime  = 50 * time.Millisecond
)

// Unhurried says whether nobody waits for what is appended from now on to be
// flushed, as on a follower that catches up: a log of a synced topic is then written
// as ever, and synced by the megabyte or a moment later, which leaves the disk to
// logs that are waited for. It changes nothing about what counts as flushed.
func (l *Log) Unhurried(on bool) {
	l.mu.Lock()
	behind := l.unhurried && !on && l.cfg.Synced && l.flushed < l.written
	l.unhurried = on
	l.flushDue = l.flushDue || behind
	l.mu.Unlock()
	if behind {
		l.dir.pool.submit(l)
	}
}

// state is the log's line in the checkpoint.
func (l *Log) state() logState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := logState{
		flushed: l.flushed, highWatermark: l.highWatermark, start: max(l.start, l.nextStart),
		cleaned: l.cleaned, dirty: l.dirty, damage: l.damage,
	}
	if l.damage != DamageNone {
		s.flushed, s.sound, s.soundKnown = l.promised, max(l.sound, 0), l.sound >= 0
	}
	return s
}

// usable says why the log takes no change; nil: it does. The caller holds mu.
func (l *Log) usable() error {
	switch {
	case l.failed != nil:
		return l.failed
	case l.closing:
		return ErrClosed
	case l.busy:
		return ErrBusy
	case l.damage != DamageNone:
		return &DamagedError{l.path, l.damage}
	}
	return nil
}

// latch makes a failure terminal and returns it. Notify is told by the log's turn
// in the flush pool, the one under way or another. The caller holds no lock but io.
func (l *Log) latch(op string, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = &FailedError{Path: l.path, Op: op, Err: err}
		l.tail.abandon()
		if len(l.segments) > 0 { // the kernel may have dropped pages: what was read before may read otherwise
			l.dir.pages.unsound(l.active().file, 0)
		}
		if !l.closing {
			l.dir.pool.submit(l)
		}
	}
	return l.failed
}

// reportDamage makes a log read-only because durable bytes of it are bad, from an offset
// on as far as is known, unless still says that they are gone; first: it was well until now.
func (l *Log) reportDamage(d Damage, at record.Offset, still func() bool) (first bool) {
	l.mu.Lock()
	if !still() {
		l.mu.Unlock()
		return false
	}
	first = l.damage == DamageNone
	lower := !first && at >= 0 && (l.sound < 0 || at < l.sound)
	switch {
	case first:
		l.damage, l.promised, l.sound = d, l.flushed, at
	case lower:
		l.sound = at
	}
	l.mu.Unlock()
	if first || lower {
		l.dir.checkpoint.touch(0)
	}
	return first
}

// active is the segment that takes the writes. The caller holds mu or io.
func (l *Log) active() *segment { return l.segments[len(l.segments)-1] }

// Close flushes what was appended, makes the indexes and the producer state
// durable and closes the files. It returns the latched failure of a log that
// has one. A second Close does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return nil
	}
	l.closing = true
	l.flushDue = true
	if l.flushTimer != nil {
		l.flushTimer.Stop()
	}
	l.mu.Unlock()
	l.stopPass()
	l.dir.pool.submit(l)
	l.dir.pool.drain(l)

	l.io.Lock()
	defer l.io.Unlock()
	err := l.Err()
	if err == nil {
		if err = l.closeFiles(); err != nil {
			err = l.latch("close", err)
		}
	}
	l.closed = true
	l.mu.Lock()
	l.tail.dropBack(0)
	segments := l.segments
	l.mu.Unlock()
	l.forgetFiles(segments)
	l.dir.tail.forget(l)
	l.dir.forget(l)
	return err
}

// closeFiles leaves what lets the next open skip the scan of the active segment:
// its index, and the producer state at the very end. A log that was not written
// to since the last close has them.
func (l *Log) closeFiles() error {
	if err := l.syncActive(); err != nil { // the journal may have been its only durable copy
		return err
	}
	if l.Damage() != DamageNone || l.atRest {
		return nil
	}
	if err := l.active().seal(l.fs); err != nil {
		return err
	}
	if err := l.writeSnapshot(); err != nil {
		return err
	}
	return l.fs.SyncFolder(l.path)
}
