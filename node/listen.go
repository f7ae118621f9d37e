package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listeners are the sockets of a node, opened before anything else.
type listeners struct {
	grpc  []namedListener
	kafka []namedPort
	raft  net.Listener
	http  net.Listener // nil: none
	peer  net.Listener
}

type namedListener struct {
	net.Listener

	name string
}

// namedPort is a port that is taken and not listened on yet.
type namedPort struct {
	*boundPort

	name string
}

// ListenError says which configured address cannot be listened on.
type ListenError struct {
	Key, Address string
	Err          error
}

func (e *ListenError) Error() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("%s: %s is in use by another process; choose another port or stop that process", e.Key, e.Address)
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s: this machine has no address %s; listen on one that it has, or on 0.0.0.0, and advertise the one under which others reach it",
			e.Key, e.Address)
	case errors.Is(e.Err, syscall.EACCES):
		return fmt.Sprintf("%s: this process may not listen on %s; choose a port from 1024, or give it CAP_NET_BIND_SERVICE", e.Key, e.Address)
	}
	return fmt.Sprintf("%s: cannot listen on %s: %v", e.Key, e.Address, e.Err)
}

func (e *ListenError) Unwrap() error { return e.Err }

// listen opens all sockets, or none.
func listen(ctx context.Context, c *Config) (*listeners, error) {
	l := &listeners{}
	var lc net.ListenConfig
	open := func(key, address string) (net.Listener, error) {
		lis, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, &ListenError{key, address, err}
		}
		return lis, nil
	}
	named := func(key string, endpoints []Endpoint) (out []namedListener, err error) {
		for _, e := range endpoints {
			lis, err := open(key, e.Address)
			if err != nil {
				return out, err
			}
			out = append(out, namedListener{lis, e.Listener})
		}
		return out, nil
	}
	var err error
	l.grpc, err = named("listen.grpc", c.ListenGRPC)
	for i := 0; err == nil && i < len(c.ListenKafka); i++ {
		e := c.ListenKafka[i]
		var port *boundPort
		if port, err = bindPort(ctx, e.Address); err != nil {
			err = &ListenError{"listen.kafka", e.Address, err}
			break
		}
		l.kafka = append(l.kafka, namedPort{port, e.Listener})
	}
	if err == nil {
		l.raft, err = open("listen.raft", c.ListenRaft)
	}
	if err == nil {
		l.peer, err = open("listen.peer", c.ListenPeer)
	}
	if err == nil && c.ListenHTTP != "" {
		l.http, err = open("listen.http", c.ListenHTTP)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// close closes what is open; closing a listener that its server has closed is harmless.
func (l *listeners) close() {
	for _, g := range l.grpc {
		_ = g.Close()
	}
	for _, k := range l.kafka {
		k.close()
	}
	for _, lis := range []net.Listener{l.raft, l.http, l.peer} {
		if lis != nil {
			_ = lis.Close()
		}
	}
}

// bound puts the ports that the system chose (port 0) into the configuration,
// before addresses are advertised.
func (l *listeners) bound(c *Config) {
	for i, g := range l.grpc {
		c.ListenGRPC[i].Address = withPort(c.ListenGRPC[i].Address, g.Addr())
	}
	for i, k := range l.kafka {
		c.ListenKafka[i].Address = withPort(c.ListenKafka[i].Address, k.address)
	}
	c.ListenRaft = withPort(c.ListenRaft, l.raft.Addr())
	c.ListenPeer = withPort(c.ListenPeer, l.peer.Addr())
	if l.http != nil {
		c.ListenHTTP = withPort(c.ListenHTTP, l.http.Addr())
	}
}

func withPort(address string, bound net.Addr) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port != "0" {
		return address
	}
	_, port, err = net.SplitHostPort(bound.String())
	if err != nil {
		return address
	}
	return net.JoinHostPort(host, port)
}
