package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/internal/loopback"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

const testCluster = "test"

// addresses are those of this process.
var addresses loopback.Addresses

// testBatch is a batch of one record with n bytes of payload.
func testBatch(n int) *record.Buf {
	b := make([]byte, record.HeaderSize+n)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	return record.NewBuf(b)
}

// memReplica is a replica with its log in memory, driven as package broker
// drives one on disk.
type memReplica struct {
	key  Key
	node *testNode

	mu       sync.Mutex
	state    *partition.Replica
	out      partition.Effects
	batches  []*record.Buf // batch i has offset i
	flushed  int
	start    record.Offset // log start
	manual   bool          // flush only when told
	storeErr error
	noRead   error
	states   map[record.Offset][]byte // of producers
	noState  error
	sub      *Subscription
	follows  int // subscriptions begun
	sessions map[int32]*Session
	outcomes map[uint64]partition.Outcome
	proposed []partition.Member
	pushes   int
	full     bool // takes nothing for now
	changed  *sync.Cond
}

func newMemReplica(n *testNode, k Key) *memReplica {
	m := &memReplica{
		key: k, node: n, state: partition.New(partition.Config{Node: n.id}),
		sessions: make(map[int32]*Session), outcomes: make(map[uint64]partition.Outcome),
	}
	m.changed = sync.NewCond(&m.mu)
	n.mu.Lock()
	n.parts[k] = m
	n.mu.Unlock()
	return m
}

func (m *memReplica) step(ev partition.Event) {
	m.out.Reset()
	m.state.Step(time.Now(), ev, &m.out)
	for _, e := range m.out.List {
		switch e.Kind {
		case partition.EffectRole:
			if m.sub != nil {
				m.sub.Stop()
				m.sub = nil
			}
			if e.Role == partition.RoleFollower && e.Node >= 0 {
				m.follows++
				m.sub = m.node.follower.Follow(m.key, e.Node, m.state.InSync(), m.side())
			}
		case partition.EffectComplete:
			m.outcomes[e.Handle] = e.Outcome
		case partition.EffectWatermark, partition.EffectPushable:
			for _, s := range m.sessions {
				s.Wake()
			}
		case partition.EffectEndSession:
			if s := m.sessions[e.Node]; s != nil && s.ID() == e.Session {
				s.End()
				delete(m.sessions, e.Node)
			}
		case partition.EffectLogStart:
			m.start = e.Offset
			defer func() { // the effects of this step first
				out := m.out
				m.out = partition.Effects{}
				m.step(partition.LogStart(e.Offset))
				m.out = out
			}()
		case partition.EffectProposeISR:
			m.proposed = append([]partition.Member(nil), m.out.Members...)
		case partition.EffectAck:
			m.sub.Ack(Ack{Epoch: e.Epoch, Session: e.Session, Appended: e.Offset, Flushed: e.Flushed, LogStart: e.LogStart, Written: e.Written})
		default:
		}
	}
	m.changed.Broadcast()
}

func (m *memReplica) find(kind partition.EffectKind) (partition.Effect, bool) {
	i := slices.IndexFunc(m.out.List, func(e partition.Effect) bool { return e.Kind == kind })
	if i < 0 {
		return partition.Effect{}, false
	}
	return m.out.List[i], true
}

func (m *memReplica) assign(a *partition.Assignment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.step(partition.Assign(a))
}

func (m *memReplica) produce(handle uint64, size int) partition.Outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.state.Admit(partition.AcksAll); o != partition.OutcomeOK {
		return o
	}
	b := testBatch(size)
	off := record.Offset(len(m.batches))
	record.Patch(b.Bytes(), off, m.state.Epoch())
	m.batches = append(m.batches, b)
	m.step(partition.Appended(off, off+1, partition.AcksAll, handle, time.Time{}))
	m.autoFlush()
	return partition.OutcomeOK
}

func (m *memReplica) autoFlush() {
	if !m.manual {
		m.flushAll()
	}
}

func (m *memReplica) flushAll() {
	m.flushed = len(m.batches)
	m.step(partition.Progress(record.Offset(m.flushed), record.Offset(m.flushed)))
}

