package coordinator

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// maxIdentityBytes bounds every string by which a member names itself.
const (
	maxIdentityBytes = 1024
	maxTopicBytes    = 249
	maxClassicBytes  = 128 << 10 // of all protocols of a classic member: all members fit one record
)

// maxSessionCommits is how many commits of one session may be under way.
const maxSessionCommits = 1024

// session is a member's stream between its Session call and the actor.
type session struct {
	group    string
	stream   uint64
	interval int64                  // heartbeat interval, ms
	updates  chan api.SessionUpdate // 1; the actor replaces what was not taken
	end      chan error             // 1; written once, by the actor
	answered chan struct{}          // 1; there are answers

	mu      sync.Mutex // guards answers
	answers []api.SessionCommitted
}

// answer gives the answer to a commit.
func (s *session) answer(a api.SessionCommitted) {
	s.mu.Lock()
	s.answers = append(s.answers, a)
	s.mu.Unlock()
	select {
	case s.answered <- struct{}{}:
	default:
	}
}

// taken swaps the answers that wait for an empty list, whose memory is used again.
func (s *session) taken(empty []api.SessionCommitted) []api.SessionCommitted {
	s.mu.Lock()
	defer s.mu.Unlock()
	answers := s.answers
	s.answers = empty
	return answers
}

// push offers an update. Only the actor calls it.
func (s *session) push(e consumergroup.Effect) {
	u := api.SessionUpdate{
		MemberID: e.MemberID, MemberEpoch: e.Epoch, HeartbeatInterval: s.interval,
		HasAssignment: true, Assignment: fromMachine(e.Assigned),
	}
	select {
	case <-s.updates:
	default:
	}
	s.updates <- u
}

// finish ends the session; nil: it left. Only the actor calls it, once.
func (s *session) finish(err *api.Error) {
	if err == nil {
		s.end <- nil
		return
	}
	s.end <- err
}

// Session runs one member's session on the caller's goroutine until the member
// leaves (nil), in is closed or ctx ends (nil: the member keeps its place for
// its grace), out fails (its error, likewise), or the member is fenced or the
// coordinator unloads (*api.Error). out is called from this goroutine alone; the
// update that answers the join comes first. in is not read while out blocks.
func (c *Coordinator) Session(ctx context.Context, join api.JoinGroup, in <-chan api.SessionMessage, out func(api.SessionUpdate) error) error {
	m, err := c.checkJoin(&join)
	if err != nil {
		return err
	}
	s, err := c.shardOf(join.Group)
	if err != nil {
		return err
	}
	if err := c.patterns.prepare(m.Pattern); err != nil {
		return err
	}
	ses := &session{
		group:    join.Group,
		stream:   c.streams.Add(1),
		interval: max(m.SessionTimeout.Milliseconds()/3, 10),
		updates:  make(chan api.SessionUpdate, 1),
		end:      make(chan error, 1),
		answered: make(chan struct{}, 1),
	}
	r := &sessionRun{c: c, s: s, ses: ses, group: join.Group, memberID: m.ID, out: out}
	if err := s.enqueue(ctx, r.joinRequest(ctx, m, &join)); err != nil {
		return err
	}
	return r.loop(ctx, in)
}

// sessionRun is a Session call.
type sessionRun struct {
	c               *Coordinator
	s               *shard
	ses             *session
	group, memberID string
	out             func(api.SessionUpdate) error
	commits         int                    // under way
	spare           []api.SessionCommitted // memory for answers
}

func (r *sessionRun) loop(ctx context.Context, in <-chan api.SessionMessage) error {
	for {
		select {
		case err := <-r.ses.end:
			return err
		default:
		}
		select {
		case err := <-r.ses.end:
			return err
		case <-r.s.done:
			return r.ended()
		case u := <-r.ses.updates:
			if err := r.out(u); err != nil {
				r.detach()
				return err
			}
		case <-r.ses.answered:
			if err := r.sendAnswers(); err != nil {
				r.detach()
				return err
			}
		case message, open := <-in:
			switch {
			case !open:
				r.detach()
				return nil
			case message.Leave:
				return r.leave(ctx)
			}
			if err := r.take(ctx, &message); err != nil {
				r.detach()
				return endOf(ctx, err)
			}
		case <-ctx.Done():
			r.detach()
			return nil
		}
	}
}

