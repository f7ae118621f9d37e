package record

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Arena hands out Bufs and takes their memory back for reuse. Get never waits
// and never fails: bounding what is in use is the work of those who admit
// requests, by InUse against Limit. Safe for concurrent use.
//
// Memory comes in size classes, four to each power of two, so that at most a
// quarter of a Buf is slack. Memory that was given back is kept while all of the
// arena's memory, used and idle, stays within the limit; so an arena that is used
// within its limit never holds more than it.
type Arena struct {
	limit int64
	inUse atomic.Int64

	mu   sync.Mutex // guards free and idle
	free [arenaClasses][][]byte
	idle int64 // bytes in free
}

const (
	arenaMinShift = 6  // the smallest class is 64 B, about the smallest batch
	arenaMaxShift = 24 // the largest is 16 MiB; larger ones are not pooled
	arenaClasses  = 4*(arenaMaxShift-arenaMinShift) + 1
)

// NewArena makes an arena for limit bytes. It allocates nothing yet.
func NewArena(limit int64) *Arena { return &Arena{limit: limit} }

// Limit is the size that users should keep InUse below, in bytes.
func (a *Arena) Limit() int64 { return a.limit }

// InUse is the number of bytes in Bufs that are referenced, their slack included.
func (a *Arena) InUse() int64 { return a.inUse.Load() }

// Get returns a Buf of n bytes, n >= 0, of undefined content, with one reference.
func (a *Arena) Get(n int) *Buf {
	b := &Buf{arena: a, class: -1}
	b.refs.Store(1)
	class, size := arenaClass(n)
	a.inUse.Add(int64(size))
	if class < 0 {
		b.b = make([]byte, n)
		a.trim()
		return b
	}
	b.class = int8(class)
	b.b = a.take(class, size)[:n]
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

func (a *Arena) take(class, size int) []byte {
	a.mu.Lock()
	if l := len(a.free[class]); l > 0 {
		m := a.free[class][l-1]
		a.free[class][l-1] = nil
		a.free[class] = a.free[class][:l-1]
		a.idle -= int64(size)
		a.mu.Unlock()
		return m
	}
	a.mu.Unlock()
	a.trim()
	return make([]byte, size)
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
		a.idle -= int64(cap(a.free[class][l-1]))
		a.free[class][l-1] = nil
		a.free[class] = a.free[class][:l-1]
	}
}

// put takes the memory of b, which lost its last reference.
func (a *Arena) put(b *Buf) {
	m := b.b[:cap(b.b)]
	b.b = nil
	inUse := a.inUse.Add(-int64(len(m)))
	if b.class < 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if inUse+a.idle+int64(len(m)) <= a.limit {
		a.free[b.class] = append(a.free[b.class], m)
		a.idle += int64(len(m))
	}
}
