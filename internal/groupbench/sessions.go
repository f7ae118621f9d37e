package main

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

// committer is a member alone in its group, on a session of its own: every
// partition of the topic is its.
type committer struct {
	stream grpc.BidiStreamingClient[pb.SessionRequest, pb.SessionResponse]
	epoch  int32
	// answered hears of each commit, on the member's own goroutine.
	answered func(id uint64, failed error)
	ended    func(error)
	sending  sync.Mutex // one sends at a time
}

// attach opens a session and waits until all partitions are the member's.
func attach(ctx context.Context, conn *grpc.ClientConn, group string, partitions int) (*committer, error) {
	stream, err := pb.NewGroupServiceClient(conn).Session(ctx)
	if err != nil {
		return nil, err
	}
	c := &committer{stream: stream}
	join := &pb.JoinGroup{Group: group, AttachNumber: 1, Topics: []string{"t"}, SessionTimeoutMs: uint32((20 * time.Minute).Milliseconds())}
	if err := stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Join{Join: join}}); err != nil {
		return nil, err
	}
	for {
		u, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("join of %s: %w", group, err)
		}
		owned := u.GetAssignment().GetPartitions()
		c.epoch = u.GetMemberEpoch()
		ack := &pb.Heartbeat{MemberEpoch: c.epoch, HasOwned: true, Owned: owned}
		if err := stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Heartbeat{Heartbeat: ack}}); err != nil {
			return nil, err
		}
		if len(owned) == partitions {
			return c, nil
		}
	}
}

// receive hands answers on until the stream ends.
func (c *committer) receive() {
	for {
		u, err := c.stream.Recv()
		if err != nil {
			c.ended(err)
			return
		}
		for _, r := range u.GetCommits() {
			var failed error
			if e := r.GetError(); e != nil {
				failed = errors.New(e.GetMessage())
			} else if f := r.GetFailed(); len(f) > 0 {
				failed = errors.New(f[0].GetError().GetMessage())
			}
			c.answered(r.GetId(), failed)
		}
	}
}

// commit sends one with the same offset of n partitions.
func (c *committer) commit(id uint64, n int) error {
	req := &pb.SessionCommit{Id: id, MemberEpoch: c.epoch, Offsets: make([]*pb.OffsetCommit, n)}
	for p := range n {
		req.Offsets[p] = &pb.OffsetCommit{Topic: "t", Partition: int32(p), Offset: int64(id), LeaderEpoch: -1}
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Commit{Commit: req}})
}

// onSessions measures commits on sessions, one a group, until close is called.
type onSessions struct {
	members []*committer
	ctx     context.Context //nolint:containedctx // of the streams
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	failure atomic.Pointer[error]
}

func (s *onSessions) fail(err error) {
	if err != nil && s.ctx.Err() == nil {
		s.failure.CompareAndSwap(nil, &err)
		s.cancel()
	}
}

func (s *onSessions) err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

func attachAll(ctx context.Context, conns []*grpc.ClientConn, names []string) (*onSessions, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &onSessions{members: make([]*committer, len(names)), ctx: ctx, cancel: cancel}
	index := make(map[string]int, len(names))
	for i, name := range names {
		index[name] = i
	}
	err := each(names, func(name string) error {
		i := index[name]
		m, err := attach(ctx, conns[i%len(conns)], name, commitPartitions)
		s.members[i] = m
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return s, nil
}

// listen has every member's answers handed to f, until the sessions are closed.
func (s *onSessions) listen(f func(member int, id uint64)) {
	for i, m := range s.members {
		m.ended = s.fail
		m.answered = func(id uint64, failed error) {
			s.fail(failed)
			f(i, id)
		}
		s.wg.Go(m.receive)
	}
}

func (s *onSessions) close() {
	s.cancel()
	s.wg.Wait()
}

// flood keeps some commits of every member under way for a while, and returns how
// many were answered in that time.
func (s *onSessions) flood(offsets, window int, length time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeout(s.ctx, length)
	defer cancel()
	slots := make([]chan struct{}, len(s.members))
	for i := range slots {
		slots[i] = make(chan struct{}, window)
	}
	var answered atomic.Int64
	s.listen(func(member int, _ uint64) {
		if ctx.Err() == nil {
			answered.Add(1)
		}
		<-slots[member]
	})
	var senders sync.WaitGroup
	for i, m := range s.members {
		senders.Go(func() {
			for id := uint64(1); ; id++ {
				select {
				case slots[i] <- struct{}{}:
				case <-ctx.Done():
					return
				}
				if err := m.commit(id, offsets); err != nil {
					s.fail(err)
					return
				}
			}
		})
	}
	senders.Wait()
	return answered.Load(), s.err()
}

// paced commits at a rate whether or not the ones before are answered, and times
// each from when it was due.
func (s *onSessions) paced(rate int, length time.Duration) ([]time.Duration, error) {
	total := int(length.Seconds() * float64(rate))
	took := make([]time.Duration, total)
	all := make(chan struct{})
	var answered atomic.Int64
	begin := time.Now()
	due := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / time.Duration(rate)) }
	s.listen(func(_ int, id uint64) {
		took[id] = time.Since(due(int(id)))
		if answered.Add(1) == int64(total) {
			close(all)
		}
	})
	for i := range total {
		if wait := time.Until(due(i)); wait > 0 {
			if err := sleep(s.ctx, wait); err != nil {
				return nil, errors.Join(s.err(), err)
			}
		}
		if err := s.members[i%len(s.members)].commit(uint64(i), 1); err != nil {
			return nil, errors.Join(s.err(), err)
		}
	}
	select {
	case <-all:
		return took, s.err()
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("%d of %d commits were not answered", int64(total)-answered.Load(), total)
	case <-s.ctx.Done():
		return nil, errors.Join(s.err(), s.ctx.Err())
	}
}
