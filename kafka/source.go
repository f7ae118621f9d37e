package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/log/record"
)

// bufferSize is how much is read at once ahead of what was asked for. What is
// larger, and that is records, goes from the socket to where it stays: at most
// so many bytes of a batch are copied.
const bufferSize = 4 << 10

var errMalformed = errors.New("the request is malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errMalformed}, args...)...)
}

// buffers lends read buffers to connections that are in the middle of a request.
// A connection that waits for its next one holds none.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[bufferSize]byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf
	}
	return new([bufferSize]byte)
}

// source reads frames from a connection. left bounds every read: no field reaches
// beyond its frame.
type source struct {
	conn    net.Conn
	buffers *buffers
	buf     *[bufferSize]byte // nil: nothing is buffered
	r, w    int               // buf[r:w] is what was read ahead
	left    int               // bytes of the frame that are not read yet
	intake  *intake
	held    atomic.Int64 // bytes that grow has gathered
	size    [4]byte      // of the frame, read while no buffer is held
}

// next waits for a frame and begins to read it.
func (s *source) next(limit int) error {
	s.rest()
	if s.buf == nil {
		if _, err := io.ReadFull(s.conn, s.size[:]); err != nil {
			return err
		}
		s.buf, s.r, s.w = s.buffers.get(), 0, 0
	} else {
		s.left = len(s.size)
		if err := s.full(s.size[:]); err != nil {
			return err
		}
	}
	n := int32(binary.BigEndian.Uint32(s.size[:]))
	if n < 8 || int(n) > limit {
		return malformed("a frame of %d bytes; accepted are 8 to %d", n, limit)
	}
	s.left = int(n)
	return nil
}

// buffered reports whether more was received than what was read.
func (s *source) buffered() bool { return s.r < s.w }

// rest gives the buffer back when it is empty.
func (s *source) rest() {
	if s.buf != nil && s.r == s.w {
		s.drop()
	}
}

func (s *source) drop() {
	if s.buf != nil {
		s.buffers.pool.Put(s.buf)
		s.buf, s.r, s.w = nil, 0, 0
	}
}

// peek returns the next n bytes of the frame, n <= bufferSize, without consuming
// them. They are valid until the next call.
func (s *source) peek(n int) ([]byte, error) {
	if n > s.left {
		return nil, malformed("it ends in the middle of a field")
	}
	if s.w-s.r < n {
		copy(s.buf[:], s.buf[s.r:s.w])
		s.r, s.w = 0, s.w-s.r
		got, err := io.ReadAtLeast(s.conn, s.buf[s.w:], n-s.w)
		s.w += got
		if err != nil {
			return nil, unexpected(err)
		}
	}
	return s.buf[s.r : s.r+n], nil
}

// take is peek that consumes.
func (s *source) take(n int) ([]byte, error) {
	b, err := s.peek(n)
	if err == nil {
		s.r += n
		s.left -= n
	}
	return b, err
}

// full reads exactly len(dst) bytes, all but what is buffered straight into dst.
func (s *source) full(dst []byte) error {
	if len(dst) > s.left {
		return malformed("it ends in the middle of a field")
	}
	s.left -= len(dst)
	n := copy(dst, s.buf[s.r:s.w])
	s.r += n
	dst = dst[n:]
	if len(dst) == 0 {
		return nil
	}
	// What is small comes with what follows it.
	if len(dst) < bufferSize/2 {
		s.r, s.w = 0, 0
		got, err := io.ReadAtLeast(s.conn, s.buf[:], len(dst))
		s.w = got
		if err != nil {
			return unexpected(err)
		}
		s.r = copy(dst, s.buf[:s.w])
		return nil
	}
	_, err := io.ReadFull(s.conn, dst)
	return unexpected(err)
}

// skip passes over n bytes.
func (s *source) skip(n int) error {
	for n > 0 {
		step := min(n, bufferSize)
		if _, err := s.take(step); err != nil {
			return err
		}
		n -= step
	}
	return nil
}

