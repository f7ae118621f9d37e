package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// member is the consumer's part in its group. run keeps a session with the
// coordinator and is the only one to speak on it; reconcile moves what is owned
// towards what is assigned, which may wait for the application, and so must not
// hold up heartbeats.
type member struct {
	k       *Consumer
	ack     chan struct{} // capacity 1: owned changed, say so at once
	changed chan struct{} // capacity 1: target or lost changed
	leaving chan struct{} // closed by leave, when everything was given up
	rejoin  chan struct{} // capacity 1: the subscription changed
	left    chan struct{} // closed when run ended

	mu     sync.Mutex // guards what follows
	topics []string
	id     string
	epoch  int32
	attach int64
	owned  map[TopicPartition]bool // false: not taken over yet
	target []TopicPartition
	// lost: what is owned must be dropped before joining again. Whoever sets it
	// makes settled, which reconcile closes when it is done.
	lost     bool
	settled  chan struct{}
	stopMove context.CancelFunc // ends the wait of a revocation; nil: none waits
	goodbye  chan struct{}      // not nil: give everything up, then close it
	farewell bool               // everything was given up: nothing is taken over any more
	refused  error              // why the member is out for good; nil: it is not
	// line is how commits go; nil: no session has been joined. lineChanged is closed,
	// and made anew, when line or lost becomes another.
	line        *commitLine
	lineChanged chan struct{}
}

