package replica

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// LeaderStream is the leader's end of a stream.
type LeaderStream = wire.ReplicateServer

// FollowerStream is the follower's end. Received messages are the caller's to release.
type FollowerStream interface {
	Send(*pb.ReplicateRequest) error
	Recv() (*wire.Replicated, error)
}

// Transport opens streams to leaders. The stream ends with ctx.
type Transport interface {
	Open(ctx context.Context, leader int32) (FollowerStream, error)
}

// Dialer finds the way to a broker's peer listener.
type Dialer interface {
	// Conn returns a connection that was dialled with wire.DialOptions.
	Conn(ctx context.Context, nodeID int32) (*grpc.ClientConn, error)
	// Dial opens a connection for one framed stream; nil: that broker takes streams
	// by gRPC only.
	Dial(ctx context.Context, nodeID int32) (net.Conn, error)
}

// NewTransport returns the transport to other brokers. Framed streams receive
// batches into the arena of codec.
func NewTransport(d Dialer, codec *wire.Codec) Transport { return transport{d, codec} }

type transport struct {
	dialer Dialer
	codec  *wire.Codec
}

func (t transport) Open(ctx context.Context, leader int32) (FollowerStream, error) {
	conn, err := t.dialer.Dial(ctx, leader)
	if err != nil {
		return nil, fmt.Errorf("replica: connect to broker %d: %w", leader, err)
	}
	if conn == nil {
		return t.openGRPC(ctx, leader)
	}
	framed, err := wire.OpenFramed(ctx, conn, t.codec)
	if err != nil {
		return nil, fmt.Errorf("replica: open stream to broker %d: %w", leader, err)
	}
	return framedStream{framed}, nil
}

func (t transport) openGRPC(ctx context.Context, leader int32) (FollowerStream, error) {
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

// framedStream is the follower's end of a framed stream.
type framedStream struct{ framed *wire.Framed }

func (s framedStream) Send(m *pb.ReplicateRequest) error { return s.framed.Send(m) }

func (s framedStream) Recv() (*wire.Replicated, error) {
	m := new(wire.Replicated)
	if err := s.framed.Recv(m); err != nil {
		return nil, err
	}
	return m, nil
}
