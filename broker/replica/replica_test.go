package replica

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sameLog(t *testing.T, leader, follower *memReplica) {
	t.Helper()
	if leader == follower {
		return
	}
	leader.mu.Lock()
	defer leader.mu.Unlock()
	follower.mu.Lock()
	defer follower.mu.Unlock()
	if len(leader.batches) != len(follower.batches) {
		t.Fatalf("leader has %d batches, follower %d", len(leader.batches), len(follower.batches))
	}
	for i := range leader.batches {
		if !bytes.Equal(leader.batches[i].Bytes(), follower.batches[i].Bytes()) {
			t.Fatalf("batch %d differs", i)
		}
	}
}

// spread places partition p on all nodes.
func spread(nodes []*testNode, p int, a *partition.Assignment) []*memReplica {
	var parts []*memReplica
	for _, n := range nodes {
		parts = append(parts, newMemReplica(n, testKey(p)))
	}
	for _, m := range parts {
		m.assign(a)
	}
	return parts
}

func end(m *memReplica, off int) func() bool {
	return func() bool {
		return m.state.HighWatermark() == record.Offset(off) && m.state.End() == record.Offset(off)
	}
}

func TestReplicate(t *testing.T) { onEachTransport(t, testReplicate) }

func testReplicate(t *testing.T, start func(int) []*testNode) {
	t.Helper()
	nodes := start(3)
	const partitions, batches = 20, 50
	var all [][]*memReplica
	for p := range partitions {
		all = append(all, spread(nodes, p, assignment(1, int32(p%3+1), 3, 1, 2, 3)))
	}
	for i := range batches {
		for p, parts := range all {
			if o := parts[p%3].produce(uint64(i), 100*i); o != partition.OutcomeOK {
				t.Fatal(o)
			}
		}
	}
	for p, parts := range all {
		leader := parts[p%3]
		leader.wait(t, "all acknowledged", func() bool { return len(leader.outcomes) == batches })
		for h, o := range leader.outcomes {
			if o != partition.OutcomeOK {
				t.Fatalf("produce %d: %s", h, o)
			}
		}
		for _, m := range parts {
			// The last watermark goes out alone.
			m.wait(t, "watermark", end(m, batches))
			sameLog(t, leader, m)
		}
	}
}

// A log start that moves while nothing is produced reaches the followers alone.
func TestLogStartGoesOutAlone(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	parts := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	leader, follower := parts[0], parts[1]
	for i := range 10 {
		leader.produce(uint64(i), 100)
	}
	follower.wait(t, "watermark", end(follower, 10))
	leader.mu.Lock()
	leader.start = 5
	leader.step(partition.LogStart(5))
	for _, s := range leader.sessions {
		s.Wake()
	}
	leader.mu.Unlock()
	follower.wait(t, "log start", func() bool { return follower.start == 5 })
}

func TestCatchUp(t *testing.T) {
	nodes := newNodes(t, 2, func(s *ServerConfig, f *FollowerConfig) {
		s.MessageBytes, s.PartitionBytes = 64<<10, 16<<10
		f.CatchUpCredit = 32 << 10
	})
	leader := newMemReplica(nodes[0], testKey(0))
	leader.assign(assignment(1, 1, 2, 1))
	for i := range 1000 {
		leader.produce(uint64(i), 1000)
	}
	follower := newMemReplica(nodes[1], testKey(0))
	follower.assign(assignment(1, 1, 2, 1))
	leader.wait(t, "proposed into the ISR", func() bool { return len(leader.proposed) == 2 })
	follower.wait(t, "caught up", end(follower, 1000))
	sameLog(t, leader, follower)
	// It has moved to the in-sync stream by itself.
	l := follower.sub.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if follower.sub.kind != kindInSync || l.streams[kindCatchUp].users != 0 {
		t.Errorf("on the %s stream with %d catch-up users", follower.sub.kind, l.streams[kindCatchUp].users)
	}
}

func TestReconnect(t *testing.T) { onEachTransport(t, testReconnect) }

