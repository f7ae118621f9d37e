package cluster

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

const (
	// probeEvery is the pause between dials of a broker whose stream is gone.
	probeEvery = 20 * time.Millisecond
	// probeAccepted is the pause when something accepts there: a broker that is
	// only starting, or stopped by a debugger.
	probeAccepted = 100 * time.Millisecond
)

// heartbeatStream is one stream of heartbeats, as the controller sees it. It is
// used by the goroutine that serves it.
type heartbeatStream struct {
	nodeID int32
	epoch  int64
	// sent has the time of each answer that was not echoed yet, by sequence. The
	// broker sends one request an interval, so a silent way back makes it grow
	// by a few entries until the session ends.
	sent map[uint64]time.Time
	// heard is the newest time at which the broker is known to have heard us;
	// zero before the first echo. A new stream proves nothing by itself: a broker
	// that does not get our answers opens one after the other.
	heard time.Time
}

// maxUnechoed bounds heartbeatStream.sent against a broker that floods.
const maxUnechoed = 4096

// Heartbeat serves a broker's heartbeats while this node is the controller.
func (n *Node) Heartbeat(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error {
	t := n.term.Load()
	if t == nil {
		return Status(n.notController())
	}
	if err := t.awaitReady(stream.Context()); err != nil {
		return Status(err)
	}
	return Status(t.serveHeartbeats(stream))
}

// serveHeartbeats answers until the stream ends or the term does. The goroutine
// that receives ends when the stream's context does, which is when this returns.
func (t *term) serveHeartbeats(stream grpc.BidiStreamingServer[pb.HeartbeatRequest, pb.HeartbeatResponse]) error {
	ctx := stream.Context()
	requests, failed := make(chan *pb.HeartbeatRequest), make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	s := &heartbeatStream{sent: make(map[uint64]time.Time)}
	defer t.streamEnded(s)
	for {
		select {
		case r := <-requests:
			resp, err := t.heartbeat(s, r)
			if err != nil {
				return err
			}
			if err := stream.Send(resp); err != nil {
				return err
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-t.done:
			return t.node.notController()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// heartbeat takes one request and makes its answer.
func (t *term) heartbeat(s *heartbeatStream, r *pb.HeartbeatRequest) (*pb.HeartbeatResponse, error) {
	now := time.Now()
	if s.nodeID == 0 {
		s.nodeID, s.epoch = r.GetNodeId(), r.GetBrokerEpoch()
	}
	if r.GetNodeId() != s.nodeID || r.GetBrokerEpoch() != s.epoch || s.nodeID < 1 {
		return nil, newError(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT,
			"heartbeat of node %d, epoch %d on the stream of node %d, epoch %d", r.GetNodeId(), r.GetBrokerEpoch(), s.nodeID, s.epoch)
	}
	s.echoed(r.GetEcho())
	im := t.node.Image()
	b := im.Broker(s.nodeID)
	if b == nil || b.Epoch < s.epoch {
		// Registered with a later controller: this one was deposed and has not
		// heard of it.
		return nil, newError(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, "node %d does not know of epoch %d of node %d", t.node.cfg.NodeID, s.epoch, s.nodeID)
	}
	stale := b.Epoch > s.epoch
	if !stale {
		t.heard(s, r, im, now)
	}
	if len(s.sent) >= maxUnechoed {
		return nil, newError(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "node %d did not echo %d answers", s.nodeID, len(s.sent))
	}
	s.sent[r.GetSequence()] = now
	return &pb.HeartbeatResponse{
		Sequence: r.GetSequence(), Stale: stale, Fenced: b.Fenced,
		MayShutdown: r.GetWantShutdown() && !stale && controller.MayShutdown(im, s.nodeID),
		ImageIndex:  im.Index(),
	}, nil
}

// echoed moves the time at which the broker is known to have heard us to when
// the echoed answer was sent. A request without a new echo proves only that one
// direction works, and so moves nothing.
func (s *heartbeatStream) echoed(sequence uint64) {
	at, ok := s.sent[sequence]
	if !ok {
		return
	}
	if at.After(s.heard) {
		s.heard = at
	}
	for q := range s.sent {
		if q <= sequence {
			delete(s.sent, q)
		}
	}
}

// heard records a heartbeat of a broker's present session.
func (t *term) heard(s *heartbeatStream, r *pb.HeartbeatRequest, im *metadata.Image, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live.Observe(im, now)
	if !s.heard.IsZero() {
		t.live.Heard(controller.Heartbeat{
			NodeID: s.nodeID, BrokerEpoch: s.epoch, WantShutdown: r.GetWantShutdown(), FlushStalled: r.GetFlushStalled(),
		}, s.heard)
	}
	state := t.brokers[s.nodeID]
	if state == nil || state.epoch != s.epoch {
		state = &brokerState{epoch: s.epoch}
		t.brokers[s.nodeID] = state
	}
	if state.stream != s {
		state.stream = s
		t.poke()
	}
	if r.GetImageIndex() > state.applied {
		state.applied = r.GetImageIndex()
		close(t.progressed)
		t.progressed = make(chan struct{})
	}
	state.reconciled = max(state.reconciled, r.GetReconciledIndex())
	if r.GetWantShutdown() || r.GetFlushStalled() {
		t.poke()
	}
}

// streamEnded makes the broker a suspect, unless it has a newer stream.
func (t *term) streamEnded(s *heartbeatStream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := t.brokers[s.nodeID]
	if state == nil || state.stream != s {
		return
	}
	state.stream = nil
	close(t.progressed) // nobody waits for it any longer
	t.progressed = make(chan struct{})
	close(t.suspicion)
	t.suspicion = make(chan struct{})
}

// suspects are the brokers that count as alive and have no stream: they may be
// dead. The channel is closed when a stream ends.
func (t *term) suspects(im *metadata.Image) ([]*metadata.Broker, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*metadata.Broker
	for b := range im.Brokers() {
		s := t.brokers[b.NodeID]
		if !b.Fenced && (s == nil || s.epoch != b.Epoch || s.stream == nil) {
			out = append(out, b)
		}
	}
	return out, t.suspicion
}

// probeLoop dials the suspects until they have a stream again or are fenced. A
// lost stream alone says little. When the peer listener refuses too, the process
// is gone, and waiting for the session to end would only keep its partitions
// without a leader.
func (t *term) probeLoop(ctx context.Context) {
	for {
		im := t.node.Image()
		suspects, more := t.suspects(im)
		var timer <-chan time.Time
		changed := t.node.Changed(im.Index()) // a broker may have registered
		if len(suspects) > 0 {
			pause := probeAccepted
			if t.probe(ctx, suspects) {
				pause = probeEvery
			}
			timer, changed = time.After(pause), nil
		}
		select {
		case <-timer:
		case <-changed:
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// probe dials each suspect once and reports whether any refused.
func (t *term) probe(ctx context.Context, suspects []*metadata.Broker) (refused bool) {
	ctx, cancel := context.WithTimeout(ctx, t.node.cfg.ResetGrace)
	defer cancel()
	var wg sync.WaitGroup
	results := make([]error, len(suspects))
	for i, b := range suspects {
		wg.Go(func() {
			conn, err := t.node.cfg.Dial(ctx, b.PeerAddress)
			if err == nil {
				err = conn.Close()
			}
			results[i] = err
		})
	}
	wg.Wait()
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, b := range suspects {
		switch err := results[i]; {
		case err == nil:
			t.live.Accepted(b.NodeID)
		case errors.Is(err, syscall.ECONNREFUSED):
			t.live.Refused(b.NodeID, now)
			refused = true
		}
	}
	if refused {
		t.poke()
	}
	return refused
}
