package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// quorumEvery is how often the controller looks whether the quorum or a broker
// is behind what the metadata says of it.
const quorumEvery = 200 * time.Millisecond

// The quorum changes one server at a time, under these rules:
//
//   - Whoever gets a vote has caught up first: a voter that lags holds up every
//     commit, and one with an empty log may elect a leader that lacks entries.
//   - No change may leave fewer voters alive than a majority: it could never be
//     committed, nor taken back.
//   - A controller does not take its own vote. It hands over to another voter,
//     which does it when the proposal is repeated there.
//   - Each change is bound to the index of the configuration that was judged
//     (prevIndex), and no other begins before its outcome is known: a change that
//     Raft has taken and not answered keeps the turn.
//
// What is asked for is a state, not a step ("node 4 votes"), so a repetition
// after an unknown outcome finds it reached, or goes on.

// changeVoter gives a node its vote or takes it, and returns the voters then.
func (t *term) changeVoter(ctx context.Context, c *pb.VoterProposal) (*pb.ProposeResponse, error) {
	for {
		retry, err := t.tryVoter(ctx, c)
		if err != nil {
			return nil, err
		}
		if !retry {
			return &pb.ProposeResponse{Index: t.node.Image().Index(), FirstProducerId: -1, Voters: t.node.Voters()}, nil
		}
		if err := t.pause(ctx); err != nil {
			return nil, err
		}
	}
}

// tryVoter makes one try. retry: nothing was changed, look again.
func (t *term) tryVoter(ctx context.Context, c *pb.VoterProposal) (retry bool, err error) {
	n := t.node
	b := n.Image().Broker(c.GetNodeId())
	if b == nil {
		return false, newError(pb.ErrorCode_ERROR_CODE_UNKNOWN_BROKER, "there is no broker %d", c.GetNodeId())
	}
	servers, index, err := n.configurationAt()
	if err != nil {
		return false, err
	}
	if isVoter(servers, b.StorageID) == c.GetVote() {
		return false, t.settleVote(ctx, b)
	}
	if c.GetVote() {
		err = t.mayVote(ctx, servers, b)
	} else {
		err = t.mayLoseVote(ctx, servers, b)
	}
	if err != nil {
		return false, err
	}
	id := serverID(b.StorageID)
	return t.reconfigure(ctx, func() raft.Future {
		if c.GetVote() {
			return n.raft.AddVoter(id, raft.ServerAddress(b.RaftAddress), index, proposeTry)
		}
		return n.raft.DemoteVoter(id, index, proposeTry)
	}, fmt.Sprintf("node %d: vote %t", b.NodeID, c.GetVote()))
}

// reconfigure makes one change of the quorum. It keeps the turn until Raft has
// answered, however long its caller waits.
func (t *term) reconfigure(ctx context.Context, change func() raft.Future, what string) (retry bool, err error) {
	n := t.node
	select {
	case t.reconfiguring <- struct{}{}:
	case <-ctx.Done():
		return false, newError(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, "%s: another change of the quorum is not finished", what)
	}
	f := change()
	answered := make(chan error, 1)
	if !n.futures.start(func() {
		err := f.Error()
		<-t.reconfiguring
		answered <- err
	}) {
		<-t.reconfiguring
		return false, ErrClosed
	}
	try, cancel := context.WithTimeout(ctx, proposeTry)
	defer cancel()
	select {
	case err = <-answered:
	case <-n.failed:
		return false, n.failure
	case <-try.Done():
		err = try.Err()
	}
	switch {
	case err == nil:
		n.logger.Info("changed the metadata quorum", "change", what)
		return true, nil // once more, to see it
	case raftRefused(err):
		return false, n.notController()
	case configurationChanged(err):
		return true, nil
	default:
		return false, newError(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, "%s: may or may not have been done: %v", what, err)
	}
}

// configurationChanged reports whether Raft refused a change because another one
// came between it and the configuration that it was decided on. The library has
// no sentinel for it. Taking it for an unknown outcome would be safe too: the
// proposal is repeated in either case.
func configurationChanged(err error) bool {
	return strings.HasPrefix(err.Error(), "configuration changed since")
}

func isVoter(servers []raft.Server, id metadata.ID) bool {
	return slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == serverID(id) && s.Suffrage == raft.Voter })
}

