package record

import "sync/atomic"

// Buf is one batch, or a run of them, contiguous in memory and counted by
// references. Whoever holds a reference may read Bytes; the last Release gives
// the memory back to the arena it came from, and the Buf itself with it: a Buf
// must not be touched afterwards. Base offset and leader epoch are patched once,
// by the leader's append, before the Buf is shared; after that it is immutable.
//
// A reader's reference is a pin: see [Slice].
type Buf struct {
	b []byte
	// refs counts references in its lower half and, among them, pins in its upper half.
	refs  atomic.Int64
	arena *Arena
	class int8 // size class in the arena; -1: not pooled
}

const (
	onePin     = 1<<32 + 1 // a pin is a reference too
	pinShift   = 32
	bufRelease = "record: Release of a released Buf"
)

// NewBuf wraps memory that no arena owns. The Buf owns b from now on and holds
// one reference.
func NewBuf(b []byte) *Buf {
	buf := &Buf{b: b, class: -1}
	buf.refs.Store(1)
	return buf
}

// Bytes returns the batch. The slice is valid until the caller's reference is released.
func (b *Buf) Bytes() []byte { return b.b }

// Len is the number of bytes of the batch.
func (b *Buf) Len() int { return len(b.b) }

// Footprint is what the Buf takes of its arena's limit.
func (b *Buf) Footprint() int64 { return int64(cap(b.b)) + bufOverhead }

// Retain adds a reference and returns b.
func (b *Buf) Retain() *Buf {
	if int32(b.refs.Add(1)) <= 1 {
		panic("record: Retain of a released Buf")
	}
	return b
}

// Release gives one reference back.
func (b *Buf) Release() {
	switch n := b.refs.Add(-1); {
	case int32(n) < 0:
		panic(bufRelease)
	case n == 0 && b.arena != nil:
		b.arena.put(b)
	}
}

// Refs returns the number of references, for tests and for eviction.
func (b *Buf) Refs() int { return int(int32(b.refs.Load())) }

// pin adds a reader's reference. The first one counts the Buf as pinned.
func (b *Buf) pin() {
	switch n := b.refs.Add(onePin); {
	case int32(n) <= 1:
		panic("record: pin of a released Buf")
	case n>>pinShift == 1 && b.arena != nil:
		b.arena.pinned.Add(b.Footprint())
	}
}

// tryPin pins, unless that takes what is pinned above limit. A Buf that is pinned
// already costs nothing more.
func (b *Buf) tryPin(limit int64) bool {
	if b.arena == nil || b.refs.Load()>>pinShift > 0 {
		b.pin()
		return true
	}
	if !b.arena.TryReserve(b.Footprint(), limit) {
		return false
	}
	if b.refs.Add(onePin)>>pinShift > 1 {
		b.arena.Unreserve(b.Footprint()) // somebody else came first and counted it
	}
	return true
}

// unpin gives a reader's reference back.
func (b *Buf) unpin() {
	a, size := b.arena, b.Footprint() // afterwards the Buf may be somebody else's
	n := b.refs.Add(-onePin)
	if int32(n) < 0 || n < 0 {
		panic(bufRelease)
	}
	if a == nil {
		return
	}
	if n>>pinShift == 0 {
		a.Unreserve(size)
	}
	if n == 0 {
		a.put(b)
	}
}

// Slice is a run of whole batches inside a Buf: what a read returns. It holds
// one reference to the Buf. Those that readers hold are pins: they keep memory
// from being used again for as long as a client pleases, so the arena counts the
// Bufs that have any, each once however many readers share it.
type Slice struct {
	Bytes []byte
	buf   *Buf
	pin   bool
}

// SliceOf makes a Slice of the bytes [from, to) of b and takes a reference.
func SliceOf(b *Buf, from, to int) Slice {
	return Slice{Bytes: b.Retain().b[from:to:to], buf: b}
}

// PinOf is SliceOf for a reader.
func PinOf(b *Buf, from, to int) Slice {
	b.pin()
	return Slice{Bytes: b.b[from:to:to], buf: b, pin: true}
}

// TryPinOf is PinOf as long as what is pinned in the Buf's arena stays within limit.
func TryPinOf(b *Buf, from, to int, limit int64) (Slice, bool) {
	if !b.tryPin(limit) {
		return Slice{}, false
	}
	return Slice{Bytes: b.b[from:to:to], buf: b, pin: true}, true
}

// Borrow is all of b without a reference of its own: valid as long as the
// caller's. It must not be released.
func (b *Buf) Borrow() Slice { return Slice{Bytes: b.b, buf: b} }

// Buf returns the memory behind the slice, which may hold more than the slice.
func (s Slice) Buf() *Buf { return s.buf }

// Retain returns a second Slice of the same bytes, with a reference of its own of
// the same kind.
func (s Slice) Retain() Slice {
	switch {
	case s.buf == nil:
	case s.pin:
		s.buf.pin()
	default:
		s.buf.Retain()
	}
	return s
}

// Release gives the slice's reference back.
func (s *Slice) Release() {
	switch {
	case s.buf == nil:
	case s.pin:
		s.buf.unpin()
	default:
		s.buf.Release()
	}
	*s = Slice{}
}

// Split appends one Slice for each batch of s to dst, each with a reference of
// its own. s keeps its reference. When s does not hold whole batches it appends
// nothing and returns an *InvalidError.
func Split(dst []Slice, s Slice) ([]Slice, error) {
	start := len(dst)
	for rest := s.Bytes; len(rest) > 0; {
		batch, next, err := Next(rest)
		if err != nil {
			for i := start; i < len(dst); i++ {
				dst[i].Release()
			}
			return dst[:start], err
		}
		dst = append(dst, Slice{Bytes: batch, buf: s.buf, pin: s.pin}.Retain())
		rest = next
	}
	return dst, nil
}
