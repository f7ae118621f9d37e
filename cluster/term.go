package cluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

const (
	// decideEvery is how often the controller looks at everything although nothing
	// seems to have changed: time alone ends a session or an election's wait.
	decideEvery = 50 * time.Millisecond
	// decideRetryMax bounds the pause after a decision that was not applied, which
	// doubles from decideEvery.
	decideRetryMax = time.Second
)

// term is one leadership of Raft, during which this node is the controller. It
// knows only what it heard itself: a new term gives every broker a full session.
type term struct {
	node *Node
	// number is Raft's. It is set before ready is closed.
	number uint64
	// ready is closed when the term may act: every entry of earlier terms is
	// applied, and the cluster has its id.
	ready chan struct{}
	// done is closed when the term is over.
	done <-chan struct{}
	// wake asks for a decision now.
	wake chan struct{}
	// spread asks for the followers to be told what is committed.
	spread chan struct{}
	// creating is held while a topic is placed and proposed, so that each
	// placement sees the one before.
	creating chan struct{}
	// reconfiguring is held while Raft has a change of the quorum to answer.
	reconfiguring chan struct{}

	mu sync.Mutex // guards what follows
	// live is what was heard of the brokers.
	live *controller.Liveness
	// brokers is what else their heartbeat streams told, by node id.
	brokers map[int32]*brokerState
	// progressed is closed when a broker applied more than before.
	progressed chan struct{}
	// suspicion is closed when a broker may need to be dialled.
	suspicion chan struct{}
}

// brokerState is about one session of a broker.
type brokerState struct {
	epoch   int64
	stream  *heartbeatStream // nil: none is open
	applied uint64           // metadata index
	// reconciled is the metadata index by which its replicas are in line.
	reconciled uint64
}

// controllerLoop starts a term when Raft makes this node the leader, and ends
// it, waiting for its goroutines, when Raft takes that back or the node fails:
// with a main loop that hangs, Raft would not tell.
func (n *Node) controllerLoop(ctx context.Context) {
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case leader := <-n.raft.LeaderCh():
			// The channel keeps the newest value only: two trues in a row are two terms.
			end()
			end = func() {}
			if leader {
				end = n.beginTerm(ctx)
			}
		case <-n.failed:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) beginTerm(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	t := &term{
		node: n, ready: make(chan struct{}), done: ctx.Done(), wake: make(chan struct{}, 1),
		spread: make(chan struct{}, 1), creating: make(chan struct{}, 1), reconfiguring: make(chan struct{}, 1), brokers: make(map[int32]*brokerState),
		progressed: make(chan struct{}), suspicion: make(chan struct{}),
		live: controller.NewLiveness(time.Now()),
	}
	n.term.Store(t)
	n.leaders.wakeAll()
	var wg sync.WaitGroup
	wg.Go(func() {
		if !t.prepare(ctx) {
			return
		}
		wg.Go(func() { t.probeLoop(ctx) })
		wg.Go(func() { t.spreadLoop(ctx) })
		wg.Go(func() { t.quorumLoop(ctx) })
		t.decideLoop(ctx)
	})
	return func() {
		n.term.CompareAndSwap(t, nil)
		cancel()
		wg.Wait()
		n.leaders.wakeAll()
	}
}

// prepare makes the term ready, or reports false when it is over before.
func (t *term) prepare(ctx context.Context) bool {
	n := t.node
	for {
		t.number = n.raft.CurrentTerm()
		err := t.barrier(ctx)
		if err == nil && n.raft.CurrentTerm() != t.number {
			err = errors.New("the term changed")
		}
		if err == nil && n.Image().ClusterID() == "" {
			_, err = t.apply(ctx, &metav1.Command{
				TimeMs: time.Now().UnixMilli(),
				Kind:   &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: newClusterID()}},
			})
		}
		if err == nil {
			break
		}
		n.logger.Debug("controller is not ready", "error", err)
		select {
		case <-time.After(decideEvery):
		case <-ctx.Done():
			return false
		}
	}
	now := time.Now()
	t.mu.Lock()
	t.live = controller.NewLiveness(now)
	t.live.Observe(n.Image(), now)
	t.mu.Unlock()
	close(t.ready)
	n.logger.Info("controller", "term", n.raft.CurrentTerm(), "cluster", n.Image().ClusterID())
	return true
}

