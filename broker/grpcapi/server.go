package grpcapi

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/penstock/penstock/broker/api"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// Services are what the public door calls.
type Services struct {
	Producer   Producer
	Fetcher    Fetcher
	Topics     Topics
	Placement  Placement
	Cluster    Cluster
	Groups     Groups
	GroupAdmin GroupAdmin
	Operator   Operator
	Mender     Mender
	Now        func() time.Time
}

// unaryDeadline bounds calls whose client set no deadline; a produce request may
// itself ask for longer.
const unaryDeadline = maxProduceTimeout

// PublicDoor is the public services. They answer that the node is starting
// until Open, so that clients need not guess why nobody answers.
type PublicDoor struct {
	// services is written once, by Open, before open is set, and read by handlers
	// that saw open.
	services Services
	open     atomic.Bool
	health   *health.Server

	deliveries deliveries
}

// Public registers the public services on a new server.
func Public(codec *wire.Codec) (*grpc.Server, *PublicDoor) {
	d := &PublicDoor{}
	srv := grpc.NewServer(append(serverOptions(codec), grpc.ChainUnaryInterceptor(d.gateUnary), grpc.ChainStreamInterceptor(d.gateStream))...)
	wire.RegisterProduce(srv, &produceService{door: d})
	wire.RegisterFetch(srv, &fetchService{door: d})
	pb.RegisterGroupServiceServer(srv, &groupService{door: d})
	pb.RegisterAdminServiceServer(srv, &adminService{door: d})
	d.health = registerHealth(srv)
	reflection.Register(srv)
	return srv, d
}

// Open begins to serve. It is called once.
func (d *PublicDoor) Open(s Services) {
	d.services = s
	d.open.Store(true)
	d.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
}

// Leaving tells the health service that the node is about to stop. Calls are
// still served.
func (d *PublicDoor) Leaving() {
	d.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
}

// closed is the refusal of our services before Open; health and reflection are
// always served.
func (d *PublicDoor) closed(ctx context.Context, method string) error {
	if d.open.Load() || !strings.HasPrefix(method, "/penstock.") {
		return nil
	}
	return statusError(ctx, api.Errorf(api.CodeLeaderNotAvailable, "this node is starting: it recovers its data or waits for the metadata quorum"), nil)
}

func (d *PublicDoor) gateUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := d.closed(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if strings.HasPrefix(info.FullMethod, adminMethods) {
		var cancel context.CancelFunc
		ctx, cancel = withTimeToAnswer(ctx)
		defer cancel()
	}
	return handler(ctx, req)
}

// adminMethods are the calls that may wait for the controller.
const adminMethods = "/penstock.v1.AdminService/"

// withTimeToAnswer ends a call's work a little before its client stops listening. Who
// waits for a controller that does not come is then told so, and not only that there
// was no answer in time.
func withTimeToAnswer(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, maxTimeToAnswer)))
}

// maxTimeToAnswer is more than an answer takes on its way, unless much is amiss.
const maxTimeToAnswer = 500 * time.Millisecond

func (d *PublicDoor) gateStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := d.closed(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, stream)
}

// Peer registers the services of the peer listener on a new server.
func Peer(codec *wire.Codec) (*grpc.Server, *PeerDoor) {
	srv := grpc.NewServer(serverOptions(codec)...)
	door := &PeerDoor{}
	wire.RegisterCluster(srv, door)
	registerHealth(srv).SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	return srv, door
}

func serverOptions(codec *wire.Codec) []grpc.ServerOption {
	return append(
		wire.ServerOptions(codec),
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

func registerHealth(srv *grpc.Server) *health.Server {
	h := health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(srv, h)
	return h
}
