package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

const (
	proposeRetry    = 5 * time.Millisecond
	proposeRetryMax = 100 * time.Millisecond
	// proposeTry bounds one try, so that a controller that hangs does not use up
	// the caller's whole time.
	proposeTry = 5 * time.Second
	// registerChunk is how many recovered replicas one chunk of a registration
	// names: some 50 bytes each, far below the largest command.
	registerChunk = 5000
)

// Propose asks the controller, wherever it is, for a change of metadata and
// returns when it was applied there. Tries whose outcome is unknown are repeated
// with the same command id, which applies a change at most once, until ctx ends.
//
// Errors: *metadata.Error for a refusal, ErrNoController when none was reached
// before ctx ended, ErrOutcomeUnknown when one was, both with ctx's error;
// ErrClosed.
func (n *Node) Propose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	if len(req.GetCommandId()) == 0 {
		req = proto.CloneOf(req)
		req.CommandId = newCommandID()
	}
	if err := n.gone(); err != nil {
		return nil, err
	}
	sent := false
	var last error
	for delay := proposeRetry; ; delay = min(2*delay, proposeRetryMax) {
		leaderChanged := n.leaders.next()
		resp, tried, err := n.proposeOnce(ctx, req)
		sent = sent || tried
		if err == nil || n.final(err) {
			return resp, err
		}
		last = err
		select {
		case <-leaderChanged:
		case <-time.After(delay):
		case <-n.stopped:
			return nil, ErrClosed
		case <-n.failed:
			return nil, n.failure
		case <-ctx.Done():
			kind := ErrNoController
			if sent {
				kind = ErrOutcomeUnknown
			}
			return nil, fmt.Errorf("%w: %w, after %w", kind, ctx.Err(), last)
		}
	}
}

// gone is why the node takes no more work; nil: it does.
func (n *Node) gone() error {
	select {
	case <-n.failed:
		return n.failure
	case <-n.stopped:
		return ErrClosed
	default:
		return nil
	}
}

// proposeOnce makes one try. sent tells whether a controller may have got it.
func (n *Node) proposeOnce(ctx context.Context, req *pb.ProposeRequest) (resp *pb.ProposeResponse, sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTry)
	defer cancel()
	if t := n.term.Load(); t != nil {
		resp, err := t.propose(ctx, req)
		return resp, true, err
	}
	ref, err := n.finder.find(ctx)
	if err != nil {
		return nil, false, err
	}
	if ref.nodeID == n.cfg.NodeID {
		return nil, false, ErrNoController // the term has just ended, or is about to begin
	}
	conn, err := n.peers.conn(ctx, ref)
	if err != nil {
		n.finder.forget(ref)
		return nil, false, err
	}
	defer n.cancelWhenDeposed(ctx, cancel, ref)()
	resp, err = pb.NewClusterServiceClient(conn).Propose(ctx, req)
	if err == nil {
		return resp, true, nil
	}
	err = FromStatus(err)
	if !n.final(err) {
		n.finder.forget(ref)
	}
	return nil, true, err
}

// cancelWhenDeposed calls cancel as soon as another node than ref leads: a
// controller that was stopped or cut off may never answer. The function it
// returns ends the watch and waits for it.
func (n *Node) cancelWhenDeposed(ctx context.Context, cancel context.CancelFunc, ref nodeRef) (end func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			changed := n.leaders.next()
			if id, _ := n.raftLeader(); id != noNode && id != ref.nodeID {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// final reports whether err is an answer rather than a failure to get one.
func (n *Node) final(err error) bool {
	if conflict, ok := errors.AsType[*IdentityConflictError](err); ok {
		return !n.mayBeBehind(conflict)
	}
	if _, other := errors.AsType[*ClusterIDMismatchError](err); other {
		return true
	}
	if st, ok := status.FromError(err); ok && st.Code() == codes.Unimplemented {
		return true
	}
	code, typed := errorCode(err)
	if !typed {
		return false
	}
	switch code {
	case pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN,
		pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, pb.ErrorCode_ERROR_CODE_UNKNOWN:
		return false
	default:
		return true
	}
}

// HandlePropose answers a proposal that another broker forwarded. Only the
// controller accepts it.
func (n *Node) HandlePropose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	t := n.term.Load()
	if t == nil {
		return nil, Status(n.notController())
	}
	resp, err := t.propose(ctx, req)
	return resp, Status(err)
}

func (n *Node) notController() error {
	id, address := n.raftLeader()
	if address == "" {
		return newError(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, "node %d is not the controller, and knows none", n.cfg.NodeID)
	}
	return newError(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, "node %d is not the controller; node %d is", n.cfg.NodeID, id)
}

// Register begins this broker's session and returns its broker epoch once this
// node has applied it. Node id, storage id, addresses and feature level of this node are
// filled in; a registration of many replicas goes in chunks. It waits for the quorum
// and the controller until ctx ends, and returns early with the error of Failed.
// From then on the broker heartbeats.
//
// The peer listener must already answer ClusterService.
func (n *Node) Register(ctx context.Context, r *metav1.RegisterBroker) (brokerEpoch int64, err error) {
	r = proto.CloneOf(r)
	r.NodeId, r.StorageId = n.cfg.NodeID, n.storageID[:]
	r.PeerAddress, r.RaftAddress = n.cfg.AdvertisePeer, n.cfg.AdvertiseRaft
	r.FeatureLevel = n.cfg.featureLevel
	var resp *pb.ProposeResponse
	var asked time.Time // the controller counts our silence from when it applied, which is later
	for _, chunk := range chunks(r) {
		asked = time.Now()
		resp, err = n.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_Register{Register: chunk}})
		if err != nil {
			return 0, fmt.Errorf("register broker %d: %w", n.cfg.NodeID, err)
		}
	}
	if err := n.WaitApplied(ctx, resp.GetIndex()); err != nil {
		return 0, fmt.Errorf("register broker %d: %w", n.cfg.NodeID, err)
	}
	epoch := int64(resp.GetIndex())
	n.session.begin(epoch, asked)
	return epoch, nil
}

// chunks splits a registration into commands that are small enough.
func chunks(r *metav1.RegisterBroker) []*metav1.RegisterBroker {
	all := r.GetReplicas()
	if len(all) <= registerChunk {
		return []*metav1.RegisterBroker{r}
	}
	r.Replicas = nil
	r.StagingId = newCommandID()
	var out []*metav1.RegisterBroker
	for len(all) > 0 {
		k := min(len(all), registerChunk)
		c := proto.CloneOf(r)
		c.Replicas, all = all[:k], all[k:]
		c.Chunk, c.Final = uint32(len(out)), len(all) == 0
		out = append(out, c)
	}
	return out
}

// newCommandID draws the id under which all tries of one change are known.
func newCommandID() []byte {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails since Go 1.24
	return id
}
