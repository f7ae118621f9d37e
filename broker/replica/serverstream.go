package replica

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// leaderStream is the leader's end of one stream: a receiver that feeds
// partitions and a sender that drains the queue of woken sessions.
type leaderStream struct {
	server      *Server
	stream      LeaderStream
	follower    int32
	brokerEpoch int64
	catchUp     bool
	start       time.Time
	heard       atomic.Int64 // since start, ns

	wake chan struct{} // capacity 1

	mu       sync.Mutex // guards what follows
	sessions map[Key]*Session
	ready    []*Session // woken, in order
	replies  []*pb.ReplicaHandshakeReply
	// begins are replies that wait for the producer state they come with; beginning
	// says that a goroutine sees to them. stateBytes is what those in replies hold.
	begins     []beginning
	beginning  bool
	stateBytes int
	credit     int64 // bytes; may be overdrawn by one message
	over       bool

	// Of the sender alone: reused from message to message.
	turn     []*Session
	held     []*Session // of turn: by the rate of reassignments
	lone     []lone
	pushes   []*pb.ReplicaPush
	runs     []record.Slice
	response pb.ReplicateResponse
	message  wire.Replicated
}

func newLeaderStream(s *Server, stream LeaderStream, o *pb.StreamOpen) *leaderStream {
	return &leaderStream{
		server: s, stream: stream, follower: o.GetFollower(), brokerEpoch: o.GetBrokerEpoch(),
		catchUp: o.GetKind() == pb.StreamKind_STREAM_KIND_CATCH_UP,
		start:   time.Now(), wake: make(chan struct{}, 1), sessions: make(map[Key]*Session),
	}
}

func (ls *leaderStream) heardAt() time.Time { return ls.start.Add(time.Duration(ls.heard.Load())) }

// run sends until the stream ends. The receiver outlives it by the moment that
// the transport needs to fail a Recv once the handler has returned.
func (ls *leaderStream) run(first *pb.ReplicateRequest) error {
	received := make(chan error, 1)
	ls.server.streams.Go(func() {
		received <- ls.receive(first)
		ls.finish()
	})
	return ls.send(received)
}

func (ls *leaderStream) receive(req *pb.ReplicateRequest) error {
	for {
		ls.heard.Store(int64(time.Since(ls.start)))
		ls.take(req)
		var err error
		if req, err = ls.stream.Recv(); err != nil {
			return err
		}
	}
}

// finish tells the partitions that their sessions are gone.
func (ls *leaderStream) finish() {
	ls.mu.Lock()
	ls.over = true
	gone := make([]*Session, 0, len(ls.sessions))
	for _, s := range ls.sessions {
		gone = append(gone, s)
	}
	for _, s := range gone {
		ls.drop(s)
	}
	ls.mu.Unlock()
	for _, s := range gone {
		s.part.Gone(s, false)
	}
}

func (ls *leaderStream) take(req *pb.ReplicateRequest) {
	for _, m := range req.GetHandshakes() {
		ls.handshake(keyOf(m.GetTopicId(), m.GetPartition()), handshakeFromWire(m))
	}
	for _, m := range req.GetAcks() {
		if s := ls.session(keyOf(m.GetTopicId(), m.GetPartition()), m.GetSessionId()); s != nil {
			s.part.Ack(s, ackFromWire(m))
		}
	}
	for _, m := range req.GetStops() {
		if s := ls.session(keyOf(m.GetTopicId(), m.GetPartition()), m.GetSessionId()); s != nil {
			ls.mu.Lock()
			ls.drop(s)
			ls.mu.Unlock()
			s.part.Gone(s, true)
		}
	}
	// A window beyond any sense would let the sum overflow.
	if c := int64(min(req.GetCreditBytes(), maxCredit)); c > 0 {
		ls.mu.Lock()
		ls.credit = min(ls.credit+c, maxCredit)
		ls.signal()
		ls.mu.Unlock()
	}
}

// maxCredit bounds what a follower may grant in all, in bytes.
const maxCredit = 1 << 30

func (ls *leaderStream) session(k Key, id uint64) *Session {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if s := ls.sessions[k]; s != nil && s.id == id {
		return s
	}
	return nil
}

