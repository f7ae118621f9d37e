package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// idleTime is how long a stream that no partition uses stays open.
const idleTime = 5 * time.Second

// followerStream is the follower's end of one stream, opened as long as a
// partition uses it.
type followerStream struct {
	link *link
	kind streamKind
	wake chan struct{}

	// Guarded by link.mu.
	running bool // run has been started and has not decided to end
	up      bool
	users   int
	begins  []*Subscription
	later   []delayed
	acks    []*Subscription
	stops   []*pb.ReplicaStop
	// granted is the credit that the leader has not used and the pushes that are
	// not in their logs' files: what there is to receive into, or will be.
	granted int64

	// Of the sender alone, reused from message to message.
	due     []*Subscription
	request pb.ReplicateRequest
	ackPool []*pb.ReplicaAck
}

// delayed is a session to begin at a time.
type delayed struct {
	sub *Subscription
	at  time.Time
}

func (st *followerStream) signal() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// run opens the stream again and again until no partition uses it.
func (st *followerStream) run() {
	f := st.link.follower
	for attempt := 0; ; attempt++ {
		if !st.wanted() {
			return
		}
		if !sleep(f.ctx, pause(attempt)) {
			continue // closed: wanted says so
		}
		began := time.Now()
		err := st.serve(f.ctx)
		if err != nil && !errors.Is(err, errIdle) && f.ctx.Err() == nil {
			level := f.cfg.Logger.Debug
			if attempt == 0 {
				level = f.cfg.Logger.Info
			}
			level("replication stream ended", "leader", st.link.leader, "kind", st.kind.String(), "error", err)
		}
		if time.Since(began) > time.Second {
			attempt = -1 // it worked: the next try is a first one
		}
	}
}

