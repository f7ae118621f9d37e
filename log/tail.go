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
	entries []tailEntry
	// written counts the entries at the front that are on disk.
	written int
	budget  *tailBudget
}

// base is the first offset in memory; ok is false when there is none.
func (t *tail) base() (record.Offset, bool) {
	if len(t.entries) == 0 {
		return 0, false
	}
	return t.entries[0].base, true
}

func (t *tail) push(buf *record.Buf, base, next record.Offset) {
	t.entries = append(t.entries, tailEntry{buf.Retain(), base, next})
	t.budget.bytes.Add(footprint(buf))
}

// footprint is the memory behind a Buf; arenas give out powers of two.
func footprint(b *record.Buf) int64 { return int64(cap(b.Bytes())) }

// pending returns the entries that wait to be written. They stay valid without
// the lock as long as Log.io is held.
func (t *tail) pending() []tailEntry { return t.entries[t.written:] }

// find returns the index of the entry that holds an offset.
func (t *tail) find(off record.Offset) int {
	return sort.Search(len(t.entries), func(i int) bool { return t.entries[i].next > off })
}

// dropFront lets go of written entries that end at or before off.
func (t *tail) dropFront(off record.Offset) {
	n := 0
	for n < t.written && t.entries[n].next <= off {
		t.release(&t.entries[n])
		n++
	}
	t.written -= n
	if t.entries = t.entries[n:]; len(t.entries) == 0 {
		t.entries = nil
	}
}

// dropBack lets go of the entries from index i on. The caller holds Log.io: no
// flush worker is reading them.
func (t *tail) dropBack(i int) {
	for j := i; j < len(t.entries); j++ {
		t.release(&t.entries[j])
	}
	t.entries = t.entries[:i]
	t.written = min(t.written, i)
}

func (t *tail) release(e *tailEntry) {
	t.budget.bytes.Add(-footprint(e.buf))
	e.buf.Release()
	*e = tailEntry{}
}

// tailBudget bounds the memory of all tails of a directory: the oldest flushed
// groups, whichever log they belong to, go first.
type tailBudget struct {
	limit int64
	bytes atomic.Int64 // held by all tails

	mu    sync.Mutex // guards order; a leaf lock
	order []flushedGroup
}

// flushedGroup is what a flush of a log, or a few small ones, made evictable:
// everything below upTo.
type flushedGroup struct {
	log   *Log
	upTo  record.Offset
	bytes int64
}

// evictionSteps is how many groups one log's tail is let go in at least.
const evictionSteps = 64

// flushed registers a group of so many bytes and evicts what is over the budget.
// The caller holds no lock.
func (b *tailBudget) flushed(l *Log, upTo record.Offset, bytes int64) {
	b.mu.Lock()
	n := len(b.order)
	if n > 0 && b.order[n-1].log == l && b.order[n-1].bytes+bytes <= b.limit/evictionSteps {
		b.order[n-1].upTo = upTo
		b.order[n-1].bytes += bytes
	} else {
		b.order = append(b.order, flushedGroup{l, upTo, bytes})
	}
	b.mu.Unlock()
	for b.bytes.Load() > b.limit {
		b.mu.Lock()
		if len(b.order) == 0 {
			b.mu.Unlock()
			return // all that is left waits for its flush
		}
		g := b.order[0]
		b.order[0] = flushedGroup{}
		b.order = b.order[1:]
		b.mu.Unlock()
		g.log.evict(g.upTo)
	}
}

// evict lets the tail go of what is flushed and below upTo.
func (l *Log) evict(upTo record.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail.dropFront(min(upTo, l.flushed))
}

// forget removes a closed log's groups.
func (b *tailBudget) forget(l *Log) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.order[:0]
	for _, g := range b.order {
		if g.log != l {
			kept = append(kept, g)
		}
	}
	clear(b.order[len(kept):])
	b.order = kept
}
