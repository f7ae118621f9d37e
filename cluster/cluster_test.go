package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/loopback"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peerServer is ClusterService as package grpcapi would register it.
type peerServer struct {
	pb.UnimplementedClusterServiceServer
	node *Node
	// old: of a release without framed streams and ReadIndex.
	old bool
}

func (s peerServer) Hello(ctx context.Context, r *pb.HelloRequest) (*pb.HelloResponse, error) {
	answer, err := s.node.Hello(ctx, r)
	if err == nil && s.old {
		answer.FramedReplication = false
	}
	return answer, err
}

func (s peerServer) Join(ctx context.Context, r *pb.JoinRequest) (*pb.JoinResponse, error) {
	return s.node.Join(ctx, r)
}

func (s peerServer) Heartbeat(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error {
	return s.node.Heartbeat(stream)
}

func (s peerServer) Propose(ctx context.Context, r *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	return s.node.HandlePropose(ctx, r)
}

func (s peerServer) ReadIndex(ctx context.Context, r *pb.ReadIndexRequest) (*pb.ReadIndexResponse, error) {
	if s.old {
		return s.UnimplementedClusterServiceServer.ReadIndex(ctx, r)
	}
	return s.node.HandleReadIndex(ctx, r)
}

// testNode is a node with its peer listener. It keeps its addresses and its
// directory over restarts.
type testNode struct {
	*Node
	old      bool // see peerServer
	t        *testing.T
	id       int32
	dir      string
	raftAddr string
	peerAddr string
	voters   []Voter
	tune     func(*Config)
	server   *grpc.Server
	epoch    int64
}

// newNodes returns nodes 1 to n, not started, of which the first voters vote.
func newNodes(t *testing.T, n, voters int) []*testNode {
	t.Helper()
	var nodes []*testNode
	var list []Voter
	for i := range n {
		node := &testNode{t: t, id: int32(i + 1), dir: filepath.Join(t.TempDir(), "raft"), raftAddr: freeAddress(t), peerAddr: freeAddress(t)}
		nodes = append(nodes, node)
		if i < voters {
			list = append(list, Voter{NodeID: node.id, Address: node.raftAddr})
		}
	}
	for _, node := range nodes {
		node.voters = list
	}
	return nodes
}

// addresses are those of this process.
var addresses loopback.Addresses

// freeAddress is an address nobody listens at, now or while its node is down.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := addresses.Next()
	require.NoError(t, err)
	return address
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	return l
}

func (n *testNode) config() Config {
	cfg := Config{
		NodeID: n.id, Dir: n.dir, Voters: n.voters, Listener: listen(n.t, n.raftAddr), AdvertisePeer: n.peerAddr,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Logger:      slog.New(slog.DiscardHandler),
	}
	if os.Getenv("PENSTOCK_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n.id)
	}
	if n.tune != nil {
		n.tune(&cfg)
	}
	return cfg
}

// start starts Raft and the peer listener.
func (n *testNode) start() *testNode {
	n.t.Helper()
	node, err := Start(n.t.Context(), n.config())
	require.NoError(n.t, err)
	n.Node = node
	n.serve()
	n.t.Cleanup(func() { n.kill() })
	return n
}

func (n *testNode) serve() {
	n.t.Helper()
	n.server = grpc.NewServer()
	pb.RegisterClusterServiceServer(n.server, peerServer{node: n.Node, old: n.old})
	l, server := listen(n.t, n.peerAddr), n.server
	go func() { _ = server.Serve(l) }() // Stop waits for it
}

// kill stops the node as the end of its process would: nothing is handed over.
func (n *testNode) kill() {
	n.server.Stop()
	_ = n.close(false)
}

func (n *testNode) register() {
	n.t.Helper()
	epoch, err := n.Register(within(n.t, 20*time.Second), &metav1.RegisterBroker{Version: "test"})
	require.NoError(n.t, err)
	n.epoch = epoch
}

// startAll starts and registers nodes at once, as processes would.
func startAll(nodes ...*testNode) {
	for _, n := range nodes {
		n.start()
	}
	registerAll(nodes...)
}

func registerAll(nodes ...*testNode) {
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(n.register)
	}
	wg.Wait()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until the image satisfies a condition.
func (n *testNode) eventually(what string, ok func(*metadata.Image) bool) {
	n.t.Helper()
	ctx := within(n.t, 15*time.Second)
	for {
		im := n.Image()
		if ok(im) {
			return
		}
		select {
		case <-n.Changed(im.Index()):
		case <-ctx.Done():
			require.FailNow(n.t, "waited in vain", "node %d: %s", n.id, what)
		}
	}
}

