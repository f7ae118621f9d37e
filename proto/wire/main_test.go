package wire_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server and a client on loopback, with an arena each.
type world struct {
	server, client *record.Arena
	impl           *services
	conn           *grpc.ClientConn
	listener       *cutListener
}

// cutListener can break its connections the hard way.
type cutListener struct {
	net.Listener
	conns chan net.Conn
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns <- c
	}
	return c, err
}

func newWorld(t *testing.T, opts ...grpc.ServerOption) *world {
	t.Helper()
	return newWorldWith(t, func(*grpc.Server) {}, opts...)
}

func newWorldWith(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) *world {
	t.Helper()
	w := &world{server: record.NewArena(64 << 20), client: record.NewArena(64 << 20)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.listener = &cutListener{l, make(chan net.Conn, 16)}
	s := grpc.NewServer(append(wire.ServerOptions(wire.NewCodec(w.server)), opts...)...)
	w.impl = &services{arena: w.server}
	wire.RegisterProduce(s, w.impl)
	wire.RegisterFetch(s, w.impl)
	wire.RegisterCluster(s, w.impl)
	register(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(w.listener) }()
	w.conn, err = grpc.NewClient(l.Addr().String(),
		append(wire.DialOptions(wire.NewCodec(w.client)), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := w.conn.Close(); status.Code(err) != codes.Canceled { // closed by the test
			require.NoError(t, err)
		}
		s.Stop()
		require.NoError(t, <-served)
		arenatest.Empty(t, w.server, "server")
		arenatest.Empty(t, w.client, "client")
	})
	return w
}

// reflecting is a connection to a server with the services and reflection.
func reflecting(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return newWorldWith(t, func(s *grpc.Server) { reflection.Register(s) }).conn
}

// batch makes a Buf of n bytes with content that tells batches apart.
func batch(a *record.Arena, n int, seed byte) *record.Buf {
	b := a.Get(n)
	for i := range b.Bytes() {
		b.Bytes()[i] = seed + byte(i) + byte(i>>8)
	}
	return b
}

func same(t *testing.T, want int, seed byte, got []byte) {
	t.Helper()
	require.Len(t, got, want)
	for i := range got {
		if got[i] != seed+byte(i)+byte(i>>8) {
			t.Fatalf("byte %d of %d differs", i, want)
		}
	}
}

// services answers with what the test put in.
type services struct {
	arena  *record.Arena
	answer []int // sizes of the batches that Fetch, FetchStream and Replicate send
	err    error
	sent   chan error // results of Send of the streams, when not nil
	check  func(*wire.Produce)
}

func (s *services) take(in *wire.Produce) *pb.ProduceResponse {
	defer in.Release()
	if s.check != nil {
		s.check(in)
	}
	out := &pb.ProduceResponse{CorrelationId: in.GetCorrelationId()}
	for _, b := range in.Batches {
		out.Results = append(out.Results, &pb.ProducePartitionResult{BaseOffset: int64(b.Len())})
	}
	return out
}

func (s *services) Produce(_ context.Context, in *wire.Produce) (*pb.ProduceResponse, error) {
	out := s.take(in)
	return out, s.err
}

func (s *services) ProduceStream(stream grpc.BidiStreamingServer[wire.Produce, pb.ProduceResponse]) error {
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(s.take(in)); err != nil {
			return err
		}
	}
}

func (s *services) InitProducer(context.Context, *pb.InitProducerRequest) (*pb.InitProducerResponse, error) {
	return &pb.InitProducerResponse{ProducerId: 7}, nil
}

func (s *services) slices() []record.Slice {
	var out []record.Slice
	for i, n := range s.answer {
		b := batch(s.arena, n, byte(i))
		out = append(out, record.SliceOf(b, 0, n))
		b.Release()
	}
	return out
}

func (s *services) Fetch(_ context.Context, in *pb.FetchRequest) (*wire.Fetched, error) {
	if s.err != nil {
		return nil, s.err
	}
	return &wire.Fetched{FetchResponse: &pb.FetchResponse{CorrelationId: in.GetCorrelationId()}, Batches: s.slices()}, nil
}

func (s *services) FetchStream(stream grpc.BidiStreamingServer[pb.FetchRequest, wire.Fetched]) error {
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		out, err := s.Fetch(stream.Context(), in)
		if err != nil {
			return err
		}
		err = stream.Send(out)
		out.Release()
		if s.sent != nil {
			s.sent <- err
		}
		if err != nil {
			return err
		}
	}
}

func (s *services) ListOffsets(context.Context, *pb.ListOffsetsRequest) (*pb.ListOffsetsResponse, error) {
	return &pb.ListOffsetsResponse{Results: []*pb.ListOffsetsResult{{Offset: 42}}}, nil
}

func (s *services) Hello(context.Context, *pb.HelloRequest) (*pb.HelloResponse, error) {
	return &pb.HelloResponse{NodeId: 3}, nil
}

func (s *services) Join(context.Context, *pb.JoinRequest) (*pb.JoinResponse, error) {
	return nil, status.Error(codes.FailedPrecondition, "a voter already")
}

func (s *services) Progress(context.Context, *pb.ProgressRequest) (*pb.ProgressResponse, error) {
	return &pb.ProgressResponse{}, nil
}

func (s *services) Propose(context.Context, *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	return &pb.ProposeResponse{Index: 9}, nil
}

func (s *services) ReadIndex(context.Context, *pb.ReadIndexRequest) (*pb.ReadIndexResponse, error) {
	return &pb.ReadIndexResponse{Index: 11}, nil
}

func (s *services) Heartbeat(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error {
	in, err := stream.Recv()
	if err != nil {
		return err
	}
	return stream.Send(&pb.HeartbeatResponse{Sequence: in.GetSequence()})
}

func (s *services) Replicate(stream grpc.BidiStreamingServer[pb.ReplicateRequest, wire.Replicated]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	out := &wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{Pushes: []*pb.ReplicaPush{{From: 1, To: 2}}}, Batches: s.slices()}
	defer out.Release()
	return stream.Send(out)
}
