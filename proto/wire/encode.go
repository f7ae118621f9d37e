package wire

import (
	"runtime"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the standard codec
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/log/record"
)

// batchesField is the number of `repeated bytes batches` in every message.
const batchesField = 15

// Codec is a grpc encoding.CodecV2 under the name of the standard one, "proto".
// It is safe for concurrent use.
type Codec struct {
	arena    *record.Arena
	standard encoding.CodecV2
	small    smallFields
}

var _ encoding.CodecV2 = (*Codec)(nil)

// NewCodec makes a codec that receives batches into arena.
func NewCodec(arena *record.Arena) *Codec {
	return &Codec{arena: arena, standard: encoding.GetCodecV2("proto")}
}

// Name is "proto": on the wire it is protobuf.
func (c *Codec) Name() string { return "proto" }

// Marshal encodes v. Of a message with batches it takes a reference to each,
// given back when the transport frees the result.
func (c *Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *handedOver:
		defer m.Release()
		return marshal(m.Fetched)
	case outgoing:
		return marshal(m)
	default:
		return c.standard.Marshal(v)
	}
}

// marshal lays a message out as in the package comment. All bytes that are not
// referenced batches lie in one allocation, cut into pieces.
func marshal(m outgoing) (mem.BufferSlice, error) {
	fields, err := m.fields()
	if err != nil {
		return nil, err
	}
	size, large := proto.Size(fields), 0
	for i := range m.count() {
		b, _ := m.batch(i)
		size += protowire.SizeTag(batchesField) + protowire.SizeVarint(uint64(len(b)))
		if copied(b) {
			size += len(b)
		} else {
			large++
		}
	}
	// The size was just computed, and nobody changes the message meanwhile.
	head, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(make([]byte, 0, size), fields)
	if err != nil {
		return nil, err
	}
	out := make(mem.BufferSlice, 0, 2*large+1)
	pieces := make([]mem.SliceBuffer, 0, large+1)
	held := newLease(large)
	start := 0
	for i := range m.count() {
		b, buf := m.batch(i)
		head = protowire.AppendTag(head, batchesField, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(len(b)))
		if copied(b) {
			head = append(head, b...)
			continue
		}
		pieces = append(pieces, head[start:len(head):len(head)])
		start = len(head)
		out = append(out, &pieces[len(pieces)-1], held.hold(b, buf))
	}
	if start < len(head) {
		pieces = append(pieces, head[start:])
		out = append(out, &pieces[len(pieces)-1])
	}
	held.arm()
	return out, nil
}

// copied reports whether a batch is too small for a reference: grpc does not
// count references to buffers below its threshold, so it would never tell us
// that it is done with one.
func copied(b []byte) bool { return mem.IsBelowBufferPoolingThreshold(len(b)) }

// lease holds the references of one message that is being sent. It poses as the
// pool that the transport gives the buffers back to; the last one releases them.
type lease struct {
	left    atomic.Int32
	bytes   [][]byte
	bufs    []*record.Buf
	cleanup runtime.Cleanup
}

func newLease(n int) *lease {
	if n == 0 {
		return nil
	}
	l := &lease{bytes: make([][]byte, 0, n), bufs: make([]*record.Buf, 0, n)}
	l.left.Store(int32(n))
	return l
}

// hold takes a reference and returns the buffer for the transport.
func (l *lease) hold(b []byte, buf *record.Buf) mem.Buffer {
	if buf != nil {
		l.bufs = append(l.bufs, buf.Retain())
	}
	l.bytes = append(l.bytes, slices.Clip(b))
	return mem.NewBuffer(&l.bytes[len(l.bytes)-1], l)
}

// arm provides for a transport that forgets the message, see the package comment.
// A forgotten buffer is the last path to the lease, so the collector's finding it
// proves that nobody reads the bytes any more.
func (l *lease) arm() {
	if l != nil {
		l.cleanup = runtime.AddCleanup(l, releaseAll, l.bufs)
	}
}

func releaseAll(bufs []*record.Buf) {
	for _, b := range bufs {
		b.Release()
	}
}

// Get satisfies mem.BufferPool; nothing gets from a lease.
func (l *lease) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

// Put is called by the transport once for each buffer it is done with.
func (l *lease) Put(*[]byte) {
	if l.left.Add(-1) == 0 {
		l.cleanup.Stop()
		releaseAll(l.bufs)
		runtime.KeepAlive(l) // the cleanup must not run between Stop and here
	}
}