// mayVote waits, for a session at most, until a node may get a vote.
func (t *term) mayVote(ctx context.Context, servers []raft.Server, b *metadata.Broker) error {
	voters := votersOf(servers)
	if len(voters) >= MaxVoters {
		return newError(pb.ErrorCode_ERROR_CODE_INVALID_STATE, "the quorum has %d voters, the most it may have", len(voters))
	}
	target := t.node.Image().Index()
	return t.await(ctx, func() error {
		now := t.node.Image().Broker(b.NodeID)
		if now == nil || now.Fenced || now.StorageID != b.StorageID {
			return newError(pb.ErrorCode_ERROR_CODE_INVALID_STATE, "node %d is not alive: it cannot get a vote", b.NodeID)
		}
		if applied, alive := t.progress(now); !alive || applied < target {
			return newError(pb.ErrorCode_ERROR_CODE_INVALID_STATE,
				"node %d has applied the metadata log up to %d of %d: it gets a vote when it has caught up", b.NodeID, applied, target)
		}
		return t.keepsQuorum(append(voters, raft.Server{ID: serverID(b.StorageID)}))
	})
}

// mayLoseVote waits, for a session at most, until a node may lose its vote. A
// controller that is asked for its own hands over.
func (t *term) mayLoseVote(ctx context.Context, servers []raft.Server, b *metadata.Broker) error {
	rest := slices.DeleteFunc(votersOf(servers), func(s raft.Server) bool { return s.ID == serverID(b.StorageID) })
	if len(rest) == 0 {
		return newError(pb.ErrorCode_ERROR_CODE_INVALID_STATE, "node %d is the only voter: give another one a vote first", b.NodeID)
	}
	if err := t.await(ctx, func() error { return t.keepsQuorum(rest) }); err != nil {
		return err
	}
	if b.StorageID == t.node.storageID {
		return t.handOver(ctx, rest)
	}
	return nil
}

func votersOf(servers []raft.Server) []raft.Server {
	var voters []raft.Server
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s)
		}
	}
	return voters
}

// keepsQuorum refuses a set of voters of which no majority is alive.
func (t *term) keepsQuorum(voters []raft.Server) error {
	alive, need := 0, len(voters)/2+1
	for _, s := range voters {
		if t.serverAlive(s) {
			alive++
		}
	}
	if alive < need {
		return newError(pb.ErrorCode_ERROR_CODE_INVALID_STATE,
			"of %d voters then only %d are alive, and %d are needed: the quorum would be lost", len(voters), alive, need)
	}
	return nil
}

// serverAlive reports whether a server of the quorum has a session with this
// controller, or is this node.
func (t *term) serverAlive(s raft.Server) bool {
	if s.ID == serverID(t.node.storageID) {
		return true
	}
	for b := range t.node.Image().Brokers() {
		if serverID(b.StorageID) == s.ID {
			_, alive := t.progress(b)
			return alive && !b.Fenced
		}
	}
	return false
}

// progress is how far a broker has applied the metadata log, and whether it has
// a stream of heartbeats in its present session.
func (t *term) progress(b *metadata.Broker) (applied uint64, alive bool) {
	if b.StorageID == t.node.storageID {
		return t.node.Image().Index(), true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.brokers[b.NodeID]
	if s == nil || s.epoch != b.Epoch {
		return 0, false
	}
	return s.applied, s.stream != nil
}

// await calls check until it finds nothing wrong, for a session at most: a new
// controller has yet to hear the brokers.
func (t *term) await(ctx context.Context, check func() error) error {
	patience := time.NewTimer(t.node.cfg.SessionTimeout)
	defer patience.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-patience.C:
			return err
		default:
		}
		if perr := t.pause(ctx); perr != nil {
			if errors.Is(perr, context.DeadlineExceeded) {
				return err
			}
			return perr
		}
	}
}