// controllerOf waits until one of the nodes is the controller.
func controllerOf(t *testing.T, nodes ...*testNode) *testNode {
	t.Helper()
	ctx := within(t, 15*time.Second)
	for {
		var changed []<-chan struct{}
		for _, n := range nodes {
			changed = append(changed, n.leaders.next())
			if n.IsController() {
				return n
			}
		}
		if !anyOf(ctx, changed) {
			require.FailNow(t, "no controller")
		}
	}
}

// anyOf waits for one of the channels.
func anyOf(ctx context.Context, channels []<-chan struct{}) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hit := make(chan struct{}, len(channels))
	for _, c := range channels {
		go func() {
			select {
			case <-c:
				hit <- struct{}{}
			case <-ctx.Done():
			}
		}()
	}
	select {
	case <-hit:
		return true
	case <-ctx.Done():
		return false
	}
}

func (n *testNode) createTopic(name string, rf int32) (*pb.ProposeResponse, error) {
	return n.Propose(within(n.t, 15*time.Second), &pb.ProposeRequest{Kind: &pb.ProposeRequest_CreateTopic{
		CreateTopic: &pb.CreateTopicProposal{Name: name, Partitions: 3, ReplicationFactor: rf},
	}})
}

func (n *testNode) mustCreate(name string, rf int32) {
	n.t.Helper()
	_, err := n.createTopic(name, rf)
	require.NoError(n.t, err)
}

func fenced(id int32) func(*metadata.Image) bool {
	return func(im *metadata.Image) bool { b := im.Broker(id); return b != nil && b.Fenced }
}

func without(nodes []*testNode, out *testNode) []*testNode {
	var rest []*testNode
	for _, n := range nodes {
		if n != out {
			rest = append(rest, n)
		}
	}
	return rest
}

func TestThreeNodesFoundRegisterAndApply(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	began := time.Now()
	startAll(nodes...)
	registered := time.Since(began)
	nodes[2].mustCreate("events", 3)
	t.Logf("registered after %v, topic after %v", registered, time.Since(began))
	for _, n := range nodes {
		n.eventually("the topic", func(im *metadata.Image) bool { return im.Topic("events") != nil })
		require.Equal(t, nodes[0].ClusterID(), n.ClusterID())
		require.Len(t, n.ClusterID(), 22)
		require.True(t, n.SessionValid(time.Now()))
		require.False(t, n.SessionValid(time.Now().Add(4*time.Second)))
	}
	for i := range 5 { // through any node
		n := nodes[i%3]
		before := time.Now()
		n.mustCreate(fmt.Sprintf("t%d", i), 3)
		t.Logf("topic through node %d: %v", n.id, time.Since(before))
	}
	_, err := nodes[1].createTopic("events", 3)
	e, ok := errorCode(err)
	require.True(t, ok, "%v", err)
	require.Equal(t, pb.ErrorCode_ERROR_CODE_TOPIC_EXISTS, e)
	for _, n := range nodes {
		conn, err := n.Peers().Conn(within(t, 5*time.Second), nodes[0].id)
		require.NoError(t, err)
		require.NotNil(t, conn)
	}
	_, err = nodes[0].Peers().Conn(t.Context(), 99)
	require.ErrorIs(t, err, ErrUnknownNode)
}

// Whether a node takes framed streams is asked anew when it has been replaced by a
// process of another release.
func TestFramedStreamsAreAskedFor(t *testing.T) {
	nodes := newNodes(t, 2, 1)
	nodes[0].old = true
	startAll(nodes...)
	nodes[1].eventually("1 is known", func(im *metadata.Image) bool { return im.Broker(1) != nil })
	conn, err := nodes[1].Peers().Dial(within(t, 5*time.Second), nodes[0].id)
	require.NoError(t, err)
	require.Nil(t, conn)

	nodes[0].server.Stop()
	nodes[0].old = false
	nodes[0].serve()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		conn, err = nodes[1].Peers().Dial(within(t, 5*time.Second), nodes[0].id)
		require.NoError(c, err)
		require.NotNil(c, conn)
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, nodes[0].peerAddr, conn.RemoteAddr().String())
	require.NoError(t, conn.Close())

	_, err = nodes[1].Peers().Dial(t.Context(), 99)
	require.ErrorIs(t, err, ErrUnknownNode)
}
