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
		return c.marshal(m.Fetched)
	case outgoing:
		return c.marshal(m)
	default:
		return c.standard.Marshal(v)
	}
}

// marshal lays a message out as in the package comment. All bytes that are not
// referenced batches lie in one allocation, cut into pieces. The arena counts it
// until the transport is done: a peer that takes nothing keeps it too.
func (c *Codec) marshal(m outgoing) (mem.BufferSlice, error) {
	fields, err := m.fields()
	if err != nil {
		return nil, err
	}
	size, large := proto.Size(fields), 0
	for i := range m.count() {
		b := m.batch(i).Bytes
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
	held := newLease(large, c.arena)
	start := 0
	for i := range m.count() {
		s := m.batch(i)
		head = protowire.AppendTag(head, batchesField, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(len(s.Bytes)))
		if copied(s.Bytes) {
			head = append(head, s.Bytes...)
			continue
		}
		out = append(out, held.piece(head[start:len(head):len(head)]), held.batch(s))
		start = len(head)
	}
	if start < len(head) {
		out = append(out, held.piece(head[start:len(head):len(head)]))
	}
	if f, ok := m.(*Fetched); ok {
		held.delivery = f.Delivery
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
	buffers int               // that the transport will give back
	bytes   [][]byte          // what they point at
	small   []mem.SliceBuffer // pieces that the transport does not give back
	holding
	delivery *Delivery
	cleanup  runtime.Cleanup
}

// holding is what a lease gives back in the end.
type holding struct {
	slices []record.Slice
	arena  *record.Arena
	heap   int64 // bytes beside the slices, counted in arena
}

func newLease(large int, arena *record.Arena) *lease {
	return &lease{
		bytes: make([][]byte, 0, 2*large+1), small: make([]mem.SliceBuffer, 0, large+1),
		holding: holding{arena: arena, slices: make([]record.Slice, 0, large)},
	}
}

// batch takes a reference and returns the buffer for the transport.
func (l *lease) batch(s record.Slice) mem.Buffer {
	l.slices = append(l.slices, s.Retain())
	return l.buffer(slices.Clip(s.Bytes))
}

// piece returns the buffer for bytes that belong to the message alone.
func (l *lease) piece(b []byte) mem.Buffer {
	if copied(b) {
		l.small = append(l.small, b)
		return &l.small[len(l.small)-1]
	}
	l.heap += int64(len(b))
	return l.buffer(b)
}

func (l *lease) buffer(b []byte) mem.Buffer {
	l.bytes = append(l.bytes, b)
	l.buffers++
	return mem.NewBuffer(&l.bytes[len(l.bytes)-1], l)
}

// arm begins the lease, and provides for a transport that forgets the message, see
// the package comment. A forgotten buffer is the last path to the lease, so the
// collector's finding it proves that nobody reads the bytes any more.
func (l *lease) arm() {
	if l.buffers == 0 {
		return
	}
	if l.heap > 0 {
		l.arena.Charge(l.heap)
	}
	l.left.Store(int32(l.buffers))
	l.delivery.sent(l.buffers)
	l.cleanup = runtime.AddCleanup(l, giveBack, l.holding)
}

func giveBack(h holding) {
	for i := range h.slices {
		h.slices[i].Release()
	}
	if h.heap > 0 {
		h.arena.Charge(-h.heap)
	}
}

// Get satisfies mem.BufferPool; nothing gets from a lease.
func (l *lease) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

// Put is called by the transport once for each buffer it is done with.
func (l *lease) Put(*[]byte) {
	l.delivery.moved()
	if l.left.Add(-1) == 0 {
		l.cleanup.Stop()
		giveBack(l.holding)
		runtime.KeepAlive(l) // the cleanup must not run between Stop and here
	}
}
