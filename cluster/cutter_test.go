package cluster

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// cutter loses what goes over a node's connections to peer listeners, in one
// direction or both, without closing them: bytes written vanish, bytes to be
// read wait.
type cutter struct {
	reads, writes atomic.Bool

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func newCutter() *cutter { return new(cutter) }

// heal ends the cut. Connections that lost bytes are reset.
func (c *cutter) heal() {
	c.reads.Store(false)
	c.writes.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// dial is a Config.Dial that can cut connections to the peer listeners of nodes.
func (c *cutter) dial(nodes []*testNode) func(context.Context, string) (net.Conn, error) {
	peers := make(map[string]bool)
	for _, n := range nodes {
		peers[n.peerAddr] = true
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil || !peers[address] {
			return conn, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, conn)
		return &cutConn{Conn: conn, cutter: c}, nil
	}
}

type cutConn struct {
	net.Conn
	cutter *cutter
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.cutter.writes.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.cutter.reads.Load() {
			return n, err
		}
	}
}
