package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

const (
	formRetry    = 5 * time.Millisecond
	formRetryMax = 250 * time.Millisecond
)

// formOrFail is form as a task of the node.
func (n *Node) formOrFail(ctx context.Context) {
	if err := n.form(ctx); err != nil && ctx.Err() == nil {
		n.fail(err)
	}
}

// form makes this node a member of its quorum, and returns when it hears a
// leader of it. An error is final.
//
// The quorum is founded once. Voters that have no Raft state ask all the others
// who they are; only when every one of them answers, and none has Raft state or
// a cluster id, does the one with the lowest node id write the configuration of
// all into its log. Anything less could found a second cluster beside the first:
// a node whose directory was lost looks exactly like a new one, and only the
// others know better. From then on the list in the configuration only says where
// to ask: who votes is for Raft to say, and is changed by command. (Founding on a majority was rejected for that reason: the
// absent node may be the only one that remembers.)
func (n *Node) form(ctx context.Context) error {
	if _, voter := n.cfg.voter(n.cfg.NodeID); !voter {
		return n.join(ctx)
	}
	delay := formRetry
	var move move
	for campaigned := false; ; {
		moved, err := move.step(ctx, n)
		if err != nil {
			return err
		}
		if _, leader := n.raftLeader(); leader != "" && !moved && n.member() {
			return nil
		}
		answers := n.askVoters(ctx)
		done, err := n.foundOrWait(ctx, answers, &campaigned)
		if done || err != nil {
			return err
		}
		if n.cameLater(answers) {
			if err := n.tryJoin(ctx); finalJoin(err) {
				return err
			}
		}
		select {
		case <-time.After(delay):
			delay = min(delay*3/2, formRetryMax)
		case <-ctx.Done():
			return nil
		}
	}
}

// foundOrWait acts on one round of answers.
func (n *Node) foundOrWait(ctx context.Context, answers map[int32]helloAnswer, campaigned *bool) (done bool, err error) {
	lowest, allNew, leader := true, !n.hasState() && n.ClusterID() == "", false
	for _, v := range n.cfg.Voters {
		a, answered := answers[v.NodeID]
		if v.NodeID == n.cfg.NodeID || !answered {
			continue
		}
		err := n.refused(v.Address, a)
		if err == nil {
			err = n.checkCluster(v.Address, a)
		}
		if conflict, ok := errors.AsType[*IdentityConflictError](err); ok && n.mayBeBehind(conflict) {
			continue
		}
		if err != nil {
			return false, err
		}
		lowest = lowest && n.cfg.NodeID < v.NodeID
		allNew = allNew && !a.hasState && a.clusterID == ""
		leader = leader || a.leaderAddress != ""
	}
	if len(answers) < len(n.cfg.Voters)-1 || !lowest || leader {
		return false, nil
	}
	switch {
	case allNew:
		return true, n.found(ctx, answers)
	case n.votes() && !*campaigned:
		// All voters came back at once and wait for an election timeout that
		// nobody needs. An election is always safe; only one of them starts it.
		*campaigned = true
		n.campaign()
	}
	return false, nil
}

// member reports whether the quorum, as far as this node's log tells, has it. To
// hear a leader is no sign of that: one that replicates to a server which it is
// about to remove, or has just removed, sends to the address, where a new
// directory may answer by now.
func (n *Node) member() bool {
	return slices.ContainsFunc(n.configuration(), func(s raft.Server) bool { return s.ID == serverID(n.storageID) })
}

// cameLater reports whether this node, although the configuration names it as a
// voter, is not one of those who founded the cluster: it is no member and a
// cluster is there. That is a node whose disk was replaced. It joins like any
// other; should it have been founding after all, joining changes nothing.
func (n *Node) cameLater(answers map[int32]helloAnswer) bool {
	if n.member() {
		return false
	}
	for _, a := range answers {
		if a.clusterID != "" {
			return true
		}
	}
	return false
}

