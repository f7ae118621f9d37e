package wire_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// cut lays data out in buffers of the given sizes, as the transport does with
// frames; the last size repeats.
func cut(data []byte, sizes ...int) mem.BufferSlice {
	var out mem.BufferSlice
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if len(sizes) > 0 {
			n = min(n, max(sizes[min(i, len(sizes)-1)], 0))
		}
		if n == 0 { // an empty buffer, then all
			out = append(out, mem.SliceBuffer{})
			n = len(data)
		}
		out = append(out, mem.SliceBuffer(data[:n]))
		data = data[n:]
	}
	return out
}

// compare decodes data with the codec and with the generated code and fails when
// they disagree.
func compare(t require.TestingT, data []byte, sizes ...int) {
	arena := record.NewArena(1 << 20)
	codec := wire.NewCodec(arena)
	for _, v := range []struct {
		ours   any
		theirs proto.Message
		open   func(any) (proto.Message, [][]byte)
		batch  func(proto.Message) *[][]byte
	}{
		{
			&wire.Produce{}, &pb.ProduceRequest{},
			func(v any) (proto.Message, [][]byte) {
				var out [][]byte
				for _, b := range v.(*wire.Produce).Batches {
					out = append(out, b.Bytes())
				}
				return v.(*wire.Produce).ProduceRequest, out
			},
			func(m proto.Message) *[][]byte { return &m.(*pb.ProduceRequest).Batches },
		},
		{
			&wire.Fetched{}, &pb.FetchResponse{},
			func(v any) (proto.Message, [][]byte) {
				return v.(*wire.Fetched).FetchResponse, bytesOf(v.(*wire.Fetched).Batches)
			},
			func(m proto.Message) *[][]byte { return &m.(*pb.FetchResponse).Batches },
		},
		{
			&wire.Replicated{}, &pb.ReplicateResponse{},
			func(v any) (proto.Message, [][]byte) {
				return v.(*wire.Replicated).ReplicateResponse, bytesOf(v.(*wire.Replicated).Batches)
			},
			func(m proto.Message) *[][]byte { return &m.(*pb.ReplicateResponse).Batches },
		},
	} {
		ourErr := codec.Unmarshal(cut(data, sizes...), v.ours)
		theirErr := proto.Unmarshal(data, v.theirs)
		require.Equal(t, theirErr == nil, ourErr == nil, "ours: %v, generated: %v", ourErr, theirErr)
		if ourErr != nil {
			require.Zero(t, arena.InUse(), "memory is held after an error")
			continue
		}
		small, batches := v.open(v.ours)
		theirs := v.batch(v.theirs)
		require.Len(t, batches, len(*theirs))
		for i := range batches {
			require.Equal(t, string((*theirs)[i]), string(batches[i]))
		}
		*theirs = nil
		require.True(t, proto.Equal(v.theirs, small), "%v\n%v", v.theirs, small)
		v.ours.(interface{ Release() }).Release()
		require.Zero(t, arena.InUse())
	}
}

func bytesOf(slices []record.Slice) (out [][]byte) {
	for _, s := range slices {
		out = append(out, s.Bytes)
	}
	return out
}

