package cluster

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// failure waits for the node's terminal error.
func (n *testNode) failure() error {
	n.t.Helper()
	select {
	case err := <-n.Failed():
		return err
	case <-within(n.t, 10*time.Second).Done():
		require.FailNow(n.t, "node goes on", "node %d", n.id)
		return nil
	}
}

func TestDirectoryOfAnotherNode(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	nodes[0].kill()
	cfg := nodes[0].config()
	cfg.NodeID = 7
	_, err := Start(t.Context(), cfg)
	var mismatch *NodeIDMismatchError
	require.ErrorAs(t, err, &mismatch)
	require.Equal(t, NodeIDMismatchError{Dir: cfg.Dir, Recorded: 1, Configured: 7}, *mismatch)
	require.ErrorContains(t, err, "belongs to node 1, but node.id is 7")
	nodes[0].start().register() // the failed start left nothing behind: address and lock are free
}

func TestHalfADirectory(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	require.NoError(t, waitClusterIDStored(nodes[0]))
	nodes[0].kill()
	for _, file := range []string{identityFile, raftLogFile} {
		path := filepath.Join(nodes[0].dir, file)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.Remove(path))
		_, err = Start(t.Context(), nodes[0].config())
		require.ErrorIs(t, err, ErrDataLost, "without %s", file)
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	nodes[0].start().register()
}

// waitClusterIDStored waits for the task that writes the id to end.
func waitClusterIDStored(n *testNode) error {
	for {
		data, err := os.ReadFile(filepath.Join(n.dir, identityFile))
		if err != nil {
			return err
		}
		id, err := parseIdentity(data)
		if err != nil || id.clusterID != "" {
			return err
		}
	}
}

// A voter that lost its directory must not vote, nor found anything.
func TestWipedVoterIsRefused(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	wiped := nodes[0] // the one that would found a new quorum
	known := wiped.StorageID()
	wiped.kill()
	require.NoError(t, os.RemoveAll(wiped.dir))
	wiped.start()
	err := wiped.failure()
	var conflict *IdentityConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, IdentityConflictError{NodeID: 1, Known: known, Found: wiped.StorageID()}, *conflict)
	_, err = wiped.Register(t.Context(), new(metav1.RegisterBroker))
	require.ErrorAs(t, err, &conflict, "Register tells the same")
	require.Zero(t, wiped.raft.CurrentTerm(), "it never voted")
	nodes[1].mustCreate("t", 2)
}

// Also when it never registered: Raft's configuration knows its address.
func TestWipedVoterIsRefusedBeforeItRegistered(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.start()
	}
	wiped := without(nodes, controllerOf(t, nodes...))[0]
	known := wiped.StorageID()
	wiped.kill()
	require.NoError(t, os.RemoveAll(wiped.dir))
	wiped.start()
	var conflict *IdentityConflictError
	require.ErrorAs(t, wiped.failure(), &conflict)
	require.Equal(t, known, conflict.Known)
}

func TestWipedNonVoterIsRefused(t *testing.T) {
	nodes := newNodes(t, 2, 1)
	startAll(nodes...)
	nodes[1].kill()
	require.NoError(t, os.RemoveAll(nodes[1].dir))
	nodes[1].start()
	var conflict *IdentityConflictError
	require.ErrorAs(t, nodes[1].failure(), &conflict)
}

func TestNodeOfAnotherClusterIsRefused(t *testing.T) {
	ours, theirs := newNodes(t, 1, 1), newNodes(t, 3, 1)
	startAll(ours...)
	startAll(theirs[:2]...)
	require.NoError(t, waitClusterIDStored(theirs[1]))
	theirs[1].kill()
	// The second node of their cluster is pointed at ours.
	theirs[1].voters = ours[0].voters
	theirs[1].id = 2
	theirs[1].start()
	var other *ClusterIDMismatchError
	require.ErrorAs(t, theirs[1].failure(), &other)
	require.Equal(t, theirs[0].ClusterID(), other.Ours)
	require.Equal(t, ours[0].ClusterID(), other.Theirs)
	require.Len(t, ours[0].configuration(), 1)
}

// Founding takes every listed voter, not a majority: the absent one may be the
// only one that remembers.
func TestTwoOfThreeNeverFound(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	nodes[0].start()
	nodes[1].start()
	ctx := within(t, 700*time.Millisecond)
	_, err := nodes[0].Register(ctx, new(metav1.RegisterBroker))
	require.ErrorIs(t, err, ErrNoController)
	for _, n := range nodes[:2] {
		require.False(t, n.hasState())
	}
	nodes[2].start()
	registerAll(nodes...)
	require.Equal(t, nodes[0].ClusterID(), nodes[2].ClusterID())
}

