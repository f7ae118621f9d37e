package replica

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// LeaderStream is the leader's end of a stream. Send and Recv may be called at
// the same time; a message given to Send stays the caller's to release.
type LeaderStream interface {
	Context() context.Context
	Recv() (*pb.ReplicateRequest, error)
	Send(*wire.Replicated) error
}

// FollowerStream is the follower's end. Received messages are the caller's to release.
type FollowerStream interface {
	Send(*pb.ReplicateRequest) error
	Recv() (*wire.Replicated, error)
}

// Transport opens streams to leaders. The stream ends with ctx.
type Transport interface {
	Open(ctx context.Context, leader int32) (FollowerStream, error)
}

// Dialer finds the connection to a broker's peer listener. It must have been
// dialled with wire.DialOptions.
type Dialer interface {
	Conn(ctx context.Context, nodeID int32) (*grpc.ClientConn, error)
}

// NewTransport returns the transport over gRPC.
func NewTransport(d Dialer) Transport { return grpcTransport{d} }

type grpcTransport struct{ dialer Dialer }

func (t grpcTransport) Open(ctx context.Context, leader int32) (FollowerStream, error) {
	conn, err := t.dialer.Conn(ctx, leader)
	if err != nil {
		return nil, fmt.Errorf("replica: connect to broker %d: %w", leader, err)
	}
	stream, err := wire.ReplicateStream(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("replica: open stream to broker %d: %w", leader, err)
	}
	return stream, nil
}
