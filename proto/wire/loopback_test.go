package wire_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// sizes are around the threshold of copying, the frame size and beyond a window.
var sizes = []int{0, 1, 61, 1023, 1024, 1025, 16383, 16384, 65536, 1 << 20, 5 << 20}

func request(a *record.Arena) *wire.Produce {
	m := &wire.Produce{ProduceRequest: &pb.ProduceRequest{
		CorrelationId: 5,
		Partitions:    []*pb.ProducePartition{{Topic: "t", Partition: 1, BatchCount: uint32(len(sizes))}},
	}}
	for i, n := range sizes {
		m.Batches = append(m.Batches, batch(a, n, byte(i)))
	}
	return m
}

func checkRequest(t *testing.T) func(*wire.Produce) {
	t.Helper()
	return func(m *wire.Produce) {
		if len(m.Batches) != len(sizes) || m.GetPartitions()[0].GetTopic() != "t" {
			t.Errorf("%d batches of topic %q", len(m.Batches), m.GetPartitions()[0].GetTopic())
			return
		}
		for i, n := range sizes {
			same(t, n, byte(i), m.Batches[i].Bytes())
		}
	}
}

func TestProduceUnary(t *testing.T) {
	w := newWorld(t)
	w.impl.check = checkRequest(t)
	in := request(w.client)
	out, err := wire.CallProduce(t.Context(), w.conn, in)
	require.NoError(t, err)
	require.EqualValues(t, 5, out.GetCorrelationId())
	require.Len(t, out.GetResults(), len(sizes))
	in.Release()
}

func TestProduceStreamReleasedRightAfterSend(t *testing.T) {
	w := newWorld(t)
	w.impl.check = checkRequest(t)
	stream, err := wire.ProduceStream(t.Context(), w.conn)
	require.NoError(t, err)
	for range 5 {
		in := request(w.client)
		require.NoError(t, stream.Send(in))
		in.Release()
		// Reusing the memory at once shows a reference that was given back too early.
		scribble := batch(w.client, 5<<20, 99)
		_, err := stream.Recv()
		require.NoError(t, err)
		scribble.Release()
	}
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.ErrorIs(t, err, io.EOF)
}

func TestFetchUnaryAnswerIsReleasedByTheCodec(t *testing.T) {
	w := newWorld(t)
	w.impl.answer = sizes
	out, err := wire.CallFetch(t.Context(), w.conn, &pb.FetchRequest{CorrelationId: 8})
	require.NoError(t, err)
	require.EqualValues(t, 8, out.GetCorrelationId())
	require.Len(t, out.Batches, len(sizes))
	for i, n := range sizes {
		same(t, n, byte(i), out.Batches[i].Bytes)
		require.Len(t, out.Batches[i].Buf().Bytes(), n)
		require.Equal(t, 1, out.Batches[i].Buf().Refs())
	}
	out.Release()
	arenatest.Empty(t, w.server, "server")
}

func TestFetchStreamAndReplicate(t *testing.T) {
	w := newWorld(t)
	w.impl.answer = sizes
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fetch, err := wire.FetchStream(ctx, w.conn)
	require.NoError(t, err)
	require.NoError(t, fetch.Send(&pb.FetchRequest{}))
	out, err := fetch.Recv()
	require.NoError(t, err)
	require.Len(t, out.Batches, len(sizes))
	out.Release()

	replicate, err := wire.ReplicateStream(ctx, w.conn)
	require.NoError(t, err)
	require.NoError(t, replicate.Send(&pb.ReplicateRequest{}))
	push, err := replicate.Recv()
	require.NoError(t, err)
	require.EqualValues(t, 2, push.GetPushes()[0].GetTo())
	for i, n := range sizes {
		same(t, n, byte(i), push.Batches[i].Bytes)
	}
	push.Release()
}

func TestMessagesWithoutBatches(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id, err := pb.NewProduceServiceClient(w.conn).InitProducer(ctx, &pb.InitProducerRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 7, id.GetProducerId())
	offsets, err := pb.NewFetchServiceClient(w.conn).ListOffsets(ctx, &pb.ListOffsetsRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 42, offsets.GetResults()[0].GetOffset())
	cluster := pb.NewClusterServiceClient(w.conn)
	hello, err := cluster.Hello(ctx, &pb.HelloRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 3, hello.GetNodeId())
	_, err = cluster.Join(ctx, &pb.JoinRequest{})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	proposed, err := cluster.Propose(ctx, &pb.ProposeRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 9, proposed.GetIndex())
	read, err := cluster.ReadIndex(ctx, &pb.ReadIndexRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 11, read.GetIndex())
	_, err = cluster.Progress(ctx, &pb.ProgressRequest{})
	require.NoError(t, err)
	beat, err := cluster.Heartbeat(ctx)
	require.NoError(t, err)
	require.NoError(t, beat.Send(&pb.HeartbeatRequest{Sequence: 4}))
	reply, err := beat.Recv()
	require.NoError(t, err)
	require.EqualValues(t, 4, reply.GetSequence())
	_, err = beat.Recv()
	require.ErrorIs(t, err, io.EOF)
}