// pause waits a moment, or reports that there is no use in it.
func (t *term) pause(ctx context.Context) error {
	select {
	case <-time.After(proposeRetryMax):
		return nil
	case <-t.done:
		return t.node.notController()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver has the voter that is furthest start an election, which deposes this
// controller, and ends with its term: the proposal goes on elsewhere. It sends
// the message that ends a leadership transfer without beginning one: while a
// transfer is under way Raft takes no entries, and one that hangs never ends
// (hashicorp/raft issue 696). A message that is lost costs another try.
func (t *term) handOver(ctx context.Context, to []raft.Server) error {
	n := t.node
	var best raft.Server
	var furthest uint64
	for b := range n.Image().Brokers() {
		for _, s := range to {
			if applied, alive := t.progress(b); s.ID == serverID(b.StorageID) && alive && !b.Fenced && applied > furthest {
				best, furthest = s, applied
			}
		}
	}
	if best.ID == "" {
		return newError(pb.ErrorCode_ERROR_CODE_INVALID_STATE, "no other voter is alive to become the controller")
	}
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(n.storageID)), Addr: []byte(n.cfg.AdvertiseRaft),
	}}
	n.logger.Info("the controller is about to lose its vote and hands over", "to", n.nodeOf(best))
	if err := n.trans.TimeoutNow(best.ID, best.Address, request, &raft.TimeoutNowResponse{}); err != nil {
		n.logger.Warn("hand-over failed", "to", n.nodeOf(best), "error", err)
	}
	limit := time.NewTimer(2 * n.cfg.ElectionTimeout)
	defer limit.Stop()
	select {
	case <-t.done:
		return n.notController()
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return newError(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, "node %d was asked to become the controller and has not", n.nodeOf(best))
	}
}

// settleVote forgets that a broker waits for its vote: it has it, or an operator
// has taken it away.
func (t *term) settleVote(ctx context.Context, b *metadata.Broker) error {
	if !b.VotePending || b.Replaced() {
		return nil
	}
	_, err := t.apply(ctx, &metav1.Command{Id: newCommandID(), TimeMs: time.Now().UnixMilli(), Kind: &metav1.Command_SettleVote{
		SettleVote: &metav1.SettleVote{NodeId: b.NodeID, StorageId: b.StorageID[:]},
	}})
	return err
}

// retireServers takes the servers out of the quorum whose directories were given
// up. Such a server is not alive, so that a majority of the rest is whenever
// there is a controller; but for an even number of voters the rest is checked.
func (t *term) retireServers(ctx context.Context) error {
	n := t.node
	for {
		servers, index, err := n.configurationAt()
		if err != nil {
			return err
		}
		im := n.Image()
		i := slices.IndexFunc(servers, func(s raft.Server) bool { return retiredServer(im, s) })
		if i < 0 {
			return nil
		}
		gone := servers[i]
		rest := slices.DeleteFunc(votersOf(servers), func(s raft.Server) bool { return s.ID == gone.ID })
		if err := t.await(ctx, func() error { return t.keepsQuorum(rest) }); err != nil {
			return err
		}
		if _, err := t.reconfigure(ctx, func() raft.Future {
			return n.raft.RemoveServer(gone.ID, index, proposeTry)
		}, fmt.Sprintf("removed the given-up storage id %s at %s", gone.ID, gone.Address)); err != nil {
			return err
		}
	}
}

// quorumLoop brings about what the metadata says of the quorum and of deleted
// topics. It is level-triggered: what fails is tried again.
func (t *term) quorumLoop(ctx context.Context) {
	tick := time.NewTicker(quorumEvery)
	defer tick.Stop()
	for {
		if !t.node.resting.Load() {
			if err := t.catchUpQuorum(ctx); err != nil && ctx.Err() == nil {
				t.node.logger.Debug("the metadata quorum is not yet as it should be", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (t *term) catchUpQuorum(ctx context.Context) error {
	im := t.node.Image()
	errs := []error{t.confirmDeletions(ctx, im)}
	if slices.ContainsFunc(t.node.configuration(), func(s raft.Server) bool { return retiredServer(im, s) }) {
		errs = append(errs, t.retireServers(ctx))
	}
	for b := range im.Brokers() {
		if !b.VotePending || b.Fenced {
			continue
		}
		if _, err := t.changeVoter(ctx, &pb.VoterProposal{NodeId: b.NodeID, Vote: true}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// confirmDeletions tells the metadata which brokers have removed what they kept
// of deleted topics.
func (t *term) confirmDeletions(ctx context.Context, im *metadata.Image) error {
	for _, cmd := range controller.Confirmations(im, t.reconciled) {
		cmd.Id, cmd.TimeMs = newCommandID(), time.Now().UnixMilli()
		if _, err := t.apply(ctx, cmd); err != nil {
			return err
		}
	}
	return nil
}

// reconciled is the image by which a broker has brought its replicas in line in
// its present session.
func (t *term) reconciled(b *metadata.Broker) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.brokers[b.NodeID]; s != nil && s.epoch == b.Epoch {
		return s.reconciled
	}
	return 0
}
