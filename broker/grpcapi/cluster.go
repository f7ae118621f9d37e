package grpcapi

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// Members is the node's part in the cluster. Its errors are gRPC statuses.
type Members interface {
	Hello(ctx context.Context, req *pb.HelloRequest) (*pb.HelloResponse, error)
	Join(ctx context.Context, req *pb.JoinRequest) (*pb.JoinResponse, error)
	Heartbeat(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error
	HandlePropose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error)
	HandleReadIndex(ctx context.Context, req *pb.ReadIndexRequest) (*pb.ReadIndexResponse, error)
}

// Replicas is the broker's side of what brokers tell each other about partitions.
type Replicas interface {
	Replicate(stream wire.ReplicateServer) error
	// Progress takes what the leaders on another node tell coordinators.
	Progress(node int32, partitions []api.PartitionProgress)
}

// PeerDoor is ClusterService, which stands on the peer listener alone. It serves
// before there is a cluster or a broker to answer, for nodes that start together
// need each other's hello: until a part is there, calls to it are told to come
// back.
type PeerDoor struct {
	members  atomic.Pointer[Members]
	replicas atomic.Pointer[Replicas]
}

// OpenMembers begins to serve all but replication.
func (d *PeerDoor) OpenMembers(m Members) { d.members.Store(&m) }

// OpenReplicas begins to serve replication and progress.
func (d *PeerDoor) OpenReplicas(r Replicas) { d.replicas.Store(&r) }

func starting() error { return status.Error(codes.Unavailable, "this node is starting") }

// Hello implements ClusterService.
func (d *PeerDoor) Hello(ctx context.Context, req *pb.HelloRequest) (*pb.HelloResponse, error) {
	if m := d.members.Load(); m != nil {
		return (*m).Hello(ctx, req)
	}
	return nil, starting()
}

// Join implements ClusterService.
func (d *PeerDoor) Join(ctx context.Context, req *pb.JoinRequest) (*pb.JoinResponse, error) {
	if m := d.members.Load(); m != nil {
		return (*m).Join(ctx, req)
	}
	return nil, starting()
}

// Heartbeat implements ClusterService.
func (d *PeerDoor) Heartbeat(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error {
	if m := d.members.Load(); m != nil {
		return (*m).Heartbeat(stream)
	}
	return starting()
}

// Propose implements ClusterService.
func (d *PeerDoor) Propose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	if m := d.members.Load(); m != nil {
		return (*m).HandlePropose(ctx, req)
	}
	return nil, starting()
}

// ReadIndex implements ClusterService.
func (d *PeerDoor) ReadIndex(ctx context.Context, req *pb.ReadIndexRequest) (*pb.ReadIndexResponse, error) {
	if m := d.members.Load(); m != nil {
		return (*m).HandleReadIndex(ctx, req)
	}
	return nil, starting()
}

// Replicate implements ClusterService.
func (d *PeerDoor) Replicate(stream grpc.BidiStreamingServer[pb.ReplicateRequest, wire.Replicated]) error {
	return d.ReplicateFramed(stream)
}

// ReplicateFramed is Replicate for a stream without gRPC.
func (d *PeerDoor) ReplicateFramed(stream wire.ReplicateServer) error {
	if r := d.replicas.Load(); r != nil {
		return statusError(stream.Context(), (*r).Replicate(stream), nil)
	}
	return starting()
}

// Progress implements ClusterService.
func (d *PeerDoor) Progress(_ context.Context, req *pb.ProgressRequest) (*pb.ProgressResponse, error) {
	r := d.replicas.Load()
	if r == nil {
		return nil, starting()
	}
	list := make([]api.PartitionProgress, len(req.GetPartitions()))
	for i, p := range req.GetPartitions() {
		list[i] = api.PartitionProgress{
			TopicID: api.TopicIDFrom(p.GetTopicId()), Partition: p.GetPartition(), LeaderEpoch: record.Epoch(p.GetLeaderEpoch()),
			LogStart: record.Offset(p.GetLogStart()), HighWatermark: record.Offset(p.GetHighWatermark()),
		}
	}
	(*r).Progress(req.GetNodeId(), list)
	return &pb.ProgressResponse{}, nil
}