func (m *memReplica) epochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	for i, b := range slices.Backward(m.batches) {
		if info, _ := record.Peek(b.Bytes()); info.Epoch <= e {
			return info.Epoch, record.Offset(i + 1)
		}
	}
	return record.UnknownEpoch, 0
}

func (m *memReplica) lastEpoch() record.Epoch {
	e, _ := m.epochEnd(1 << 30)
	return e
}

// wait blocks until cond holds.
func (m *memReplica) wait(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	late := time.AfterFunc(10*time.Second, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.changed.Broadcast()
	})
	defer late.Stop()
	deadline := time.Now().Add(10 * time.Second)
	m.mu.Lock()
	defer m.mu.Unlock()
	for !cond() {
		if time.Now().After(deadline) {
			tb.Fatalf("node %d %v: %s: not within 10 s (role %s, end %d, HW %d)",
				m.node.id, m.key, what, m.state.Role(), m.state.End(), m.state.HighWatermark())
		}
		m.changed.Wait()
	}
}

// Handshake, Read, Ack and Gone are the leader's side.

func (m *memReplica) Handshake(s *Session, h Handshake) (HandshakeReply, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ae, end := m.epochEnd(h.LastEpoch)
	if h.RefusedBelow != 0 {
		m.step(partition.Refused(s.Follower(), s.BrokerEpoch(), h.Epoch, h.Session, h.RefusedBelow, h.End, end, 0))
		r, _ := m.find(partition.EffectHandshakeReply)
		return HandshakeReply{Epoch: r.Epoch, Session: r.Session, Err: api.Errorf(api.CodeNotLeader, "refused")}, true
	}
	m.step(partition.Handshake(s.Follower(), s.BrokerEpoch(), h.Epoch, h.Session, h.LastEpoch, h.End, h.Flushed, ae, end, 0, 0))
	e, ok := m.find(partition.EffectHandshakeReply)
	if !ok {
		return HandshakeReply{}, false
	}
	if e.Matched {
		m.sessions[s.Follower()] = s
	}
	r := HandshakeReply{
		Epoch: e.Epoch, Session: e.Session, AnswerEpoch: e.AnswerEpoch, AnswerEnd: e.Offset,
		LogStart: e.LogStart, HighWatermark: e.HW, Matched: e.Matched, Begin: e.Begin,
	}
	if e.Outcome != partition.OutcomeOK {
		r.Err = api.Errorf(api.CodeNotLeader, "%s", e.Outcome)
	}
	return r, true
}

func (m *memReplica) Read(s *Session, dst []record.Slice, from record.Offset, maxBytes int) (Run, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noRead != nil {
		return Run{}, m.noRead
	}
	if epoch, id, ok := m.state.SessionOf(s.Follower()); !ok || epoch != s.Epoch() || id != s.ID() {
		return Run{HighWatermark: record.UnknownOffset}, nil
	}
	run := Run{Slices: dst, HighWatermark: m.state.HighWatermark(), LogStart: m.start}
	for _, b := range m.batches[from:] {
		if maxBytes -= b.Len(); maxBytes < 0 && len(run.Slices) > 0 {
			break
		}
		run.Slices = append(run.Slices, record.SliceOf(b, 0, b.Len()))
	}
	return run, nil
}

func (m *memReplica) ProducerState(at record.Offset) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.states[at], m.noState
}

func (m *memReplica) Ack(s *Session, a Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.step(partition.Ack(s.Follower(), a.Epoch, a.Session, a.Appended, a.Flushed, a.LogStart))
}

func (m *memReplica) Gone(s *Session, withdrawn bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.step(partition.SessionGone(s.Follower(), s.ID(), withdrawn))
}

// side is the follower's side: Gone has another signature there.
func (m *memReplica) side() FollowerPartition { return memFollower{m} }

type memFollower struct{ m *memReplica }

func (f memFollower) Begin(session uint64) (Handshake, bool) {
	m := f.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.step(partition.Begin(session, m.lastEpoch()))
	e, ok := m.find(partition.EffectHandshake)
	return Handshake{
		Epoch: e.Epoch, Session: e.Session, LastEpoch: e.AnswerEpoch, End: e.Offset, Start: e.LogStart, Flushed: e.Flushed, RefusedBelow: e.HW,
	}, ok
}