func newMember(k *Consumer) *member {
	return &member{
		k:       k,
		topics:  k.cfg.topics,
		ack:     make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		leaving: make(chan struct{}),
		rejoin:  make(chan struct{}, 1),
		left:    make(chan struct{}),
		owned:   map[TopicPartition]bool{},

		lineChanged: make(chan struct{}),
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// identity is what commits carry.
func (m *member) identity() (id string, epoch int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id, m.epoch
}

// leave gives everything up, with callbacks and commits, and leaves the group.
func (m *member) leave(ctx context.Context) error {
	done := make(chan struct{})
	m.mu.Lock()
	m.goodbye = done
	m.mu.Unlock()
	poke(m.changed)
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-m.k.life.Done():
		return ErrClosed
	}
	close(m.leaving)
	select {
	case <-m.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run keeps a session until the consumer ends or left the group.
func (m *member) run(ctx context.Context) {
	defer close(m.left)
	failures := 0
	for ctx.Err() == nil {
		began := time.Now()
		address, err := m.k.c.coordinator(ctx, m.k.cfg.group)
		if err == nil {
			err = m.session(ctx, address)
			if err == nil {
				return // left
			}
			if errors.Is(err, errResubscribed) {
				continue
			}
			m.k.c.forgetCoordinator(m.k.cfg.group, address)
		}
		if ctx.Err() != nil || m.isLeaving() {
			return
		}
		if time.Since(began) > 5*time.Second {
			failures = 0
		}
		failures++
		if !m.recover(ctx, err) {
			return
		}
		if sleep(ctx, m.k.c.backoff(failures)) != nil {
			return
		}
	}
}

func (m *member) isLeaving() bool {
	select {
	case <-m.leaving:
		return true
	default:
		return false
	}
}

// recover decides what the end of a session means; false: the member is out for good,
// and owns nothing any more, for its partitions will be others'.
func (m *member) recover(ctx context.Context, err error) bool {
	m.k.c.cfg.logger.Info("group session ended", "group", m.k.cfg.group, "error", err)
	switch CodeOf(err) {
	case CodeUnknownMember, CodeFencedMemberEpoch:
		m.loseAll(ctx)
		return true
	default:
	}
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok || coordinatorMoved(e) || e.Retriable:
		return true
	case e.Code == CodeUnknown:
		m.k.report(err)
		return true
	}
	m.refuse(ctx, err)
	return false
}

// refuse ends the membership for good: what it is refused for does not pass by waiting.
func (m *member) refuse(ctx context.Context, err error) {
	m.mu.Lock()
	m.refused = err
	m.mu.Unlock()
	m.loseAll(ctx)
	m.k.refuse(err)
}

// refusal is why the member is out for good; nil: it is not.
func (m *member) refusal() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused
}

// loseAll waits until reconcile has dropped everything.
func (m *member) loseAll(ctx context.Context) {
	settled := make(chan struct{})
	m.mu.Lock()
	m.lost, m.settled, m.target = true, settled, nil
	m.epoch = 0
	m.wakeCommits()
	if m.stopMove != nil {
		m.stopMove()
	}
	m.mu.Unlock()
	poke(m.changed)
	select {
	case <-settled:
	case <-ctx.Done():
	}
}

// session runs one stream; nil: the member has left the group, or the consumer ends.
func (m *member) session(ctx context.Context, address string) error {
	conn, err := m.k.c.conn(address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	slow := time.AfterFunc(m.k.c.cfg.dialTimeout, cancel)
	stream, err := pb.NewGroupServiceClient(conn).Session(ctx)
	if !slow.Stop() && err == nil {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return fromRPC(err, address)
	}
	if err := stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Join{Join: m.join()}}); err != nil && !errors.Is(err, io.EOF) {
		return fromRPC(err, address)
	}
	updates := make(chan *pb.SessionResponse)
	ended := make(chan error, 1)
	wg.Go(func() {
		for {
			u, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case updates <- u:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	})
	s := &memberSession{m: m, stream: stream, address: address, updates: updates, ended: ended, commits: map[uint64]*sessionCommit{}}
	defer s.detach()
	return s.loop(ctx)
}

// join is the first message of a stream.
func (m *member) join() *pb.JoinGroup {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attach++
	cfg := &m.k.cfg
	return &pb.JoinGroup{
		Group: cfg.group, MemberId: m.id, MemberEpoch: m.epoch, AttachNumber: m.attach, InstanceId: cfg.instanceID,
		ClientId: m.k.c.cfg.clientID, Rack: m.k.c.cfg.rack, Topics: m.topics, TopicPattern: cfg.pattern,
		SessionTimeoutMs: uint32(cfg.sessionTimeout.Milliseconds()), RebalanceTimeoutMs: uint32(cfg.rebalanceTimeout.Milliseconds()),
		Assignor: cfg.assignor, Owned: m.ownedList(),
	}
}

// ownedList is what the coordinator hears. The caller holds mu.
func (m *member) ownedList() []*pb.TopicPartition {
	parts := make([]TopicPartition, 0, len(m.owned))
	for tp := range m.owned {
		parts = append(parts, tp)
	}
	sortPartitions(parts)
	return partitionsOut(parts)
}

// errResubscribed ends a session that is begun again with another subscription.
var errResubscribed = errors.New("client: the subscription changed")

// memberSession is one stream with the coordinator.
type memberSession struct {
	m       *member
	stream  grpc.BidiStreamingClient[pb.SessionRequest, pb.SessionResponse]
	address string
	updates <-chan *pb.SessionResponse
	ended   <-chan error
	joined  bool
	again   bool // the subscription changed before the join was answered

	line       *commitLine               // nil: the join was not answered yet
	commits    map[uint64]*sessionCommit // sent, not answered
	lastCommit uint64
}

func (s *memberSession) loop(ctx context.Context) error {
	m := s.m
	timeout := m.k.cfg.sessionTimeout
	beat := time.NewTicker(max(timeout/3, time.Millisecond))
	defer beat.Stop()
	// A coordinator that hangs keeps the stream open and says nothing, as a healthy
	// one does; another broker knows whether the group has moved.
	check := time.NewTicker(max(timeout/3, time.Millisecond))
	defer check.Stop()
	for {
		select {
		case u := <-s.updates:
			if answers := u.GetCommits(); len(answers) > 0 {
				s.committed(answers)
				continue
			}
			if !s.joined {
				s.joined = true
				s.attach(u.GetTakesCommits())
			}
			if s.again {
				m.update(u)
				return errResubscribed
			}
			if ms := u.GetHeartbeatIntervalMs(); ms > 0 {
				beat.Reset(time.Duration(ms) * time.Millisecond)
			}
			m.update(u)
		case err := <-s.ended:
			if errors.Is(err, io.EOF) {
				return &Error{Code: CodeNotCoordinator, Message: "the coordinator ended the session", Partition: -1, Broker: s.address, Retriable: true}
			}
			return fromRPC(err, s.address)
		case c := <-s.submitted():
			s.send(c)
		case <-m.ack:
			if s.joined {
				s.heartbeat(true)
			}
		case <-beat.C:
			if s.joined {
				s.heartbeat(false)
			}
		case <-check.C:
			if s.moved(ctx) {
				return &Error{Code: CodeNotCoordinator, Message: "another broker coordinates the group now", Partition: -1, Broker: s.address, Retriable: true}
			}
		case <-m.rejoin:
			if s.joined {
				return errResubscribed
			}
			s.again = true
		case <-m.leaving:
			return s.leave()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// heartbeat sends one. A failure to send shows on the receiving side.
func (s *memberSession) heartbeat(owned bool) {
	m := s.m
	m.mu.Lock()
	h := &pb.Heartbeat{MemberEpoch: m.epoch, HasOwned: owned}
	if owned {
		h.Owned = m.ownedList()
	}
	m.mu.Unlock()
	if err := s.stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Heartbeat{Heartbeat: h}}); err != nil {
		m.k.c.cfg.logger.Debug("heartbeat not sent", "broker", s.address, "error", err)
	}
}

// moved asks who coordinates the group now.
func (s *memberSession) moved(ctx context.Context) bool {
	c, group := s.m.k.c, s.m.k.cfg.group
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c.forgetCoordinator(group, s.address)
	address, err := c.coordinator(ctx, group)
	return err == nil && address != s.address
}

// leave ends the membership; a static member only hangs up.
func (s *memberSession) leave() error {
	if s.m.k.cfg.instanceID != "" {
		return nil
	}
	if err := s.stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Leave{Leave: &pb.LeaveGroup{}}}); err != nil {
		return nil // the session timeout does it then
	}
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	for {
		select {
		case <-s.updates:
		case err := <-s.ended:
			s.m.k.c.cfg.logger.Debug("session over", "broker", s.address, "error", err)
			return nil
		case <-wait.C:
			return nil
		}
	}
}