// body reads the rest of the frame. Memory is taken as bytes arrive, not as the
// frame's length says.
func (s *source) body() ([]byte, error) {
	return s.grow(s.left)
}

// grow reads n bytes into memory that grows with what has come. It counts as
// gathered until release.
func (s *source) grow(n int) ([]byte, error) {
	b := make([]byte, min(n, 32<<10))
	s.hold(len(b))
	for done := 0; ; {
		if err := s.full(b[done:]); err != nil {
			return nil, err
		}
		if done = len(b); done == n {
			return b, nil
		}
		grown := make([]byte, min(n, 2*done))
		s.hold(len(grown) - done)
		copy(grown, b)
		b = grown
	}
}

func (s *source) hold(n int) {
	s.held.Add(int64(n))
	s.intake.gather(n)
}

// release says that what was gathered has arrived and is somebody else's.
func (s *source) release() {
	s.intake.gather(int(-s.held.Swap(0)))
}

// batch reads n bytes of records into a Buf of the arena.
func (s *source) batch(arena *record.Arena, n int) (*record.Buf, error) {
	if n > s.left {
		return nil, malformed("records of %d bytes in a frame that has %d left", n, s.left)
	}
	if !s.intake.believe(n) {
		b, err := s.grow(n)
		if err != nil {
			return nil, err
		}
		buf := arena.Get(n)
		copy(buf.Bytes(), b)
		s.hold(-n)
		return buf, nil
	}
	defer s.intake.arrived(n)
	buf := arena.Get(n)
	if err := s.full(buf.Bytes()); err != nil {
		buf.Release()
		return nil, err
	}
	return buf, nil
}

func (s *source) int16() (int16, error) {
	b, err := s.take(2)
	if err != nil {
		return 0, err
	}
	return int16(binary.BigEndian.Uint16(b)), nil
}

func (s *source) int32() (int32, error) {
	b, err := s.take(4)
	if err != nil {
		return 0, err
	}
	return int32(binary.BigEndian.Uint32(b)), nil
}

// uvarint reads an unsigned varint of up to 32 bits.
func (s *source) uvarint() (int, error) {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b, err := s.take(1)
		if err != nil {
			return 0, err
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			if v > 1<<31 {
				break
			}
			return int(v), nil
		}
	}
	return 0, malformed("a length is above 2^31")
}

// count reads the length of an array, a string or bytes; -1: null.
func (s *source) count(flexible bool) (int, error) {
	if flexible {
		n, err := s.uvarint()
		return n - 1, err
	}
	n, err := s.int32()
	if n < -1 {
		return 0, malformed("a length is %d", n)
	}
	return int(n), err
}

// text reads a nullable string into memory that is valid until the next call.
func (s *source) text(flexible bool) (b []byte, null bool, err error) {
	var n int
	if flexible {
		n, err = s.count(true)
	} else {
		var short int16
		short, err = s.int16()
		n = int(short)
	}
	switch {
	case err != nil:
		return nil, false, err
	case n == -1:
		return nil, true, nil
	case n < 0 || n > bufferSize:
		return nil, false, malformed("a string of %d bytes; at most %d are accepted", n, bufferSize)
	}
	b, err = s.take(n)
	return b, false, err
}

// tags passes over the tagged fields of a flexible message, of which there may be
// most, and counts them.
func (s *source) tags(most int) (int, error) {
	n, err := s.uvarint()
	if err == nil && n > most {
		err = malformed("it has more than %d elements and tagged fields", maxItems)
	}
	for i := 0; err == nil && i < n; i++ {
		var size int
		if _, err = s.uvarint(); err != nil {
			break
		}
		if size, err = s.uvarint(); err == nil {
			err = s.skip(size)
		}
	}
	return n, err
}

// unexpected is the error of a frame that was cut off.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
