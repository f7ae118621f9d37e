package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/log/record"
)

// framedPreface is what the side that dialled sends first on a framed connection.
// It has the length of [http2Preface], and nothing else in common with it.
const framedPreface = "PSK1"

// http2Preface is what every gRPC client sends first (RFC 9113 section 3.4: "PRI * HTTP/2.0").
const http2Preface = "PRI "

const (
	// lastFrame marks the frame whose message is the status that a stream ended with.
	lastFrame = 1 << 31
	// maxStatusBytes bounds that message.
	maxStatusBytes = 64 << 10
	// believed is how many bytes a length may announce and have memory laid out for
	// before they have arrived; beyond it memory grows with what came.
	believed = 1 << 20
	// gathered is up to which size a message is laid together for one write.
	gathered = 8 << 10
	// keptFields is how much memory for fields beside batches is kept for the next
	// message.
	keptFields = 256 << 10
	// readAhead is the size of the buffer between socket and decoder. What a batch
	// needs beyond it goes from the socket into the batch.
	readAhead = 32 << 10
	// dialledPatience and acceptedPatience are after how long a connection breaks that
	// nobody answers on. The follower opens another; to the leader it matters less.
	dialledPatience  = 3 * time.Second
	acceptedPatience = 10 * time.Second
	// farewell bounds the sending of the last frame.
	farewell = time.Second
)

// ErrTooLarge means that a message is larger than MaxMessageBytes.
var ErrTooLarge = fmt.Errorf("wire: message of more than %d bytes", MaxMessageBytes)

// Framed carries the messages of one stream over a connection of its own, without
// gRPC; see the package comment. One goroutine may send while another receives.
type Framed struct {
	conn  net.Conn
	codec *Codec

	in   *bufio.Reader
	body body   // of Recv: the message that is being read
	rest []byte // of Recv: fields beside the batches

	out  []byte      // of Send: all bytes that are not referenced batches
	cuts []int       // ends of the pieces of out before each referenced batch
	vec  net.Buffers // what is left to write
	vecs net.Buffers // memory of vec
}

// newFramed returns the stream on conn, whose preface has been sent or read. The
// owner closes conn, which ends both Send and Recv.
func newFramed(conn net.Conn, codec *Codec) *Framed {
	return &Framed{conn: conn, codec: codec, in: bufio.NewReaderSize(conn, readAhead)}
}

// Send writes a message, and returns when the connection has taken it all. Messages
// with batches stay the caller's to release.
func (f *Framed) Send(v any) error {
	var err error
	switch m := v.(type) {
	case outgoing:
		err = f.lay(m)
	case proto.Message:
		f.begin()
		f.out, err = proto.MarshalOptions{}.MarshalAppend(f.out, m)
	default:
		return fmt.Errorf("wire: %T cannot be sent", v)
	}
	if err != nil {
		return err
	}
	return f.write(0)
}

// begin makes room for the length of a frame.
func (f *Framed) begin() {
	f.out = append(f.out[:0], 0, 0, 0, 0)
	f.cuts = f.cuts[:0]
	clear(f.vecs)
	f.vecs = f.vecs[:0]
}

// lay encodes a message with batches: those that are large stay where they are.
func (f *Framed) lay(m outgoing) error {
	f.begin()
	fields, err := m.fields()
	if err != nil {
		return err
	}
	if f.out, err = (proto.MarshalOptions{}).MarshalAppend(f.out, fields); err != nil {
		return err
	}
	for i := range m.count() {
		b := m.batch(i).Bytes
		f.out = protowire.AppendTag(f.out, batchesField, protowire.BytesType)
		f.out = protowire.AppendVarint(f.out, uint64(len(b)))
		if len(b) <= gathered {
			f.out = append(f.out, b...)
			continue
		}
		f.cuts = append(f.cuts, len(f.out))
		f.vecs = append(f.vecs, nil, b)
	}
	start := 0
	for i, end := range f.cuts { // out moves no more
		f.vecs[2*i] = f.out[start:end]
		start = end
	}
	return nil
}