func (n *Node) checkCluster(address string, a helloAnswer) error {
	if ours := n.ClusterID(); ours != "" && a.clusterID != "" && ours != a.clusterID {
		return &ClusterIDMismatchError{Ours: ours, Theirs: a.clusterID, Peer: address}
	}
	return nil
}

// askVoters asks all other voters who they are, at once.
func (n *Node) askVoters(ctx context.Context) map[int32]helloAnswer {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var mu sync.Mutex // guards answers
	var wg sync.WaitGroup
	answers := make(map[int32]helloAnswer)
	for _, v := range n.cfg.Voters {
		if v.NodeID == n.cfg.NodeID {
			continue
		}
		wg.Go(func() {
			a, err := n.layer.identify(ctx, v.Address)
			if err != nil {
				return
			}
			if a.nodeID != v.NodeID && a.refusal != refusedVersion {
				n.logger.Warn("another node than the configured one answers", "address", v.Address, "configured", v.NodeID, "answered", a.nodeID)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[v.NodeID] = a
		})
	}
	wg.Wait()
	return answers
}

// found writes the first entry of a new quorum: its configuration.
func (n *Node) found(ctx context.Context, answers map[int32]helloAnswer) error {
	var c raft.Configuration
	for _, v := range n.cfg.Voters {
		id := n.storageID
		if v.NodeID != n.cfg.NodeID {
			id = answers[v.NodeID].storageID
		}
		c.Servers = append(c.Servers, raft.Server{ID: serverID(id), Address: raft.ServerAddress(v.Address), Suffrage: raft.Voter})
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	// ErrCantBootstrap: Raft state came into being since we asked, so a leader did.
	if err := n.await(ctx, n.raft.BootstrapCluster(c)); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		if ctx.Err() != nil || n.store.err() != nil {
			return nil // closing, or the store has failed and says so itself
		}
		return fmt.Errorf("found the metadata quorum: %w", err)
	}
	n.logger.Info("founded the metadata quorum", "voters", len(c.Servers))
	n.campaign()
	return nil
}

// campaign starts an election without waiting for the election timeout, by the
// message with which a leader hands over: it says no more than "start an
// election now". If it is lost, the timeout does the same later.
func (n *Node) campaign() {
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(n.storageID)), Addr: []byte(n.cfg.AdvertiseRaft),
	}}
	self := raft.ServerAddress(n.cfg.Listener.Addr().String())
	if err := n.trans.TimeoutNow(serverID(n.storageID), self, request, &raft.TimeoutNowResponse{}); err != nil {
		n.logger.Debug("election not started early", "error", err)
	}
}

// join has the controller add this node to the quorum without a vote, and
// returns when the node hears the leader.
func (n *Node) join(ctx context.Context) error {
	delay := formRetry
	for {
		err := n.tryJoin(ctx)
		if err == nil || finalJoin(err) {
			return err
		}
		n.logger.Debug("not joined yet", "error", err)
		select {
		case <-time.After(delay):
			delay = min(delay*3/2, formRetryMax)
		case <-ctx.Done():
			return nil
		}
	}
}

// finalJoin reports whether an error of tryJoin will not go away.
func finalJoin(err error) bool {
	if _, other := errors.AsType[*ClusterIDMismatchError](err); other {
		return true
	}
	code, _ := errorCode(err)
	return identityConflict(err) || code == pb.ErrorCode_ERROR_CODE_UNSUPPORTED
}

func (n *Node) tryJoin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.SessionTimeout)
	defer cancel()
	ref, err := n.finder.find(ctx)
	if err != nil {
		return err
	}
	conn, err := n.peers.conn(ctx, ref)
	if err != nil {
		n.finder.forget(ref)
		return err
	}
	_, err = pb.NewClusterServiceClient(conn).Join(ctx, &pb.JoinRequest{
		NodeId: n.cfg.NodeID, StorageId: n.storageID[:], RaftAddress: n.cfg.AdvertiseRaft, ClusterId: n.ClusterID(), FeatureLevel: n.cfg.featureLevel,
	})
	if err != nil {
		n.finder.forget(ref)
		return FromStatus(err)
	}
	return nil
}
