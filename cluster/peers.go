package cluster

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/cluster/metadata"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// peerProtocol is the version of ClusterService that this build speaks.
const peerProtocol = 1

// helloTimeout bounds the hello on a peer connection.
const helloTimeout = 2 * time.Second

// Peers are the connections to the ClusterService of other brokers: one a node,
// made when first asked for and kept. A connection is handed out only after the
// node at its end has said in a hello that it is the node, the directory and the
// cluster that are meant; after every reconnection it is asked again.
type Peers struct {
	node *Node

	mu     sync.Mutex      // guards what follows
	peers  map[int32]*peer // by node id
	closed bool
}

// peer is the connection to one node.
type peer struct {
	ref  nodeRef
	conn *grpc.ClientConn
	// dials counts the TCP connections made for conn. grpc reconnects by itself
	// and tells nobody.
	dials atomic.Int64

	// checking is held by the one who says hello; checked is guarded by it.
	checking chan struct{}
	checked  int64 // value of dials at the last accepted hello; 0: none
	framed   bool  // what that hello said
}

func newPeers(n *Node) *Peers { return &Peers{node: n, peers: make(map[int32]*peer)} }

// Conn returns a connection to the broker of that id. The caller shares it with
// others and must not close it. Errors: ErrUnknownNode; ErrClosed;
// *IdentityConflictError and *ClusterIDMismatchError when another node answers
// at the broker's address; else the failure to reach it.
func (p *Peers) Conn(ctx context.Context, nodeID int32) (*grpc.ClientConn, error) {
	b := p.node.Image().Broker(nodeID)
	if b == nil {
		return nil, fmt.Errorf("%w: %d", ErrUnknownNode, nodeID)
	}
	return p.conn(ctx, nodeRef{nodeID: nodeID, storageID: b.StorageID, address: b.PeerAddress})
}

func (p *Peers) conn(ctx context.Context, ref nodeRef) (*grpc.ClientConn, error) {
	pc, err := p.get(ref)
	if err != nil {
		return nil, err
	}
	if _, err := pc.check(ctx, p.node); err != nil {
		return nil, err
	}
	return pc.conn, nil
}

// Dial opens a connection of the caller's own to the peer listener of that broker,
// for a framed replication stream, after a hello as for Conn. The connection is nil
// when the broker is of a release that takes such streams by gRPC only.
func (p *Peers) Dial(ctx context.Context, nodeID int32) (net.Conn, error) {
	b := p.node.Image().Broker(nodeID)
	if b == nil {
		return nil, fmt.Errorf("%w: %d", ErrUnknownNode, nodeID)
	}
	pc, err := p.get(nodeRef{nodeID: nodeID, storageID: b.StorageID, address: b.PeerAddress})
	if err != nil {
		return nil, err
	}
	if framed, err := pc.check(ctx, p.node); err != nil || !framed {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	conn, err := p.node.cfg.Dial(ctx, b.PeerAddress)
	if err != nil {
		return nil, fmt.Errorf("peer %d at %s: %w", nodeID, b.PeerAddress, err)
	}
	return conn, nil
}

// get returns the entry of a node. One for another address or directory is
// closed and replaced.
func (p *Peers) get(ref nodeRef) (*peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	old := p.peers[ref.nodeID]
	if old != nil && old.ref == ref {
		return old, nil
	}
	pc := &peer{ref: ref, checking: make(chan struct{}, 1)}
	conn, err := grpc.NewClient("passthrough:///"+ref.address, p.dialOptions(pc)...)
	if err != nil {
		return nil, fmt.Errorf("peer %d at %s: %w", ref.nodeID, ref.address, err)
	}
	pc.conn = conn
	p.peers[ref.nodeID] = pc
	if old != nil {
		_ = old.conn.Close()
	}
	return pc, nil
}

func (p *Peers) dialOptions(pc *peer) []grpc.DialOption {
	dial := p.node.cfg.Dial
	return append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := dial(ctx, address)
			if err == nil {
				pc.dials.Add(1)
			}
			return conn, err
		}),
		// A broker that restarts is back within seconds, and every retry is cheap.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: helloTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	}, p.node.cfg.DialOptions...)
}

