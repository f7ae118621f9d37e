package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ErrSuperseded says that another registration of this node's identity ended its
// session: a second process runs with a copy of its directory.
var ErrSuperseded = errors.New("cluster: the broker's session was taken over by another registration")

const (
	heartbeatRetry    = 10 * time.Millisecond
	heartbeatRetryMax = 200 * time.Millisecond
	// stalledInterval is the pause between the heartbeats of a broker whose disk
	// hangs: it may be relieved any moment, and may not learn of it from its own
	// metadata log.
	stalledInterval = 50 * time.Millisecond
)

// session is the broker's side of its session with the controller. It begins
// with Register and lasts until Close. One goroutine keeps a stream of
// heartbeats to whoever is the controller.
type session struct {
	node *Node
	// heard is a time at or before the one from which the controller counts our
	// silence. nil before Register.
	heard atomic.Pointer[time.Time]
	// reconciled is what SetReconciled told last.
	reconciled atomic.Uint64

	mu           sync.Mutex // guards what follows
	epoch        int64      // 0 before Register
	wantShutdown bool
	flushStalled bool
	changed      chan struct{} // closed when a flag changes
	mayShutdown  chan struct{} // closed when the controller allows to stop
	allowed      bool          // mayShutdown is closed
	// behind is a metadata index that a controller had applied at behindSince and this
	// node had not; 0: none.
	behind      uint64
	behindSince time.Time
}

func newSession(n *Node) *session {
	return &session{node: n, changed: make(chan struct{}), mayShutdown: make(chan struct{})}
}

// begin starts the heartbeats of a broker epoch that was asked for at a time.
func (s *session) begin(epoch int64, asked time.Time) {
	s.mu.Lock()
	first := s.epoch == 0
	s.epoch = epoch
	s.mu.Unlock()
	s.heard.Store(&asked)
	if first {
		s.node.background(s.run)
	}
}

// SessionValid reports whether a controller has heard of this broker within the
// last session timeout. When it has not, another may lead in this broker's
// place, so it must stop to act as leader and coordinator. It is false before
// Register. It is false, too, while this node's metadata is a session behind what the
// controller had applied, whoever is to blame: heartbeats come through, and the news
// that another leads do not. A broker whose disk hangs, which is relieved at once, and
// one that is heard again after a session of silence, in whose place others were elected,
// must not be behind at all.
func (n *Node) SessionValid(now time.Time) bool {
	heard := n.session.heard.Load()
	return heard != nil && now.Sub(*heard) < n.cfg.SessionTimeout && n.session.informed(n.Image().Index(), now)
}

// informed reports whether this node's metadata, applied up to an index, is new enough
// to lead by.
func (s *session) informed(applied uint64, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.behind <= applied {
		return true
	}
	return !s.flushStalled && now.Sub(s.behindSince) < s.node.cfg.SessionTimeout
}

// told notes how far the controller has applied the metadata log. lapsed: no controller
// had heard of this broker for a session.
func (s *session) told(index, applied uint64, lapsed bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case index <= applied:
	case lapsed:
		s.behind, s.behindSince = index, now.Add(-s.node.cfg.SessionTimeout)
	case s.behind <= applied:
		s.behind, s.behindSince = index, now
	}
}

// SetFlushStalled tells the controller whether a flush has been outstanding for
// too long. While it has, the broker's leaderships go to others.
func (n *Node) SetFlushStalled(stalled bool) {
	n.session.set(func(s *session) bool {
		changed := s.flushStalled != stalled
		s.flushStalled = stalled
		return changed
	})
}

// SetReconciled tells the controller, with the next heartbeat, up to which image
// this broker's replicas are in line with the metadata: what it kept of topics
// that were deleted up to there is removed.
func (n *Node) SetReconciled(index uint64) { n.session.reconciled.Store(index) }

