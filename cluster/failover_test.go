package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func TestKillAndRestartOneAndAll(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	clusterID := nodes[0].ClusterID()
	follower := without(nodes, controllerOf(t, nodes...))[0]
	old := follower.epoch
	follower.kill()
	rest := without(nodes, follower)
	rest[0].mustCreate("while-away", 2)

	follower.start().register()
	require.Greater(t, follower.epoch, old)
	require.NotNil(t, follower.Image().Topic("while-away"), "Register answers when the registration is applied here")
	require.Equal(t, clusterID, follower.ClusterID())

	for _, n := range nodes {
		n.kill()
	}
	for _, n := range nodes {
		n.start()
		require.Equal(t, clusterID, n.ClusterID(), "known before any leader is heard")
	}
	began := time.Now()
	registerAll(nodes...)
	t.Logf("all restarted: registered after %v", time.Since(began))
	nodes[1].mustCreate("after", 3)
	for _, n := range nodes {
		require.NotNil(t, n.Image().Topic("while-away"))
		require.Equal(t, clusterID, n.Image().ClusterID())
		require.Len(t, n.configuration(), 3)
	}
}

func TestFourthNodeJoinsWithoutAVote(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	startAll(nodes...)
	fourth := nodes[3]
	fourth.mustCreate("wide", 4)
	require.Len(t, fourth.Image().Topic("wide").Partitions[0].Replicas, 4)
	suffrage := func() map[raft.ServerID]raft.ServerSuffrage {
		out := make(map[raft.ServerID]raft.ServerSuffrage)
		for _, s := range fourth.configuration() {
			out[s.ID] = s.Suffrage
		}
		return out
	}
	require.Len(t, suffrage(), 4)
	require.Equal(t, raft.Nonvoter, suffrage()[serverID(fourth.StorageID())])

	fourth.kill()
	controllerOf(t, nodes[:3]...).eventually("the dead one is fenced", fenced(4))
	fourth.raftAddr = freeAddress(t) // it comes back elsewhere
	fourth.start().register()
	fourth.mustCreate("wider", 4)
	require.Len(t, suffrage(), 4)
}

func TestAnotherControllerTakesOver(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.SessionTimeout = time.Minute } // refused dials fence long before
	}
	startAll(nodes...)
	old := controllerOf(t, nodes...)
	rest := without(nodes, old)

	began := time.Now()
	old.kill()
	// Sent into the gap: found again by its command id, however often it is tried.
	resp, err := rest[0].createTopic("in-the-gap", 2)
	require.NoError(t, err)
	t.Logf("first change %v after the controller's end", time.Since(began))
	require.Len(t, resp.GetTopicId(), 16)
	next := controllerOf(t, rest...)
	next.eventually("the old one is fenced", fenced(old.id))
	t.Logf("fenced after %v", time.Since(began))
	id, ok := rest[1].Controller()
	require.True(t, ok)
	require.Equal(t, next.id, id)

	old.start().register()
	old.eventually("back", func(im *metadata.Image) bool { return !im.Broker(old.id).Fenced })
}

func TestResetAndRefusedDialsFenceAtOnce(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.SessionTimeout = time.Minute }
	}
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	victim := without(nodes, boss)[0]
	boss.mustCreate("t", 3)
	began := time.Now()
	victim.kill()
	boss.eventually("fenced", fenced(victim.id))
	took := time.Since(began)
	t.Logf("fenced after %v", took)
	require.GreaterOrEqual(t, took, 100*time.Millisecond)
	for _, p := range boss.Image().Topic("t").Partitions {
		require.NotEqual(t, victim.id, p.Leader)
		require.NotContains(t, p.ISR, victim.id)
	}
}

// A stream that is reset while the process lives must not fence.
func TestResetAloneDoesNotFence(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	victim := without(nodes, boss)[0]
	for range 3 {
		boss.server.Stop() // resets every stream to the controller
		boss.serve()
		victim.mustCreate(fmt.Sprintf("t%d", boss.Image().Index()), 3)
	}
	for b := range boss.Image().Brokers() {
		require.False(t, b.Fenced, "broker %d", b.NodeID)
		require.Equal(t, nodes[b.NodeID-1].epoch, b.Epoch)
	}
}

