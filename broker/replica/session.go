package replica

import (
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Session is one partition pushed to one follower, from a matched handshake on.
type Session struct {
	stream *leaderStream
	part   LeaderPartition
	key    Key
	id     uint64
	epoch  record.Epoch

	// Guarded by stream.mu.
	open   bool // matched: may be queued
	queued bool
	ended  bool

	// moving: to a replica that a reassignment added. Set before the handshake is
	// answered.
	moving bool

	// Of the stream's sender alone.
	next      record.Offset // what the follower's log ends at when all that was sent has arrived
	sentHW    record.Offset
	sentStart record.Offset // log start
	aloneAt   time.Time     // when the watermark is told alone; zero: it does not wait
}

// Follower is the node that is pushed to.
func (s *Session) Follower() int32 { return s.stream.follower }

// BrokerEpoch is the follower's.
func (s *Session) BrokerEpoch() int64 { return s.stream.brokerEpoch }

// ID is the session id that the follower chose.
func (s *Session) ID() uint64 { return s.id }

// Epoch is the leader epoch of the session.
func (s *Session) Epoch() record.Epoch { return s.epoch }

// SetMoving says that the follower's replica was added by a reassignment: while it
// catches up, it is sent batches at the rate of SetMoveRate. To be called in
// LeaderPartition.Handshake.
func (s *Session) SetMoving(moving bool) { s.moving = moving }

// Wake says that the log or the watermark moved. It never blocks.
func (s *Session) Wake() {
	ls := s.stream
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.queue(s)
}

// End says that the session is over for the leader. The follower is told, and
// Gone is not called. It never blocks.
func (s *Session) End() {
	ls := s.stream
	ls.mu.Lock()
	defer ls.mu.Unlock()
	wasOpen := s.open && !s.ended
	ls.drop(s)
	if wasOpen {
		ls.replies = append(ls.replies, overReply(s))
		ls.signal()
	}
}

// overReply tells the follower that a session it believes open is not.
func overReply(s *Session) *pb.ReplicaHandshakeReply {
	return replyToWire(s.key, HandshakeReply{
		Err:   api.Errorf(api.CodeNotLeader, "the replication session is over: open another"),
		Epoch: s.epoch, Session: s.id,
	})
}