// RequestShutdown asks the controller to take this broker's leaderships and
// returns when it may stop. A broker that never registered may at once.
func (n *Node) RequestShutdown(ctx context.Context) error {
	registered := false
	n.session.set(func(s *session) bool {
		registered = s.epoch != 0
		changed := !s.wantShutdown
		s.wantShutdown = true
		return changed
	})
	if !registered {
		return nil
	}
	lease := time.NewTicker(n.cfg.HeartbeatInterval)
	defer lease.Stop()
	for {
		select {
		case <-n.session.mayShutdown:
			return nil
		case <-n.stopped:
			return ErrClosed
		case <-n.failed:
			return n.failure
		case <-ctx.Done():
			return fmt.Errorf("hand over leaderships: %w", ctx.Err())
		case now := <-lease.C:
			// Without a session this broker leads nothing any more, and there is
			// nobody to tell: the last nodes of a cluster that stops do not wait
			// for a quorum that will not come back.
			if !n.SessionValid(now) {
				return fmt.Errorf("hand over leaderships: %w", ErrNoController)
			}
		}
	}
}

// givenUp asks the controller, or the voters, whether this node's directory was
// given up, and returns the *IdentityConflictError that says so. Another conflict
// is not final here: the node that sees it may be behind and remember who this
// one was before.
func (n *Node) givenUp(ctx context.Context) error {
	answers := n.askVoters(ctx)
	if _, leader := n.raftLeader(); leader != "" {
		if a, err := n.layer.identify(ctx, leader); err == nil {
			answers[a.nodeID] = a
		}
	}
	for _, a := range answers {
		conflict, ok := errors.AsType[*IdentityConflictError](n.refused(a.raftAddress, a))
		if ok && conflict.Known.IsZero() {
			return conflict
		}
	}
	return nil
}