// spreadLoop tells the followers soon what is committed. Raft tells them with the
// next entry, or after CommitTimeout when there is none; a short timeout costs
// messages all day, for changes that are rare. So a change that no other follows
// is followed by a barrier, which carries the commit index with it: two writes
// of the log later all brokers have applied the change.
func (t *term) spreadLoop(ctx context.Context) {
	for {
		select {
		case <-t.spread:
			if err := t.barrier(ctx); err != nil {
				t.node.logger.Debug("barrier failed", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// barrier waits until this node has applied everything that earlier leaders
// committed.
func (t *term) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTry)
	defer cancel()
	return t.node.await(ctx, t.node.raft.Barrier(proposeTry))
}

func newClusterID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// awaitReady waits until the term may act.
func (t *term) awaitReady(ctx context.Context) error {
	select {
	case <-t.ready:
		return nil
	case <-t.done:
		return t.node.notController()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// poke asks for a decision.
func (t *term) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *term) decideLoop(ctx context.Context) {
	opts := controller.DefaultOptions()
	opts.SessionTimeout, opts.RefusedAfter = t.node.cfg.SessionTimeout, t.node.cfg.ResetGrace
	tick := time.NewTicker(decideEvery)
	defer tick.Stop()
	var failing failures
	for {
		im := t.node.Image()
		changed := t.node.Changed(im.Index())
		if !t.node.resting.Load() {
			t.enact(ctx, t.decide(im, opts), &failing)
		}
		if failing.pause > 0 {
			// Raft takes nothing now: asking at every heartbeat changes nothing.
			select {
			case <-time.After(failing.pause):
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-changed:
		case <-t.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (t *term) decide(im *metadata.Image, opts controller.Options) controller.Decision {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live.Observe(im, now)
	opts.Votes = t.node.votesIn(im)
	return controller.Decide(im, t.live, now, opts)
}

// failures are the decisions in a row that were not applied.
type failures struct {
	pause time.Duration // before the next try; 0: the last one succeeded
	told  string        // the one that was logged last
}

// add notes a failure and reports whether it is another one than the last.
func (f *failures) add(what string) (news bool) {
	f.pause = min(max(2*f.pause, decideEvery), decideRetryMax)
	news = what != f.told
	f.told = what
	return news
}

// enact proposes a decision. What fails is decided again, after a pause.
func (t *term) enact(ctx context.Context, d controller.Decision, failing *failures) {
	logger := t.node.logger
	if d.PossibleLoss > 0 {
		logger.Warn("electing leaders that may lack acknowledged records: every member of the last complete in-sync set is back, the longest log leads",
			"partitions", d.PossibleLoss)
	}
	for _, cmd := range d.Commands {
		_, err := t.apply(ctx, cmd)
		if err != nil {
			level := slog.LevelWarn
			if code, ok := errorCode(err); ok && code == pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER {
				level = slog.LevelDebug // The term ends, or hands over: the next controller decides.
			}
			if failing.add(subject(cmd)) && ctx.Err() == nil {
				logger.Log(ctx, level, "decision was not applied", "command", describe(cmd), "error", err)
			}
			return
		}
		logger.Info("decided", "command", describe(cmd))
		for _, c := range cmd.GetElectLeaders().GetChanges() {
			if c.GetFromLastIsr() {
				t.node.possibleLoss.Add(1)
			}
		}
	}
	*failing = failures{}
}

// subject names what a command is about: of two decisions with the same one the
// later is a repetition, whatever its reason says by now.
func subject(cmd *metav1.Command) string {
	switch k := cmd.GetKind().(type) {
	case *metav1.Command_FenceBroker:
		return fmt.Sprintf("fence %d %d", k.FenceBroker.GetNodeId(), k.FenceBroker.GetBrokerEpoch())
	case *metav1.Command_UnfenceBroker:
		return fmt.Sprintf("unfence %d %d", k.UnfenceBroker.GetNodeId(), k.UnfenceBroker.GetBrokerEpoch())
	default:
		return fmt.Sprintf("%T", k)
	}
}

func describe(cmd *metav1.Command) string {
	switch k := cmd.GetKind().(type) {
	case *metav1.Command_FenceBroker:
		return fmt.Sprintf("fence broker %d (epoch %d): %s", k.FenceBroker.GetNodeId(), k.FenceBroker.GetBrokerEpoch(), k.FenceBroker.GetReason())
	case *metav1.Command_UnfenceBroker:
		return fmt.Sprintf("unfence broker %d (epoch %d)", k.UnfenceBroker.GetNodeId(), k.UnfenceBroker.GetBrokerEpoch())
	case *metav1.Command_ElectLeaders:
		return fmt.Sprintf("elect leaders of %d partitions", len(k.ElectLeaders.GetChanges()))
	case *metav1.Command_FinishReassignments:
		return fmt.Sprintf("finish the reassignment of %d partitions", len(k.FinishReassignments.GetPartitions()))
	case *metav1.Command_ReassignPartitions:
		return fmt.Sprintf("reassign %d partitions", len(k.ReassignPartitions.GetPartitions()))
	case *metav1.Command_RemoveBroker:
		return fmt.Sprintf("remove broker %d: it is decommissioned and gone", k.RemoveBroker.GetNodeId())
	default:
		return fmt.Sprintf("%T", k)
	}
}

// raftRefused reports whether Raft did not take an entry: it will never be
// applied. All other errors leave that open.
func raftRefused(err error) bool {
	switch err {
	case raft.ErrNotLeader, raft.ErrEnqueueTimeout, raft.ErrLeadershipTransferInProgress:
		return true
	default:
		return false
	}
}