// take passes on a heartbeat or a commit.
func (r *sessionRun) take(ctx context.Context, message *api.SessionMessage) error {
	if message.Commit == nil {
		return r.s.enqueue(ctx, r.heartbeatRequest(message.Heartbeat))
	}
	c := message.Commit
	r.commits++
	if r.commits > maxSessionCommits {
		r.ses.answer(api.SessionCommitted{ID: c.ID, Err: api.Errorf(api.CodeOverloaded, "%d commits of this session are under way, the most allowed: try again", maxSessionCommits)})
		return nil
	}
	return r.s.enqueue(ctx, request{commit: &commit{
		req:     api.CommitOffsets{Group: r.group, MemberID: r.memberID, MemberEpoch: c.MemberEpoch, Offsets: c.Offsets},
		session: r.ses, id: c.ID,
	}})
}

// sendAnswers sends the answers to commits that wait.
func (r *sessionRun) sendAnswers() error {
	answers := r.ses.taken(r.spare[:0])
	r.commits -= len(answers)
	var err error
	if len(answers) > 0 {
		err = r.out(api.SessionUpdate{Commits: answers})
	}
	clear(answers)
	r.spare = answers
	return err
}

// endOf is nil when ctx is what ended the session.
func endOf(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

// ended returns what the actor said last, before the shard ended.
func (r *sessionRun) ended() error {
	select {
	case err := <-r.ses.end:
		return err
	default:
		return errNotCoordinator(r.group)
	}
}

func (r *sessionRun) leave(ctx context.Context) error {
	if err := r.s.enqueue(ctx, request{run: func() {
		if r.s.sessions[r.ses.stream] == nil {
			return // its end is on its way
		}
		if g := r.s.groups[r.group]; g != nil {
			r.s.step(time.Now(), g, consumergroup.Event{Kind: consumergroup.EventLeave, MemberID: r.memberID, Stream: r.ses.stream})
		}
		r.s.emitOf(r.group, func(err error) {
			if err == nil && r.s.sessions[r.ses.stream] != nil {
				delete(r.s.sessions, r.ses.stream)
				r.ses.finish(nil)
			}
		})
	}, fail: func(*api.Error) {}}); err != nil {
		r.detach()
		return endOf(ctx, err)
	}
	select {
	case err := <-r.ses.end:
		if err == nil {
			return r.sendAnswers() // of the commits before it
		}
		return err
	case <-r.s.done:
		return r.ended()
	case <-ctx.Done():
		// The leave is on its way; the caller does not care to hear of it.
		return nil
	}
}

// detach tells the actor that the stream is gone. It waits for its place in the
// queue even when the caller's context is over: a stream must not be forgotten.
func (r *sessionRun) detach() {
	//nolint:contextcheck // see above; shard.done bounds it
	_ = r.s.enqueue(context.Background(), request{run: func() {
		if r.s.sessions[r.ses.stream] == nil {
			return
		}
		delete(r.s.sessions, r.ses.stream)
		if g := r.s.groups[r.group]; g != nil {
			r.s.step(time.Now(), g, consumergroup.Event{
				Kind: consumergroup.EventDetach, MemberID: r.memberID, Stream: r.ses.stream, Grace: r.c.cfg.SessionGrace,
			})
		}
	}, fail: func(*api.Error) {}})
}

// joinRequest does nothing for a stream that ended while the request waited: its
// member may have come back on another by now, and would seem to begin anew.
func (r *sessionRun) joinRequest(ctx context.Context, m *consumergroup.Member, join *api.JoinGroup) request {
	epoch, attach, owned := join.MemberEpoch, join.AttachNumber, toMachine(join.Owned)
	return request{run: func() {
		if ctx.Err() != nil {
			return
		}
		g, err := r.s.groupFor(join, m)
		if err != nil {
			r.ses.finish(asError(err))
			return
		}
		r.s.sessions[r.ses.stream] = r.ses
		r.s.step(time.Now(), g, consumergroup.Event{
			Kind: consumergroup.EventJoin, MemberID: m.ID, Stream: r.ses.stream, Epoch: epoch, Attach: attach,
			Owned: owned, Join: m, Metadata: r.s.metadata(g, m),
		})
		r.s.forgetIfVoid(g)
	}, fail: func(err *api.Error) { r.ses.finish(err) }}
}

func (r *sessionRun) heartbeatRequest(h api.GroupHeartbeat) request {
	owned := toMachine(h.Owned)
	return request{run: func() {
		g := r.s.groups[r.group]
		if g == nil || r.s.sessions[r.ses.stream] == nil {
			return // its end is on its way
		}
		r.s.step(time.Now(), g, consumergroup.Event{
			Kind: consumergroup.EventHeartbeat, MemberID: r.memberID, Stream: r.ses.stream,
			Epoch: h.MemberEpoch, HasOwned: h.HasOwned, Owned: owned,
		})
	}, fail: func(*api.Error) {}}
}

// checkJoin validates a join, and names the member if it has no name.
func (c *Coordinator) checkJoin(join *api.JoinGroup) (*consumergroup.Member, error) {
	if err := ValidateGroupID(join.Group); err != nil {
		return nil, err
	}
	if err := checkIdentity(join.MemberID, join.InstanceID, join.ClientID, join.ClientHost, join.Rack); err != nil {
		return nil, err
	}
	m := &consumergroup.Member{
		ID: join.MemberID, InstanceID: join.InstanceID, ClientID: join.ClientID, Host: join.ClientHost, Rack: join.Rack,
		Topics: join.Topics, Pattern: join.TopicPattern, Assignor: join.Assignor,
		SessionTimeout: c.cfg.SessionTimeout, RebalanceTimeout: c.cfg.RebalanceTimeout,
	}
	if m.ID == "" {
		if join.MemberEpoch != 0 {
			return nil, api.Errorf(api.CodeInvalidArgument, "member epoch %d without a member id: a new member joins with epoch 0", join.MemberEpoch)
		}
		m.ID = rand.Text()
	}
	if err := c.checkTimeouts(join, m); err != nil {
		return nil, err
	}
	return m, c.checkSubscription(m)
}

func (c *Coordinator) checkTimeouts(join *api.JoinGroup, m *consumergroup.Member) error {
	if join.SessionTimeout != 0 {
		session, err := c.checkSessionTimeout(join.SessionTimeout)
		if err != nil {
			return err
		}
		m.SessionTimeout = session
	}
	if join.RebalanceTimeout != 0 {
		const most = 24 * time.Hour
		if join.RebalanceTimeout < 0 || join.RebalanceTimeout > most.Milliseconds() {
			return api.Errorf(api.CodeInvalidArgument, "the rebalance timeout is %d ms, allowed are 1 to %d", join.RebalanceTimeout, most.Milliseconds())
		}
		m.RebalanceTimeout = time.Duration(join.RebalanceTimeout) * time.Millisecond
	}
	return nil
}

func (c *Coordinator) checkSessionTimeout(ms int64) (time.Duration, error) {
	low, high := c.cfg.MinSessionTimeout.Milliseconds(), c.cfg.MaxSessionTimeout.Milliseconds()
	if ms < low || ms > high {
		return 0, api.Errorf(api.CodeInvalidSessionTimeout, "the session timeout is %d ms, allowed are %d to %d", ms, low, high)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func checkIdentity(member, instance, client, host, rack string) error {
	for _, s := range []struct{ name, value string }{
		{"member id", member}, {"instance id", instance}, {"client id", client}, {"client host", host}, {"rack", rack},
	} {
		if len(s.value) > maxIdentityBytes {
			return api.Errorf(api.CodeInvalidArgument, "the %s has %d bytes, at most %d are allowed", s.name, len(s.value), maxIdentityBytes)
		}
	}
	return nil
}

func (c *Coordinator) checkSubscription(m *consumergroup.Member) error {
	switch {
	case len(m.Topics) == 0 && m.Pattern == "":
		return api.Errorf(api.CodeInvalidArgument, "the member subscribes to nothing: name topics or a pattern")
	case len(m.Topics) > c.cfg.MaxSubscriptions:
		return api.Errorf(api.CodeTooManySubscriptions, "the member subscribes to %d topics, at most %d are allowed: use a pattern", len(m.Topics), c.cfg.MaxSubscriptions)
	case !consumergroup.KnownAssignor(m.Assignor):
		return api.Errorf(api.CodeUnknownAssignor, "%q: use uniform, range or roundrobin", m.Assignor)
	}
	for _, topic := range m.Topics {
		if topic == "" || len(topic) > maxTopicBytes {
			return api.Errorf(api.CodeInvalidTopic, "a topic name of %d bytes: 1 to %d are allowed", len(topic), maxTopicBytes)
		}
	}
	if m.Pattern != "" {
		if _, err := compilePattern(m.Pattern); err != nil {
			return err
		}
	}
	return nil
}
