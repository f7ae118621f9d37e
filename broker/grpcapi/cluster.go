package grpcapi

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// Members is the node's part in the cluster. Its errors are gRPC statuses.
type Members interface {
	Hello(ctx context.Context, req *pb.HelloRequest) (*pb.HelloResponse, error)
	Join(ctx context.Context, req *pb.JoinRequest) (*pb.JoinResponse, error)
	Heartbeat(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error
	HandlePropose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error)
}

// Replicas is the leader's side of replication.
type Replicas interface {
	Replicate(stream grpc.BidiStreamingServer[pb.ReplicateRequest, wire.Replicated]) error
}

// clusterService stands on the peer listener alone.
type clusterService struct {
	members  Members
	replicas Replicas
}

func (s *clusterService) Hello(ctx context.Context, req *pb.HelloRequest) (*pb.HelloResponse, error) {
	return s.members.Hello(ctx, req)
}

func (s *clusterService) Join(ctx context.Context, req *pb.JoinRequest) (*pb.JoinResponse, error) {
	return s.members.Join(ctx, req)
}

func (s *clusterService) Heartbeat(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error {
	return s.members.Heartbeat(stream)
}

func (s *clusterService) Propose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	return s.members.HandlePropose(ctx, req)
}

func (s *clusterService) Replicate(stream grpc.BidiStreamingServer[pb.ReplicateRequest, wire.Replicated]) error {
	return statusError(stream.Context(), s.replicas.Replicate(stream), nil)
}
