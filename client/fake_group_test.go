package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// fakeGroup coordinates one group: it deals partitions out by turns and moves
// each only after its owner acknowledged the loss.
type fakeGroup struct {
	c *fakeCluster

	mu          sync.Mutex // guards what follows
	coordinator int32
	epoch       int32
	members     map[string]*fakeMember
	committed   map[TopicPartition]int64
	readIn      map[TopicPartition]int32 // leader epochs that were committed with offsets
	commits     []string                 // member ids, in order
	nextMember  int
	joins       []*pb.JoinGroup
	leaves      int
	onCommit    func(*pb.OffsetCommit) *pb.Error
	onJoin      func(*pb.JoinGroup) *pb.Error
	inUse       bool    // resets are refused
	unaryOnly   bool    // sessions take no commits
	calls       int     // commits that came as calls
	epochs      []int32 // of commits of sessions
	swallow     int     // so many commits of sessions are stored and not answered: the session ends
}

type fakeMember struct {
	id      string
	owned   map[TopicPartition]bool // as acknowledged
	sent    map[TopicPartition]bool // last assignment
	told    int32                   // its epoch: what a member says of before it is old
	updates chan *pb.SessionResponse
	end     chan error
}

func newFakeGroup(c *fakeCluster) *fakeGroup {
	return &fakeGroup{c: c, members: map[string]*fakeMember{}, committed: map[TopicPartition]int64{}, readIn: map[TopicPartition]int32{}}
}

// fence ends a member's session, as after its timeout.
func (g *fakeGroup) fence(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[id]
	delete(g.members, id)
	m.end <- withDetail(fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_MEMBER, false, false))
	g.rebalance()
}

// refuse ends a member's session with a code.
func (g *fakeGroup) refuse(id string, code pb.ErrorCode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[id]
	delete(g.members, id)
	m.end <- withDetail(fakeError(code, false, false))
}

func withDetail(e *pb.Error) error {
	st, err := status.New(codes.FailedPrecondition, e.GetMessage()).WithDetails(e)
	if err != nil {
		return err
	}
	return st.Err()
}

func (g *fakeGroup) memberIDs() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.members))
}

func (g *fakeGroup) offset(tp TopicPartition) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if o, ok := g.committed[tp]; ok {
		return o
	}
	return -1
}

// rebalance sends every member what it may own: of its share, what nobody else
// still owns. The caller holds mu.
func (g *fakeGroup) rebalance() {
	ids := slices.Sorted(maps.Keys(g.members))
	if len(ids) == 0 {
		return
	}
	g.c.mu.Lock()
	var all []TopicPartition
	for _, parts := range g.c.topics {
		for _, p := range parts {
			all = append(all, p.tp)
		}
	}
	g.c.mu.Unlock()
	sortPartitions(all)
	owner := map[TopicPartition]string{}
	for id, m := range g.members {
		for tp := range m.owned {
			owner[tp] = id
		}
		for tp := range m.sent {
			owner[tp] = id
		}
	}
	share := map[string]map[TopicPartition]bool{}
	for i, tp := range all {
		id := ids[i%len(ids)]
		if share[id] == nil {
			share[id] = map[TopicPartition]bool{}
		}
		if owner[tp] == "" || owner[tp] == id {
			share[id][tp] = true
		}
	}
	for _, id := range ids {
		m := g.members[id]
		if maps.Equal(m.sent, share[id]) && m.sent != nil {
			continue
		}
		for tp := range m.sent {
			m.owned[tp] = true // until it says otherwise, having heard of this
		}
		m.sent = share[id]
		if m.sent == nil {
			m.sent = map[TopicPartition]bool{}
		}
		g.epoch++
		m.told = g.epoch
		m.updates <- &pb.SessionResponse{
			MemberId: id, MemberEpoch: g.epoch, HeartbeatIntervalMs: 20,
			Assignment:   &pb.Assignment{Partitions: partitionsOut(slices.Collect(maps.Keys(m.sent)))},
			TakesCommits: !g.unaryOnly,
		}
	}
}

func (b *fakeBroker) FindCoordinator(ctx context.Context, _ *pb.FindCoordinatorRequest) (*pb.FindCoordinatorResponse, error) {
	if err := b.hang(ctx); err != nil {
		return nil, err
	}
	g := b.c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	return &pb.FindCoordinatorResponse{NodeId: g.coordinator, Address: b.c.brokers[g.coordinator].address}, nil
}

