package e2e

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/internal/chaos"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

const (
	loadTopic      = "load"
	loadPartitions = 6
	warm           = 2000 // records that are acknowledged before anything breaks
)

func TestKilledLeaders(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3})
	w.createTopic(loadTopic, loadPartitions, 3)
	l := w.startLoad(loadTopic)
	l.waitMore(t, warm)

	for _, controller := range []bool{false, true} {
		victim := w.leader(loadTopic, controller)
		led := w.leads(loadTopic, victim)
		l.watch(led)
		require.NoError(t, w.nodes.Kill(victim))
		t.Logf("killed node %d, leader of %d partitions, controller: %t; first acknowledged write there after %s",
			victim, len(led), controller, l.waitFirst(t).Round(time.Millisecond))
		l.waitMore(t, warm)
		require.NoError(t, w.nodes.Start(victim))
		w.waitHealthy()
	}

	l.finish(t)
	l.verify(w)
	w.requireEqualReplicas(loadTopic, 3)
}

func TestKilledCluster(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3})
	w.createTopic(loadTopic, loadPartitions, 3)
	l := w.startLoad(loadTopic)
	l.waitMore(t, warm)
	all := map[int32]bool{}
	for _, p := range w.partitions(loadTopic) {
		all[p.Partition] = true
	}

	require.NoError(t, w.nodes.KillAll())
	l.watch(all)
	require.NoError(t, w.nodes.StartAll())
	t.Logf("killed all nodes; first acknowledged write %s after their start", l.waitFirst(t).Round(time.Millisecond))
	w.waitHealthy()
	l.waitMore(t, warm)

	l.finish(t)
	l.verify(w)
	w.requireEqualReplicas(loadTopic, 3)
}

// A leader that slept past its session must not acknowledge what reached it
// before others took over.
func TestPausedLeader(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3})
	w.createTopic(loadTopic, loadPartitions, 3)
	l := w.startLoad(loadTopic)
	l.waitMore(t, warm)
	victim := w.leader(loadTopic, false)
	led := w.leads(loadTopic, victim)
	zombie := dialZombie(t, w.nodes.Addr(victim))
	partition := firstOf(led)

	l.watch(led)
	require.NoError(t, w.nodes.Signal(victim, syscall.SIGSTOP))
	// These wait in the socket of the process that sleeps.
	answers := make(chan error, 2)
	for _, acks := range []pb.Acks{pb.Acks_ACKS_ALL, pb.Acks_ACKS_LEADER} {
		go func() { answers <- zombie.produce(w.ctx, partition, acks) }()
	}
	t.Logf("paused node %d; first acknowledged write to its %d partitions after %s", victim, len(led), l.waitFirst(t).Round(time.Millisecond))
	require.Eventually(t, func() bool { return len(w.leads(loadTopic, victim)) == 0 }, testWait, 50*time.Millisecond,
		"node %d sleeps and leads", victim)
	l.waitMore(t, warm)
	require.Empty(t, answers, "a paused process answered")

	require.NoError(t, w.nodes.Signal(victim, syscall.SIGCONT))
	for range 2 {
		select {
		case err := <-answers:
			require.Error(t, err, "the deposed leader acknowledged a record")
			t.Logf("the deposed leader answered: %v", err)
		case <-time.After(testWait):
			t.Fatal("the deposed leader did not answer")
		}
	}
	w.waitHealthy()
	l.waitMore(t, warm)

	l.finish(t)
	l.verify(w)
	w.requireEqualReplicas(loadTopic, 3)
}

func firstOf(partitions map[int32]bool) int32 {
	for p := range partitions {
		return p
	}
	return -1
}

// directProducer asks one broker, whoever leads.
type directProducer struct{ conn *grpc.ClientConn }

func dialZombie(t *testing.T, address string) *directProducer {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	_, err = pb.NewProduceServiceClient(conn).InitProducer(t.Context(), &pb.InitProducerRequest{}) // connects
	require.NoError(t, err)
	return &directProducer{conn}
}

func (d *directProducer) produce(ctx context.Context, partition int32, acks pb.Acks) error {
	resp, err := pb.NewProduceServiceClient(d.conn).Produce(ctx, &pb.ProduceRequest{Acks: acks, Partitions: []*pb.ProducePartition{{
		Topic: loadTopic, Partition: partition, Records: []*pb.Record{{Value: []byte("from the zombie")}},
	}}})
	if err != nil {
		return err
	}
	if e := resp.GetResults()[0].GetError(); e != nil {
		return &refused{e}
	}
	return nil
}

type refused struct{ e *pb.Error }

func (r *refused) Error() string { return r.e.GetCode().String() + ": " + r.e.GetMessage() }

func TestStoppedLeaderHandsOver(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3})
	w.createTopic(loadTopic, loadPartitions, 3)
	l := w.startLoad(loadTopic)
	l.waitMore(t, warm)
	for _, controller := range []bool{false, true} {
		victim := w.leader(loadTopic, controller)
		led := w.leads(loadTopic, victim)
		l.watch(led)
		require.NoError(t, w.nodes.Stop(victim, 20*time.Second), "the exit status of a node that was asked to stop")
		t.Logf("stopped node %d, controller: %t; first write acknowledged after the signal: %s", victim, controller, l.waitFirst(t).Round(time.Millisecond))
		l.waitMore(t, warm)
		require.NoError(t, w.nodes.Start(victim))
		w.waitHealthy()
	}
	l.finish(t) // no record failed
	l.verify(w)
	w.requireEqualReplicas(loadTopic, 3)
}

// A server outside the metadata quorum joins a running cluster and bears replicas.
func TestFourthBrokerJoins(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 4, Voters: 3})
	require.NoError(t, w.nodes.Start(4))
	require.Eventually(t, func() bool {
		c, err := w.client.Admin().Cluster(w.ctx)
		return err == nil && len(c.Brokers) == 4 && c.Healthy()
	}, testWait, 50*time.Millisecond, "the fourth broker did not join")
	c, err := w.client.Admin().Cluster(w.ctx)
	require.NoError(t, err)
	for _, b := range c.Brokers {
		require.Equal(t, b.NodeID <= 3, b.Voter, "node %d is a voter", b.NodeID)
	}

	w.createTopic(loadTopic, 4, 3)
	replicas, leaders := 0, 0
	for _, p := range w.partitions(loadTopic) {
		require.Len(t, p.Replicas, 3)
		for _, id := range p.Replicas {
			if id == 4 {
				replicas++
			}
		}
		if p.Leader == 4 {
			leaders++
		}
	}
	require.Equal(t, 3, replicas, "twelve replicas over four nodes")
	require.Equal(t, 1, leaders, "four leaders over four nodes")

	l := w.startLoad(loadTopic)
	l.waitMore(t, warm)
	l.finish(t)
	l.verify(w)
	w.requireEqualReplicas(loadTopic, 4)
}