// seeds are messages with the features that the format allows.
func seeds() [][]byte {
	small, err := proto.Marshal(&pb.ProduceRequest{
		Acks: pb.Acks_ACKS_ALL, TimeoutMs: 7, CorrelationId: math.MaxUint64,
		Partitions: []*pb.ProducePartition{{Topic: "a", Records: []*pb.Record{{Key: []byte("k")}}}, {Partition: 3}},
	})
	if err != nil {
		panic(err)
	}
	batch := func(b []byte, n int) []byte {
		b = protowire.AppendTag(b, 15, protowire.BytesType)
		return protowire.AppendBytes(b, make([]byte, n))
	}
	group := protowire.AppendTag(nil, 20, protowire.StartGroupType)
	group = protowire.AppendTag(group, 1, protowire.VarintType)
	group = protowire.AppendVarint(group, 300)
	group = protowire.AppendTag(group, 20, protowire.EndGroupType)
	varint15 := protowire.AppendVarint(protowire.AppendTag(nil, 15, protowire.VarintType), 9)
	join := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	return [][]byte{
		{},
		small,
		batch(small, 100),
		join(batch(nil, 3), small, batch(nil, 0), small, batch(nil, 2000)),               // any order, repeated
		join(group, batch(nil, 5), group, small, batch(nil, 5)),                          // unknown groups
		join(varint15, batch(nil, 70)),                                                   // another wire type
		join(protowire.AppendFixed32(protowire.AppendTag(nil, 99, 5), 1), batch(nil, 1)), // unknown fields
		join(protowire.AppendFixed64(protowire.AppendTag(nil, 99, 1), 1), batch(nil, 1)), //
		{0xfa, 0x80, 0x00, 0x02, 1, 2},                                                   // a tag longer than needed
		{0x7a, 0x82, 0x80, 0x80, 0x00, 1, 2},                                             // a length longer than needed
		{0x7a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1},            // 2^64-1 bytes
		{0x7a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},               // more than 64 bits
		{0x7a, 0x05, 1, 2}, // shorter than it says
		{0x7c},
		{0x7b, 0x01},
		{0x7e},
		{0x00, 0x00},
		{0x7a},
		{0x7d, 1, 2},
		{0x79, 1, 2, 3}, // ends of groups, bad types, cut values
		protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber+1)<<3),    // field number too large
		join(batch(nil, 70), []byte{0x1a, 0x03, 0x12, 0x01, 0xff}),            // a string that is not UTF-8
		append(protowire.AppendVarint(nil, math.MaxUint64), batch(nil, 1)...), //
	}
}

func TestCodecAgreesWithGeneratedCode(t *testing.T) {
	for _, seed := range seeds() {
		for _, size := range []int{1, 2, 3, 7, 1 << 20} {
			compare(t, seed, size)
		}
		for n := range len(seed) {
			compare(t, seed[:n], 2)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed, uint8(1), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, first, size uint8) {
		compare(t, data, int(first), int(size)+1)
	})
}

func TestMarshalIsTheGeneratedEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		arena := record.NewArena(1 << 20)
		codec := wire.NewCodec(arena)
		m := &wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{Pushes: []*pb.ReplicaPush{{
			TopicId: rapid.SliceOf(rapid.Byte()).Draw(t, "id"), From: rapid.Int64().Draw(t, "from"),
		}}}}
		plain := proto.CloneOf(m.ReplicateResponse)
		for i := range rapid.IntRange(0, 6).Draw(t, "batches") {
			n := rapid.SampledFrom([]int{0, 1, 100, 1024, 1025, 5000}).Draw(t, "size")
			b := batch(arena, n, byte(i))
			m.Batches = append(m.Batches, record.SliceOf(b, n/2, n))
			plain.Batches = append(plain.Batches, b.Bytes()[n/2:])
			b.Release()
		}
		got, err := codec.Marshal(m)
		require.NoError(t, err)
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(plain)
		require.NoError(t, err)
		require.Equal(t, want, got.Materialize())
		compare(t, want, rapid.IntRange(1, 100).Draw(t, "frame"))
		m.Release()
		got.Free()
		require.Zero(t, arena.InUse())
	})
}

func TestMarshalRefusesBatchesTwice(t *testing.T) {
	codec := wire.NewCodec(record.NewArena(0))
	for _, m := range []any{
		&wire.Produce{ProduceRequest: &pb.ProduceRequest{Batches: [][]byte{{1}}}},
		&wire.Fetched{FetchResponse: &pb.FetchResponse{Batches: [][]byte{{1}}}},
		&wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{Batches: [][]byte{{1}}}},
	} {
		_, err := codec.Marshal(m)
		require.ErrorIs(t, err, wire.ErrBatchesTwice)
	}
}

func TestMarshalWithoutSmallFields(t *testing.T) {
	codec := wire.NewCodec(record.NewArena(0))
	data, err := codec.Marshal(&wire.Produce{})
	require.NoError(t, err)
	require.Zero(t, data.Len())
	var m wire.Produce
	require.NoError(t, codec.Unmarshal(data, &m))
	require.NotNil(t, m.ProduceRequest)
}