func (b *fakeBroker) Session(stream grpc.BidiStreamingServer[pb.SessionRequest, pb.SessionResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	g := b.c.group
	m, err := g.join(b, first.GetJoin())
	if err != nil {
		return err
	}
	in := make(chan *pb.SessionRequest)
	ctx := stream.Context()
	go func() { // ends with the stream, right after this handler
		defer close(in)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case in <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case u := <-m.updates:
			if err := stream.Send(u); err != nil {
				return err
			}
		case err := <-m.end:
			return err
		case req, ok := <-in:
			if !ok {
				return nil
			}
			if g.message(m, req) {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (g *fakeGroup) join(b *fakeBroker, j *pb.JoinGroup) (*fakeMember, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.coordinator != b.id {
		return nil, withDetail(fakeError(pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR, true, false))
	}
	g.joins = append(g.joins, j)
	if g.onJoin != nil {
		if e := g.onJoin(j); e != nil {
			return nil, withDetail(e)
		}
	}
	id := j.GetMemberId()
	if j.GetMemberEpoch() > 0 && g.members[id] == nil {
		return nil, withDetail(fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_MEMBER, false, false))
	}
	if id == "" {
		g.nextMember++
		id = fmt.Sprintf("m%d", g.nextMember)
	}
	// A stream that attaches again replaces the older one.
	m := &fakeMember{
		id: id, owned: map[TopicPartition]bool{},
		updates: make(chan *pb.SessionResponse, 64), end: make(chan error, 1),
	}
	g.members[id] = m
	for _, tp := range j.GetOwned() {
		m.owned[TopicPartition{tp.GetTopic(), tp.GetPartition()}] = true
	}
	g.rebalance()
	return m, nil
}

// message takes a heartbeat or a farewell; true: the session is over.
func (g *fakeGroup) message(m *fakeMember, req *pb.SessionRequest) (over bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if req.GetLeave() != nil {
		g.leaves++
		delete(g.members, m.id)
		g.rebalance()
		return true
	}
	if c := req.GetCommit(); c != nil {
		return g.sessionCommit(m, c)
	}
	if h := req.GetHeartbeat(); h.GetHasOwned() && h.GetMemberEpoch() >= m.told {
		m.owned = map[TopicPartition]bool{}
		for _, tp := range h.GetOwned() {
			m.owned[TopicPartition{tp.GetTopic(), tp.GetPartition()}] = true
		}
		g.rebalance()
	}
	return false
}

// sessionCommit stores and answers a commit. The caller holds mu.
func (g *fakeGroup) sessionCommit(m *fakeMember, c *pb.SessionCommit) (over bool) {
	g.epochs = append(g.epochs, c.GetMemberEpoch())
	answer := &pb.SessionCommitResult{Id: c.GetId()}
	if g.members[m.id] != m {
		answer.Error = fakeError(pb.ErrorCode_ERROR_CODE_FENCED_MEMBER_EPOCH, false, false)
	} else {
		answer.Failed = slices.DeleteFunc(g.store(m.id, c.GetOffsets()), func(r *pb.OffsetResult) bool { return r.GetError() == nil })
	}
	if g.swallow > 0 {
		g.swallow--
		return true
	}
	m.updates <- &pb.SessionResponse{Commits: []*pb.SessionCommitResult{answer}}
	return false
}

func (b *fakeBroker) CommitOffsets(_ context.Context, req *pb.CommitOffsetsRequest) (*pb.CommitOffsetsResponse, error) {
	g := b.c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.coordinator != b.id {
		return nil, withDetail(fakeError(pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR, true, false))
	}
	g.calls++
	return &pb.CommitOffsetsResponse{Results: g.store(req.GetMemberId(), req.GetOffsets())}, nil
}

// store commits what the member owns. The caller holds mu.
func (g *fakeGroup) store(member string, offsets []*pb.OffsetCommit) (results []*pb.OffsetResult) {
	g.commits = append(g.commits, member)
	for _, o := range offsets {
		tp := TopicPartition{o.GetTopic(), o.GetPartition()}
		r := &pb.OffsetResult{Topic: tp.Topic, Partition: tp.Partition, Offset: o.GetOffset()}
		results = append(results, r)
		m := g.members[member]
		if g.onCommit != nil {
			r.Error = g.onCommit(o)
		}
		switch {
		case r.GetError() != nil:
		case member != "" && (m == nil || !m.owned[tp] && !m.sent[tp]):
			r.Error = fakeError(pb.ErrorCode_ERROR_CODE_STALE_MEMBER_EPOCH, false, false)
		default:
			g.committed[tp], g.readIn[tp] = o.GetOffset(), o.GetLeaderEpoch()
		}
	}
	return results
}

func (b *fakeBroker) ResetOffsets(_ context.Context, req *pb.ResetOffsetsRequest) (*pb.ResetOffsetsResponse, error) {
	g := b.c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.coordinator != b.id:
		return nil, withDetail(fakeError(pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR, true, false))
	case g.inUse:
		return nil, withDetail(fakeError(pb.ErrorCode_ERROR_CODE_GROUP_NOT_EMPTY, false, false))
	}
	resp := &pb.ResetOffsetsResponse{}
	for _, o := range req.GetOffsets() {
		tp := TopicPartition{o.GetTopic(), o.GetPartition()}
		before, ok := g.committed[tp]
		if !ok {
			before = -1
		}
		resp.Results = append(resp.Results, &pb.ResetResult{Topic: tp.Topic, Partition: tp.Partition, Before: before, After: o.GetOffset()})
		if !req.GetDryRun() {
			g.committed[tp] = o.GetOffset()
		}
	}
	return resp, nil
}

func (b *fakeBroker) FetchOffsets(_ context.Context, req *pb.FetchOffsetsRequest) (*pb.FetchOffsetsResponse, error) {
	g := b.c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.coordinator != b.id {
		return nil, withDetail(fakeError(pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR, true, false))
	}
	asked := req.GetPartitions()
	if len(asked) == 0 {
		for tp := range g.committed {
			asked = append(asked, &pb.TopicPartition{Topic: tp.Topic, Partition: tp.Partition})
		}
	}
	resp := &pb.FetchOffsetsResponse{}
	for _, q := range asked {
		tp := TopicPartition{q.GetTopic(), q.GetPartition()}
		o, ok := g.committed[tp]
		epoch, known := g.readIn[tp]
		if !ok {
			o = -1
		}
		if !known {
			epoch = -1
		}
		resp.Results = append(resp.Results, &pb.OffsetResult{Topic: q.GetTopic(), Partition: q.GetPartition(), Offset: o, LeaderEpoch: epoch})
	}
	return resp, nil
}
