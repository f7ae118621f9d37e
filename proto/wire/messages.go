package wire

import (
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ErrBatchesTwice means that a message to be sent has bytes in the generated
// Batches field. They belong in the Batches field of the wire message.
var ErrBatchesTwice = errors.New("wire: the embedded message has batches of its own")

// Produce is a ProduceRequest with its batches, one RecordBatch each, in the
// order of its partitions.
type Produce struct {
	*pb.ProduceRequest
	notProto //nolint:unused // see there.
	// Batches shadows the generated field, which stays empty.
	Batches []*record.Buf
}

// Release gives the references to the batches back and forgets them.
func (m *Produce) Release() {
	for _, b := range m.Batches {
		b.Release()
	}
	m.Batches = nil
}

// Fetched is a FetchResponse with its batches, in the order of its results. Each
// Slice is one element of the field and counts as one batch: use record.Split on
// a run. A received Slice is the whole of its Buf.
type Fetched struct {
	*pb.FetchResponse
	notProto //nolint:unused // see there.
	// Delivery, when not nil, follows the message that is sent.
	Delivery *Delivery
	// Batches shadows the generated field, which stays empty.
	Batches []record.Slice
}

// Release gives the references to the batches back and forgets them.
func (m *Fetched) Release() {
	release(m.Batches)
	m.Batches = nil
}

// Replicated is a ReplicateResponse with its batches, in the order of its pushes.
// Each Slice is one element of the field and counts as one batch: use
// record.Split on a run. A received Slice is the whole of its Buf.
type Replicated struct {
	*pb.ReplicateResponse
	notProto //nolint:unused // see there.
	// Batches shadows the generated field, which stays empty.
	Batches []record.Slice
}

// Release gives the references to the batches back and forgets them.
func (m *Replicated) Release() {
	release(m.Batches)
	m.Batches = nil
}

func release(batches []record.Slice) {
	for i := range batches {
		batches[i].Release()
	}
}

// notProto makes the methods below ambiguous with those of the embedded message,
// so that a wire message is no proto.Message: the standard codec refuses it
// instead of sending it without its batches.
//
//nolint:unused // it works by being there.
type notProto struct{}

// ProtoMessage hides the embedded message's.
//
//nolint:unused // see notProto.
func (notProto) ProtoMessage() {}

// ProtoReflect hides the embedded message's.
//
//nolint:unused // see notProto.
func (notProto) ProtoReflect() {}

// outgoing is a message that can be sent by reference.
type outgoing interface {
	// fields returns the small fields.
	fields() (proto.Message, error)
	count() int
	// batch returns an element, which stays the message's.
	batch(i int) record.Slice
}

// incoming is a message that can be received into.
type incoming interface {
	// Release drops what the message holds.
	Release()
	// fresh replaces the small fields by empty ones and returns them.
	fresh() proto.Message
	// add takes over the reference to one element.
	add(b *record.Buf)
}

func (m *Produce) fields() (proto.Message, error) {
	if len(m.GetBatches()) > 0 {
		return nil, ErrBatchesTwice
	}
	return m.ProduceRequest, nil
}

func (m *Produce) count() int { return len(m.Batches) }

func (m *Produce) batch(i int) record.Slice { return m.Batches[i].Borrow() }

func (m *Produce) fresh() proto.Message {
	m.ProduceRequest = new(pb.ProduceRequest)
	return m.ProduceRequest
}

func (m *Produce) add(b *record.Buf) { m.Batches = append(m.Batches, b) }

func (m *Fetched) fields() (proto.Message, error) {
	if len(m.GetBatches()) > 0 {
		return nil, ErrBatchesTwice
	}
	return m.FetchResponse, nil
}

func (m *Fetched) count() int { return len(m.Batches) }

func (m *Fetched) batch(i int) record.Slice { return m.Batches[i] }

func (m *Fetched) fresh() proto.Message {
	m.FetchResponse = new(pb.FetchResponse)
	return m.FetchResponse
}

func (m *Fetched) add(b *record.Buf) { m.Batches = append(m.Batches, whole(b)) }

func (m *Replicated) fields() (proto.Message, error) {
	if len(m.GetBatches()) > 0 {
		return nil, ErrBatchesTwice
	}
	return m.ReplicateResponse, nil
}

func (m *Replicated) count() int { return len(m.Batches) }

func (m *Replicated) batch(i int) record.Slice { return m.Batches[i] }

func (m *Replicated) fresh() proto.Message {
	m.ReplicateResponse = new(pb.ReplicateResponse)
	return m.ReplicateResponse
}

func (m *Replicated) add(b *record.Buf) { m.Batches = append(m.Batches, whole(b)) }

// whole turns the reference to b into a Slice of all of it.
func whole(b *record.Buf) record.Slice {
	s := record.SliceOf(b, 0, b.Len())
	b.Release()
	return s
}
