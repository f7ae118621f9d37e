package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/broker/partition"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ErrClosed means that the server or the follower was closed.
var ErrClosed = errors.New("replica: closed")

// ServerConfig configures the leaders' side.
type ServerConfig struct {
	NodeID    int32
	ClusterID string
	Leaders   Leaders
	Logger    *slog.Logger
	// MessageBytes is what one message gathers; 0: 1 MiB.
	MessageBytes int
	// PartitionBytes is one partition's share of a message; 0: 256 KiB.
	PartitionBytes int
	// CatchUpRate is how many bytes a second go to followers that catch up while
	// there is Traffic, over all of them; 0: 64 MiB.
	CatchUpRate int64
	Traffic     *Traffic // nil: one of its own
}

// Server pushes to the followers that opened streams. Make it with NewServer.
type Server struct {
	cfg     ServerConfig
	closing chan struct{}
	streams sync.WaitGroup // handlers and receivers
	giveWay *giveWay       // of all catch-up streams

	// moves is the rate of all moving sessions together.
	moves moveLimit

	mu     sync.Mutex // guards what follows
	closed bool
	open   map[*leaderStream]struct{}
	heard  map[int32]time.Time // by streams that have ended
}

// NewServer returns a server that is ready for streams.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Leaders == nil || cfg.Logger == nil {
		return nil, errors.New("replica: ServerConfig wants Leaders and Logger")
	}
	if cfg.MessageBytes <= 0 {
		cfg.MessageBytes = 1 << 20
	}
	if cfg.PartitionBytes <= 0 {
		cfg.PartitionBytes = 256 << 10
	}
	if cfg.CatchUpRate <= 0 {
		cfg.CatchUpRate = defaultCatchUpRate
	}
	if cfg.Traffic == nil {
		cfg.Traffic = new(Traffic)
	}
	return &Server{
		cfg: cfg, closing: make(chan struct{}), giveWay: newGiveWay(cfg.Traffic, cfg.CatchUpRate),
		open: make(map[*leaderStream]struct{}), heard: make(map[int32]time.Time),
	}, nil
}

// Replicate serves one stream until it ends or the server is closed. It is the
// body of ClusterService.Replicate.
func (s *Server) Replicate(stream LeaderStream) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return status.Error(codes.Unavailable, ErrClosed.Error())
	}
	s.streams.Add(1)
	s.mu.Unlock()
	defer s.streams.Done()

	first := make(chan firstMessage, 1)
	s.streams.Go(func() {
		req, err := stream.Recv()
		first <- firstMessage{req, err}
	})
	var opening firstMessage
	select {
	case opening = <-first:
	case <-s.closing:
		return status.Error(codes.Unavailable, ErrClosed.Error())
	case <-stream.Context().Done():
		return status.FromContextError(stream.Context().Err()).Err()
	}
	if opening.err != nil {
		return opening.err
	}
	if err := s.checkOpen(opening.req.GetOpen()); err != nil {
		return err
	}
	ls := newLeaderStream(s, stream, opening.req.GetOpen())
	s.enter(ls)
	defer s.leave(ls)
	return ls.run(opening.req)
}

type firstMessage struct {
	req *pb.ReplicateRequest
	err error
}

// checkOpen refuses followers that mean another broker or another cluster.
func (s *Server) checkOpen(o *pb.StreamOpen) error {
	switch {
	case o == nil:
		return status.Error(codes.InvalidArgument, "replica: the first message of a stream wants its field open")
	case o.GetClusterId() != s.cfg.ClusterID:
		return status.Error(codes.FailedPrecondition,
			fmt.Sprintf("replica: this is cluster %q, the follower belongs to %q", s.cfg.ClusterID, o.GetClusterId()))
	case o.GetLeader() != s.cfg.NodeID:
		return status.Error(codes.FailedPrecondition,
			fmt.Sprintf("replica: this is broker %d, the follower wants %d", s.cfg.NodeID, o.GetLeader()))
	case o.GetKind() != pb.StreamKind_STREAM_KIND_IN_SYNC && o.GetKind() != pb.StreamKind_STREAM_KIND_CATCH_UP:
		return status.Error(codes.InvalidArgument, fmt.Sprintf("replica: unknown kind of stream %d", o.GetKind()))
	default:
		return nil
	}
}

func (s *Server) enter(ls *leaderStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[ls] = struct{}{}
}

func (s *Server) leave(ls *leaderStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, ls)
	if at := ls.heardAt(); at.After(s.heard[ls.follower]) {
		s.heard[ls.follower] = at
	}
}

// SetMoveRate bounds the bytes a second of all sessions that are moving and catch
// up, together; 0: no bound.
func (s *Server) SetMoveRate(bytesPerSecond int64) {
	if !s.moves.set(bytesPerSecond) {
		return
	}
	s.mu.Lock()
	open := make([]*leaderStream, 0, len(s.open))
	for ls := range s.open {
		open = append(open, ls)
	}
	s.mu.Unlock()
	// They may be waiting for what the old rate did not allow for long.
	for _, ls := range open {
		ls.mu.Lock()
		ls.signal()
		ls.mu.Unlock()
	}
}

// Heard appends when each follower was last heard to dst. A follower with two
// streams appears twice.
func (s *Server) Heard(dst []partition.Heard) []partition.Heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ls := range s.open {
		dst = append(dst, partition.Heard{Node: ls.follower, At: ls.heardAt()})
	}
	for node, at := range s.heard {
		dst = append(dst, partition.Heard{Node: node, At: at})
	}
	return dst
}

// Close ends all streams and waits for their goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	close(s.closing)
	s.mu.Unlock()
	s.streams.Wait()
	return nil
}
