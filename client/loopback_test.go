package client

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// sinkhole is a broker that takes batches and forgets them at once, to measure
// what the client alone can do.
type sinkhole struct {
	wire.ProduceServer
	address    string
	partitions int32
}

func (s *sinkhole) ProduceStream(stream grpc.BidiStreamingServer[wire.Produce, pb.ProduceResponse]) error {
	for {
		req, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		resp := &pb.ProduceResponse{CorrelationId: req.GetCorrelationId()}
		for _, p := range req.GetPartitions() {
			resp.Results = append(resp.Results, &pb.ProducePartitionResult{Topic: p.GetTopic(), Partition: p.GetPartition(), LogAppendTimeMs: -1})
		}
		req.Release()
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// BenchmarkLoopback produces 100-byte records to a broker that forgets them, in
// this process, over TCP.
func BenchmarkLoopback(b *testing.B) {
	ln, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	require.NoError(b, err)
	srv := grpc.NewServer(wire.ServerOptions(wire.NewCodec(record.NewArena(64 << 20)))...)
	s := &sinkhole{address: ln.Addr().String(), partitions: 6}
	wire.RegisterProduce(srv, s)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	defer func() {
		srv.Stop()
		require.NoError(b, <-served)
	}()
	cl, err := New([]string{s.address})
	require.NoError(b, err)
	defer func() { require.NoError(b, cl.Close()) }()
	snap := &snapshot{taken: time.Now(), brokers: map[int32]string{0: s.address}, topics: map[string]*topicMeta{
		"t": {id: [16]byte{1}, parts: make([]partMeta, s.partitions)},
	}}
	cl.meta.snap.Store(snap)
	p, err := cl.NewProducer(WithoutIdempotence(), WithAcks(AcksNone))
	require.NoError(b, err)
	rec := &Record{Topic: "t", Value: make([]byte, 100), Timestamp: time.Now()}
	b.SetBytes(100)
	b.ReportAllocs()
	for b.Loop() {
		p.Produce(b.Context(), rec, nil)
	}
	require.NoError(b, p.Close(b.Context()))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrec/s")
}
