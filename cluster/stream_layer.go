package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// handshakeTimeout bounds a hello on both sides: whoever connects and says
	// nothing is dropped.
	handshakeTimeout = 3 * time.Second
	// maxHandshakes bounds the connections that have not said hello yet.
	maxHandshakes = 128
)

// streamLayer is the Raft transport's listener and dialler. Every connection
// begins with a hello, which keeps nodes of other clusters, of other versions
// and with a wrong storage id from ever reaching Raft, and strangers from
// reaching its decoder. It implements raft.StreamLayer.
//
// Goroutines: one accepts, and each new connection has one until its hello is
// answered. Close ends both and waits. Connections handed to Raft are closed by
// Close too, which ends the transport's goroutines that read them.
type streamLayer struct {
	listener  net.Listener
	advertise streamAddr
	dialTCP   func(ctx context.Context, address string) (net.Conn, error)
	self      helloSource
	logger    *slog.Logger

	ready  chan net.Conn   // said hello, wait for Raft's Accept
	slots  chan struct{}   // one for each connection that has not said hello
	ctx    context.Context //nolint:containedctx // the layer's own life, not a call's
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

// helloSource is what a stream layer asks its node.
type helloSource interface {
	// hello is what the node says when it connects.
	hello(purpose) hello
	// answer judges a hello.
	answer(hello) helloAnswer
	// checkAnswer judges the answer of the node that was dialled at address.
	checkAnswer(address string, a helloAnswer) error
}

func newStreamLayer(cfg *Config, self helloSource) *streamLayer {
	ctx, cancel := context.WithCancel(context.Background())
	return &streamLayer{
		listener: cfg.Listener, advertise: streamAddr(cfg.AdvertiseRaft), dialTCP: cfg.Dial,
		self: self, logger: cfg.Logger,
		ready: make(chan net.Conn), slots: make(chan struct{}, maxHandshakes),
		ctx: ctx, cancel: cancel, conns: make(map[net.Conn]struct{}),
	}
}

// start begins to accept. What follows a hello waits until Raft calls Accept.
func (l *streamLayer) start() { l.wg.Go(l.acceptLoop) }

func (l *streamLayer) acceptLoop() {
	delay := 5 * time.Millisecond
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || l.ctx.Err() != nil {
				return
			}
			l.logger.Warn("raft listener cannot accept", "error", err)
			select {
			case <-time.After(delay):
				delay = min(2*delay, time.Second)
				continue
			case <-l.ctx.Done():
				return
			}
		}
		delay = 5 * time.Millisecond
		select {
		case l.slots <- struct{}{}:
		default:
			_ = conn.Close() // a flood of silent connections; honest nodes come back
			continue
		}
		tracked := l.track(conn)
		l.wg.Go(func() {
			defer func() { <-l.slots }()
			l.welcome(tracked)
		})
	}
}

// welcome reads the hello, answers, and hands a Raft connection on.
func (l *streamLayer) welcome(conn net.Conn) {
	h, a, err := l.greet(conn)
	if err != nil {
		l.logger.Debug("connection to the raft listener dropped", "remote", conn.RemoteAddr(), "error", err)
	}
	if err != nil || a.refusal != accepted || h.purpose != purposeRaft {
		_ = conn.Close()
		return
	}
	select {
	case l.ready <- conn:
	case <-l.ctx.Done():
		_ = conn.Close()
	}
}

func (l *streamLayer) greet(conn net.Conn) (hello, helloAnswer, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return hello{}, helloAnswer{}, err
	}
	h, err := readHello(conn)
	if v, ok := errors.AsType[*unknownVersionError](err); ok {
		a := helloAnswer{refusal: refusedVersion, reason: v.Error(), leaderID: noNode}
		return h, a, errors.Join(err, writeAnswer(conn, a))
	}
	if err != nil {
		return h, helloAnswer{}, err
	}
	a := l.self.answer(h)
	if err := writeAnswer(conn, a); err != nil {
		return h, a, err
	}
	if a.refusal != accepted {
		l.logger.Warn("refused a node", "node", h.nodeID, "storage_id", h.storageID, "remote", conn.RemoteAddr(), "reason", a.reason)
	}
	return h, a, conn.SetDeadline(time.Time{})
}

// Accept waits for the next connection of a node that was let in.
func (l *streamLayer) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Addr is the address that other nodes use.
func (l *streamLayer) Addr() net.Addr { return l.advertise }

// Dial connects to the Raft listener of a node and says hello.
func (l *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	conn, a, err := l.dial(ctx, string(address), purposeRaft)
	if err != nil {
		return nil, err
	}
	if err := l.self.checkAnswer(string(address), a); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// identify asks the node at a Raft address who it is. A refusal is an answer.
func (l *streamLayer) identify(ctx context.Context, address string) (helloAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, a, err := l.dial(ctx, address, purposeIdentity)
	if conn != nil {
		_ = conn.Close()
	}
	if _, refused := errors.AsType[*refusalError](err); refused {
		return a, nil
	}
	return a, err
}

// dial returns the answer beside a refusalError.
func (l *streamLayer) dial(ctx context.Context, address string, p purpose) (net.Conn, helloAnswer, error) {
	raw, err := l.dialTCP(ctx, address)
	if err != nil {
		return nil, helloAnswer{}, err
	}
	conn := l.track(raw)
	// Closing the connection is what ends a read or write that ctx outruns.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = writeHello(conn, l.self.hello(p))
	var a helloAnswer
	if err == nil {
		a, err = readAnswer(conn)
	}
	if err == nil && a.refusal != accepted {
		err = &refusalError{address: address, code: a.refusal, reason: a.reason}
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %s closed the connection instead of answering", ErrProtocol, address)
		}
		return nil, a, err
	}
	return conn, a, nil
}

// Close stops accepting, closes every connection and waits for the goroutines
// of the layer.
func (l *streamLayer) Close() error {
	l.cancel()
	err := l.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	l.mu.Lock()
	open := l.conns
	l.conns = nil
	l.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
	l.wg.Wait()
	return err
}

// track remembers a connection until it is closed. After Close it is closed at
// once.
func (l *streamLayer) track(conn net.Conn) net.Conn {
	c := &trackedConn{Conn: conn, layer: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		_ = conn.Close()
		return c
	}
	l.conns[c] = struct{}{}
	return c
}

type trackedConn struct {
	net.Conn
	layer *streamLayer
}

func (c *trackedConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// streamAddr is an advertised address: what Raft puts into its messages.
type streamAddr string

func (streamAddr) Network() string  { return "tcp" }
func (a streamAddr) String() string { return string(a) }
