package record

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Arena hands out Bufs and takes their memory back for reuse. Get never waits
// and never fails: bounding what is in use is the work of those who admit
// requests, by InUse and Pinned against the shares of the limit. Safe for
// concurrent use.
//
// Memory comes in size classes, four to each power of two, so that at most a
// quarter of a Buf is slack; beside it a Buf counts for what it costs itself.
// Memory that was given back is kept, with its Buf, while all of the arena's
// memory, used and idle, stays within the limit; so an arena that is used within
// its limit never holds more than it, and in the steady state allocates nothing.
//
// # Shares
//
// Of the limit L of a node's arena
//
//	L/2  PinLimit      is the most that readers pin by reference
//	L/8  ReadLimit     lies between PinLimit and this: readers' small copies
//	L/4  ReceiveShare  is kept for what leaders push to this node
//	L/8                is left for producers at worst
//
// and what nobody needs holds recent batches, which give way.
type Arena struct {
	limit  int64
	inUse  atomic.Int64
	pinned atomic.Int64

	watchInUse, watchPinned atomic.Pointer[Watch]

	mu   sync.Mutex // guards free and idle
	free [arenaClasses][]*Buf
	idle int64 // footprint of the Bufs in free
}

// Watch tells that an amount of memory has fallen.
type Watch struct {
	// Level in bytes: Fell is called whenever the amount falls and is at or below it.
	Level int64
	// Fell is called with locks held that the arena does not know: it must not wait.
	Fell func()
}

const (
	arenaMinShift = 6  // the smallest class is 64 B, about the smallest batch
	arenaMaxShift = 24 // the largest is 16 MiB; larger ones are not pooled
	arenaClasses  = 4*(arenaMaxShift-arenaMinShift) + 1
	// bufOverhead is what a Buf costs beside its bytes: itself and its places in
	// the tail and in the arena.
	bufOverhead = 96
)

// NewArena makes an arena for limit bytes. It allocates nothing yet.
func NewArena(limit int64) *Arena { return &Arena{limit: limit} }

// Limit is the size that users should keep InUse below, in bytes.
func (a *Arena) Limit() int64 { return a.limit }

// PinLimit is how much readers may pin by reference.
func (a *Arena) PinLimit() int64 { return a.limit / 2 }

// ReadLimit is how much readers may hold in all.
func (a *Arena) ReadLimit() int64 { return a.limit/2 + a.limit/8 }

// ReceiveShare is what is kept for replication to receive into.
func (a *Arena) ReceiveShare() int64 { return a.limit / 4 }

// InUse is the number of bytes in Bufs that are referenced, their slack and
// their own cost included.
func (a *Arena) InUse() int64 { return a.inUse.Load() }

// Pinned is the part of InUse that readers hold references to, each Buf counted
// once.
func (a *Arena) Pinned() int64 { return a.pinned.Load() }

// WatchInUse makes w the one watch of InUse; nil ends it. The caller looks at
// InUse afterwards: it may have fallen before.
func (a *Arena) WatchInUse(w *Watch) { a.watchInUse.Store(w) }

// WatchPinned is WatchInUse for Pinned.
func (a *Arena) WatchPinned(w *Watch) { a.watchPinned.Store(w) }

// Charge counts n bytes outside of the arena that are held for a reader, such as
// an encoded answer, as used and pinned. A negative n gives them back.
func (a *Arena) Charge(n int64) {
	inUse, pinned := a.inUse.Add(n), a.pinned.Add(n)
	if n < 0 {
		fell(&a.watchInUse, inUse)
		fell(&a.watchPinned, pinned)
	}
}

// TryReserve counts n bytes as pinned ahead of a read, if that stays within
// limit. The reader gives them back with Unreserve once what it read is pinned.
func (a *Arena) TryReserve(n, limit int64) bool {
	for {
		now := a.pinned.Load()
		if now+n > limit {
			return false
		}
		if a.pinned.CompareAndSwap(now, now+n) {
			return true
		}
	}
}

// Unreserve ends a reservation.
func (a *Arena) Unreserve(n int64) { fell(&a.watchPinned, a.pinned.Add(-n)) }

func fell(p *atomic.Pointer[Watch], now int64) {
	if w := p.Load(); w != nil && now <= w.Level {
		w.Fell()
	}
}

// Get returns a Buf of n bytes, n >= 0, of undefined content, with one reference.
func (a *Arena) Get(n int) *Buf {
	class, size := arenaClass(n)
	a.inUse.Add(int64(size) + bufOverhead)
	b := a.take(class, size)
	b.b = b.b[:n]
	b.refs.Store(1)
	return b
}

// arenaClass returns the class that holds n bytes and its size; class -1: not
// pooled. Class 0 holds 64 B; class 4k+i holds 64 * 2^k * (1 + i/4).
func arenaClass(n int) (class, size int) {
	if n <= 1<<arenaMinShift {
		return 0, 1 << arenaMinShift
	}
	if n > 1<<arenaMaxShift {
		return -1, n
	}
	shift := bits.Len(uint(n-1)) - 1 // 2^shift < n <= 2^(shift+1)
	quarter := 1 << shift / 4
	step := (n - 1<<shift + quarter - 1) / quarter
	return 4*(shift-arenaMinShift) + step, 1<<shift + step*quarter
}

func (a *Arena) take(class, size int) *Buf {
	if class >= 0 {
		a.mu.Lock()
		if l := len(a.free[class]); l > 0 {
			b := a.drop(class, l-1)
			a.mu.Unlock()
			return b
		}
		a.mu.Unlock()
	}
	a.trim()
	return &Buf{b: make([]byte, size), arena: a, class: int8(class)}
}

// drop takes the last idle Buf of a class out of the list. The caller holds mu.
func (a *Arena) drop(class, last int) *Buf {
	b := a.free[class][last]
	a.free[class][last] = nil
	a.free[class] = a.free[class][:last]
	a.idle -= b.Footprint()
	return b
}

// trim drops idle memory, the largest first, until all memory, used and idle,
// fits the limit. What is about to be made counts as used: fresh memory of one class must not pile up on the idle memory
// of another.
func (a *Arena) trim() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for class := arenaClasses - 1; class >= 0 && a.idle > 0 && a.inUse.Load()+a.idle > a.limit; {
		l := len(a.free[class])
		if l == 0 {
			class--
			continue
		}
		a.drop(class, l-1)
	}
}

// put takes back b, which lost its last reference.
func (a *Arena) put(b *Buf) {
	size := b.Footprint()
	inUse := a.inUse.Add(-size)
	if b.class >= 0 {
		a.keep(b, size, inUse)
	} else {
		b.b = nil
	}
	fell(&a.watchInUse, inUse)
}

func (a *Arena) keep(b *Buf, size, inUse int64) {
	b.b = b.b[:cap(b.b)]
	a.mu.Lock()
	defer a.mu.Unlock()
	if inUse+a.idle+size <= a.limit {
		a.free[b.class] = append(a.free[b.class], b)
		a.idle += size
		return
	}
	b.b = nil
}