// write sends what was laid out, as one frame.
func (f *Framed) write(flags uint32) error {
	tail := f.out
	if n := len(f.cuts); n > 0 {
		tail = f.out[f.cuts[n-1]:]
	}
	if len(tail) > 0 {
		f.vecs = append(f.vecs, tail)
	}
	size := -4
	for _, b := range f.vecs {
		size += len(b)
	}
	if size > MaxMessageBytes {
		return fmt.Errorf("%w: %d", ErrTooLarge, size)
	}
	binary.BigEndian.PutUint32(f.out, uint32(size)|flags)
	if len(f.vecs) == 1 {
		_, err := f.conn.Write(f.out)
		return err
	}
	f.vec = f.vecs
	_, err := f.vec.WriteTo(f.conn)
	return err
}

// Recv reads the next message into v. A message with batches owns a reference to
// each afterwards; on an error it holds none. The error is io.EOF when the other
// side closed the connection between two messages, a status when it said why.
func (f *Framed) Recv(v any) error {
	length, err := f.header()
	if err != nil {
		return err
	}
	switch m := v.(type) {
	case incoming:
		m.Release()
		if err = f.split(m, length); err == nil {
			err = proto.Unmarshal(f.rest, m.fresh()) // it copies what it keeps
		}
		if err != nil {
			m.Release()
		}
		f.trim()
		return err
	case proto.Message:
		if f.rest, err = f.appendFrom(f.rest[:0], length); err != nil {
			return err
		}
		err = proto.Unmarshal(f.rest, m)
		f.trim()
		return err
	default:
		return fmt.Errorf("wire: %T cannot be received", v)
	}
}

// trim lets go of what a large message needed.
func (f *Framed) trim() {
	if cap(f.rest) > keptFields {
		f.rest = nil
	}
}

func (f *Framed) header() (int, error) {
	head, err := f.in.Peek(4)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	n := binary.BigEndian.Uint32(head)
	if _, err := f.in.Discard(4); err != nil {
		return 0, err
	}
	if n&lastFrame != 0 {
		return 0, f.last(n &^ lastFrame)
	}
	if n > MaxMessageBytes {
		return 0, fmt.Errorf("%w: %d", ErrTooLarge, n)
	}
	return int(n), nil
}

// last reads why the stream ended.
func (f *Framed) last(n uint32) error {
	if n > maxStatusBytes {
		return fmt.Errorf("%w: a status of %d bytes, the most is %d", ErrMalformed, n, maxStatusBytes)
	}
	b, err := f.appendFrom(nil, int(n))
	if err != nil {
		return err
	}
	m := status.New(codes.OK, "").Proto()
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	if err := status.ErrorProto(m); err != nil {
		return err
	}
	return io.EOF
}

// split reads a message of length bytes: its batches to m, every other field to
// f.rest.
func (f *Framed) split(m incoming, length int) error {
	f.body, f.rest = body{in: f.in, left: length}, f.rest[:0]
	for batches := 0; f.body.left > 0; {
		tag, err := f.body.varint()
		if err != nil {
			return err
		}
		number, kind := protowire.DecodeTag(tag)
		if number < protowire.MinValidNumber {
			return fmt.Errorf("%w: field number %d", ErrMalformed, tag>>3)
		}
		if number != batchesField || kind != protowire.BytesType {
			f.rest = protowire.AppendVarint(f.rest, tag)
			if err := f.keep(kind); err != nil {
				return err
			}
			continue
		}
		n, err := f.body.length()
		if err != nil {
			return err
		}
		if batches++; batches > MaxBatches {
			return ErrTooManyBatches
		}
		buf, err := f.batch(n)
		if err != nil {
			return err
		}
		m.add(buf)
	}
	return nil
}