// A client of another language has the generated code and the standard codec.
func TestStandardClient(t *testing.T) {
	w := newWorld(t)
	w.impl.answer = sizes
	w.impl.check = checkRequest(t)
	conn, err := grpc.NewClient(w.conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxMessageBytes)))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	in := request(record.NewArena(0))
	plain := proto.CloneOf(in.ProduceRequest)
	for _, b := range in.Batches {
		plain.Batches = append(plain.Batches, b.Bytes())
	}
	_, err = pb.NewProduceServiceClient(conn).Produce(t.Context(), plain)
	require.NoError(t, err)
	out, err := pb.NewFetchServiceClient(conn).Fetch(t.Context(), &pb.FetchRequest{})
	require.NoError(t, err)
	for i, n := range sizes {
		same(t, n, byte(i), out.GetBatches()[i])
	}
	_, err = wire.CallProduce(t.Context(), conn, in)
	require.ErrorContains(t, err, "want proto.Message", "the standard codec must refuse, not drop, the batches")
}

func TestReflectionShowsTheRealServices(t *testing.T) {
	s := grpc.NewServer()
	impl := &services{}
	wire.RegisterProduce(s, impl)
	wire.RegisterFetch(s, impl)
	wire.RegisterCluster(s, impl)
	for _, name := range []string{"penstock.v1.ProduceService", "penstock.v1.FetchService", "penstock.v1.ClusterService"} {
		info, ok := s.GetServiceInfo()[name]
		require.True(t, ok, name)
		require.NotEmpty(t, info.Metadata)
	}
	require.Len(t, s.GetServiceInfo()["penstock.v1.ClusterService"].Methods, len(pb.ClusterService_ServiceDesc.Methods)+len(pb.ClusterService_ServiceDesc.Streams))
	s.Stop()
}

func TestReflectionOverTheCodec(t *testing.T) {
	conn := reflecting(t)
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "penstock.v1.FetchService"},
	}))
	reply, err := stream.Recv()
	require.NoError(t, err)
	files := reply.GetFileDescriptorResponse().GetFileDescriptorProto()
	require.NotEmpty(t, files)
	var file descriptorpb.FileDescriptorProto
	require.NoError(t, proto.Unmarshal(files[0], &file))
	require.Equal(t, "FetchService", file.GetService()[0].GetName())
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.ErrorIs(t, err, io.EOF)
}

// An interceptor that refuses before, or after, the handler must leak nothing.
func TestInterceptorsRefuse(t *testing.T) {
	refusal := status.Error(codes.PermissionDenied, "no")
	before := func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) { return nil, refusal }
	after := func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if _, err := next(ctx, in); err != nil {
			return nil, err
		}
		return nil, refusal
	}
	for name, interceptor := range map[string]grpc.UnaryServerInterceptor{"before": before, "after": after} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, grpc.UnaryInterceptor(interceptor))
			w.impl.answer = sizes
			in := request(w.client)
			_, err := wire.CallProduce(t.Context(), w.conn, in)
			require.Equal(t, codes.PermissionDenied, status.Code(err))
			in.Release()
			_, err = wire.CallFetch(t.Context(), w.conn, &pb.FetchRequest{})
			require.Equal(t, codes.PermissionDenied, status.Code(err))
		})
	}
}

func TestHandlerFails(t *testing.T) {
	w := newWorld(t)
	w.impl.err = errors.New("broken")
	in := request(w.client)
	_, err := wire.CallProduce(t.Context(), w.conn, in)
	require.ErrorContains(t, err, "broken")
	in.Release()
	_, err = wire.CallFetch(t.Context(), w.conn, &pb.FetchRequest{})
	require.ErrorContains(t, err, "broken")
}

func TestSendAfterTheStreamEnded(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := wire.ProduceStream(ctx, w.conn)
	require.NoError(t, err)
	cancel()
	for {
		in := request(w.client)
		err := stream.Send(in)
		in.Release()
		if err != nil {
			break
		}
	}
}

func TestTooLargeMessageKeepsNothing(t *testing.T) {
	w := newWorld(t)
	in := &wire.Produce{ProduceRequest: &pb.ProduceRequest{}, Batches: []*record.Buf{w.client.Get(wire.MaxMessageBytes)}}
	_, err := wire.CallProduce(t.Context(), w.conn, in)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	in.Release()
}

// A peer that stops reading leaves messages queued in the transport; then the
// connection breaks. grpc forgets them, the codec must not.
func TestBrokenConnectionGivesReferencesBack(t *testing.T) {
	for _, cut := range []string{"server", "client"} {
		t.Run(cut, func(t *testing.T) {
			w := newWorld(t)
			w.impl.answer = []int{6 << 20, 6 << 20}
			w.impl.sent = make(chan error, 100)
			stream, err := wire.FetchStream(t.Context(), w.conn)
			require.NoError(t, err)
			for range 3 {
				require.NoError(t, stream.Send(&pb.FetchRequest{}))
			}
			require.NoError(t, <-w.impl.sent) // queued, and larger than the window
			require.NotZero(t, w.server.InUse())
			if cut == "server" {
				require.NoError(t, (<-w.listener.conns).Close())
			} else {
				require.NoError(t, w.conn.Close())
			}
			require.Error(t, <-w.impl.sent)
			arenatest.Empty(t, w.server, "server")
		})
	}
}