// A node that finds a cluster never founds one, whatever else is missing.
func TestNewNodeBesideOldOnesDoesNotFound(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	answers := map[int32]helloAnswer{
		2: {nodeID: 2, storageID: metadata.ID{2}, leaderID: noNode, hasState: true},
		3: {nodeID: 3, storageID: metadata.ID{3}, leaderID: noNode},
	}
	n := nodes[0].start()
	for _, a := range []helloAnswer{
		{nodeID: 2, storageID: metadata.ID{2}, leaderID: noNode, hasState: true},
		{nodeID: 2, storageID: metadata.ID{2}, leaderID: noNode, clusterID: "some"},
		{nodeID: 2, storageID: metadata.ID{2}, leaderID: noNode, leaderAddress: "there:1"},
	} {
		answers[2] = a
		campaigned := false
		done, err := n.foundOrWait(t.Context(), answers, &campaigned)
		require.NoError(t, err)
		require.False(t, done)
		require.False(t, n.hasState())
	}
}

func TestPeerHelloRefusals(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	n := nodes[0]
	other := metadata.ID{9}
	for name, c := range map[string]struct {
		req  *pb.HelloRequest
		code pb.ErrorCode
	}{
		"cluster":  {&pb.HelloRequest{ProtocolVersion: 1, ClusterId: "other", NodeId: 5, StorageId: other[:]}, pb.ErrorCode_ERROR_CODE_IDENTITY_CONFLICT},
		"identity": {&pb.HelloRequest{ProtocolVersion: 1, NodeId: 1, StorageId: other[:]}, pb.ErrorCode_ERROR_CODE_IDENTITY_CONFLICT},
		"no id":    {&pb.HelloRequest{ProtocolVersion: 1, NodeId: 5}, pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT},
	} {
		_, err := n.Hello(t.Context(), c.req)
		code, ok := errorCode(FromStatus(err))
		require.True(t, ok, name)
		require.Equal(t, c.code, code, name)
	}
	_, err := n.Hello(t.Context(), &pb.HelloRequest{ProtocolVersion: 9, NodeId: 5, StorageId: other[:]})
	require.ErrorContains(t, err, "version 9")
	_, err = n.Hello(t.Context(), &pb.HelloRequest{ProtocolVersion: 1, NodeId: 5, StorageId: other[:]})
	require.NoError(t, err, "a node without a cluster yet")

	// Somebody else answers at a broker's address.
	_, err = n.peers.conn(within(t, 5*time.Second), nodeRef{nodeID: 5, storageID: other, address: n.peerAddr})
	var conflict *IdentityConflictError
	require.ErrorAs(t, err, &conflict)
}

func TestIdentityFile(t *testing.T) {
	id := identity{nodeID: 3, storageID: metadata.ID{1, 2, 3}, clusterID: "abc"}
	got, err := parseIdentity(id.encode())
	require.NoError(t, err)
	require.Equal(t, id, got)
	for name, text := range map[string]string{
		"empty":       "",
		"version":     "version: 2\nnode.id: 1\nstorage.id: 00000000000000000000000000000001\n",
		"node":        "version: 1\nnode.id: 0\nstorage.id: 00000000000000000000000000000001\n",
		"short id":    "version: 1\nnode.id: 1\nstorage.id: 01\n",
		"unknown key": "version: 1\nnode.id: 1\nstorage.id: 00000000000000000000000000000001\ncolour: red\n",
		"twice":       "version: 1\nnode.id: 1\nnode.id: 1\nstorage.id: 00000000000000000000000000000001\n",
		"no value":    "version: 1\nnode.id\n",
	} {
		_, err := parseIdentity([]byte(text))
		require.Error(t, err, name)
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add((&identity{nodeID: 1, storageID: metadata.ID{5}, clusterID: "c"}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := parseIdentity(data)
		if err != nil {
			return
		}
		again, err := parseIdentity(id.encode())
		require.NoError(t, err)
		require.Equal(t, id, again)
	})
}

func TestConfigErrors(t *testing.T) {
	err := new(Config).validate()
	for _, want := range []string{"node id 0", "raft directory", "raft listener", "logger", "0 voters"} {
		require.ErrorContains(t, err, want)
	}
	cfg := Config{Voters: []Voter{{1, "a:1"}, {1, "a:1"}, {3, ""}}}
	err = cfg.validate()
	for _, want := range []string{"voter 1 is listed twice", "same address a:1", "voter 3@"} {
		require.ErrorContains(t, err, want)
	}
}