func testReconnect(t *testing.T, start func(int) []*testNode) {
	t.Helper()
	nodes := start(2)
	parts := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	for i := range 20 {
		parts[0].produce(uint64(i), 10)
		if i%5 == 4 {
			parts[0].wait(t, "acknowledged", func() bool { return len(parts[0].outcomes) == i+1 })
			n := nodes[0]
			n.grpc.Stop()
			n.serving.Wait()
			n.serve()
		}
	}
	parts[0].wait(t, "all acknowledged", func() bool { return len(parts[0].outcomes) == 20 })
	sameLog(t, parts[0], parts[1])
}

// TestNewEpoch moves the leadership to a follower whose log has what the old
// leader never replicated to it, and back.
func TestNewEpoch(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	parts := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	for i := range 5 {
		parts[0].produce(uint64(i), 10)
	}
	parts[1].wait(t, "replicated", end(parts[1], 5))
	// Cut off: node 2 becomes leader before it has what follows.
	parts[1].assign(assignment(2, 2, 2, 1, 2))
	for i := 5; i < 8; i++ {
		parts[0].produce(uint64(i), 20)
	}
	for i := range 4 {
		parts[1].produce(uint64(i), 30)
	}
	if got := parts[1].state.End(); got != 9 {
		t.Fatalf("the new leader ends at %d: the old one's pushes came through", got)
	}
	parts[0].assign(assignment(2, 2, 2, 1, 2))
	parts[1].wait(t, "acknowledged in the new epoch", func() bool { return len(parts[1].outcomes) == 4 })
	parts[0].wait(t, "watermark", end(parts[0], 9))
	sameLog(t, parts[1], parts[0])
	for h := uint64(5); h < 8; h++ {
		if o := parts[0].outcomes[h]; o != partition.OutcomeNotLeader {
			t.Errorf("produce %d at the old leader: %s", h, o)
		}
	}
}

// A leader that comes back shorter than what is committed hears of it from an in-sync
// follower that refuses to follow it there, and hands over.
func TestLeaderLearnsWhatItLost(t *testing.T) {
	nodes := newNodes(t, 3, nil)
	parts := spread(nodes, 0, assignment(1, 1, 3, 1, 2, 3))
	for i := range 8 {
		parts[0].produce(uint64(i), 10)
	}
	for _, m := range parts {
		m.wait(t, "replicated", end(m, 8))
	}
	parts[0].assign(assignment(2, 2, 3, 1, 2, 3)) // its process ends
	short := &memReplica{
		key: testKey(0), node: nodes[0], batches: parts[0].batches[:5], flushed: 5,
		state:    partition.New(partition.Config{Node: 1, Log: partition.LogState{End: 5, Flushed: 5}}),
		sessions: make(map[int32]*Session), outcomes: make(map[uint64]partition.Outcome),
	}
	short.changed = sync.NewCond(&short.mu)
	nodes[0].mu.Lock()
	nodes[0].parts[testKey(0)] = short
	nodes[0].mu.Unlock()
	for _, b := range parts[0].batches[5:] {
		b.Release()
	}
	for _, m := range []*memReplica{short, parts[1], parts[2]} {
		m.assign(assignment(3, 1, 3, 1, 2, 3))
	}
	short.wait(t, "hands over", func() bool {
		return len(short.proposed) == 2 && short.proposed[0].Node == 2 && short.proposed[1].Node == 3
	})
	for _, m := range []*memReplica{short, parts[1], parts[2]} {
		m.assign(assignment(4, 2, 3, 2, 3))
	}
	short.wait(t, "has everything again", end(short, 8))
	sameLog(t, parts[1], short)
}

// TestHandshakeBeforeImage: the follower knows of the epoch before the leader does.
func TestHandshakeBeforeImage(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	follower := newMemReplica(nodes[1], testKey(0))
	follower.assign(assignment(1, 1, 2, 1, 2))
	leader := newMemReplica(nodes[0], testKey(0))
	leader.assign(assignment(1, 1, 2, 1, 2))
	leader.produce(1, 10)
	leader.wait(t, "acknowledged", func() bool { return len(leader.outcomes) == 1 })
}