// wanted reports whether the stream has users, and marks it as ended otherwise.
func (st *followerStream) wanted() bool {
	l := st.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if st.users > 0 && !l.closed {
		return true
	}
	st.running = false
	return false
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve runs one stream from its opening to its end. It owns the receiver and
// the handshaker, and waits for both.
func (st *followerStream) serve(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	stream, err := st.link.follower.cfg.Transport.Open(ctx, st.link.leader)
	if err != nil {
		return err
	}
	cfg := &st.link.follower.cfg
	window := st.link.follower.window(st.kind)
	err = stream.Send(&pb.ReplicateRequest{
		Open: &pb.StreamOpen{
			Follower: cfg.NodeID, BrokerEpoch: cfg.BrokerEpoch, Kind: st.kind.wire(),
			ClusterId: cfg.ClusterID, Leader: st.link.leader,
		},
		CreditBytes: uint64(window),
	})
	if err != nil {
		return st.recvError(stream, err)
	}
	st.comeUp(window)
	r := &receiver{stream: st, in: stream, unmatched: make(chan unmatched, 64), heavy: make(chan struct{}, 1)}
	received := make(chan error, 1)
	var both sync.WaitGroup
	both.Go(func() {
		received <- r.run()
		close(r.unmatched)
	})
	both.Go(r.handshaker)
	err = st.send(ctx, stream, received)
	cancel()
	both.Wait()
	st.goDown()
	return err
}

// recvError finds the status of a stream whose Send only said that it ended.
func (st *followerStream) recvError(stream FollowerStream, sendErr error) error {
	m, err := stream.Recv()
	if err == nil {
		m.Release()
		return sendErr
	}
	return fmt.Errorf("replica: stream to broker %d: %w", st.link.leader, err)
}

// comeUp begins a session of every partition on the stream.
func (st *followerStream) comeUp(granted int64) {
	l := st.link
	l.mu.Lock()
	defer l.mu.Unlock()
	st.up, st.granted = true, granted
	for _, s := range l.subs {
		if s.kind == st.kind && s.phase == subIdle {
			s.queued = false
			l.begin(s, 0)
		}
	}
}

// goDown ends the sessions of the stream.
func (st *followerStream) goDown() {
	type over struct {
		sub     *Subscription
		session uint64
	}
	l := st.link
	l.mu.Lock()
	st.up = false
	st.begins, st.later, st.acks, st.stops = nil, nil, nil, nil
	var gone []over
	for _, s := range l.subs {
		if s.kind != st.kind {
			continue
		}
		s.queued, s.dirty = false, false
		if s.session != 0 {
			gone = append(gone, over{s, s.session})
		}
		l.endSession(s)
		s.phase = subIdle
	}
	l.mu.Unlock()
	for _, o := range gone {
		o.sub.part.Gone(o.session)
	}
}

// errIdle ends a stream that nobody uses.
var errIdle = errors.New("replica: no partition uses the stream")

// send is the sender's loop.
func (st *followerStream) send(ctx context.Context, stream FollowerStream, received <-chan error) error {
	cfg := &st.link.follower.cfg
	timer := time.NewTimer(cfg.KeepAlive)
	defer timer.Stop()
	sentAt, usedAt := time.Now(), time.Now()
	for {
		now := time.Now()
		wait, used, something := st.collect(now, now.Sub(sentAt) >= cfg.KeepAlive)
		if used {
			usedAt = now
		} else if now.Sub(usedAt) > idleTime {
			return errIdle
		}
		if something {
			sentAt = now
			if err := stream.Send(&st.request); err != nil {
				return <-received // Recv has the reason
			}
			continue
		}
		timer.Reset(min(wait, cfg.KeepAlive-now.Sub(sentAt)))
		select {
		case <-st.wake:
		case <-timer.C:
		case err := <-received:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// collect fills the request. keepAlive sends it even if it is empty. wait is the
// time to the next delayed session.
func (st *followerStream) collect(now time.Time, keepAlive bool) (wait time.Duration, used, something bool) {
	l := st.link
	st.request.Handshakes, st.request.Stops = st.request.Handshakes[:0], nil
	l.mu.Lock()
	used = st.users > 0
	wait = st.ripen(now)
	st.due = st.due[:0]
	for _, s := range st.begins {
		if s.kind == st.kind && s.phase == subIdle && s.queued {
			st.due = append(st.due, s)
		}
		if s.kind == st.kind {
			s.queued = false
		}
	}
	clear(st.begins)
	st.begins = st.begins[:0]
	st.collectAcks()
	st.request.Stops, st.stops = st.stops, nil
	st.request.CreditBytes = 0
	something = len(st.request.Acks) > 0 || len(st.request.Stops) > 0 || len(st.due) > 0 || keepAlive
	window := l.follower.window(st.kind)
	due := window - st.granted
	if due > 0 && st.kind == kindCatchUp {
		if pause := l.follower.giveWay.wait(now); pause > 0 {
			due, wait = 0, min(wait, pause)
		}
	}
	if due > 0 && (something || due >= window/8) {
		if st.kind == kindCatchUp {
			l.follower.giveWay.take(now, due)
		}
		st.request.CreditBytes = uint64(due)
		st.granted += due
		something = true
	}
	l.mu.Unlock()
	for _, s := range st.due {
		st.open(s)
	}
	return wait, used, something
}

// ripen moves delayed sessions that are due to the others. The caller holds link.mu.
func (st *followerStream) ripen(now time.Time) time.Duration {
	wait := time.Hour
	kept := st.later[:0]
	for _, d := range st.later {
		switch {
		case d.sub.phase != subIdle || d.sub.kind != st.kind || !d.sub.queued:
		case !now.Before(d.at):
			st.begins = append(st.begins, d.sub)
		default:
			wait = min(wait, d.at.Sub(now))
			kept = append(kept, d)
		}
	}
	clear(st.later[len(kept):])
	st.later = kept
	return wait
}

// collectAcks takes the newest ack of every partition that has one. The caller
// holds link.mu.
func (st *followerStream) collectAcks() {
	st.request.Acks = st.request.Acks[:0]
	for _, s := range st.acks {
		if s.kind != st.kind || !s.dirty {
			continue
		}
		s.dirty = false
		if s.ack.Session != s.session || s.session == 0 {
			continue
		}
		n := len(st.request.Acks)
		if n == len(st.ackPool) {
			st.ackPool = append(st.ackPool, new(pb.ReplicaAck))
		}
		m := st.ackPool[n]
		m.TopicId, m.Partition = s.key.Topic[:], s.key.Partition
		m.LeaderEpoch, m.SessionId = int32(s.ack.Epoch), s.ack.Session
		m.Appended, m.Flushed, m.LogStartOffset = int64(s.ack.Appended), int64(s.ack.Flushed), int64(s.ack.LogStart)
		st.request.Acks = append(st.request.Acks, m)
	}
	clear(st.acks)
	st.acks = st.acks[:0]
}

// open adds the handshake of a new session of s to the request.
func (st *followerStream) open(s *Subscription) {
	l := st.link
	id := l.follower.sessions.Add(1)
	s.calls.Lock()
	defer s.calls.Unlock()
	l.mu.Lock()
	if s.phase != subIdle || s.kind != st.kind {
		l.mu.Unlock()
		return
	}
	s.phase, s.session = subAwait, id
	l.mu.Unlock()
	h, ok := s.part.Begin(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.phase != subAwait || s.session != id {
		return // stopped meanwhile
	}
	if !ok {
		l.hold(s)
		return
	}
	s.sent = h
	st.request.Handshakes = append(st.request.Handshakes, handshakeToWire(s.key, h))
}