// A broker without a stream is fenced early only when nobody listens any longer.
// One that accepts connections (it starts, it is stopped by a debugger) has its
// whole session.
func TestSuspects(t *testing.T) {
	fencedAfter := func(session time.Duration, address string) time.Duration {
		boss := newNodes(t, 1, 1)[0]
		boss.tune = func(c *Config) { c.SessionTimeout = session }
		startAll(boss)
		began := time.Now()
		_, err := boss.Propose(t.Context(), &pb.ProposeRequest{Kind: &pb.ProposeRequest_Register{Register: &metav1.RegisterBroker{
			NodeId: 8, StorageId: newCommandID(), PeerAddress: address, FeatureLevel: metadata.Version,
		}}})
		require.NoError(t, err)
		boss.eventually("fenced", fenced(8))
		return time.Since(began)
	}
	alive := listen(t, "127.0.0.1:0")
	defer alive.Close()
	const session = 2 * time.Second
	require.GreaterOrEqual(t, fencedAfter(session, alive.Addr().String()), session)
	require.GreaterOrEqual(t, fencedAfter(time.Minute, freeAddress(t)), 100*time.Millisecond)
}

// A cut in either direction is silence: what the controller sends is not echoed
// when it is lost, nor when the echo is.
func TestSilenceFencesEitherWay(t *testing.T) {
	for _, c := range []struct {
		name string
		cut  func(*cutter)
	}{
		{"heartbeats are lost", func(c *cutter) { c.writes.Store(true) }},
		{"answers are lost", func(c *cutter) { c.reads.Store(true) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes := newNodes(t, 3, 3)
			cutters := make(map[int32]*cutter)
			for _, n := range nodes {
				cut := newCutter()
				cutters[n.id] = cut
				t.Cleanup(cut.heal)
				n.tune = func(cfg *Config) {
					cfg.SessionTimeout, cfg.HeartbeatInterval = 600*time.Millisecond, 50*time.Millisecond
					cfg.Dial = cut.dial(nodes)
				}
			}
			startAll(nodes...)
			boss := controllerOf(t, nodes...)
			victim := without(nodes, boss)[0]
			c.cut(cutters[victim.id])
			boss.eventually("fenced", fenced(victim.id))
			require.False(t, victim.SessionValid(time.Now()), "the broker stops before another may begin")
			cutters[victim.id].heal()
			boss.eventually("unfenced", func(im *metadata.Image) bool { return !im.Broker(victim.id).Fenced })
			require.Equal(t, victim.epoch, boss.Image().Broker(victim.id).Epoch, "same session")
		})
	}
}

func TestShutdownHandsOver(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	boss.mustCreate("t", 3)
	require.NoError(t, boss.RequestShutdown(within(t, 5*time.Second)))
	require.True(t, fenced(boss.id)(boss.Image()))
	for _, p := range boss.Image().Topic("t").Partitions {
		require.NotEqual(t, boss.id, p.Leader)
	}
	rest := without(nodes, boss)
	for _, n := range rest { // from now on nobody stands for election by himself
		slow := n.raft.ReloadableConfig()
		slow.HeartbeatTimeout, slow.ElectionTimeout = time.Minute, time.Minute
		require.NoError(t, n.raft.ReloadConfig(slow))
	}
	boss.server.Stop()
	require.NoError(t, boss.Close())
	controllerOf(t, rest...).mustCreate("u", 2)
}

