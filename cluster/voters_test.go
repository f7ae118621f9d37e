package cluster

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// vote asks through n for a node to vote, or not to.
func (n *testNode) vote(node int32, vote bool) (*pb.ProposeResponse, error) {
	n.t.Helper()
	return n.Propose(within(n.t, 20*time.Second), &pb.ProposeRequest{Kind: &pb.ProposeRequest_Voter{
		Voter: &pb.VoterProposal{NodeId: node, Vote: vote},
	}})
}

func (n *testNode) mustVote(node int32, vote bool) {
	n.t.Helper()
	_, err := n.vote(node, vote)
	require.NoError(n.t, err)
}

// votersBecome waits until a node's Raft configuration has these voters.
func (n *testNode) votersBecome(want ...int32) {
	n.t.Helper()
	require.Eventually(n.t, func() bool { return slices.Equal(n.Voters(), want) }, 15*time.Second, 5*time.Millisecond,
		"node %d sees the voters %v, not %v", n.id, n.Voters(), want)
}

func requireCode(t *testing.T, want pb.ErrorCode, err error) {
	t.Helper()
	code, ok := errorCode(err)
	require.True(t, ok, "%v", err)
	require.Equal(t, want, code, "%v", err)
}

// The quorum moves by command from nodes 1, 2, 3 to 2, 3, 4; the configuration
// files go on naming its founders.
func TestVotersByCommand(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	startAll(nodes...)
	first := controllerOf(t, nodes...)
	resp, err := nodes[3].vote(4, true) // through any node
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2, 3, 4}, resp.GetVoters())
	resp, err = nodes[0].vote(4, true) // again
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2, 3, 4}, resp.GetVoters())

	before := first.raft.CurrentTerm()
	resp, err = first.vote(first.id, false) // its own: it hands over first
	require.NoError(t, err)
	_, index, err := first.configurationAt()
	require.NoError(t, err)
	var change raft.Log
	require.NoError(t, first.store.GetLog(index, &change))
	require.Greater(t, change.Term, before, "the controller took its own vote")
	rest := without(nodes, first)
	ids := []int32{rest[0].id, rest[1].id, rest[2].id}
	require.Equal(t, ids, resp.GetVoters())
	require.NotEqual(t, first.id, controllerOf(t, rest...).id)
	first.votersBecome(ids...)
	first.mustCreate("after", 4)

	// All restart, with the founders in their files. The old voter goes on without
	// a vote, and no second cluster comes about.
	id := first.ClusterID()
	for _, n := range nodes {
		n.kill()
	}
	startAll(nodes...)
	for _, n := range nodes {
		require.Equal(t, id, n.ClusterID())
		n.votersBecome(ids...)
		n.eventually("the topic", func(im *metadata.Image) bool { return im.Topic("after") != nil })
	}
	// Without the old voter a majority of the new ones is enough, and not with it.
	controllerOf(t, rest...)
	first.kill()
	without(rest, controllerOf(t, rest...))[0].kill()
	alive := controllerOf(t, without(nodes, first)...)
	alive.mustCreate("two-of-three", 2)
}

// A founder that lost its vote and is the lowest of those in the file must not
// start an election when all come back.
func TestDemotedFounderStartsNoElection(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	startAll(nodes...)
	nodes[1].mustVote(4, true)
	nodes[1].mustVote(1, false)
	for _, n := range nodes {
		n.kill()
	}
	demoted := nodes[0].start()
	for _, n := range nodes[1:3] { // all founders, and one voter short of a majority with 4 away
		n.start()
	}
	registerAll(nodes[:3]...)
	require.False(t, demoted.votes())
	// As it was at its start: all founders answer, and nobody leads yet.
	answers := demoted.askVoters(within(t, 5*time.Second))
	require.Len(t, answers, 2)
	for id, a := range answers {
		a.leaderAddress = ""
		answers[id] = a
	}
	campaigned := false
	done, err := demoted.foundOrWait(t.Context(), answers, &campaigned)
	require.NoError(t, err)
	require.False(t, done || campaigned, "a node without a vote started an election")
	demoted.votersBecome(2, 3, 4)
	require.False(t, demoted.IsController())
}