// keep appends the value of a field to f.rest.
func (f *Framed) keep(kind protowire.Type) (err error) {
	n := 0
	switch kind {
	case protowire.VarintType:
		v, err := f.body.varint()
		f.rest = protowire.AppendVarint(f.rest, v)
		return err
	case protowire.Fixed32Type:
		n, err = f.body.take(4)
	case protowire.Fixed64Type:
		n, err = f.body.take(8)
	case protowire.BytesType:
		n, err = f.body.length()
		f.rest = protowire.AppendVarint(f.rest, uint64(n))
	default: // none of our messages has groups
		err = fmt.Errorf("%w: wire type %d", ErrMalformed, kind)
	}
	if err != nil {
		return err
	}
	f.rest, err = f.appendFrom(f.rest, n)
	return err
}

// batch reads n bytes into a buffer of the arena.
func (f *Framed) batch(n int) (*record.Buf, error) {
	buf := f.codec.arena.Get(min(n, believed))
	for have := 0; ; {
		if _, err := io.ReadFull(f.in, buf.Bytes()[have:]); err != nil {
			buf.Release()
			return nil, unexpected(err)
		}
		if have = buf.Len(); have == n {
			return buf, nil
		}
		larger := f.codec.arena.Get(min(n, 2*have))
		copy(larger.Bytes(), buf.Bytes())
		buf.Release()
		buf = larger
	}
}

// appendFrom appends n bytes from the connection to dst, which grows with them.
func (f *Framed) appendFrom(dst []byte, n int) ([]byte, error) {
	for n > 0 {
		step, from := min(n, believed), len(dst)
		dst = slices.Grow(dst, step)[:from+step]
		if _, err := io.ReadFull(f.in, dst[from:]); err != nil {
			return dst[:from], unexpected(err)
		}
		n -= step
	}
	return dst, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// body is what is left of a message on the connection.
type body struct {
	in   *bufio.Reader
	left int
	err  error // of ReadByte
}

// ReadByte is for binary.ReadUvarint.
func (b *body) ReadByte() (x byte, err error) {
	if b.left == 0 {
		b.err = fmt.Errorf("%w: it ends within a varint", ErrMalformed)
		return 0, b.err
	}
	b.left--
	x, err = b.in.ReadByte()
	b.err = unexpected(err)
	return x, b.err
}

// varint reads a base 128 varint of at most 64 bits.
func (b *body) varint() (uint64, error) {
	v, err := binary.ReadUvarint(b)
	if err != nil && b.err == nil {
		err = fmt.Errorf("%w: varint of more than 64 bits", ErrMalformed)
	}
	return v, err
}

// length reads a length prefix and takes so many bytes off the message.
func (b *body) length() (int, error) {
	n, err := b.varint()
	if err != nil {
		return 0, err
	}
	return b.take(n)
}

// take takes n bytes off the message, which the caller reads.
func (b *body) take(n uint64) (int, error) {
	if n > uint64(b.left) {
		return 0, fmt.Errorf("%w: length %d with %d bytes left", ErrMalformed, n, b.left)
	}
	b.left -= int(n)
	return int(n), nil
}

// end tells the other side why the stream ended, as a gRPC status (nil: no reason),
// as far as it listens. No Send may be under way or follow.
func (f *Framed) end(reason error) error {
	f.begin()
	var err error
	if f.out, err = (proto.MarshalOptions{}).MarshalAppend(f.out, status.Convert(reason).Proto()); err != nil {
		return err
	}
	if len(f.out) > maxStatusBytes {
		return f.end(status.Error(codes.Unknown, "the reason is too long to be told"))
	}
	if err := f.conn.SetWriteDeadline(time.Now().Add(farewell)); err != nil {
		return err
	}
	return f.write(lastFrame)
}

// tune makes a connection notice within patience that nobody answers any more,
// whether or not something is under way.
func tune(conn net.Conn, patience time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil // of a test
	}
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: patience, Interval: time.Second, Count: 3})
	if err != nil {
		return err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience/time.Millisecond))
	})
	return errors.Join(err, set)
}

// OpenFramed begins a framed stream on a connection that was just dialled. It
// closes the connection when ctx ends.
func OpenFramed(ctx context.Context, conn net.Conn, codec *Codec) (*Framed, error) {
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := tune(conn, dialledPatience)
	if err == nil {
		_, err = io.WriteString(conn, framedPreface)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return newFramed(conn, codec), nil
}
