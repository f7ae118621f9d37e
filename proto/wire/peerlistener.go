package wire

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// prefaceTimeout bounds how long a connection may take to say what it speaks.
const prefaceTimeout = 5 * time.Second

// PeerListener splits the connections that brokers open: those of gRPC it hands to
// the gRPC server, which serves it as a listener; on the others it serves framed
// replication streams itself. The first bytes of a connection tell which it is.
type PeerListener struct {
	inner     net.Listener
	codec     *Codec
	replicate func(ReplicateServer) error

	grpc   chan net.Conn
	ctx    context.Context //nolint:containedctx // of all streams: ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // accept, and one a connection that is not gRPC's

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	failed error // of inner's Accept
	closed bool
}

// NewPeerListener begins to accept on inner, which it owns. A framed stream lasts
// until replicate returns; the follower is told the error, as a gRPC status.
func NewPeerListener(inner net.Listener, codec *Codec, replicate func(ReplicateServer) error) *PeerListener {
	l := &PeerListener{inner: inner, codec: codec, replicate: replicate, grpc: make(chan net.Conn), conns: make(map[net.Conn]struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.wg.Go(l.accept)
	return l
}

// Accept returns the next connection of gRPC.
func (l *PeerListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.grpc:
		return conn, nil
	case <-l.ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.failed != nil && !l.closed {
			return nil, l.failed
		}
		return nil, net.ErrClosed
	}
}

// Addr is the inner listener's.
func (l *PeerListener) Addr() net.Addr { return l.inner.Addr() }

// Close stops accepting, breaks all framed streams, and waits for them.
func (l *PeerListener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	err := l.inner.Close()
	for conn := range l.conns {
		_ = conn.Close()
	}
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
	return err
}

// accept hands each connection to a goroutine of its own until inner is closed.
func (l *PeerListener) accept() {
	pause := time.Duration(0)
	for {
		conn, err := l.inner.Accept()
		if err == nil {
			pause = 0
			if l.enter(conn) {
				l.wg.Go(func() { l.serve(conn) })
			}
			continue
		}
		// Out of file descriptors, or a connection that was reset before it was
		// taken: as the gRPC server does, wait and try again.
		if t, ok := err.(interface{ Temporary() bool }); !ok || !t.Temporary() {
			l.mu.Lock()
			l.failed = err
			l.mu.Unlock()
			l.cancel()
			return
		}
		pause = min(max(5*time.Millisecond, 2*pause), time.Second)
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
		}
	}
}

// enter notes a connection, so that Close can end what is done on it.
func (l *PeerListener) enter(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return false
	}
	l.conns[conn] = struct{}{}
	return true
}

func (l *PeerListener) leave(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// serve finds out what a connection speaks. What speaks neither is closed.
func (l *PeerListener) serve(conn net.Conn) {
	defer l.leave(conn)
	preface := make([]byte, len(framedPreface))
	err := conn.SetReadDeadline(time.Now().Add(prefaceTimeout))
	if err == nil {
		_, err = io.ReadFull(conn, preface)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	switch {
	case err == nil && string(preface) == framedPreface:
		l.stream(conn)
	case err == nil && string(preface) == http2Preface:
		select {
		case l.grpc <- &begunConn{conn, preface}:
			return // it is the gRPC server's
		case <-l.ctx.Done():
		}
	}
	_ = conn.Close()
}

// stream serves one framed stream.
func (l *PeerListener) stream(conn net.Conn) {
	if err := tune(conn, acceptedPatience); err != nil {
		return // the follower has gone
	}
	f := newFramed(conn, l.codec)
	_ = f.end(l.replicate(framedServer{l.ctx, f})) // it may be the follower that has gone
}

// framedServer is the leader's end of a framed stream.
type framedServer struct {
	ctx    context.Context //nolint:containedctx // as a gRPC stream has one
	framed *Framed
}

func (s framedServer) Context() context.Context { return s.ctx }

func (s framedServer) Send(m *Replicated) error { return s.framed.Send(m) }

func (s framedServer) Recv() (*pb.ReplicateRequest, error) {
	m := new(pb.ReplicateRequest)
	if err := s.framed.Recv(m); err != nil {
		return nil, err
	}
	return m, nil
}

// begunConn is a connection of which some bytes have been read.
type begunConn struct {
	net.Conn

	begun []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.begun) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.begun)
	c.begun = c.begun[n:]
	return n, nil
}
