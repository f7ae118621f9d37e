package wire

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ProduceServer implements ProduceService. Each request received, by Produce or
// by Recv, is the implementation's to release.
type ProduceServer interface {
	Produce(context.Context, *Produce) (*pb.ProduceResponse, error)
	ProduceStream(grpc.BidiStreamingServer[Produce, pb.ProduceResponse]) error
	InitProducer(context.Context, *pb.InitProducerRequest) (*pb.InitProducerResponse, error)
}

// FetchServer implements FetchService. The message that Fetch returns is released
// by package wire; with an error, Fetch returns none. Messages given to Send stay
// the implementation's to release.
type FetchServer interface {
	Fetch(context.Context, *pb.FetchRequest) (*Fetched, error)
	FetchStream(grpc.BidiStreamingServer[pb.FetchRequest, Fetched]) error
	ListOffsets(context.Context, *pb.ListOffsetsRequest) (*pb.ListOffsetsResponse, error)
}

// ClusterServer implements ClusterService. Messages given to Replicate's Send stay
// the implementation's to release.
//
//nolint:interfacebloat // one method for each of the protocol's
type ClusterServer interface {
	Hello(context.Context, *pb.HelloRequest) (*pb.HelloResponse, error)
	Join(context.Context, *pb.JoinRequest) (*pb.JoinResponse, error)
	Heartbeat(grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error
	Propose(context.Context, *pb.ProposeRequest) (*pb.ProposeResponse, error)
	ReadIndex(context.Context, *pb.ReadIndexRequest) (*pb.ReadIndexResponse, error)
	Progress(context.Context, *pb.ProgressRequest) (*pb.ProgressResponse, error)
	Replicate(grpc.BidiStreamingServer[pb.ReplicateRequest, Replicated]) error
}

// ReplicateServer is the leader's end of a replication stream, by gRPC or framed.
// Send and Recv may be called at the same time; a message given to Send stays the
// caller's to release.
type ReplicateServer interface {
	Context() context.Context
	Recv() (*pb.ReplicateRequest, error)
	Send(*Replicated) error
}

// RegisterProduce registers ProduceService on a server with ServerOptions.
func RegisterProduce(s grpc.ServiceRegistrar, impl ProduceServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.ProduceService_ServiceDesc.ServiceName,
		HandlerType: (*ProduceServer)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Produce", Handler: handleProduce},
			{MethodName: "InitProducer", Handler: unary(pb.ProduceService_InitProducer_FullMethodName, ProduceServer.InitProducer)},
		},
		Streams:  []grpc.StreamDesc{produceStream()},
		Metadata: pb.ProduceService_ServiceDesc.Metadata,
	}, impl)
}

// RegisterFetch registers FetchService on a server with ServerOptions.
func RegisterFetch(s grpc.ServiceRegistrar, impl FetchServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.FetchService_ServiceDesc.ServiceName,
		HandlerType: (*FetchServer)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Fetch", Handler: handleFetch},
			{MethodName: "ListOffsets", Handler: unary(pb.FetchService_ListOffsets_FullMethodName, FetchServer.ListOffsets)},
		},
		Streams:  []grpc.StreamDesc{fetchStream()},
		Metadata: pb.FetchService_ServiceDesc.Metadata,
	}, impl)
}

// RegisterCluster registers ClusterService on a server with ServerOptions.
func RegisterCluster(s grpc.ServiceRegistrar, impl ClusterServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.ClusterService_ServiceDesc.ServiceName,
		HandlerType: (*ClusterServer)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Hello", Handler: unary(pb.ClusterService_Hello_FullMethodName, ClusterServer.Hello)},
			{MethodName: "Join", Handler: unary(pb.ClusterService_Join_FullMethodName, ClusterServer.Join)},
			{MethodName: "Progress", Handler: unary(pb.ClusterService_Progress_FullMethodName, ClusterServer.Progress)},
			{MethodName: "Propose", Handler: unary(pb.ClusterService_Propose_FullMethodName, ClusterServer.Propose)},
			{MethodName: "ReadIndex", Handler: unary(pb.ClusterService_ReadIndex_FullMethodName, ClusterServer.ReadIndex)},
		},
		Streams: []grpc.StreamDesc{
			bidi("Heartbeat", ClusterServer.Heartbeat),
			replicateStream(),
		},
		Metadata: pb.ClusterService_ServiceDesc.Metadata,
	}, impl)
}

func produceStream() grpc.StreamDesc   { return bidi("ProduceStream", ProduceServer.ProduceStream) }
func fetchStream() grpc.StreamDesc     { return bidi("FetchStream", FetchServer.FetchStream) }
func replicateStream() grpc.StreamDesc { return bidi("Replicate", ClusterServer.Replicate) }

// bidi describes a method that streams both ways.
func bidi[S, Req, Res any](name string, method func(S, grpc.BidiStreamingServer[Req, Res]) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName: name,
		Handler: func(srv any, stream grpc.ServerStream) error {
			return method(srv.(S), &grpc.GenericServerStream[Req, Res]{ServerStream: stream})
		},
		ServerStreams: true,
		ClientStreams: true,
	}
}

// unary makes the handler of a method whose messages hold no batches.
func unary[S, Req, Res any](full string, method func(S, context.Context, *Req) (*Res, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := new(Req)
		if err := decode(in); err != nil {
			return nil, err
		}
		return intercept(ctx, srv, in, full, interceptor, func(ctx context.Context, req any) (any, error) {
			return method(srv.(S), ctx, req.(*Req))
		})
	}
}

func intercept(ctx context.Context, srv, in any, full string, interceptor grpc.UnaryServerInterceptor, handler grpc.UnaryHandler) (any, error) {
	if interceptor == nil {
		return handler(ctx, in)
	}
	return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: full}, handler)
}

// handleProduce hands the request over to the implementation, or releases it when
// an interceptor refuses before that.
//
//nolint:revive // the order of the parameters is grpc.MethodHandler's.
func handleProduce(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	in := new(Produce)
	if err := decode(in); err != nil {
		in.Release()
		return nil, err
	}
	handed := false
	out, err := intercept(ctx, srv, in, pb.ProduceService_Produce_FullMethodName, interceptor,
		func(ctx context.Context, req any) (any, error) {
			handed = true
			return srv.(ProduceServer).Produce(ctx, req.(*Produce))
		})
	if !handed {
		in.Release()
	}
	return out, err
}

// handleFetch marks the answer as the codec's to release, or releases it when an
// interceptor turns it into an error.
//
//nolint:revive // the order of the parameters is grpc.MethodHandler's.
func handleFetch(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	in := new(pb.FetchRequest)
	if err := decode(in); err != nil {
		return nil, err
	}
	var answer *Fetched
	out, err := intercept(ctx, srv, in, pb.FetchService_Fetch_FullMethodName, interceptor,
		func(ctx context.Context, req any) (any, error) {
			var err error
			answer, err = srv.(FetchServer).Fetch(ctx, req.(*pb.FetchRequest))
			return answer, err
		})
	if err != nil || out != any(answer) || answer == nil {
		if answer != nil {
			answer.Release()
		}
		return out, err
	}
	return &handedOver{answer}, nil
}

// handedOver is an answer that the codec releases after encoding it.
type handedOver struct{ *Fetched }
