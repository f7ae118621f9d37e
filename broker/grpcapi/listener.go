package grpcapi

import (
	"context"
	"net"

	"google.golang.org/grpc/peer"
)

// Listener names the connections that inner accepts, so that answers can give
// addresses of the listener that was asked. An empty name returns inner.
func Listener(inner net.Listener, name string) net.Listener {
	if name == "" {
		return inner
	}
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
	return &namedConn{conn, namedAddr{conn.LocalAddr(), l.name}}, nil
}

type namedConn struct {
	net.Conn

	local namedAddr
}

func (c *namedConn) LocalAddr() net.Addr { return c.local }

type namedAddr struct {
	net.Addr

	listener string
}

// listenerOf is the name of the listener that a call came in on.
func listenerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.LocalAddr.(namedAddr); ok {
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
