package grpcapi

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// Services are what the public door calls.
type Services struct {
	Producer   Producer
	Fetcher    Fetcher
	Topics     Topics
	Cluster    Cluster
	Groups     Groups
	GroupAdmin GroupAdmin
	Now        func() time.Time
}

const (
	// unaryDeadline bounds calls whose client set no deadline.
	unaryDeadline = 2 * time.Minute
	// maxStreams bounds what one connection may have open, and with it what a
	// flood of resets can cost.
	maxStreams = 1024
)

// Public registers the public services on a new server. The health service
// answers NOT_SERVING until Serving is called on the second result.
func Public(codec *wire.Codec, s Services) (*grpc.Server, *Health) {
	srv := grpc.NewServer(serverOptions(codec)...)
	wire.RegisterProduce(srv, &produceService{broker: s.Producer, addresses: s.Cluster, encoder: &encoder{now: s.Now}})
	wire.RegisterFetch(srv, &fetchService{broker: s.Fetcher, addresses: s.Cluster})
	pb.RegisterGroupServiceServer(srv, &groupService{groups: s.Groups, admin: s.GroupAdmin, addresses: s.Cluster})
	pb.RegisterAdminServiceServer(srv, &adminService{topics: s.Topics, cluster: s.Cluster})
	h := registerHealth(srv)
	reflection.Register(srv)
	return srv, h
}

// Peer registers the services of the peer listener on a new server.
func Peer(codec *wire.Codec, impl Members, replicas Replicas) (*grpc.Server, *Health) {
	srv := grpc.NewServer(serverOptions(codec)...)
	wire.RegisterCluster(srv, &clusterService{members: impl, replicas: replicas})
	return srv, registerHealth(srv)
}

func serverOptions(codec *wire.Codec) []grpc.ServerOption {
	return append(
		wire.ServerOptions(codec),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.MaxHeaderListSize(64<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(withDeadline),
	)
}

// withDeadline gives calls without a deadline one, so that none can outlive its
// usefulness.
func withDeadline(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, unaryDeadline)
		defer cancel()
	}
	return handler(ctx, req)
}

// Health is the standard health service of one server.
type Health struct{ server *health.Server }

func registerHealth(srv *grpc.Server) *Health {
	h := &Health{health.NewServer()}
	h.Serving(false)
	healthpb.RegisterHealthServer(srv, h.server)
	return h
}

// Serving says whether the server as a whole is ready.
func (h *Health) Serving(yes bool) {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		state = healthpb.HealthCheckResponse_SERVING
	}
	h.server.SetServingStatus("", state)
}