func (ls *leaderStream) handshake(k Key, h Handshake) {
	part, ok := ls.server.cfg.Leaders.Leader(k)
	if !ok {
		ls.reply(replyToWire(k, HandshakeReply{
			Err:   api.Errorf(api.CodeNotLeader, "broker %d does not lead this partition", ls.server.cfg.NodeID),
			Epoch: h.Epoch, Session: h.Session,
		}))
		return
	}
	s := &Session{
		stream: ls, part: part, key: k, id: h.Session, epoch: h.Epoch,
		next: h.End, sentHW: record.UnknownOffset, sentStart: record.UnknownOffset,
	}
	r, answer := part.Handshake(s, h)
	if !answer {
		return
	}
	ls.mu.Lock()
	if r.Begin && r.Err == nil && r.LogStart > 0 {
		ls.begins = append(ls.begins, beginning{k, part, r})
		ls.prepare()
		ls.mu.Unlock()
		return
	}
	over := ls.over
	ls.replies = append(ls.replies, replyToWire(k, r))
	switch {
	case !r.Matched || r.Err != nil || over:
	case s.ended:
		ls.replies = append(ls.replies, overReply(s))
	default:
		if old := ls.sessions[k]; old != nil {
			ls.drop(old)
		}
		s.open, s.sentHW, s.sentStart = true, r.HighWatermark, r.LogStart
		ls.sessions[k] = s
		ls.queue(s)
	}
	ls.signal()
	ls.mu.Unlock()
}

func (ls *leaderStream) reply(m *pb.ReplicaHandshakeReply) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.replies = append(ls.replies, m)
	ls.signal()
}

// queue puts s in line for the sender. The caller holds mu.
func (ls *leaderStream) queue(s *Session) {
	if s.open && !s.queued && !s.ended {
		s.queued = true
		ls.ready = append(ls.ready, s)
		ls.signal()
	}
}

// drop forgets s; the sender skips it if it is in line. The caller holds mu.
func (ls *leaderStream) drop(s *Session) {
	s.ended = true
	if ls.sessions[s.key] == s {
		delete(ls.sessions, s.key)
	}
}

func (ls *leaderStream) signal() {
	select {
	case ls.wake <- struct{}{}:
	default:
	}
}

// send drains the queue, message by message, until the stream ends.
func (ls *leaderStream) send(received <-chan error) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := ls.gather()
		if len(ls.response.Handshakes) > 0 || len(ls.response.Pushes) > 0 {
			err := ls.stream.Send(&ls.message)
			ls.releaseFrom(0)
			if err != nil {
				return err
			}
			select {
			case <-ls.server.closing:
				return status.Error(codes.Unavailable, ErrClosed.Error())
			default:
				continue
			}
		}
		var throttled <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			throttled = timer.C
		}
		select {
		case <-ls.wake:
		case <-throttled:
		case err := <-received:
			return err
		case <-ls.stream.Context().Done():
			return status.FromContextError(ls.stream.Context().Err()).Err()
		case <-ls.server.closing:
			return status.Error(codes.Unavailable, ErrClosed.Error())
		}
	}
}

// gather fills the message from the replies and from one turn of the woken
// sessions. It returns how long to wait for when only the rate limit holds it, or
// watermarks wait for company.
func (ls *leaderStream) gather() time.Duration {
	ls.message.ReplicateResponse = &ls.response
	ls.response.Handshakes, ls.response.Pushes = nil, ls.response.Pushes[:0]

	ls.mu.Lock()
	ls.takeReplies()
	budget := min(int64(ls.server.cfg.MessageBytes), ls.credit)
	now, wait := time.Now(), time.Duration(0)
	ls.ripen(now)
	if ls.catchUp {
		wait = ls.server.giveWay.wait(now)
	}
	ls.turn = ls.turn[:0]
	if budget > 0 && wait == 0 {
		ls.turn, ls.ready = append(ls.turn, ls.ready...), ls.ready[:0]
		for _, s := range ls.turn {
			s.queued = false
		}
	} else if budget <= 0 {
		wait = 0
	}
	ls.mu.Unlock()

	sent, grown := int64(0), int64(0)
	for i, s := range ls.turn {
		if sent >= budget {
			ls.putBack(ls.turn[i:])
			break
		}
		most := int(min(budget-sent, int64(ls.server.cfg.PartitionBytes)))
		moving := ls.catchUp && s.moving
		if moving {
			var held time.Duration
			if most, held = ls.server.moves.allow(most); held > 0 {
				ls.held = append(ls.held, s)
				wait = held
				continue
			}
		}
		n, more := ls.read(s, most, now)
		if moving {
			ls.server.moves.take(n)
		}
		sent, grown = sent+n, grown+more
	}
	clear(ls.turn)
	ls.hold()
	if sent > 0 {
		wait = 0
		if ls.catchUp {
			ls.server.giveWay.take(now, sent-grown)
		} else {
			ls.server.cfg.Traffic.Note(now)
		}
		ls.mu.Lock()
		ls.credit -= sent
		ls.mu.Unlock()
	}
	return ls.withLone(wait, now)
}

// putBack returns sessions whose turn did not come to the head of the line.
func (ls *leaderStream) putBack(rest []*Session) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.queueFirst(rest)
	ls.signal()
}

