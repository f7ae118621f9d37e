package cluster

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// largePartitions is how many partitions TestLargeMetadata has; make
// metadata-100k asks for 100,000. No log of a partition is opened: this is about
// the metadata alone.
var largePartitions = flag.Int("large.partitions", 3000, "partitions of TestLargeMetadata")

const largeTopic = 1000 // partitions of one topic

// TestLargeMetadata takes a cluster with many partitions through what is done to
// all of them at once, with Raft on disk and TCP between three nodes, and prints
// how long each took. The figures are for people; what fails the test is a wrong
// outcome.
func TestLargeMetadata(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.TrailingLogs = 64 } // so that who is away for long needs a snapshot
	}
	startAll(nodes...)
	topics := max(1, *largePartitions/largeTopic)
	perTopic := int32(*largePartitions / topics)
	took := func(what string, began time.Time) {
		t.Helper()
		t.Logf("%-66s %8.3f s", what, time.Since(began).Seconds())
	}

	began := time.Now()
	slowest := time.Duration(0)
	for i := range topics {
		one := time.Now()
		_, err := nodes[i%3].Propose(within(t, time.Minute), &pb.ProposeRequest{Kind: &pb.ProposeRequest_CreateTopic{
			CreateTopic: &pb.CreateTopicProposal{Name: fmt.Sprintf("topic-%03d", i), Partitions: perTopic, ReplicationFactor: 3},
		}})
		require.NoError(t, err)
		slowest = max(slowest, time.Since(one))
	}
	took(fmt.Sprintf("%d topics of %d partitions, one by one, applied on all", topics, perTopic), began)
	t.Logf("%-66s %8.3f s", "  the slowest of them", slowest.Seconds())
	boss := controllerOf(t, nodes...)
	total := topics * int(perTopic)
	allHave(t, nodes, boss.Image().Index())
	require.Equal(t, total, nodes[2].Image().PartitionCount())

	for _, n := range nodes {
		began = time.Now()
		require.NoError(t, n.raft.Snapshot().Error())
		took(fmt.Sprintf("snapshot on disk, node %d", n.id), began)
	}

	// One broker dies: its leaderships go to others, on every node.
	dead := without(nodes, boss)[0]
	led := leaderships(boss.Image(), dead.id)
	require.InDelta(t, total/3, led, float64(total)/30)
	rest := without(nodes, dead)
	began = time.Now()
	dead.kill()
	for _, n := range rest {
		n.eventually("nobody is led by the dead one", func(im *metadata.Image) bool { return leaderships(im, dead.id) == 0 })
	}
	took(fmt.Sprintf("failover of %d leaderships, from the kill to applied on all", led), began)
	for _, n := range rest {
		require.Zero(t, leaderships(n.Image(), metadata.NoNode))
	}

	// While it is away more is committed than the log keeps: it gets a snapshot.
	for i := range 200 {
		require.NoError(t, alterRetention(rest[i%2], "topic-000", i))
	}
	require.NoError(t, boss.raft.Snapshot().Error())
	first, err := boss.store.FirstIndex()
	require.NoError(t, err)
	last := dead.lastIndexOnDisk()
	require.Greater(t, first, last+1, "the leader's log still reaches back to what the dead one has")
	replicas := everyReplica(boss.Image(), dead.id)
	began = time.Now()
	dead.start()
	dead.eventually("a snapshot", func(im *metadata.Image) bool { return im.Index() >= first })
	took("snapshot installed on a node that was far behind, from its start", began)
	require.Equal(t, total, dead.Image().PartitionCount())

	began = time.Now()
	epoch, err := dead.Register(within(t, time.Minute), &metav1.RegisterBroker{Version: "test", CleanStop: true, Replicas: replicas})
	require.NoError(t, err)
	took(fmt.Sprintf("registration with %d replicas", len(replicas)), began)
	allHave(t, nodes, uint64(epoch))
	began = time.Now()
	for _, n := range nodes {
		n.eventually("it is unfenced", func(im *metadata.Image) bool { return !im.Broker(dead.id).Fenced })
	}
	took("until it is unfenced, on all", began)

	// Everybody restarts from snapshots and logs.
	want := boss.Image()
	for _, n := range nodes {
		n.kill()
	}
	began = time.Now()
	for _, n := range nodes {
		n.start()
	}
	took("three nodes read their snapshots", began)
	allHave(t, nodes, want.Index())
	for _, n := range nodes {
		require.Equal(t, total, n.Image().PartitionCount())
	}
}

func allHave(t *testing.T, nodes []*testNode, index uint64) {
	t.Helper()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			if err := n.WaitApplied(within(t, time.Minute), index); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func leaderships(im *metadata.Image, node int32) int {
	n := 0
	for t := range im.Topics() {
		for _, p := range t.Partitions {
			if p.Leader == node {
				n++
			}
		}
	}
	return n
}

// everyReplica is what a node that has lost nothing registers with.
func everyReplica(im *metadata.Image, node int32) (out []*metav1.RecoveredReplica) {
	for t := range im.Topics() {
		for i, p := range t.Partitions {
			if p.Replica(node) != nil {
				out = append(out, &metav1.RecoveredReplica{TopicId: t.ID[:], Partition: int32(i), LastEpoch: -1})
			}
		}
	}
	return out
}

func alterRetention(n *testNode, topic string, i int) error {
	_, err := n.Propose(within(n.t, 15*time.Second), &pb.ProposeRequest{Kind: &pb.ProposeRequest_AlterTopic{
		AlterTopic: &metav1.AlterTopicConfig{Name: topic, Set: map[string]string{"retention.ms": fmt.Sprint(1000 + i)}},
	}})
	return err
}

// lastIndexOnDisk reads the Raft log of a node that does not run.
func (n *testNode) lastIndexOnDisk() uint64 {
	n.t.Helper()
	s, err := openStore(n.dir, n.id)
	require.NoError(n.t, err)
	last, err := s.LastIndex()
	require.NoError(n.t, err)
	require.NoError(n.t, s.close())
	return last
}