// update takes what the coordinator says.
func (m *member) update(u *pb.SessionResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u.GetMemberId() != "" {
		m.id = u.GetMemberId()
	}
	m.epoch = u.GetMemberEpoch()
	if u.GetAssignment() == nil {
		return
	}
	m.target = partitionsFrom(u.GetAssignment().GetPartitions())
	for _, tp := range m.target {
		if _, ok := m.owned[tp]; !ok {
			m.owned[tp] = false // owned, but reconcile has yet to take it over
		}
	}
	poke(m.ack)
	poke(m.changed)
}

// reconcile takes over what was assigned and gives up what was not, until the
// consumer ends.
func (m *member) reconcile(ctx context.Context) {
	for {
		select {
		case <-m.changed:
		case <-ctx.Done():
			return
		}
		for m.step(ctx) {
		}
	}
}

// step does one piece of what is to be done; false: nothing is.
func (m *member) step(ctx context.Context) (more bool) {
	m.mu.Lock()
	var added, removed, all []TopicPartition
	wanted := make(map[TopicPartition]bool, len(m.target))
	for _, tp := range m.target {
		wanted[tp] = true
	}
	lost, goodbye, farewell := m.lost, m.goodbye, m.farewell
	passed := false // something came and went before it was taken over: its callbacks never hear of it
	for tp, held := range m.owned {
		if held {
			all = append(all, tp)
		}
		switch {
		case lost || goodbye != nil || farewell:
		case !held && wanted[tp]:
			added = append(added, tp)
			m.owned[tp] = true
		case !held:
			delete(m.owned, tp)
			passed = true
		case !wanted[tp]:
			removed = append(removed, tp)
		}
	}
	m.mu.Unlock()
	if passed {
		poke(m.ack)
	}
	sortPartitions(added)
	sortPartitions(removed)
	sortPartitions(all)

	switch {
	case lost:
		m.k.lose(all)
		m.mu.Lock()
		m.owned, m.lost = map[TopicPartition]bool{}, false
		close(m.settled)
		m.mu.Unlock()
		return true
	case goodbye != nil:
		m.drop(ctx, all)
		m.mu.Lock()
		m.goodbye, m.farewell, m.target = nil, true, nil
		m.owned = map[TopicPartition]bool{}
		m.mu.Unlock()
		close(goodbye)
		return false
	case farewell:
		return false
	case len(added) > 0:
		m.k.assign(added)
		return true
	case len(removed) > 0:
		m.drop(ctx, removed)
		poke(m.ack)
		return true
	default:
		return false
	}
}

// drop revokes partitions and stops owning them.
func (m *member) drop(ctx context.Context, parts []TopicPartition) {
	ctx, cancel := context.WithTimeout(ctx, m.k.cfg.rebalanceTimeout)
	defer cancel()
	m.mu.Lock()
	m.stopMove = cancel
	if m.lost {
		cancel()
	}
	m.mu.Unlock()
	if err := m.k.revoke(ctx, slices.Clone(parts)); err != nil {
		m.k.c.cfg.logger.Warn("commit before giving partitions up failed", "group", m.k.cfg.group, "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopMove = nil
	for _, tp := range parts {
		delete(m.owned, tp)
	}
}