// queueFirst puts sessions at the head of the line. The caller holds mu.
func (ls *leaderStream) queueFirst(first []*Session) {
	behind := len(ls.ready)
	for _, s := range first {
		if !s.queued && !s.ended {
			s.queued = true
			ls.ready = append(ls.ready, s)
		}
	}
	rotate(ls.ready, behind)
}

// hold returns the sessions to the head of the line that only the rate of
// reassignments holds back. The sender looks again when that allows, so it is not
// woken.
func (ls *leaderStream) hold() {
	if len(ls.held) == 0 {
		return
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.queueFirst(ls.held)
	clear(ls.held)
	ls.held = ls.held[:0]
}

// rotate moves the first n elements behind the others.
func rotate(list []*Session, n int) {
	if n == 0 || n == len(list) {
		return
	}
	front := append([]*Session(nil), list[:n]...)
	copy(list, list[n:])
	copy(list[len(list)-n:], front)
}

// read adds what s has to the message. It returns its bytes, and how many producers
// added to the partition since the push before.
func (ls *leaderStream) read(s *Session, maxBytes int, now time.Time) (size, grown int64) {
	ls.mu.Lock()
	ended := s.ended
	ls.mu.Unlock()
	if ended {
		return 0, 0
	}
	run, err := s.part.Read(s, ls.runs[:0], s.next, maxBytes)
	if err != nil {
		ls.abandon(s, err)
		return 0, 0
	}
	first := len(ls.message.Batches)
	for i := range run.Slices {
		if err == nil {
			ls.message.Batches, err = record.Split(ls.message.Batches, run.Slices[i])
		}
		run.Slices[i].Release()
	}
	if run.Slices != nil {
		ls.runs = run.Slices
	}
	to, size, valid := extent(ls.message.Batches[first:], s.next)
	if err != nil || !valid {
		ls.releaseFrom(first)
		ls.abandon(s, err)
		return 0, 0
	}
	count := len(ls.message.Batches) - first
	if count == 0 && run.LogStart <= s.sentStart && (run.HighWatermark <= s.sentHW || ls.keepWaiting(s, now)) {
		return 0, 0
	}
	s.aloneAt = time.Time{}
	grown = growth(s.sentHW, run.HighWatermark, s.next, to, size)
	s.sentHW, s.sentStart = max(s.sentHW, run.HighWatermark), max(s.sentStart, run.LogStart)
	p := ls.nextPush()
	p.TopicId, p.Partition = s.key.Topic[:], s.key.Partition
	p.LeaderEpoch, p.SessionId = int32(s.epoch), s.id
	p.From, p.To, p.BatchCount = int64(s.next), int64(to), uint32(count)
	p.HighWatermark, p.LogStartOffset = int64(run.HighWatermark), int64(run.LogStart)
	p.CleanedOffset = int64(run.Cleaned)
	s.next = to
	if count > 0 {
		// There may be more; an empty read ends the chain.
		s.Wake()
	}
	return size, grown
}

// releaseFrom takes the batches from the first-th on out of the message again.
func (ls *leaderStream) releaseFrom(first int) {
	for i := first; i < len(ls.message.Batches); i++ {
		ls.message.Batches[i].Release()
	}
	ls.message.Batches = ls.message.Batches[:first]
}

// nextPush adds a push to the message. Send encodes before it returns, so the
// structs are used again for the next message.
func (ls *leaderStream) nextPush() *pb.ReplicaPush {
	n := len(ls.response.Pushes)
	if n == len(ls.pushes) {
		ls.pushes = append(ls.pushes, new(pb.ReplicaPush))
	}
	ls.response.Pushes = append(ls.response.Pushes, ls.pushes[n])
	return ls.pushes[n]
}

// extent returns the offset after the batches and their size in bytes.
func extent(batches []record.Slice, from record.Offset) (to record.Offset, size int64, ok bool) {
	to = from
	for i := range batches {
		info, ok := record.Peek(batches[i].Bytes)
		if !ok || info.NextOffset() <= to {
			return to, size, false
		}
		to = info.NextOffset()
		size += int64(len(batches[i].Bytes))
	}
	return to, size, true
}

// abandon ends a session whose log cannot be read from where the follower is.
func (ls *leaderStream) abandon(s *Session, err error) {
	ls.mu.Lock()
	wasOpen := !s.ended
	ls.drop(s)
	if wasOpen {
		ls.replies = append(ls.replies, overReply(s))
		ls.signal()
	}
	ls.mu.Unlock()
	if wasOpen {
		ls.server.cfg.Logger.Warn("replication session ended: the log cannot be read from the follower's end",
			"topic_id", s.key.Topic, "partition", s.key.Partition, "follower", ls.follower, "offset", s.next, "error", err)
		s.part.Gone(s, false)
	}
}
