package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/penstock/penstock/cluster/metadata"
)

// stopTimeout bounds the wait for Raft's goroutines: one that hangs in a write
// to a dead disk never ends.
const stopTimeout = 5 * time.Second

// Node is this process's part in the metadata quorum. Its methods may be called
// from any goroutine.
type Node struct {
	cfg        Config
	logger     *slog.Logger
	raftLogger *raftLogger

	raft *raft.Raft
	// stopRaft is raft.Shutdown, once: the future of a second call does not wait for
	// Raft's goroutines, and the store would be closed under them.
	stopRaft func() raft.Future
	trans    transport
	fsm      *fsm
	store    *latchedStore
	layer    *streamLayer
	peers    *Peers

	snapshots raft.SnapshotStore

	storageID metadata.ID
	clusterID atomic.Pointer[string] // as stored in the identity file; "" until known

	outdated <-chan error // has the reason when the metadata log needs a newer build

	leaders *leaderWatch
	finder  *controllerFinder
	session *session
	reads   *readBarrier
	term    atomic.Pointer[term] // nil unless this node is the controller

	tasks   waits // goroutines that end with stop
	stop    context.CancelFunc
	stopped <-chan struct{}
	// background starts a task with the context that stop ends. It does nothing
	// on a node that is closing.
	background func(task func(context.Context))
	futures    waits // for answers of Raft; they end with Raft at the latest

	failOnce sync.Once
	failure  error         // set before failed is closed
	failed   chan struct{} // closed with the first terminal failure
	failures chan error    // has the failure, once

	// possibleLoss counts elections, decided here, that may have lost acknowledged records.
	possibleLoss atomic.Uint64

	// resting: the node decides nothing as the controller any more.
	resting atomic.Bool

	closeOnce sync.Once
	closeErr  error
}

// Start opens the directory, starts Raft and returns. Forming the quorum with
// the other voters, or joining it, goes on in the background; Register waits for
// its success, and Failed tells of what stops it for good.
//
// It returns a *NodeIDMismatchError for the directory of another node and
// ErrDataLost for one that is incomplete.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	cfg.ensureDefaults()
	if err := cfg.validate(); err != nil {
		return nil, errors.Join(err, closeListener(&cfg))
	}
	n, err := open(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, closeListener(&cfg))
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop, n.stopped = stop, background.Done()
	n.background = func(task func(context.Context)) {
		n.tasks.start(func() { task(background) })
	}
	n.layer.start()
	for _, task := range []func(context.Context){
		n.leaders.run, n.watchStore, n.watchOutdated, n.recordClusterID, n.controllerLoop, n.formOrFail,
	} {
		n.background(task)
	}
	return n, nil
}

func closeListener(cfg *Config) error {
	if cfg.Listener == nil {
		return nil
	}
	return cfg.Listener.Close()
}

// open brings Raft up on what is in the directory. When it fails nothing is
// left running.
func open(ctx context.Context, cfg Config) (*Node, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("raft directory: %w", err)
	}
	if err := syncDir(filepath.Dir(cfg.Dir)); err != nil {
		return nil, fmt.Errorf("raft directory: %w", err)
	}
	store, err := openStore(cfg.Dir, cfg.NodeID)
	if err != nil {
		return nil, err
	}
	if cfg.wrapStore != nil {
		store.raftStore = cfg.wrapStore(store.raftStore)
	}
	n := &Node{
		cfg: cfg, logger: cfg.Logger, store: store,
		failed: make(chan struct{}), failures: make(chan error, 1),
	}
	// Raft may replay its log before open returns, and fail needs what open makes:
	// watchOutdated waits for both.
	outdated := make(chan error, 1)
	n.outdated = outdated
	n.fsm = newFSM(cfg.Logger, cfg.featureLevel, func(err error) { outdated <- err })
	if err := n.openRaft(); err != nil {
		return nil, errors.Join(err, store.close())
	}
	n.stopRaft = sync.OnceValue(n.raft.Shutdown)
	n.leaders = newLeaderWatch(n.raft)
	n.peers = newPeers(n)
	n.finder = &controllerFinder{node: n}
	n.session = newSession(n)
	n.reads = &readBarrier{node: n}
	return n, nil
}

