package grpcapi

import (
	"context"
	"io"
	"net"

	"google.golang.org/grpc/peer"
)

// Listener names the connections that inner accepts, so that answers can give
// addresses of the listener that was asked, and lets calls find their connection.
func Listener(inner net.Listener, name string) net.Listener {
	return &namedListener{inner, name}
}

type namedListener struct {
	net.Listener

	name string
}

func (l *namedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &namedConn{conn, connAddr{conn.LocalAddr(), l.name, conn}}, nil
}

type namedConn struct {
	net.Conn

	local connAddr
}

func (c *namedConn) LocalAddr() net.Addr { return c.local }

// connAddr is the local address of a connection: what gRPC shows to calls.
type connAddr struct {
	net.Addr

	listener string
	conn     io.Closer
}

// listenerOf is the name of the listener that a call came in on.
func listenerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.LocalAddr.(connAddr); ok {
			return a.listener
		}
	}
	return ""
}

// clientHost is the address a call came from.
func clientHost(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}