func TestCreditBoundsWhatIsInFlight(t *testing.T) {
	const credit, message, size = 20_000, 5_000, 1_000
	nodes := newNodes(t, 2, func(s *ServerConfig, f *FollowerConfig) {
		s.MessageBytes = message
		f.InSyncCredit = credit
	})
	parts := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	parts[1].mu.Lock()
	parts[1].manual = true // nothing reaches the file
	parts[1].mu.Unlock()
	for i := range 100 {
		parts[0].produce(uint64(i), size)
	}
	per := size + record.HeaderSize
	parts[1].wait(t, "a window", func() bool { return len(parts[1].batches)*per > credit-message })
	if got := len(parts[1].batches) * per; got > credit+message+per {
		t.Errorf("%d bytes came for a credit of %d", got, credit)
	}
	for { // however little comes at a time
		parts[1].mu.Lock()
		before := len(parts[1].batches)
		parts[1].flushAll()
		parts[1].mu.Unlock()
		if before == 100 {
			break
		}
		parts[1].wait(t, "the next window", func() bool { return len(parts[1].batches) > before })
	}
	parts[0].wait(t, "all acknowledged", func() bool { return len(parts[0].outcomes) == 100 })
}

func TestStoreErrorStopsOnePartition(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	bad := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	good := spread(nodes, 1, assignment(1, 1, 2, 1, 2))
	bad[1].mu.Lock()
	bad[1].storeErr = errors.New("disk on fire")
	bad[1].mu.Unlock()
	bad[0].produce(1, 10)
	good[0].produce(1, 10)
	good[0].wait(t, "acknowledged", func() bool { return len(good[0].outcomes) == 1 })
	bad[0].wait(t, "proposed out at once", func() bool { return len(bad[0].proposed) == 1 })
	good[0].produce(2, 10)
	good[0].wait(t, "acknowledged", func() bool { return len(good[0].outcomes) == 2 })
}

// A follower that pauses is proposed out at once, tries again after a while, and
// the others are not held up.
func TestPauseGivesTheSessionBack(t *testing.T) {
	nodes := newNodes(t, 2, func(_ *ServerConfig, f *FollowerConfig) { f.HoldRetry = 10 * time.Millisecond })
	paused := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	other := spread(nodes, 1, assignment(1, 1, 2, 1, 2))
	full := func(full bool) {
		paused[1].mu.Lock()
		defer paused[1].mu.Unlock()
		paused[1].full = full
	}
	full(true)
	paused[0].produce(1, 10)
	paused[0].wait(t, "proposed out at once", func() bool { return len(paused[0].proposed) == 1 })
	other[0].produce(1, 10)
	other[0].wait(t, "acknowledged", func() bool { return len(other[0].outcomes) == 1 })
	full(false)
	paused[0].wait(t, "acknowledged", func() bool { return len(paused[0].outcomes) == 1 })
	sameLog(t, paused[0], paused[1])
}

// TestReadErrorOpensAnotherSession: what cannot be read ends the session, and
// the follower is told.
func TestReadErrorOpensAnotherSession(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	parts := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	parts[0].produce(1, 10)
	parts[0].wait(t, "acknowledged", func() bool { return len(parts[0].outcomes) == 1 })
	parts[0].mu.Lock()
	parts[0].noRead = errors.New("bad sector")
	session := parts[0].sessions[2].ID()
	parts[0].mu.Unlock()
	parts[0].produce(2, 10)
	parts[0].wait(t, "another session", func() bool { return parts[0].sessions[2].ID() > session })
	parts[0].mu.Lock()
	parts[0].noRead = nil
	parts[0].mu.Unlock()
	parts[0].wait(t, "acknowledged", func() bool { return len(parts[0].outcomes) == 2 })
}

// A leader that cannot read what a follower needs is not asked again and again
// without a pause: a session that matches is not yet one that came to something.
func TestReadErrorsDoNotSpin(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	parts := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	parts[0].produce(1, 10)
	parts[0].wait(t, "acknowledged", func() bool { return len(parts[0].outcomes) == 1 })
	parts[0].mu.Lock()
	parts[0].noRead = errors.New("bad sector")
	parts[0].mu.Unlock()
	parts[0].produce(2, 10)
	attempts := func() int {
		s := parts[1].sub
		s.link.mu.Lock()
		defer s.link.mu.Unlock()
		return s.attempts
	}
	parts[1].wait(t, "ever longer pauses", func() bool { return attempts() >= 4 })
}

