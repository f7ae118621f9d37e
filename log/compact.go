package log

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/log/record"
)

// Defaults of CleanerOptions.
const (
	DefaultCleanerMemory = 16 << 20
	DefaultCleanerRate   = 64 << 20
)

// CleanerOptions bound what compaction costs a node.
type CleanerOptions struct {
	// Memory is how large the table of keys may become, in bytes; 0:
	// DefaultCleanerMemory. It takes 30 bytes a key. A log with more dirty keys is
	// compacted in several passes.
	Memory int64
	// BytesPerSecond is how much is read and written together; 0:
	// DefaultCleanerRate, below 0: no bound.
	BytesPerSecond int64
}

// Cleaner compacts logs, one at a time. It owns no goroutine and, between passes,
// no memory.
type Cleaner struct {
	memory   int64
	throttle throttle
	turn     sync.Mutex // held for a pass
}

// NewCleaner makes a Cleaner.
func NewCleaner(opts CleanerOptions) *Cleaner {
	if opts.Memory <= 0 {
		opts.Memory = DefaultCleanerMemory
	}
	if opts.BytesPerSecond == 0 {
		opts.BytesPerSecond = DefaultCleanerRate
	}
	return &Cleaner{memory: opts.Memory, throttle: throttle{rate: opts.BytesPerSecond}}
}

// Compaction is what a pass over a log did.
type Compaction struct {
	// From and To bound the part whose keys were gathered: below To the log holds
	// the newest record of each key only.
	From, To record.Offset
	// Read and Written are bytes of segment files, the first reading included.
	Read, Written int64
	// Before and After are the sizes of the segments that were replaced, and of
	// those that replaced them.
	Before, After int64
	// Dropped counts records; of these, Keyless had no key: they were written
	// before the topic was compacted, and nothing can tell what replaces them.
	Dropped, Keyless int64
	Took             time.Duration
}

// Compact goes once through a log: of the records below the first uncleanable
// offset only the newest of each key stays, and a tombstone goes once it was
// compacted DeleteRetention ago. Offsets stay what they are. Uncleanable is what
// lies above the high watermark, is not flushed, is in the active segment, or in a
// segment with a record younger than MinCompactionLag.
//
// Readers and appends go on meanwhile. A truncation, a reset, a removal of
// segments or a close ends the pass: ErrBusy or ErrClosed. So does an error of the
// file system; what was done until then stays, the rest is as it was, and the log
// is well. Only a failure in the short moment in which files take each other's
// places latches the log. A log whose topic is not compacted is left alone.
func (c *Cleaner) Compact(ctx context.Context, l *Log) (Compaction, error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	begin := l.dir.now()
	ctx, leave, err := l.enterPass(ctx)
	if err != nil {
		return Compaction{}, err
	}
	defer leave()
	p := &pass{c: c, l: l, ctx: ctx, now: begin.UnixMilli()}
	if !p.plan() {
		return Compaction{}, nil
	}
	if err = p.run(); err != nil {
		err = p.compactionError(err)
	}
	p.did.Took = l.dir.now().Sub(begin)
	return p.did, err
}

// running is a pass over a log.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// enterPass registers a pass, which Close ends and waits for.
func (l *Log) enterPass(ctx context.Context) (_ context.Context, leave func(), _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, nil, err
	}
	if l.pass != nil {
		return nil, nil, fmt.Errorf("%s is being compacted: %w", l.path, ErrBusy)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel, make(chan struct{})}
	l.pass = r
	return ctx, func() {
		l.mu.Lock()
		l.pass = nil
		l.mu.Unlock()
		cancel()
		close(r.done)
	}, nil
}

func (l *Log) isClosing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}

// stopPass ends a pass that runs and waits for it. The caller has set closing and
// holds no lock.
func (l *Log) stopPass() {
	l.mu.Lock()
	r := l.pass
	l.mu.Unlock()
	if r != nil {
		r.cancel()
		<-r.done
	}
}

// compactionError says why a pass ended. Bytes that turned out to be wrong are
// damage, unless they were about to go anyway.
func (p *pass) compactionError(err error) error {
	l := p.l
	if l.isClosing() {
		return ErrClosed
	}
	l.noteDamage(err, func() bool { return l.generation == p.generation })
	return err
}

// Dirtiness says how much of a log compaction has not gone through, in bytes of
// segments that it may touch.
type Dirtiness struct {
	Dirty, Clean int64
}

// Ratio is the dirty part, 0 to 1.
func (d Dirtiness) Ratio() float64 {
	if d.Dirty == 0 {
		return 0
	}
	return float64(d.Dirty) / float64(d.Dirty+d.Clean)
}

// Dirtiness measures a log. eligible: its topic is compacted, and it is dirty
// enough (MinDirtyRatio).
func (l *Log) Dirtiness(now time.Time) (d Dirtiness, eligible bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cfg.Compact || l.usable() != nil {
		return d, false
	}
	for _, s := range l.cleanable(now) {
		if s.next > l.dirty {
			d.Dirty += s.size
		} else {
			d.Clean += s.size
		}
	}
	return d, d.Dirty > 0 && d.Ratio() >= l.cfg.MinDirtyRatio
}

// cleanable returns the segments that compaction may touch: those wholly below
// the first uncleanable offset. The caller holds mu.
func (l *Log) cleanable(now time.Time) []*segment {
	below := min(l.highWatermark, l.flushed)
	youngest := now.Add(-l.cfg.MinCompactionLag).UnixMilli()
	sealed := l.segments[:len(l.segments)-1]
	for i, s := range sealed {
		young := l.cfg.MinCompactionLag > 0 && s.next > l.dirty && s.newest.ms > youngest
		if s.next > below || young {
			return sealed[:i]
		}
	}
	return sealed
}
