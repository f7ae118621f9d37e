package record

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Arena hands out Bufs and takes their memory back for reuse. Get never waits
// and never fails: bounding what is in use is the work of those who admit
// requests, by InUse against Limit.
type Arena struct {
	limit int64
	inUse atomic.Int64

	mu   sync.Mutex // guards free
	free [arenaClasses][][]byte
	// idle counts the bytes in free; kept at or below limit.
	idle int64
}

const (
	arenaMinShift = 9  // 512 B
	arenaMaxShift = 21 // 2 MiB; larger ones are not pooled
	arenaClasses  = arenaMaxShift - arenaMinShift + 1
)

// NewArena makes an arena that keeps at most limit idle bytes.
func NewArena(limit int64) *Arena { return &Arena{limit: limit} }

// Limit is the size that users should keep InUse below, in bytes.
func (a *Arena) Limit() int64 { return a.limit }

// InUse is the number of bytes in Bufs that are referenced.
func (a *Arena) InUse() int64 { return a.inUse.Load() }

// Get returns a Buf of n bytes, of undefined content, with one reference.
func (a *Arena) Get(n int) *Buf {
	b := &Buf{arena: a, class: -1}
	b.refs.Store(1)
	if n <= 1<<arenaMaxShift {
		b.class = int8(max(bits.Len(uint(max(n, 1)-1)), arenaMinShift) - arenaMinShift)
		b.b = a.take(int(b.class))[:n]
	} else {
		b.b = make([]byte, n)
	}
	a.inUse.Add(int64(cap(b.b)))
	return b
}

func (a *Arena) take(class int) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := len(a.free[class]); l > 0 {
		m := a.free[class][l-1]
		a.free[class] = a.free[class][:l-1]
		a.idle -= int64(cap(m))
		return m
	}
	return make([]byte, 1<<(class+arenaMinShift))
}

func (a *Arena) put(b *Buf) {
	m := b.b[:cap(b.b)]
	b.b = nil
	a.inUse.Add(-int64(len(m)))
	if b.class < 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.idle+int64(len(m)) <= a.limit {
		a.free[b.class] = append(a.free[b.class], m)
		a.idle += int64(len(m))
	}
}