func TestVoterRefusals(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.SessionTimeout = time.Second }
	}
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	rest := without(nodes[:3], boss)

	_, err := boss.vote(9, true)
	requireCode(t, pb.ErrorCode_ERROR_CODE_UNKNOWN_BROKER, err)
	require.ErrorContains(t, err, "there is no broker 9")

	nodes[3].kill()
	boss.eventually("4 is fenced", fenced(4))
	_, err = boss.vote(4, true)
	requireCode(t, pb.ErrorCode_ERROR_CODE_INVALID_STATE, err)
	require.ErrorContains(t, err, "node 4 is not alive")
	boss.mustVote(4, false) // it has none

	// With one of three gone no live one may lose its vote; the dead one may.
	rest[0].kill()
	boss.eventually("one voter is fenced", fenced(rest[0].id))
	_, err = boss.vote(rest[1].id, false)
	requireCode(t, pb.ErrorCode_ERROR_CODE_INVALID_STATE, err)
	require.ErrorContains(t, err, "of 2 voters then only 1 are alive, and 2 are needed: the quorum would be lost")
	boss.mustVote(rest[0].id, false)
	boss.mustVote(rest[1].id, false)
	_, err = boss.vote(boss.id, false)
	requireCode(t, pb.ErrorCode_ERROR_CODE_INVALID_STATE, err)
	require.ErrorContains(t, err, "is the only voter")
	boss.mustCreate("one-voter", 2)
}

// A node that lags gets no vote until it has caught up: as a voter it would hold
// up every commit.
func TestLaggingNodeGetsNoVote(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	store := &slowLog{hang: make(chan struct{})}
	for _, n := range nodes {
		n.tune = func(c *Config) {
			c.SessionTimeout = time.Second
			if n.id == 4 {
				c.wrapStore = func(s raftStore) raftStore {
					store.raftStore = s
					return store
				}
			}
		}
	}
	startAll(nodes...)
	release := sync.OnceFunc(func() { close(store.hang) })
	t.Cleanup(release)
	store.slow.Store(true) // its writes hang from here on
	nodes[0].mustCreate("lag", 3)
	_, err := nodes[0].vote(4, true)
	requireCode(t, pb.ErrorCode_ERROR_CODE_INVALID_STATE, err)
	require.ErrorContains(t, err, "it gets a vote when it has caught up")
	nodes[0].votersBecome(1, 2, 3)
	release()
	nodes[0].mustVote(4, true)
	nodes[0].votersBecome(1, 2, 3, 4)
}

// Several changes at once come one after the other, and each repetition of one
// finds it done.
func TestVotersChangeOneAtATime(t *testing.T) {
	nodes := newNodes(t, 5, 3)
	startAll(nodes...)
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = nodes[i%5].vote(int32(4+i%2), true)
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	nodes[0].votersBecome(1, 2, 3, 4, 5)
	controllerOf(t, nodes...)
	require.Len(t, configurationChanges(t, nodes[0]), 1+2+2, "one entry a change: founding, two joined, two votes")
}

// configurationChanges are the configurations in a node's log.
func configurationChanges(t *testing.T, n *testNode) [][]raft.Server {
	t.Helper()
	var out [][]raft.Server
	last, err := n.store.LastIndex()
	require.NoError(t, err)
	for i := uint64(1); i <= last; i++ {
		var l raft.Log
		require.NoError(t, n.store.GetLog(i, &l))
		if l.Type == raft.LogConfiguration {
			out = append(out, raft.DecodeConfiguration(l.Data).Servers)
		}
	}
	return out
}

// A change is bound to the configuration that was judged: when another came
// between, Raft refuses it, and it is judged again.
func TestVoterChangeIsBoundToWhatWasJudged(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	_, index, err := boss.configurationAt()
	require.NoError(t, err)
	require.Positive(t, index)
	require.Zero(t, boss.raft.GetConfiguration().Index(), "the library tells it by now: use that")
	boss.mustVote(4, true) // another change comes between
	other := without(nodes, boss)[0]
	f := boss.raft.DemoteVoter(serverID(other.StorageID()), index, time.Second)
	err = f.Error()
	require.Error(t, err)
	require.True(t, configurationChanged(err), "%v", err)
	retry, err := boss.term.Load().reconfigure(t.Context(), func() raft.Future {
		return boss.raft.DemoteVoter(serverID(other.StorageID()), index, time.Second)
	}, "stale")
	require.NoError(t, err)
	require.True(t, retry)
	require.Len(t, boss.Voters(), 4)
}

