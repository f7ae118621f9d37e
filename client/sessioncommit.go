package client

import (
	"context"
	"errors"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// errSessionOver ends the wait of a commit whose session ended before the answer:
// the offsets may or may not be stored.
var errSessionOver = errors.New("client: the group session ended before the commit was answered")

// commitLine takes commits to one session.
type commitLine struct {
	taken  bool // the coordinator takes commits on sessions
	submit chan *sessionCommit
	over   chan struct{} // closed when the session is
}

// sessionCommit is a commit on its way to a session.
type sessionCommit struct {
	message *pb.SessionCommit
	done    chan error // capacity 1
}

// commit stores offsets over the member's session. When that ends first, it tries
// again over the next one, whose coordinator refuses what the older one still holds:
// no commit comes in late. Where there is no session, or none that takes commits, it
// is a call.
//
// The epoch is that of the call: should the partitions go to others and come back
// meanwhile, the commit is refused.
func (m *member) commit(ctx context.Context, offsets []CommittedOffset) error {
	id, epoch := m.identity()
	ctx, cancel := m.k.c.patient(ctx)
	defer cancel()
	again := func(err error) bool { return errors.Is(err, errSessionOver) || coordinatorMoved(err) }
	return m.k.c.retry(ctx, again, func(ctx context.Context) error {
		line, err := m.attached(ctx)
		switch {
		case err != nil:
			return err
		case m.refusal() != nil:
			return m.refusal()
		case line == nil || !line.taken:
			return m.k.c.commitOffsets(ctx, m.k.cfg.group, id, epoch, offsets)
		}
		return line.commit(ctx, &pb.SessionCommit{MemberEpoch: epoch, Offsets: commitsOut(offsets)})
	})
}

// attached waits until the coordinator has answered a join; nil: the member has left,
// or has lost what it owned, and joins again only when its callbacks have returned.
func (m *member) attached(ctx context.Context) (*commitLine, error) {
	for {
		m.mu.Lock()
		line, changed, lost := m.line, m.lineChanged, m.lost
		m.mu.Unlock()
		if line != nil || lost {
			return line, nil
		}
		select {
		case <-changed:
		case <-m.left:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// setLine notes how commits go from now on; nil: there is no session.
func (m *member) setLine(line *commitLine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.line = line
	m.wakeCommits()
}

// wakeCommits has those that wait for a session look again. The caller holds mu.
func (m *member) wakeCommits() {
	close(m.lineChanged)
	m.lineChanged = make(chan struct{})
}

func (l *commitLine) commit(ctx context.Context, message *pb.SessionCommit) error {
	c := &sessionCommit{message: message, done: make(chan error, 1)}
	select {
	case l.submit <- c:
	case <-l.over:
		return errSessionOver
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attach begins to take commits: the join was answered.
func (s *memberSession) attach(takesCommits bool) {
	s.line = &commitLine{taken: takesCommits, submit: make(chan *sessionCommit), over: make(chan struct{})}
	s.m.setLine(s.line)
}

// detach ends that, and the wait of those that were not answered.
func (s *memberSession) detach() {
	if s.line == nil {
		return
	}
	s.m.setLine(nil)
	close(s.line.over)
	for _, c := range s.commits {
		c.done <- errSessionOver
	}
	s.commits = nil
}

// submitted is where commits come from; nil before the join was answered.
func (s *memberSession) submitted() <-chan *sessionCommit {
	if s.line == nil {
		return nil
	}
	return s.line.submit
}

// send sends a commit. A failure to send shows on the receiving side.
func (s *memberSession) send(c *sessionCommit) {
	s.lastCommit++
	c.message.Id = s.lastCommit
	s.commits[c.message.GetId()] = c
	if err := s.stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Commit{Commit: c.message}}); err != nil {
		s.m.k.c.cfg.logger.Debug("commit not sent", "broker", s.address, "error", err)
	}
}

// committed takes answers to commits.
func (s *memberSession) committed(results []*pb.SessionCommitResult) {
	for _, r := range results {
		c := s.commits[r.GetId()]
		if c == nil {
			continue
		}
		delete(s.commits, r.GetId())
		moved, err := commitErrors(r.GetFailed(), s.address)
		if r.GetError() != nil {
			moved = r.GetError()
		}
		if e := fromPB(moved, s.address); e != nil {
			err = e
		}
		c.done <- err
	}
}

// commitErrors joins the errors of partitions; moved is the first that waiting may
// cure: then all are to be committed again.
func commitErrors(results []*pb.OffsetResult, broker string) (moved *pb.Error, err error) {
	var errs []error
	for _, r := range results {
		e := fromPB(r.GetError(), broker)
		if e == nil {
			continue
		}
		if coordinatorMoved(e) {
			return r.GetError(), nil
		}
		errs = append(errs, e)
	}
	return nil, errors.Join(errs...)
}

func commitsOut(offsets []CommittedOffset) []*pb.OffsetCommit {
	out := make([]*pb.OffsetCommit, len(offsets))
	for i := range offsets {
		o := &offsets[i]
		out[i] = &pb.OffsetCommit{
			Topic: o.Topic, Partition: o.Partition, Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata,
		}
	}
	return out
}
