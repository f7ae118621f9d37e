package wire

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// MaxBatches bounds the batches in one message. It keeps what an element costs
// in memory beyond its bytes in proportion to the message.
const MaxBatches = 1 << 17

// Reasons why a message is refused.
var (
	// ErrMalformed means that the message is not legal protobuf.
	ErrMalformed = errors.New("wire: malformed message")
	// ErrTooManyBatches means that the message has more than MaxBatches batches.
	ErrTooManyBatches = fmt.Errorf("wire: more than %d batches in one message", MaxBatches)
)

// smallFields lends buffers in which the fields besides the batches are gathered.
type smallFields struct{ pool sync.Pool }

func (s *smallFields) get() *[]byte {
	if b, ok := s.pool.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

func (s *smallFields) put(b *[]byte) {
	if cap(*b) <= 64<<10 {
		*b = (*b)[:0]
		s.pool.Put(b)
	}
}

// Unmarshal decodes data into v. A message with batches owns a reference to each
// afterwards; on an error it holds none. What v held before is released.
func (c *Codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(incoming)
	if !ok {
		return c.standard.Unmarshal(data, v)
	}
	m.Release()
	rest := c.small.get()
	defer c.small.put(rest)
	if err := c.split(data, m, rest); err != nil {
		m.Release()
		return err
	}
	// The generated decoder copies what it keeps, so rest can be reused.
	if err := proto.Unmarshal(*rest, m.fresh()); err != nil {
		m.Release()
		return err
	}
	return nil
}

// split gives the batches of the message to m and appends every other field,
// unchanged, to rest.
func (c *Codec) split(data mem.BufferSlice, m incoming, rest *[]byte) error {
	f := frames{bufs: data, left: data.Len()}
	batches := 0
	for f.left > 0 {
		field := f
		tag, err := f.varint()
		if err != nil {
			return err
		}
		number, kind := protowire.DecodeTag(tag)
		if number < protowire.MinValidNumber {
			return fmt.Errorf("%w: field number %d", ErrMalformed, tag>>3)
		}
		if number != batchesField || kind != protowire.BytesType {
			if err := f.skip(number, kind); err != nil {
				return err
			}
			*rest = field.appendTo(*rest, field.left-f.left)
			continue
		}
		n, err := f.length()
		if err != nil {
			return err
		}
		if batches++; batches > MaxBatches {
			return ErrTooManyBatches
		}
		buf := c.arena.Get(n)
		f.copyTo(buf.Bytes())
		m.add(buf)
	}
	return nil
}

// frames reads a message that lies in many buffers. A copy of it is a bookmark.
type frames struct {
	bufs mem.BufferSlice
	pos  int // in bufs[0]
	left int // bytes to the end of the message
}

// chunk returns the unread bytes that lie together, at least one while left > 0.
func (f *frames) chunk() []byte {
	for {
		if b := f.bufs[0].ReadOnlyData()[f.pos:]; len(b) > 0 {
			return b
		}
		f.bufs, f.pos = f.bufs[1:], 0
	}
}

func (f *frames) advance(n int) {
	f.pos += n
	f.left -= n
}

// copyTo fills dst; the caller knows that so much is left.
func (f *frames) copyTo(dst []byte) {
	for len(dst) > 0 {
		n := copy(dst, f.chunk())
		dst = dst[n:]
		f.advance(n)
	}
}

// appendTo appends n bytes to dst; the caller knows that so much is left.
func (f *frames) appendTo(dst []byte, n int) []byte {
	for n > 0 {
		b := f.chunk()
		b = b[:min(n, len(b))]
		dst = append(dst, b...)
		f.advance(len(b))
		n -= len(b)
	}
	return dst
}

func (f *frames) discard(n int) error {
	if n > f.left {
		return io.ErrUnexpectedEOF
	}
	for n > 0 {
		step := min(n, len(f.chunk()))
		f.advance(step)
		n -= step
	}
	return nil
}

// varint reads a base 128 varint of at most 64 bits.
func (f *frames) varint() (uint64, error) {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		if f.left == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		x := f.chunk()[0]
		f.advance(1)
		if shift == 63 && x > 1 {
			break
		}
		v |= uint64(x&0x7f) << shift
		if x < 0x80 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w: varint of more than 64 bits", ErrMalformed)
}

// length reads a length prefix and checks that so many bytes arrived.
func (f *frames) length() (int, error) {
	n, err := f.varint()
	if err != nil {
		return 0, err
	}
	if n > uint64(f.left) {
		return 0, fmt.Errorf("%w: length %d with %d bytes left", ErrMalformed, n, f.left)
	}
	return int(n), nil
}

// skip steps over the value of a field.
func (f *frames) skip(number protowire.Number, kind protowire.Type) error {
	switch kind {
	case protowire.VarintType:
		_, err := f.varint()
		return err
	case protowire.Fixed32Type:
		return f.discard(4)
	case protowire.Fixed64Type:
		return f.discard(8)
	case protowire.BytesType:
		n, err := f.length()
		if err != nil {
			return err
		}
		return f.discard(n)
	case protowire.StartGroupType:
		return f.skipGroup(number)
	case protowire.EndGroupType:
		return fmt.Errorf("%w: end of group %d outside of it", ErrMalformed, number)
	default:
		return fmt.Errorf("%w: field %d has wire type %d", ErrMalformed, number, kind)
	}
}

// skipGroup steps over a group, which none of our messages has. What is left of
// the message is laid together for it; it stays so, so that many groups cost no
// more than one.
func (f *frames) skipGroup(number protowire.Number) error {
	if f.left == 0 {
		return io.ErrUnexpectedEOF
	}
	b := f.chunk()
	if len(b) < f.left {
		b = f.appendTo(nil, f.left)
		*f = frames{bufs: mem.BufferSlice{mem.SliceBuffer(b)}, left: len(b)}
	}
	n := protowire.ConsumeFieldValue(number, protowire.StartGroupType, b)
	if n < 0 {
		return fmt.Errorf("%w: group %d: %w", ErrMalformed, number, protowire.ParseError(n))
	}
	return f.discard(n)
}