func (n *Node) openRaft() error {
	logger := newRaftLogger(n.logger)
	n.raftLogger = logger
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, 2, logger)
	if err != nil {
		return fmt.Errorf("snapshot directory: %w", err)
	}
	n.snapshots = snapshots
	hasState, err := raft.HasExistingState(n.store, n.store, snapshots)
	if err != nil {
		return fmt.Errorf("raft directory: %w", err)
	}
	id, err := loadIdentity(n.cfg.Dir, n.cfg.NodeID, hasState)
	if err != nil {
		return err
	}
	n.storageID = id.storageID
	n.clusterID.Store(&id.clusterID)
	n.layer = newStreamLayer(&n.cfg, n)
	n.trans = newTransport(n.layer, &n.cfg, logger)
	n.raft, err = n.newRaft(raftConfig(&n.cfg, id.storageID, logger), snapshots)
	if err != nil {
		return errors.Join(fmt.Errorf("start raft: %w", err), n.fsm.stuck, n.trans.Close())
	}
	n.store.running.Store(true)
	return nil
}

// newRaft turns the library's panic about a hole in the log into an error.
func (n *Node) newRaft(conf *raft.Config, snapshots raft.SnapshotStore) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDataLost, p)
		}
	}()
	return raft.NewRaft(conf, n.fsm, n.store, n.store, snapshots, n.trans)
}

func raftConfig(cfg *Config, id metadata.ID, logger hclog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = serverID(id)
	c.Logger = logger
	c.HeartbeatTimeout = cfg.ElectionTimeout
	c.ElectionTimeout = cfg.ElectionTimeout
	c.LeaderLeaseTimeout = cfg.ElectionTimeout
	c.CommitTimeout = cfg.CommitTimeout
	c.SnapshotThreshold = cfg.SnapshotThreshold
	c.SnapshotInterval = 30 * time.Second
	c.TrailingLogs = cfg.TrailingLogs
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	return c
}

// serverID is a storage id as Raft names it.
func serverID(id metadata.ID) raft.ServerID { return raft.ServerID(hex.EncodeToString(id[:])) }

// StorageID names this node's directory: random, drawn at its first start.
func (n *Node) StorageID() metadata.ID { return n.storageID }

// ClusterID is empty until the node has learned it.
func (n *Node) ClusterID() string {
	if id := n.Image().ClusterID(); id != "" {
		return id
	}
	return *n.clusterID.Load()
}

// Image is the newest metadata image this node has applied.
func (n *Node) Image() *metadata.Image { return n.fsm.image.Load() }

// Changed returns a channel that is closed once Image().Index() is above after.
func (n *Node) Changed(after uint64) <-chan struct{} { return n.fsm.changed(after) }

// WaitApplied waits until this node has applied the metadata log up to index.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	if index == 0 || n.Image().Index() >= index {
		return nil
	}
	select {
	case <-n.Changed(index - 1):
		return nil
	case <-n.stopped:
		return ErrClosed
	case <-n.failed:
		return n.failure
	case <-ctx.Done():
		return fmt.Errorf("wait for metadata index %d, at %d: %w", index, n.Image().Index(), ctx.Err())
	}
}

// Peers are the connections to other brokers.
func (n *Node) Peers() *Peers { return n.peers }

// Failed yields one error when the node cannot go on: a failed or stuck write of
// the Raft log, an identity conflict, another cluster, a second process with
// this node's identity. It has left its Raft role by then; the process should
// exit with the error.
func (n *Node) Failed() <-chan error { return n.failures }

func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.logger.Error("node cannot go on", "error", err)
		n.failure = err
		close(n.failed)
		n.failures <- err
		// A node with a broken log must not answer for it any longer. A leader
		// whose main loop hangs in a write goes on heartbeating its followers, who
		// then elect nobody: without its connections it cannot. Close waits.
		n.stopRaft()
		if err := n.layer.Close(); err != nil {
			n.logger.Warn("raft listener", "error", err)
		}
	})
}

// watchStore turns a failed or stuck write of the Raft log into the node's
// failure.
func (n *Node) watchStore(ctx context.Context) {
	tick := time.NewTicker(n.cfg.StoreStall / 4)
	defer tick.Stop()
	for {
		select {
		case <-n.store.failed:
			n.fail(n.store.failure)
			return
		case <-tick.C:
			if busy := n.store.busy(); busy > n.cfg.StoreStall {
				n.store.fail(fmt.Errorf("%w: %s for %v", ErrStoreStalled, n.store.path, busy.Round(time.Millisecond)))
			}
		case <-ctx.Done():
			return
		}
	}
}

// watchOutdated turns a command that needs a newer build into the node's failure.
func (n *Node) watchOutdated(ctx context.Context) {
	select {
	case err := <-n.outdated:
		n.fail(err)
	case <-ctx.Done():
	}
}