// check says hello unless it was said on the present TCP connection. It reports
// whether the node takes framed streams.
func (pc *peer) check(ctx context.Context, n *Node) (framed bool, err error) {
	select {
	case pc.checking <- struct{}{}:
		defer func() { <-pc.checking }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if pc.checked != 0 && pc.checked == pc.dials.Load() {
		return pc.framed, nil
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	answer, err := pb.NewClusterServiceClient(pc.conn).Hello(ctx, &pb.HelloRequest{
		ProtocolVersion: peerProtocol, ClusterId: n.ClusterID(), NodeId: n.cfg.NodeID, StorageId: n.storageID[:],
	})
	if err != nil {
		return false, fmt.Errorf("hello to node %d at %s: %w", pc.ref.nodeID, pc.ref.address, FromStatus(err))
	}
	dials := pc.dials.Load()
	if err := pc.judge(n, answer); err != nil {
		return false, err
	}
	pc.checked, pc.framed = dials, answer.GetFramedReplication()
	return pc.framed, nil
}

func (pc *peer) judge(n *Node, a *pb.HelloResponse) error {
	if a.GetProtocolVersion() != peerProtocol {
		return fmt.Errorf("%w: node %d speaks version %d, this one %d", ErrProtocol, pc.ref.nodeID, a.GetProtocolVersion(), peerProtocol)
	}
	if ours := n.ClusterID(); ours != "" && a.GetClusterId() != "" && ours != a.GetClusterId() {
		return &ClusterIDMismatchError{Ours: ours, Theirs: a.GetClusterId(), Peer: pc.ref.address}
	}
	found, _ := metadata.ParseID(a.GetStorageId())
	if a.GetNodeId() != pc.ref.nodeID || found != pc.ref.storageID {
		return fmt.Errorf("node %d answers at %s: %w", a.GetNodeId(), pc.ref.address,
			&IdentityConflictError{NodeID: pc.ref.nodeID, Known: pc.ref.storageID, Found: found})
	}
	return nil
}

func (p *Peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, pc := range p.peers {
		_ = pc.conn.Close()
	}
}

// Hello answers the first call on a peer connection. It refuses nodes of other
// clusters and nodes with another storage id than the one they are known with.
func (n *Node) Hello(_ context.Context, r *pb.HelloRequest) (*pb.HelloResponse, error) {
	if r.GetProtocolVersion() != peerProtocol {
		return nil, status.Errorf(codes.FailedPrecondition, "protocol version %d: this node speaks %d", r.GetProtocolVersion(), peerProtocol)
	}
	if err := n.checkCaller(r.GetClusterId(), r.GetNodeId(), r.GetStorageId()); err != nil {
		return nil, Status(err)
	}
	controller, _ := n.Controller()
	return &pb.HelloResponse{
		ProtocolVersion: peerProtocol, ClusterId: n.ClusterID(), NodeId: n.cfg.NodeID,
		StorageId: n.storageID[:], Controller: controller, FramedReplication: true,
	}, nil
}

// checkCaller judges who calls: ours, or without a cluster yet; and not a node
// that is known with another directory.
func (n *Node) checkCaller(clusterID string, nodeID int32, storageID []byte) error {
	if ours := n.ClusterID(); ours != "" && clusterID != "" && ours != clusterID {
		return newError(pb.ErrorCode_ERROR_CODE_IDENTITY_CONFLICT, "node %d belongs to cluster %s, not %s", n.cfg.NodeID, ours, clusterID)
	}
	id, ok := metadata.ParseID(storageID)
	if nodeID < 1 || !ok {
		return newError(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "node id %d and storage id %x: must be at least 1, and 16 bytes", nodeID, storageID)
	}
	if known, conflict := n.conflict(nodeID, id, ""); conflict {
		return &IdentityConflictError{NodeID: nodeID, Known: known, Found: id}
	}
	return nil
}