func (f memFollower) Reply(r HandshakeReply) Verdict {
	m := f.m
	m.mu.Lock()
	defer m.mu.Unlock()
	outcome := partition.OutcomeOK
	if r.Err != nil {
		outcome = partition.OutcomeNotLeader
	}
	le, lend := m.epochEnd(r.AnswerEpoch)
	m.step(partition.Reply(r.Epoch, r.Session, outcome, r.Matched, r.Begin, r.AnswerEpoch, r.AnswerEnd, r.LogStart, r.HighWatermark, le, lend))
	if _, ok := m.find(partition.EffectFollowing); ok {
		return VerdictOK
	}
	if e, ok := m.find(partition.EffectTruncate); ok {
		m.batches = m.batches[:e.Offset]
		m.flushed = len(m.batches)
		m.step(partition.Truncated(partition.LogState{End: e.Offset, Flushed: e.Offset, LastEpoch: m.lastEpoch()}))
		return VerdictAgain
	}
	return m.verdict()
}

func (m *memReplica) verdict() Verdict {
	for _, e := range m.out.List {
		switch e.Kind {
		case partition.EffectDrop:
			return VerdictDrop
		case partition.EffectAgain:
			return VerdictAgain
		case partition.EffectHold, partition.EffectRefusedTruncation:
			return VerdictHold
		default:
		}
	}
	return VerdictOK
}

func (f memFollower) Push(p Push, batches []*record.Buf) Verdict {
	m := f.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.step(partition.Push(p.Epoch, p.Session, p.From, p.To, p.HighWatermark, p.LogStart))
	v := m.verdict()
	if _, ok := m.find(partition.EffectAppend); ok {
		if m.full {
			m.step(partition.StreamGone(p.Session))
			return VerdictPause
		}
		if m.storeErr != nil {
			m.step(partition.LogFailed())
			return VerdictStop
		}
		for _, b := range batches {
			m.batches = append(m.batches, b.Retain())
		}
		m.pushes++
		m.step(partition.AppendedFollower(p.To))
		m.autoFlush()
	}
	return v
}

func (f memFollower) Gone(session uint64) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.step(partition.StreamGone(session))
}

// testNode is a broker as far as this package sees one.
type testNode struct {
	t        testing.TB
	id       int32
	server   *Server
	follower *Follower
	codec    *wire.Codec
	arena    *record.Arena
	grpc     *grpc.Server
	addr     string
	serving  sync.WaitGroup

	mu    sync.Mutex
	parts map[Key]*memReplica
	peers map[int32]*testNode
	conns map[int32]*grpc.ClientConn
	// old makes it a broker that takes streams by gRPC only.
	old bool
}

func (n *testNode) Leader(k Key) (LeaderPartition, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.parts[k]
	return p, ok
}

func (n *testNode) Dial(ctx context.Context, id int32) (net.Conn, error) {
	n.mu.Lock()
	peer := n.peers[id]
	n.mu.Unlock()
	switch {
	case peer == nil:
		return nil, errors.New("no such broker")
	case peer.old:
		return nil, nil
	}
	return new(net.Dialer).DialContext(ctx, "tcp", peer.addr)
}

func (n *testNode) Conn(_ context.Context, id int32) (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.conns[id]; c != nil {
		return c, nil
	}
	peer := n.peers[id]
	if peer == nil {
		return nil, errors.New("no such broker")
	}
	opts := append(wire.DialOptions(n.codec), grpc.WithTransportCredentials(insecure.NewCredentials()))
	c, err := grpc.NewClient("passthrough:///"+peer.addr, opts...)
	if err == nil {
		n.conns[id] = c
	}
	return c, err
}

// clusterService serves Replicate; nothing else of the service is called.
type clusterService struct {
	wire.ClusterServer
	server *Server
}

func (c clusterService) Replicate(s grpc.BidiStreamingServer[pb.ReplicateRequest, wire.Replicated]) error {
	return c.server.Replicate(s)
}