func (s *session) set(change func(*session) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if change(s) {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// run keeps a stream until ctx ends.
func (s *session) run(ctx context.Context) {
	delay := heartbeatRetry
	for {
		leaderChanged := s.node.leaders.next()
		answered, err := s.keep(ctx)
		if answered {
			delay = heartbeatRetry
		}
		if errors.Is(err, ErrSuperseded) {
			s.node.fail(err)
			return
		}
		if identityConflict(err) {
			if err := s.node.givenUp(ctx); err != nil {
				s.node.fail(err)
				return
			}
		}
		s.node.logger.Debug("no heartbeat stream", "error", err)
		select {
		case <-leaderChanged:
		case <-time.After(delay):
			delay = min(2*delay, heartbeatRetryMax)
		case <-ctx.Done():
			return
		}
	}
}

// keep opens one stream to the controller and returns when it is over, and
// whether any heartbeat was answered.
func (s *session) keep(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	find, cancelFind := context.WithTimeout(ctx, s.node.cfg.SessionTimeout/2)
	defer cancelFind()
	ref, err := s.node.finder.find(find)
	if err != nil {
		cancel()
		return false, err
	}
	conn, err := s.node.peers.conn(find, ref)
	if err != nil {
		cancel()
		s.node.finder.forget(ref)
		return false, err
	}
	stream, err := pb.NewClusterServiceClient(conn).Heartbeat(ctx)
	if err != nil {
		cancel()
		s.node.finder.forget(ref)
		return false, err
	}
	k := &keeper{session: s, stream: stream, ref: ref, responses: make(chan *pb.HeartbeatResponse), failed: make(chan error, 1), sent: make(map[uint64]sentRequest)}
	var wg sync.WaitGroup
	wg.Go(func() { k.receive(ctx) })
	err = FromStatus(k.run(ctx))
	cancel() // ends the receiver
	wg.Wait()
	if !errors.Is(err, context.Canceled) {
		s.node.finder.forget(ref)
	}
	return k.echo > 0, err
}

// keeper is one stream of heartbeats.
type keeper struct {
	session   *session
	stream    grpc.BidiStreamingClient[pb.HeartbeatRequest, pb.HeartbeatResponse]
	ref       nodeRef
	responses chan *pb.HeartbeatResponse
	failed    chan error

	// The rest belongs to run.
	sequence uint64
	echo     uint64                 // newest answer received
	echoSent time.Time              // when the request was sent that echo answers; before: the first one
	sent     map[uint64]sentRequest // not yet answered
	reported uint64                 // image index in the newest request
}

// sentRequest is a heartbeat under way.
type sentRequest struct {
	at time.Time
	// proves is from when the controller counts our silence once it has this
	// request, or a little earlier: it counts from when it sent the answer that
	// the request echoes, which was after the echoed request was sent. Counting
	// from here, the broker never believes in its session longer than the
	// controller does. Zero in a request that echoes nothing: it counts for
	// nothing there.
	proves time.Time
}

func (k *keeper) receive(ctx context.Context) {
	for {
		r, err := k.stream.Recv()
		if err != nil {
			k.failed <- err
			return
		}
		select {
		case k.responses <- r:
		case <-ctx.Done():
			return
		}
	}
}

// run sends a heartbeat each interval, and at once when the image or a flag
// changed, until the stream fails, the controller stops to answer, or another
// node is the controller.
func (k *keeper) run(ctx context.Context) error {
	n := k.session.node
	tick := time.NewTicker(n.cfg.HeartbeatInterval)
	defer tick.Stop()
	lastAnswer := time.Now()
	for {
		leaderChanged := n.leaders.next()
		if id, address := n.raftLeader(); address != "" && id != k.ref.nodeID && id != noNode {
			return fmt.Errorf("%w: node %d is the controller no longer", ErrNoController, k.ref.nodeID)
		}
		flags, stalled, err := k.send()
		if err != nil {
			return err
		}
		if stalled {
			tick.Reset(min(stalledInterval, n.cfg.HeartbeatInterval))
		} else {
			tick.Reset(n.cfg.HeartbeatInterval)
		}
		if time.Since(lastAnswer) > n.cfg.SessionTimeout/2 {
			return fmt.Errorf("%w: node %d has not answered for %v", ErrNoController, k.ref.nodeID, time.Since(lastAnswer))
		}
		for wait := true; wait; {
			select {
			case r := <-k.responses:
				lastAnswer = time.Now()
				wait = k.echo > 0 // the first answer is echoed at once: only then does the session count
				if err := k.received(r); err != nil {
					return err
				}
			case <-tick.C:
				wait = false
			case <-n.Changed(k.reported):
				wait = false
			case <-flags:
				wait = false
			case <-leaderChanged:
				wait = false
			case err := <-k.failed:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// send sends a heartbeat and returns a channel that is closed when a flag in it
// changes, and whether it said that the disk hangs.
func (k *keeper) send() (flags <-chan struct{}, stalled bool, err error) {
	s := k.session
	s.mu.Lock()
	epoch, shutdown := s.epoch, s.wantShutdown
	stalled, flags = s.flushStalled, s.changed
	s.mu.Unlock()
	k.sequence++
	k.sent[k.sequence] = sentRequest{at: time.Now(), proves: k.echoSent}
	k.reported = s.node.Image().Index()
	return flags, stalled, k.stream.Send(&pb.HeartbeatRequest{
		NodeId: s.node.cfg.NodeID, BrokerEpoch: epoch, Sequence: k.sequence, Echo: k.echo,
		ImageIndex: k.reported, WantShutdown: shutdown, FlushStalled: stalled, ReconciledIndex: s.reconciled.Load(),
	})
}

func (k *keeper) received(r *pb.HeartbeatResponse) error {
	s := k.session
	if r.GetStale() {
		return ErrSuperseded
	}
	sent, ok := k.sent[r.GetSequence()]
	if !ok {
		return fmt.Errorf("%w: answer to heartbeat %d, which was not sent or was answered", ErrProtocol, r.GetSequence())
	}
	for q := range k.sent {
		if q <= r.GetSequence() {
			delete(k.sent, q)
		}
	}
	k.echo, k.echoSent = r.GetSequence(), sent.at
	heard, now := s.heard.Load(), time.Now()
	s.told(r.GetImageIndex(), s.node.Image().Index(), now.Sub(*heard) >= s.node.cfg.SessionTimeout, now)
	if sent.proves.After(*heard) {
		s.heard.Store(&sent.proves)
	}
	if r.GetMayShutdown() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.allowed {
			s.allowed = true
			close(s.mayShutdown)
		}
	}
	return nil
}
