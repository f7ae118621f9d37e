package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// older makes a node one of a build before levels.
func older(c *Config) { c.featureLevel = 1 }

func registration() *metav1.RegisterBroker { return &metav1.RegisterBroker{Version: "test"} }

// restart stops a node in order and starts it again as tune says.
func (n *testNode) restart(tune func(*Config)) {
	n.t.Helper()
	n.server.Stop()
	_ = n.Close() // Raft says that its peers are gone.
	n.tune = tune
	n.start()
}

// A rolling upgrade: the feature level rises with the last node, and stays.
func TestLevelRisesWithTheLastNode(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.tune = older
	}
	startAll(nodes...)
	for i, n := range nodes {
		require.EqualValues(t, 1, nodes[0].Image().FeatureLevel(), "before node %d", n.id)
		n.restart(nil)
		n.register()
		nodes[(i+1)%3].mustCreate("t"+string(rune('a'+i)), 3)
	}
	for _, n := range nodes {
		n.eventually("the level of this build", func(im *metadata.Image) bool { return im.FeatureLevel() == metadata.Version })
	}
	// There is no way back.
	nodes[0].restart(older)
	_, err := nodes[0].Register(within(t, 10*time.Second), registration())
	code, _ := errorCode(err)
	require.Equal(t, pb.ErrorCode_ERROR_CODE_UNSUPPORTED, code, "%v", err)
	require.ErrorContains(t, err, fmt.Sprintf("node 1 (version test) knows feature level 1, the cluster is at %d", metadata.Version))
	// Nor does a new node of an old build join.
	late := &testNode{t: t, id: 9, dir: t.TempDir(), raftAddr: freeAddress(t), peerAddr: freeAddress(t), voters: nodes[0].voters, tune: older}
	late.start()
	select {
	case err := <-late.Failed():
		require.ErrorContains(t, err, fmt.Sprintf("node 9 knows feature level 1, the cluster is at %d", metadata.Version))
	case <-within(t, 10*time.Second).Done():
		t.Fatal("joined")
	}
}

// A node that meets a command that only a newer build knows applies nothing from
// there on: the others went another way.
func TestNewerCommandEndsTheNode(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	n := nodes[0]
	before := n.Image()
	newer, err := proto.Marshal(&metav1.Command{Version: metadata.Version + 1})
	require.NoError(t, err)
	later, err := proto.Marshal(&metav1.Command{Version: 1})
	require.NoError(t, err)
	n.raft.Apply(newer, time.Second)
	n.raft.Apply(later, time.Second)
	var outdated *OutdatedError
	select {
	case err := <-n.Failed():
		require.ErrorAs(t, err, &outdated)
		require.EqualValues(t, metadata.Version+1, outdated.Needs)
	case <-within(t, 10*time.Second).Done():
		t.Fatal("goes on")
	}
	require.Less(t, n.Image().Index(), outdated.Index)
	require.Equal(t, before.FeatureLevel(), n.Image().FeatureLevel())
	// Nor after a restart, when Raft replays its log.
	n.kill()
	n.start()
	select {
	case err := <-n.Failed():
		require.ErrorAs(t, err, &outdated)
	case <-within(t, 10*time.Second).Done():
		t.Fatal("goes on after a restart")
	}
	_, err = n.fsm.Snapshot()
	require.ErrorAs(t, err, &outdated)
}

// The codes of package metadata are those of the protocol, by number and name.
func TestCodesAreThoseOfTheProtocol(t *testing.T) {
	known := 0
	for number := int32(1); number < 200; number++ {
		text := metadata.Code(number).String()
		if strings.HasPrefix(text, "code ") {
			continue
		}
		known++
		require.Equal(t, pb.ErrorCode_name[number], "ERROR_CODE_"+strings.ToUpper(strings.ReplaceAll(text, " ", "_")))
	}
	require.Greater(t, known, 15)
}
