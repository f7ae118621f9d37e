package record

import "sync/atomic"

// Buf is one batch, contiguous in memory, counted by references. Whoever holds
// a reference may read Bytes; the last Release gives the memory back to the
// arena it came from. Base offset and leader epoch are patched once, by the
// leader's append, before the Buf is shared; after that it is immutable.
type Buf struct {
	b     []byte
	refs  atomic.Int32
	arena *Arena
	class int8 // size class in the arena; -1: not pooled
}

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

// Retain adds a reference and returns b.
func (b *Buf) Retain() *Buf {
	if b.refs.Add(1) <= 1 {
		panic("record: Retain of a released Buf")
	}
	return b
}

// Release gives one reference back.
func (b *Buf) Release() {
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("record: Release of a released Buf")
	case n == 0 && b.arena != nil:
		b.arena.put(b)
	}
}

// Refs returns the number of references, for tests and for eviction.
func (b *Buf) Refs() int { return int(b.refs.Load()) }

// Slice is a run of whole batches inside a Buf: what a read returns. It holds
// one reference to the Buf.
type Slice struct {
	Bytes []byte
	buf   *Buf
}

// SliceOf makes a Slice of the bytes [from, to) of b and takes a reference.
func SliceOf(b *Buf, from, to int) Slice {
	return Slice{Bytes: b.Retain().b[from:to:to], buf: b}
}

// Buf returns the memory behind the slice, which may hold more than the slice.
func (s Slice) Buf() *Buf { return s.buf }

// Retain returns a second Slice of the same bytes, with a reference of its own.
func (s Slice) Retain() Slice {
	if s.buf != nil {
		s.buf.Retain()
	}
	return s
}

// Release gives the slice's reference back.
func (s *Slice) Release() {
	if s.buf != nil {
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
		dst = append(dst, Slice{Bytes: batch, buf: s.buf}.Retain())
		rest = next
	}
	return dst, nil
}