func TestHeard(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	parts := spread(nodes, 0, assignment(1, 1, 2, 1, 2))
	parts[0].produce(1, 10)
	parts[0].wait(t, "acknowledged", func() bool { return len(parts[0].outcomes) == 1 })
	latest := func() (at time.Time) {
		for _, h := range nodes[0].server.Heard(nil) {
			if h.Node == 2 && h.At.After(at) {
				at = h.At
			}
		}
		return at
	}
	first := latest()
	deadline := time.Now().Add(5 * time.Second)
	for !latest().After(first) {
		if time.Now().After(deadline) {
			t.Fatal("an idle follower is not heard of")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestOpenRefused(t *testing.T) { onEachTransport(t, testOpenRefused) }

func testOpenRefused(t *testing.T, start func(int) []*testNode) {
	t.Helper()
	nodes := start(2)
	good := func() *pb.StreamOpen {
		return &pb.StreamOpen{Follower: 2, BrokerEpoch: 1, Kind: pb.StreamKind_STREAM_KIND_IN_SYNC, ClusterId: testCluster, Leader: 1}
	}
	for name, tc := range map[string]struct {
		open func(*pb.StreamOpen) *pb.StreamOpen
		code codes.Code
	}{
		"none":    {func(*pb.StreamOpen) *pb.StreamOpen { return nil }, codes.InvalidArgument},
		"cluster": {func(o *pb.StreamOpen) *pb.StreamOpen { o.ClusterId = "other"; return o }, codes.FailedPrecondition},
		"leader":  {func(o *pb.StreamOpen) *pb.StreamOpen { o.Leader = 9; return o }, codes.FailedPrecondition},
		"kind":    {func(o *pb.StreamOpen) *pb.StreamOpen { o.Kind = 7; return o }, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := NewTransport(nodes[1], nodes[1].codec).Open(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&pb.ReplicateRequest{Open: tc.open(good())}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != tc.code {
				t.Errorf("got %v, want %v", err, tc.code)
			}
		})
	}
}

// TestUnknownPartition: nobody serves it; the handshake is refused and repeated.
func TestUnknownPartition(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	stream, err := NewTransport(nodes[1], nodes[1].codec).Open(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&pb.ReplicateRequest{
		Open:       &pb.StreamOpen{Follower: 2, BrokerEpoch: 1, Kind: pb.StreamKind_STREAM_KIND_IN_SYNC, ClusterId: testCluster, Leader: 1},
		Handshakes: []*pb.ReplicaHandshake{{TopicId: make([]byte, 16), Partition: 5, SessionId: 3}},
		// Neither a stranger's ack nor absurd credit does harm.
		Acks:        []*pb.ReplicaAck{{TopicId: []byte("short"), Appended: 1 << 60}},
		CreditBytes: 1 << 63,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	if h := m.GetHandshakes(); len(h) != 1 || h[0].GetSessionId() != 3 || h[0].GetError().GetCode() != pb.ErrorCode_ERROR_CODE_NOT_LEADER {
		t.Errorf("got %v", m.ReplicateResponse)
	}
}

// TestBatchesMustMatchPushes: a message whose counts do not add up ends the stream.
func TestBatchesMustMatchPushes(t *testing.T) {
	f := &Follower{links: make(map[int32]*link), cfg: FollowerConfig{Traffic: new(Traffic)}}
	l := newLink(f, 1)
	r := &receiver{stream: l.streams[kindInSync]}
	for _, counts := range [][]uint32{{0}, {2}, {1, 1}, {1 << 31}} {
		m := &wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{}}
		b := testBatch(1)
		m.Batches = append(m.Batches, record.SliceOf(b, 0, b.Len()))
		for _, n := range counts {
			m.Pushes = append(m.Pushes, &pb.ReplicaPush{BatchCount: n})
		}
		if err := r.take(m); err == nil {
			t.Errorf("counts %v passed for one batch", counts)
		}
	}
}

func TestPause(t *testing.T) {
	if pause(0) != 0 || pause(1) != 10*time.Millisecond || pause(2) != 20*time.Millisecond || pause(100) != 500*time.Millisecond {
		t.Error(pause(0), pause(1), pause(2), pause(100))
	}
}

func TestTokenBucket(t *testing.T) {
	b := newTokenBucket(1000)
	now := b.at
	if w := b.wait(now); w != 0 {
		t.Fatalf("a full bucket waits %v", w)
	}
	b.take(300) // 200 of debt
	w := b.wait(now)
	if w < 200*time.Millisecond || w > 210*time.Millisecond {
		t.Fatalf("wait %v for 201 tokens at 1000/s", w)
	}
	if w := b.wait(now.Add(w)); w != 0 {
		t.Fatalf("still waits %v", w)
	}
	// Looking often loses nothing: with less than one token a look it would never fill.
	now = now.Add(w)
	b.take(50)
	taken := 0
	for range 20_000 {
		now = now.Add(100 * time.Microsecond)
		if b.wait(now) == 0 {
			b.take(10)
			taken += 10
		}
	}
	if taken < 1900 || taken > 2200 {
		t.Errorf("%d tokens in two seconds at 1000/s", taken)
	}
	var none tokenBucket
	none.take(1 << 40)
	if none.wait(now) != 0 {
		t.Error("the zero bucket bounds")
	}
}

func TestSettle(t *testing.T) {
	s := &Subscription{}
	for i := range 10 {
		s.owe(record.Offset(i+1), 10)
	}
	if got := s.settle(4); got != 40 {
		t.Errorf("settled %d, want 40", got)
	}
	if got := s.settle(4); got != 0 {
		t.Errorf("settled %d twice", got)
	}
	if got := s.settleAll(); got != 60 || len(s.unwritten) != 0 {
		t.Errorf("settled %d, %d left", got, len(s.unwritten))
	}
}

// The leaders of a follower share the memory that it receives into.
func TestLeadersShareWhatIsReceived(t *testing.T) {
	const receive, message, size = 40_000, 2_000, 1_000
	nodes := newNodes(t, 3, func(s *ServerConfig, f *FollowerConfig) {
		s.MessageBytes = message
		f.Receive = receive
	})
	follow := func(p, leader int) (lead, follower *memReplica) {
		lead, follower = newMemReplica(nodes[leader-1], testKey(p)), newMemReplica(nodes[2], testKey(p))
		follower.mu.Lock()
		follower.manual = true // nothing reaches the file
		follower.mu.Unlock()
		a := assignment(1, int32(leader), 3, int32(leader), 3)
		lead.assign(a)
		follower.assign(a)
		return lead, follower
	}
	one, followsOne := follow(0, 1)
	two, followsTwo := follow(1, 2)
	for i := range 100 {
		one.produce(uint64(i), size)
		two.produce(uint64(i), size)
	}
	const per, window = size + record.HeaderSize, receive * 3 / 4 / 2
	received := func(r *memReplica) int { return len(r.batches) * per }
	for _, r := range []*memReplica{followsTwo, followsOne} {
		r.wait(t, "a window", func() bool { return received(r) > window-message })
	}
	// The first leader may have been the only one when its stream opened.
	followsOne.mu.Lock()
	before := received(followsOne)
	followsOne.flushAll()
	followsOne.mu.Unlock()
	followsOne.wait(t, "the next window", func() bool { return received(followsOne) > before+window-message })
	followsOne.mu.Lock()
	second := received(followsOne) - before
	followsOne.mu.Unlock()
	followsTwo.mu.Lock()
	first := received(followsTwo)
	followsTwo.mu.Unlock()
	for _, got := range []int{first, second} {
		if got > window+message+per {
			t.Errorf("%d bytes came for a window of %d", got, window)
		}
	}
	for _, r := range []*memReplica{followsOne, followsTwo} {
		r.mu.Lock()
		r.manual = false
		r.flushAll()
		r.mu.Unlock()
	}
	one.wait(t, "all acknowledged", func() bool { return len(one.outcomes) == 100 })
	two.wait(t, "all acknowledged", func() bool { return len(two.outcomes) == 100 })
}