// recordClusterID writes the cluster id into the identity as soon as it is
// applied, so that the node knows it at its next start before it hears a leader.
func (n *Node) recordClusterID(ctx context.Context) {
	for n.Image().ClusterID() == "" {
		select {
		case <-n.Changed(n.Image().Index()):
		case <-ctx.Done():
			return
		}
	}
	applied, recorded := n.Image().ClusterID(), *n.clusterID.Load()
	switch {
	case recorded == applied:
	case recorded != "":
		n.fail(&ClusterIDMismatchError{Ours: recorded, Theirs: applied, Peer: "the metadata log in " + n.cfg.Dir})
	default:
		id := identity{nodeID: n.cfg.NodeID, storageID: n.storageID, clusterID: applied}
		if err := id.store(n.cfg.Dir); err != nil {
			n.fail(err)
			return
		}
		n.clusterID.Store(&applied)
	}
}

// PossibleLoss counts the elections that this node, as the controller, decided
// and that may have lost acknowledged records: from the last in-sync set, or by an
// operator's order.
func (n *Node) PossibleLoss() uint64 { return n.possibleLoss.Load() }

// LogFileBytes is the size of the file that holds the metadata log; 0: it cannot be told.
func (n *Node) LogFileBytes() int64 { return n.store.size() }

// Rest is for a whole cluster that stops: told to all nodes before the first one
// closes, it keeps those that close last from fencing those that closed first,
// which would leave the next start with half of every in-sync set. Controllers
// decide nothing from then on, Close hands Raft's leadership to nobody, and Raft
// says nothing of peers that are gone.
func (n *Node) Rest() {
	n.resting.Store(true)
	n.raftLogger.hush()
}

// Close leaves the quorum's work and frees everything. A Raft leader hands its
// role over first, so that the others need not wait for an election timeout.
func (n *Node) Close() error { return n.close(!n.resting.Swap(true)) }

func (n *Node) close(handOver bool) error {
	n.closeOnce.Do(func() {
		if handOver && n.raft.State() == raft.Leader && len(n.voters()) > 1 {
			n.handOverRaft()
		}
		n.stop()
		n.closeErr = n.shutdown()
	})
	return n.closeErr
}

// handOverRaft is bounded on our side: a transfer can hang (hashicorp/raft
// issue 696), and the node is about to stop anyway.
func (n *Node) handOverRaft() {
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.ElectionTimeout)
	defer cancel()
	if err := n.await(ctx, n.raft.LeadershipTransfer()); err != nil {
		n.logger.Info("raft leadership was not handed over", "error", err)
	}
}

func (n *Node) shutdown() error {
	n.raftLogger.hush()
	// An entry that is committed and not applied when Raft stops is never answered:
	// its FSM goroutine ends with it in the queue. So what is under way gets time.
	n.futures.closeWithin(n.cfg.ElectionTimeout)
	future := n.stopRaft()
	err := n.layer.Close()
	n.tasks.close()
	n.peers.close()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = future.Error() // waits for Raft's goroutines, then closes the transport
		_ = n.trans.Close()
	}()
	select {
	case <-stopped:
		// Raft answered what it will. Goroutines of futures that it forgot all the
		// same hold nothing that the node needs, and cannot be ended.
		if !n.futures.closeWithin(n.cfg.ElectionTimeout) {
			n.logger.Debug("raft left a future without an answer")
		}
		return errors.Join(err, n.store.close())
	case <-time.After(stopTimeout):
		// The file stays open: closing it would hang behind the same write.
		return errors.Join(err, fmt.Errorf("%w: raft did not stop within %v", ErrStoreStalled, stopTimeout))
	}
}

// await waits for a future of Raft, whose own Error may never return (issues 145
// and 498), until ctx ends or the node fails.
func (n *Node) await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !n.futures.start(func() { done <- f.Error() }) {
		return ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-n.failed:
		return n.failure
	case <-ctx.Done():
		return ctx.Err()
	}
}

// configuration is the newest Raft configuration, committed or not.
func (n *Node) configuration() []raft.Server {
	f := n.raft.GetConfiguration() // answered at once, from a copy
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// voters are the voting servers of the Raft configuration.
func (n *Node) voters() []raft.Server {
	var voters []raft.Server
	for _, s := range n.configuration() {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s)
		}
	}
	return voters
}

// hasState reports whether the node has ever voted or stored an entry.
func (n *Node) hasState() bool { return n.raft.CurrentTerm() > 0 || n.raft.LastIndex() > 0 }

// waits runs functions until it is closed; close waits for those that run.
type waits struct {
	mu     sync.Mutex // guards closed, and starting against closing
	closed bool
	wg     sync.WaitGroup
}

func (w *waits) start(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.wg.Go(f)
	return true
}

func (w *waits) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wg.Wait()
}

// closeWithin is close that gives up after a time; false: some still run.
func (w *waits) closeWithin(limit time.Duration) bool {
	idle := make(chan struct{})
	go func() { // ends with the last of them
		defer close(idle)
		w.close()
	}()
	select {
	case <-idle:
		return true
	case <-time.After(limit):
		return false
	}
}
