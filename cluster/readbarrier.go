package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

const (
	// readTry bounds one question to the controller.
	readTry = time.Second
	// readPause is after one that failed. Where they succeed there is none: one is under
	// way at a time, and what it takes of the controller is a few messages.
	readPause = 20 * time.Millisecond
)

// readBarrier is what all read barriers of a node share: they wait for the next question
// to the controller, so that whatever their number one is under way and one is waited for.
type readBarrier struct {
	node *Node

	mu      sync.Mutex // guards what follows
	next    *readRound // begins after it was asked for; nil: nobody waits for it
	running bool       // the goroutine that asks is there
}

// readRound is one question to the controller.
type readRound struct {
	done chan struct{} // closed when there is an answer
	err  error         // set before
}

// ReadBarrier returns once Image holds all that was committed to the metadata log when
// ReadBarrier was called, wherever (what Raft calls a linearizable read). A heartbeat that
// is answered does not show that: the controller may be one that was replaced, and its
// answer may be an old one. It takes the word of a majority of the voters, asked after the
// call, that they follow the controller still (docs/decisions/0016-read-index.md).
//
// Errors: ctx's, with what kept the answer away; ErrCannotAsk; ErrClosed.
func (n *Node) ReadBarrier(ctx context.Context) error {
	var last error
	for {
		r := n.reads.join()
		select {
		case <-r.done:
			if r.err == nil || errors.Is(r.err, ErrCannotAsk) {
				return r.err
			}
			last = r.err // the next round is a pause away
		case <-n.stopped:
			return ErrClosed
		case <-n.failed:
			return n.failure
		case <-ctx.Done():
			return fmt.Errorf("wait for a controller that still is one: %w", errors.Join(ctx.Err(), last))
		}
	}
}

// join returns a round that has not begun.
func (b *readBarrier) join() *readRound {
	b.mu.Lock()
	if b.next == nil {
		b.next = &readRound{done: make(chan struct{})}
	}
	r, start := b.next, !b.running
	b.running = true
	b.mu.Unlock()
	if start {
		b.node.background(b.run)
	}
	return r
}

// begin takes the round that is waited for; nil: none is, and the goroutine ends.
func (b *readBarrier) begin() *readRound {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.next
	b.next = nil
	b.running = r != nil
	return r
}

// run asks as long as somebody waits for an answer.
func (b *readBarrier) run(ctx context.Context) {
	for r := b.begin(); r != nil; r = b.begin() {
		leaderChanged := b.node.leaders.next()
		r.err = b.node.catchUp(ctx)
		close(r.done)
		if r.err == nil {
			continue
		}
		select {
		case <-leaderChanged:
		case <-time.After(readPause):
		case <-ctx.Done():
			return // who waits hears that the node is closed
		}
	}
}

// catchUp asks once, and applies what it is told of. It gives up when another controller
// is known: the one that it asks, or seeks, may never answer.
func (n *Node) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTry)
	id, _ := n.raftLeader()
	defer n.cancelWhenDeposed(ctx, cancel, nodeRef{nodeID: id})()
	index, err := n.askReadIndex(ctx)
	if err != nil {
		return err
	}
	return n.WaitApplied(ctx, index)
}

func (n *Node) askReadIndex(ctx context.Context) (uint64, error) {
	if t := n.term.Load(); t != nil {
		return t.readIndex(ctx)
	}
	ref, err := n.finder.find(ctx)
	if err != nil {
		return 0, err
	}
	if ref.nodeID == n.cfg.NodeID {
		return 0, ErrNoController // the term has just ended, or is about to begin
	}
	conn, err := n.peers.conn(ctx, ref)
	if err != nil {
		n.finder.forget(ref)
		return 0, err
	}
	resp, err := pb.NewClusterServiceClient(conn).ReadIndex(ctx, &pb.ReadIndexRequest{})
	if status.Code(err) == codes.Unimplemented {
		return 0, fmt.Errorf("%w: node %d", ErrCannotAsk, ref.nodeID)
	}
	if err != nil {
		n.finder.forget(ref)
		return 0, FromStatus(err)
	}
	return resp.GetIndex(), nil
}

// HandleReadIndex answers ReadIndex. Only the controller does.
func (n *Node) HandleReadIndex(ctx context.Context, _ *pb.ReadIndexRequest) (*pb.ReadIndexResponse, error) {
	t := n.term.Load()
	if t == nil {
		return nil, Status(n.notController())
	}
	index, err := t.readIndex(ctx)
	if err != nil {
		return nil, Status(err)
	}
	return &pb.ReadIndexResponse{Index: index}, nil
}

// readIndex is an index up to which everything was committed that was when it was called.
// What earlier terms committed was applied here before this one was ready. What this one
// did was stored here first, so the newest command in the log is at or above it; one that
// is under way, and may be committed a moment later, is waited for as well. And no later
// term had begun: that a majority confirms.
func (t *term) readIndex(ctx context.Context) (uint64, error) {
	if err := t.awaitReady(ctx); err != nil {
		return 0, err
	}
	if err := t.confirm(ctx); err != nil {
		return 0, newError(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, "node %d does not know whether it is the controller: %v", t.node.cfg.NodeID, err)
	}
	index := max(t.node.Image().Index(), t.node.store.newestOf(t.number))
	// Last: with its own vote for another term this node would have gone over to that.
	if r := t.node.raft; r.CurrentTerm() != t.number || r.State() != raft.Leader {
		return 0, t.node.notController()
	}
	return index, nil
}

// confirm returns once a majority of the voters has told, after it was called, that they
// follow this node in this term.
func (t *term) confirm(ctx context.Context) error {
	n := t.node
	question := n.trans.followers.ask()
	// It may wait for Raft's main loop. Its answer is not used, see confirmations.
	if !n.futures.start(func() { n.raft.VerifyLeader() }) {
		return ErrClosed
	}
	for {
		yes, more := n.trans.followers.confirmed(question, t.number, serverID(n.storageID), n.voters())
		if yes {
			return nil
		}
		select {
		case <-more:
		case <-t.done:
			return n.notController()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
