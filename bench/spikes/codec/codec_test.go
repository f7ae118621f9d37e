package codec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

const (
	batchBytes  = 64 << 10
	outstanding = 8 // requests under way on a stream
)

var messageBytes = []int{64 << 10, 256 << 10, 1 << 20}

// BenchmarkUnary has one caller that waits for each answer.
func BenchmarkUnary(b *testing.B) {
	each(b, func(b *testing.B, l link) {
		b.Helper()
		measure(b, func() {
			for b.Loop() {
				require.NoError(b, l.call(b.Context()))
			}
		})
	})
}

// BenchmarkBidi keeps eight requests under way on one stream.
func BenchmarkBidi(b *testing.B) {
	each(b, func(b *testing.B, l link) {
		b.Helper()
		send, receive, err := l.stream(b.Context())
		require.NoError(b, err)
		for range outstanding - 1 {
			require.NoError(b, send())
		}
		measure(b, func() {
			for b.Loop() {
				require.NoError(b, send())
				require.NoError(b, receive())
			}
		})
	})
}

// link is a connection that sends the same message again and again.
type link struct {
	call   func(context.Context) error
	stream func(context.Context) (send, receive func() error, err error)
}

func each(b *testing.B, run func(*testing.B, link)) {
	b.Helper()
	for _, n := range messageBytes {
		for _, kind := range []string{"plain", "wire"} {
			b.Run(fmt.Sprintf("%dKiB/%s", n>>10, kind), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				if kind == "plain" {
					run(b, plainLink(b, n))
				} else {
					run(b, wireLink(b, n))
				}
			})
		}
	}
}

// measure adds the CPU time of the process, both ends, to the benchmark's figures.
func measure(b *testing.B, loop func()) {
	b.Helper()
	before := cpuSeconds(b)
	loop()
	used := cpuSeconds(b) - before
	b.ReportMetric(used*1e9/float64(b.N), "cpu-ns/op")
}

func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// serve starts a server and returns a connection to it.
func serve(b *testing.B, server []grpc.ServerOption, client []grpc.DialOption, register func(*grpc.Server)) *grpc.ClientConn {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	s := grpc.NewServer(server...)
	register(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), append(client, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, conn.Close())
		s.Stop()
		require.NoError(b, <-served)
	})
	return conn
}

// plainLink uses the generated code with the windows of package wire.
func plainLink(b *testing.B, size int) link {
	b.Helper()
	conn := serve(
		b,
		[]grpc.ServerOption{
			grpc.InitialWindowSize(4 << 20), grpc.InitialConnWindowSize(16 << 20),
			grpc.MaxRecvMsgSize(wire.MaxMessageBytes),
		},
		[]grpc.DialOption{
			grpc.WithInitialWindowSize(4 << 20), grpc.WithInitialConnWindowSize(16 << 20), grpc.WithDisableRetry(),
		},
		func(s *grpc.Server) { pb.RegisterProduceServiceServer(s, plainServer{}) },
	)
	m := &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{TopicId: make([]byte, 16)}}}
	for range size / batchBytes {
		m.Batches = append(m.Batches, make([]byte, batchBytes))
	}
	c := pb.NewProduceServiceClient(conn)
	return link{
		call: func(ctx context.Context) error {
			_, err := c.Produce(ctx, m)
			return err
		},
		stream: func(ctx context.Context) (func() error, func() error, error) {
			s, err := c.ProduceStream(ctx)
			return func() error { return s.Send(m) }, func() error { _, err := s.Recv(); return err }, err
		},
	}
}

// wireLink uses package wire on both ends.
func wireLink(b *testing.B, size int) link {
	b.Helper()
	arena := record.NewArena(64 << 20)
	conn := serve(b, wire.ServerOptions(wire.NewCodec(arena)), wire.DialOptions(wire.NewCodec(arena)),
		func(s *grpc.Server) { wire.RegisterProduce(s, wireServer{}) })
	m := &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{TopicId: make([]byte, 16)}}}}
	for range size / batchBytes {
		m.Batches = append(m.Batches, arena.Get(batchBytes))
	}
	return link{
		call: func(ctx context.Context) error {
			_, err := wire.CallProduce(ctx, conn, m)
			return err
		},
		stream: func(ctx context.Context) (func() error, func() error, error) {
			s, err := wire.ProduceStream(ctx, conn)
			return func() error { return s.Send(m) }, func() error { _, err := s.Recv(); return err }, err
		},
	}
}

type plainServer struct {
	pb.UnimplementedProduceServiceServer
}

func (plainServer) Produce(context.Context, *pb.ProduceRequest) (*pb.ProduceResponse, error) {
	return &pb.ProduceResponse{}, nil
}

func (plainServer) ProduceStream(stream grpc.BidiStreamingServer[pb.ProduceRequest, pb.ProduceResponse]) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.Send(&pb.ProduceResponse{}); err != nil {
			return err
		}
	}
}

type wireServer struct{}

func (wireServer) Produce(_ context.Context, m *wire.Produce) (*pb.ProduceResponse, error) {
	m.Release()
	return &pb.ProduceResponse{}, nil
}

func (wireServer) ProduceStream(stream grpc.BidiStreamingServer[wire.Produce, pb.ProduceResponse]) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m.Release()
		if err := stream.Send(&pb.ProduceResponse{}); err != nil {
			return err
		}
	}
}

func (wireServer) InitProducer(context.Context, *pb.InitProducerRequest) (*pb.InitProducerResponse, error) {
	return &pb.InitProducerResponse{}, nil
}