func TestSnapshotAndInstall(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.TrailingLogs = 1 }
	}
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	away := without(nodes, boss)[0]
	away.kill()
	for i := range 10 {
		boss.mustCreate(fmt.Sprintf("t%d", i), 2)
	}
	for _, n := range without(nodes, away) {
		require.NoError(t, n.raft.Snapshot().Error())
	}
	boss.mustCreate("after-snapshot", 2)
	away.start().register() // its entries are gone from the logs of the others
	require.Equal(t, boss.Image().TopicCount(), away.Image().TopicCount())

	for _, n := range nodes {
		n.kill()
	}
	startAll(nodes...)
	for _, n := range nodes {
		require.Equal(t, 11, n.Image().TopicCount())
	}
}

func TestRetryOfACommandIsAppliedOnce(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	req := &pb.ProposeRequest{CommandId: newCommandID(), Kind: &pb.ProposeRequest_CreateTopic{
		CreateTopic: &pb.CreateTopicProposal{Name: "once", Partitions: 2, ReplicationFactor: 3},
	}}
	first, err := nodes[0].Propose(t.Context(), req)
	require.NoError(t, err)
	for _, n := range nodes {
		again, err := n.Propose(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, first.GetTopicId(), again.GetTopicId())
		require.Equal(t, first.GetIndex(), again.GetIndex())
	}
	check := &pb.ProposeRequest{Kind: &pb.ProposeRequest_CreateTopic{
		CreateTopic: &pb.CreateTopicProposal{Name: "only-checked", Partitions: 2, ValidateOnly: true},
	}}
	resp, err := nodes[2].Propose(t.Context(), check)
	require.NoError(t, err)
	require.EqualValues(t, 3, resp.GetReplicationFactor())
	require.Nil(t, nodes[2].Image().Topic("only-checked"))
}

func TestNoQuorumAnswersWhenTheTimeIsUp(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	for _, n := range without(nodes, boss) {
		n.kill()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := boss.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "x"}}})
	require.ErrorIs(t, err, ErrOutcomeUnknown)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestBigRegistrationGoesInChunks(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	nodes[0].start()
	r := new(metav1.RegisterBroker)
	for i := range 2*registerChunk + 1 {
		r.Replicas = append(r.Replicas, &metav1.RecoveredReplica{TopicId: newCommandID(), Partition: int32(i), LastEpoch: 1, LogEndOffset: 1 << 40})
	}
	require.Len(t, chunks(proto.CloneOf(r)), 3)
	epoch, err := nodes[0].Register(within(t, 10*time.Second), r)
	require.NoError(t, err)
	require.Equal(t, epoch, nodes[0].Image().Broker(1).Epoch)
}

func TestTheSecondOfTwoProcessesEndsTheFirst(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	n := nodes[0]
	_, err := n.Propose(t.Context(), &pb.ProposeRequest{Kind: &pb.ProposeRequest_Register{Register: &metav1.RegisterBroker{
		NodeId: n.id, StorageId: n.storageID[:], PeerAddress: n.peerAddr, FeatureLevel: metadata.Version,
	}}})
	if err != nil { // the first may be gone before its answer is
		require.ErrorIs(t, err, ErrSuperseded)
	}
	select {
	case err := <-n.Failed():
		require.ErrorIs(t, err, ErrSuperseded)
	case <-within(t, 5*time.Second).Done():
		t.Fatal("goes on")
	}
}

// The last node of a cluster that stops does not wait for a quorum that will
// not come back.
func TestShutdownWithoutAQuorumGivesUp(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	for _, n := range nodes[1:] {
		n.kill()
	}
	require.ErrorIs(t, nodes[0].RequestShutdown(within(t, 15*time.Second)), ErrNoController)
}

// forgotten is a future that Raft never answers.
type forgotten chan struct{}

func (f forgotten) Error() error {
	<-f
	return nil
}

// Raft forgets futures whose entries it had committed and not applied when it
// stopped: the store is well, and the node stops all the same.
func TestAFutureWithoutAnAnswerDoesNotHoldUpTheStop(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	f := make(forgotten)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, nodes[0].await(ctx, f), context.Canceled)
	nodes[0].server.Stop()
	require.NoError(t, nodes[0].Close())
	close(f)
	nodes[0].futures.close()
}