// After a snapshot that took the log with it the configuration's index comes from there.
func TestConfigurationIndexFromASnapshot(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	nodes[0].tune = func(c *Config) { c.TrailingLogs = 1 }
	startAll(nodes...)
	n := nodes[0]
	_, before, err := n.configurationAt()
	require.NoError(t, err)
	for range 4 {
		n.mustCreate("t", 1)
		_, err := n.Propose(t.Context(), &pb.ProposeRequest{Kind: &pb.ProposeRequest_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t"}}})
		require.NoError(t, err)
	}
	require.NoError(t, n.raft.Snapshot().Error())
	first, err := n.store.FirstIndex()
	require.NoError(t, err)
	require.Greater(t, first, before)
	servers, index, err := n.configurationAt()
	require.NoError(t, err)
	require.Equal(t, before, index)
	require.Len(t, servers, 1)
}

// newDisk gives a node an empty directory.
func (n *testNode) newDisk() { n.dir = filepath.Join(n.t.TempDir(), "raft") }

func (n *testNode) replace(node int32, acceptLoss bool) (*pb.ProposeResponse, error) {
	return n.Propose(within(n.t, 20*time.Second), &pb.ProposeRequest{Kind: &pb.ProposeRequest_ReplaceBroker{
		ReplaceBroker: &pb.ReplaceBrokerProposal{NodeId: node, AcceptLoss: acceptLoss},
	}})
}

// A voter whose disk is gone comes back under another storage id: once, by
// command, without a vote first, and with one when it has caught up. The old disk
// is out for good.
func TestReplaceAVoter(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	nodes[0].mustCreate("t", 3)
	lost := nodes[0] // the one that would found a new quorum
	oldDir, oldID := lost.dir, lost.StorageID()
	_, err := nodes[1].replace(1, true)
	requireCode(t, pb.ErrorCode_ERROR_CODE_INVALID_STATE, err)
	require.ErrorContains(t, err, "broker 1 is alive")
	lost.kill()
	rest := nodes[1:]
	boss := controllerOf(t, rest...)
	boss.eventually("1 is fenced", fenced(1))
	before := rest[0].Image()

	// Before the command the new disk is refused.
	lost.newDisk()
	lost.start()
	var conflict *IdentityConflictError
	require.ErrorAs(t, lost.failure(), &conflict)
	lost.kill()

	resp, err := rest[0].replace(1, false)
	require.NoError(t, err)
	require.True(t, resp.GetVote())
	boss.votersBecome(2, 3)

	// The new one joins, registers, and gets its vote back by itself.
	lost.start().register()
	require.NotEqual(t, oldID, lost.StorageID())
	for _, n := range nodes {
		n.votersBecome(1, 2, 3)
		n.eventually("the vote is settled", func(im *metadata.Image) bool { return !im.Broker(1).VotePending })
		p := n.Image().Topic("t").Partitions[0]
		require.False(t, p.InISR(1) || p.InELR(1), "%+v", p)
		require.Equal(t, lost.StorageID(), p.Replica(1).StorageID)
		require.Equal(t, metadata.DamageMissing, p.Replica(1).Damage)
	}
	// A node that has just started, with an image of before, does not refuse it: its
	// log knows who joined. And the new one takes no such refusal for the last word.
	now := rest[0].fsm.image.Swap(before)
	_, refused := rest[0].conflict(1, lost.StorageID(), lost.cfg.AdvertiseRaft)
	require.False(t, refused)
	known, refused := rest[0].conflict(1, metadata.ID{9}, lost.cfg.AdvertiseRaft)
	require.True(t, refused)
	require.Equal(t, oldID, known)
	storage := lost.StorageID()
	require.NoError(t, rest[0].checkCaller(rest[0].ClusterID(), 1, storage[:]))
	require.Error(t, rest[0].checkCaller(rest[0].ClusterID(), 1, make([]byte, 16)))
	rest[0].fsm.image.Store(now)
	require.False(t, lost.final(&IdentityConflictError{NodeID: 1, Known: oldID, Found: lost.StorageID()}))
	require.True(t, lost.final(&IdentityConflictError{NodeID: 1, Found: lost.StorageID()}), "its directory was given up")
	// A vote that is taken away later stays away.
	boss.mustVote(1, false)
	boss.mustCreate("u", 2)
	boss.votersBecome(2, 3)

	// The old disk comes back: everybody refuses it, and it never votes.
	lost.kill()
	newDir := lost.dir
	lost.dir = oldDir
	lost.start()
	err = lost.failure()
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, IdentityConflictError{NodeID: 1, Found: oldID}, *conflict)
	require.ErrorContains(t, err, "was given up")
	lost.kill()
	// And a third disk needs a command of its own.
	lost.newDisk()
	lost.start()
	require.ErrorAs(t, lost.failure(), &conflict)
	require.False(t, conflict.Known.IsZero())
	lost.kill()
	lost.dir = newDir
	lost.start().register()
}

// The old process is alive somewhere: cut off from the controller when its disk
// is given up. It has no session any more, and is told so.
func TestReplaceEndsTheOldSession(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	for _, n := range nodes {
		n.tune = func(c *Config) { c.SessionTimeout = time.Second }
	}
	cut := newCutter()
	nodes[3].tune = func(c *Config) {
		c.SessionTimeout = time.Second
		c.Dial = cut.dial(nodes)
	}
	startAll(nodes...)
	cut.writes.Store(true)
	boss := controllerOf(t, nodes[:3]...)
	boss.eventually("4 is fenced", fenced(4))
	_, err := boss.replace(4, false)
	require.NoError(t, err)
	cut.heal()
	// Raft does not tell it any more; its heartbeats are refused with its identity.
	require.Error(t, nodes[3].failure())
	require.True(t, boss.Image().Broker(4).Fenced)
	require.True(t, boss.Image().Broker(4).Replaced())
	for _, s := range boss.configuration() {
		require.NotEqual(t, serverID(nodes[3].StorageID()), s.ID)
	}
}

// A broker that is gone for good is removed, with its vote, once it holds nothing.
func TestRemoveABroker(t *testing.T) {
	nodes := newNodes(t, 4, 3)
	startAll(nodes...)
	nodes[0].mustCreate("t", 4)
	gone := nodes[2]
	remove := func(id int32) error {
		_, err := nodes[0].Propose(within(t, 20*time.Second), &pb.ProposeRequest{Kind: &pb.ProposeRequest_RemoveBroker{
			RemoveBroker: &pb.RemoveBrokerProposal{NodeId: id},
		}})
		return err
	}
	requireCode(t, pb.ErrorCode_ERROR_CODE_INVALID_STATE, remove(3))
	gone.kill()
	nodes[0].eventually("3 is fenced", fenced(3))
	err := remove(3)
	requireCode(t, pb.ErrorCode_ERROR_CODE_INVALID_STATE, err)
	require.ErrorContains(t, err, "broker 3 holds 3 replicas")
	_, err = nodes[0].Propose(t.Context(), &pb.ProposeRequest{Kind: &pb.ProposeRequest_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t"}}})
	require.NoError(t, err)
	require.NoError(t, remove(3))
	nodes[0].eventually("3 is gone", func(im *metadata.Image) bool { return im.Broker(3) == nil })
	for _, n := range without(nodes, gone) {
		n.votersBecome(1, 2)
	}
	err = remove(3)
	requireCode(t, pb.ErrorCode_ERROR_CODE_UNKNOWN_BROKER, err)
	// Its directory does not come back; a new one may, as any new broker.
	gone.start()
	var conflict *IdentityConflictError
	require.ErrorAs(t, gone.failure(), &conflict)
	gone.kill()
	gone.newDisk()
	gone.start().register()
	nodes[0].votersBecome(1, 2)
	nodes[0].mustVote(3, true)
}

// A controller may send once more to the address of a server that it has just
// removed. The new directory that answers there hears a leader and learns its
// term, and is no member for that: it goes on until it has joined.
func TestTheLastMessageToARemovedServerMakesNoMember(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	gone := without(nodes, boss)[0]
	gone.kill()
	boss.eventually("it is fenced", fenced(gone.id))
	_, err := boss.Propose(t.Context(), &pb.ProposeRequest{Kind: &pb.ProposeRequest_RemoveBroker{RemoveBroker: &pb.RemoveBrokerProposal{NodeId: gone.id}}})
	require.NoError(t, err)
	var rest []int32
	for _, n := range without(nodes, gone) {
		rest = append(rest, n.id)
	}
	boss.votersBecome(rest...)

	gone.newDisk()
	arrived := make(chan struct{})
	gone.tune = func(c *Config) { // it asks nobody before that message has come
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			select {
			case <-arrived:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	go func() { // ends with the first message that arrives
		defer close(arrived)
		stray := raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{
				ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(boss.StorageID())), Addr: []byte(boss.raftAddr),
			},
			Term: boss.raft.CurrentTerm(), Leader: []byte(boss.raftAddr), PrevLogEntry: 1_000, PrevLogTerm: 1, //nolint:staticcheck // as the library itself sends it
		}
		for t.Context().Err() == nil {
			if boss.trans.AppendEntries("", raft.ServerAddress(gone.raftAddr), &stray, &raft.AppendEntriesResponse{}) == nil {
				return
			}
		}
	}()
	gone.start().register()
	<-arrived
	boss.mustVote(gone.id, true)
}