func TestALengthIsNotBelieved(t *testing.T) {
	arena := record.NewArena(0)
	codec := wire.NewCodec(arena)
	data := binary.AppendUvarint([]byte{0x7a}, 60<<20)
	allocated := testing.AllocsPerRun(10, func() {
		var m wire.Produce
		require.ErrorIs(t, codec.Unmarshal(cut(data), &m), wire.ErrMalformed)
	})
	require.Less(t, allocated, 50.0)
	require.Zero(t, arena.InUse())
}

func TestBatchCountIsBounded(t *testing.T) {
	arena := record.NewArena(0)
	codec := wire.NewCodec(arena)
	data := make([]byte, 0, 2*(wire.MaxBatches+1))
	for range wire.MaxBatches + 1 {
		data = append(data, 0x7a, 0)
	}
	var m wire.Produce
	require.NoError(t, codec.Unmarshal(cut(data[2:]), &m))
	require.Len(t, m.Batches, wire.MaxBatches)
	require.ErrorIs(t, codec.Unmarshal(cut(data), &m), wire.ErrTooManyBatches)
	require.Zero(t, arena.InUse())
}

func TestUnmarshalReplacesWhatWasThere(t *testing.T) {
	arena := record.NewArena(1 << 20)
	codec := wire.NewCodec(arena)
	var m wire.Fetched
	for range 2 {
		require.NoError(t, codec.Unmarshal(cut(append([]byte{0x08, 1, 0x7a, 100}, make([]byte, 100)...), 9), &m))
		require.Len(t, m.Batches, 1)
	}
	m.Release()
	m.Release() // nothing is left to release
	require.Zero(t, arena.InUse())
}

func TestReceiveAllocations(t *testing.T) {
	arena := record.NewArena(8 << 20)
	codec := wire.NewCodec(arena)
	data := append([]byte{0x20, 1}, protowire.AppendBytes([]byte{0x7a}, make([]byte, 100_000))...)
	frames := cut(data, 16384)
	var m wire.Produce
	perMessage := testing.AllocsPerRun(100, func() {
		require.NoError(t, codec.Unmarshal(frames, &m))
		m.Release()
	})
	// The small message, the list of batches, the Buf.
	require.LessOrEqual(t, perMessage, 3.0)
}

func TestSendAllocations(t *testing.T) {
	arena := record.NewArena(8 << 20)
	codec := wire.NewCodec(arena)
	m := &wire.Produce{ProduceRequest: &pb.ProduceRequest{CorrelationId: 1}}
	for i := range 8 {
		m.Batches = append(m.Batches, batch(arena, 10_000, byte(i)))
	}
	perMessage := testing.AllocsPerRun(100, func() {
		out, err := codec.Marshal(m)
		require.NoError(t, err)
		out.Free()
	})
	// Per message, whatever the number of batches: small fields and prefixes, the
	// pieces, the list, the lease with its two lists and its cleanup.
	require.LessOrEqual(t, perMessage, 10.0)
	m.Release()
	require.Zero(t, arena.InUse())
}

// What is copied into the message is memory too that a peer who takes nothing holds.
func TestCopiedBatchesCountUntilTheyAreSent(t *testing.T) {
	arena := record.NewArena(8 << 20)
	codec := wire.NewCodec(arena)
	m := &wire.Fetched{FetchResponse: &pb.FetchResponse{}}
	for i := range 100 {
		b := batch(arena, 500, byte(i))
		m.Batches = append(m.Batches, record.PinOf(b, 0, 500))
		b.Release()
	}
	large := batch(arena, 5000, 1)
	m.Batches = append(m.Batches, record.PinOf(large, 0, 5000))
	footprint := large.Footprint()
	large.Release()
	out, err := codec.Marshal(m)
	require.NoError(t, err)
	m.Release()
	require.GreaterOrEqual(t, arena.Pinned(), footprint+100*500, "the copies, and the large batch as a reader's")
	require.Less(t, arena.Pinned(), footprint+100*510)
	out.Free()
	require.Zero(t, arena.Pinned())
	require.Zero(t, arena.InUse())
}