// serve starts the listener; it keeps its address over a restart.
func (n *testNode) serve() {
	n.t.Helper()
	var err error
	if n.grpc == nil {
		if n.addr, err = addresses.Next(); err != nil {
			n.t.Fatal(err)
		}
	}
	lis, err := (&net.ListenConfig{}).Listen(n.t.Context(), "tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.grpc = grpc.NewServer(wire.ServerOptions(n.codec)...)
	wire.RegisterCluster(n.grpc, clusterService{server: n.server})
	server, peers := n.grpc, wire.NewPeerListener(lis, n.codec, n.server.Replicate)
	n.serving.Go(func() { _ = server.Serve(peers) })
}

func (n *testNode) stop() {
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.grpc.Stop()
	n.serving.Wait()
}

// empty drops the logs, and checks that nothing else holds what was received.
func (n *testNode) empty(tb testing.TB) {
	tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.parts {
		m.mu.Lock()
		for _, b := range m.batches {
			b.Release()
		}
		m.batches = nil
		m.mu.Unlock()
	}
	arenatest.Empty(tb, n.arena, "what a node received into")
}

// onEachTransport runs a test with framed streams, with brokers that know gRPC only,
// and with one such broker among others.
func onEachTransport(t *testing.T, test func(t *testing.T, start func(count int) []*testNode)) {
	t.Helper()
	for name, old := range map[string]func(id int32) bool{
		"framed": func(int32) bool { return false },
		"grpc":   func(int32) bool { return true },
		"mixed":  func(id int32) bool { return id == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(count int) []*testNode {
				nodes := newNodes(t, count, nil)
				for _, n := range nodes {
					n.old = old(n.id)
				}
				return nodes
			})
		})
	}
}

// newNodes starts brokers 1 to count.
func newNodes(tb testing.TB, count int, tune func(*ServerConfig, *FollowerConfig)) []*testNode {
	tb.Helper()
	peers := make(map[int32]*testNode)
	var nodes []*testNode
	for i := range count {
		arena := record.NewArena(1 << 20)
		n := &testNode{
			t: tb, id: int32(i + 1), parts: make(map[Key]*memReplica), peers: peers,
			conns: make(map[int32]*grpc.ClientConn), codec: wire.NewCodec(arena), arena: arena,
		}
		logger := slog.New(slog.DiscardHandler)
		sc := ServerConfig{NodeID: n.id, ClusterID: testCluster, Leaders: n, Logger: logger}
		fc := FollowerConfig{
			NodeID: n.id, BrokerEpoch: 1, ClusterID: testCluster, Transport: NewTransport(n, n.codec), Logger: logger,
			KeepAlive: 50 * time.Millisecond, HoldRetry: 50 * time.Millisecond,
		}
		if tune != nil {
			tune(&sc, &fc)
		}
		var err error
		if n.server, err = NewServer(sc); err != nil {
			tb.Fatal(err)
		}
		if n.follower, err = NewFollower(fc); err != nil {
			tb.Fatal(err)
		}
		n.serve()
		peers[n.id] = n
		nodes = append(nodes, n)
	}
	tb.Cleanup(func() {
		for _, n := range nodes {
			if err := n.follower.Close(); err != nil {
				tb.Error(err)
			}
			if err := n.server.Close(); err != nil {
				tb.Error(err)
			}
		}
		for _, n := range nodes {
			n.stop()
			n.empty(tb)
		}
	})
	return nodes
}

func testKey(p int) Key { return Key{Topic: api.TopicID{1}, Partition: int32(p)} }

// assignment says who leads; the ISR is a set of node ids.
func assignment(epoch int32, leader int32, replicas int, isr ...int32) *partition.Assignment {
	a := &partition.Assignment{
		Leader: leader, LeaderEpoch: record.Epoch(epoch), PartitionEpoch: epoch, MinISR: 1, Synced: true,
	}
	for i := range int32(replicas) {
		a.Replicas = append(a.Replicas, partition.Assigned{Node: i + 1, BrokerEpoch: 1, ISR: slices.Contains(isr, i+1)})
	}
	return a
}
