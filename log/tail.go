package log

import (
	"sort"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/log/record"
)

// tailEntry is one appended Buf: usually a batch, on a follower that catches up
// a run of whole batches. The tail holds one reference to it.
type tailEntry struct {
	buf        *record.Buf
	base, next record.Offset
}

// tail is the recent end of a log in memory, ascending and without gaps. What is
// not written yet is always in it. It is guarded by Log.mu.
type tail struct {
	entries ring[tailEntry]
	// written counts the entries at the front that are on disk.
	written int
	budget  *tailBudget
	// group is what pending returns; guarded by Log.io.
	group []tailEntry
	// abandoned: what waits will never be written, and does not count for the
	// budget's unwritten any more.
	abandoned bool
	space     *space
}

// base is the first offset in memory; ok is false when there is none.
func (t *tail) base() (record.Offset, bool) {
	if t.entries.len() == 0 {
		return 0, false
	}
	return t.entries.at(0).base, true
}

func (t *tail) push(buf *record.Buf, base, next record.Offset) {
	t.entries.push(tailEntry{buf.Retain(), base, next})
	t.budget.bytes.Add(buf.Footprint())
	t.budget.unwritten.Add(buf.Footprint())
	t.space.taken.Add(int64(buf.Len()))
}

// wrote notes that the next n pending entries have reached their file. The caller
// holds Log.io too.
func (t *tail) wrote(n int) {
	for range n {
		buf := t.entries.at(t.written).buf
		t.budget.unwritten.Add(-buf.Footprint())
		t.space.settled.Add(int64(buf.Len()))
		t.written++
	}
	clear(t.group) // it must not keep memory alive that the tail lets go of
}

// waiting is how many entries wait to be written.
func (t *tail) waiting() int { return t.entries.len() - t.written }

// pending returns the entries that wait to be written, no more than one write
// takes. They stay valid without Log.mu until the next call, as long as Log.io is held.
func (t *tail) pending() []tailEntry {
	group, bytes := t.group[:0], 0
	for i := t.written; i < t.entries.len() && bytes < groupBytes; i++ {
		e := t.entries.at(i)
		group = append(group, *e)
		bytes += e.buf.Len()
	}
	t.group = group
	if cap(group) > groupKept {
		t.group = nil
	}
	return group
}

// groupKept is how many entries of a group a log keeps room for.
const groupKept = 32

// find returns the index of the entry that holds an offset.
func (t *tail) find(off record.Offset) int {
	return sort.Search(t.entries.len(), func(i int) bool { return t.entries.at(i).next > off })
}

// dropFront lets go of written entries that end at or before off.
func (t *tail) dropFront(off record.Offset) {
	n := 0
	for n < t.written && t.entries.at(n).next <= off {
		t.release(t.entries.at(n))
		n++
	}
	t.written -= n
	t.entries.dropFront(n)
}

// dropBack lets go of the entries from index i on. The caller holds Log.io: no
// flush worker is reading them.
func (t *tail) dropBack(i int) {
	for j := i; j < t.entries.len(); j++ {
		if j >= t.written {
			if !t.abandoned {
				t.budget.unwritten.Add(-t.entries.at(j).buf.Footprint())
			}
			t.space.settled.Add(int64(t.entries.at(j).buf.Len())) // it takes no space any more
		}
		t.release(t.entries.at(j))
	}
	t.entries.dropBack(i)
	t.written = min(t.written, i)
	t.group = nil
}

// abandon is called when the log has failed: producers of other logs must not wait
// for its batches to be written.
func (t *tail) abandon() {
	for j := t.written; j < t.entries.len() && !t.abandoned; j++ {
		t.budget.unwritten.Add(-t.entries.at(j).buf.Footprint())
	}
	t.abandoned = true
}

func (t *tail) release(e *tailEntry) {
	t.budget.bytes.Add(-e.buf.Footprint())
	e.buf.Release()
}

// tailBudget bounds the memory of all tails of a directory: the oldest written
// groups, whichever log they belong to, go first. A reader may still hold what a
// tail lets go of; the arena counts that as pinned.
type tailBudget struct {
	limit int64
	bytes atomic.Int64 // held by all tails
	// unwritten is the part of bytes that waits to be written and cannot give way.
	unwritten atomic.Int64
	arena     *record.Arena
	// full is how much of the arena may be in use before tails give way.
	full int64

	mu    sync.Mutex // guards order; a leaf lock
	order ring[writtenGroup]
}

// writtenGroup is what a write of a log, or a few small ones, made evictable:
// everything below upTo.
type writtenGroup struct {
	log   *Log
	upTo  record.Offset
	bytes int64
}

// evictionSteps is how many groups one log's tail is let go in at least.
const evictionSteps = 64

func newTailBudget(limit int64, arena *record.Arena) *tailBudget {
	// Room for what may arrive before the next write: what producers are left with
	// at worst, and what is kept for replication.
	full := arena.Limit() - arena.ReceiveShare() - arena.Limit()/8
	return &tailBudget{limit: limit, arena: arena, full: full}
}

func (b *tailBudget) over() bool {
	return b.bytes.Load() > b.limit || b.arena.InUse() > b.full
}

// wrote registers a group of so many bytes and evicts what is over the budget.
// The caller holds no lock.
func (b *tailBudget) wrote(l *Log, upTo record.Offset, bytes int64) {
	b.mu.Lock()
	if n := b.order.len(); n > 0 && b.order.at(n-1).log == l && b.order.at(n-1).bytes+bytes <= b.limit/evictionSteps {
		last := b.order.at(n - 1)
		last.upTo = upTo
		last.bytes += bytes
	} else {
		b.order.push(writtenGroup{l, upTo, bytes})
	}
	b.mu.Unlock()
	b.evict()
}

// evict lets go of groups until the budget is kept, or all that is left waits to
// be written. The caller holds no lock.
func (b *tailBudget) evict() {
	for b.over() {
		b.mu.Lock()
		if b.order.len() == 0 {
			b.mu.Unlock()
			return
		}
		g := *b.order.at(0)
		b.order.dropFront(1)
		b.mu.Unlock()
		g.log.evict(g.upTo)
	}
}

// evict lets the tail go of what is written and below upTo.
func (l *Log) evict(upTo record.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail.dropFront(min(upTo, l.written))
}

// forget removes a closed log's groups.
func (b *tailBudget) forget(l *Log) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := 0
	for i := range b.order.len() {
		if g := *b.order.at(i); g.log != l {
			*b.order.at(kept) = g
			kept++
		}
	}
	b.order.dropBack(kept)
}
