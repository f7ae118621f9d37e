package wire

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// The calls below want a connection with DialOptions: another codec refuses their
// messages. Methods without batches are called with the generated clients, on the
// same connection.

// CallProduce calls ProduceService.Produce. The caller keeps its references to the
// batches of in.
func CallProduce(ctx context.Context, conn grpc.ClientConnInterface, in *Produce, opts ...grpc.CallOption) (*pb.ProduceResponse, error) {
	out := new(pb.ProduceResponse)
	if err := conn.Invoke(ctx, pb.ProduceService_Produce_FullMethodName, in, out, opts...); err != nil {
		return nil, err
	}
	return out, nil
}

// CallFetch calls FetchService.Fetch. The caller releases the answer.
func CallFetch(ctx context.Context, conn grpc.ClientConnInterface, in *pb.FetchRequest, opts ...grpc.CallOption) (*Fetched, error) {
	out := new(Fetched)
	if err := conn.Invoke(ctx, pb.FetchService_Fetch_FullMethodName, in, out, opts...); err != nil {
		out.Release() // a status may follow a whole answer
		return nil, err
	}
	return out, nil
}

// ProduceStream opens ProduceService.ProduceStream; ctx ends it.
func ProduceStream(ctx context.Context, conn grpc.ClientConnInterface, opts ...grpc.CallOption) (grpc.BidiStreamingClient[Produce, pb.ProduceResponse], error) {
	return open[Produce, pb.ProduceResponse](ctx, conn, produceStream(), pb.ProduceService_ProduceStream_FullMethodName, opts)
}

// FetchStream opens FetchService.FetchStream; ctx ends it. The caller releases
// each answer.
func FetchStream(ctx context.Context, conn grpc.ClientConnInterface, opts ...grpc.CallOption) (grpc.BidiStreamingClient[pb.FetchRequest, Fetched], error) {
	return open[pb.FetchRequest, Fetched](ctx, conn, fetchStream(), pb.FetchService_FetchStream_FullMethodName, opts)
}

// ReplicateStream opens ClusterService.Replicate; ctx ends it. The caller
// releases each message received.
func ReplicateStream(ctx context.Context, conn grpc.ClientConnInterface, opts ...grpc.CallOption) (grpc.BidiStreamingClient[pb.ReplicateRequest, Replicated], error) {
	return open[pb.ReplicateRequest, Replicated](ctx, conn, replicateStream(), pb.ClusterService_Replicate_FullMethodName, opts)
}

func open[Req, Res any](ctx context.Context, conn grpc.ClientConnInterface, desc grpc.StreamDesc, full string, opts []grpc.CallOption) (grpc.BidiStreamingClient[Req, Res], error) {
	stream, err := conn.NewStream(ctx, &desc, full, opts...)
	if err != nil {
		return nil, err
	}
	return &grpc.GenericClientStream[Req, Res]{ClientStream: stream}, nil
}
