package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// polled is the session of a member that asks rather than keeps a stream: one
// that speaks KIP-848 over Kafka's protocol. It belongs to the actor.
type polled struct {
	group    string
	memberID string
	latest   consumergroup.Effect // the newest update; what it lists is what the member may own
	fresh    bool                 // latest was not handed out yet
	ended    *api.Error           // not nil: it is over
	topics   []string             // of the last full request
	pattern  string
	heard    int32 // the member epoch in which the member spoke last
	answered int32 // the one in the last answer to it
}

// check refuses a request that speaks in an epoch of the past: it was under way while the
// member went on, and what it lists would be taken for what the member has now. A member
// that lost an answer, or several, does not know its epoch yet; it goes on in the one it
// has, and has to list what it owns.
func (p *polled) check(req *api.ConsumerHeartbeat) error {
	fenced := func(why string) error {
		return api.Errorf(api.CodeFencedMemberEpoch, "group %q, member %q: %s", req.Group, req.MemberID, why)
	}
	switch epoch := req.MemberEpoch; {
	case epoch > p.answered:
		return fenced(fmt.Sprintf("member epoch %d was not given to the member, whose epoch is %d: join with epoch 0", epoch, p.answered))
	case epoch < p.heard:
		return fenced(fmt.Sprintf("member epoch %d is of the past, the member has spoken in epoch %d: join with epoch 0", epoch, p.heard))
	case epoch < p.answered && !req.HasOwned:
		return fenced(fmt.Sprintf("member epoch %d is older than the member's, %d, and the request does not say what the member owns: join with epoch 0", epoch, p.answered))
	}
	return nil
}

// assignment is what the member may own, by the topics' ids of when it was given.
func (p *polled) assignment() []api.OwnedPartition {
	out := make([]api.OwnedPartition, len(p.latest.Assigned))
	for i, tp := range p.latest.Assigned {
		out[i] = api.OwnedPartition{TopicPartition: api.TopicPartition(tp), TopicID: api.TopicID(p.latest.TopicIDs[i])}
	}
	return out
}

// ConsumerHeartbeat is one ConsumerGroupHeartbeat request: a join, a heartbeat
// with or without news, or a farewell. CodeNotCoordinator to a member that has a
// session also asks it to send everything again, as clients do after that code.
func (c *Coordinator) ConsumerHeartbeat(ctx context.Context, req *api.ConsumerHeartbeat) (*api.ConsumerHeartbeatResult, error) {
	if req.MemberID == "" {
		return nil, api.Errorf(api.CodeInvalidArgument, "a member makes its own member id")
	}
	s, err := c.shardOf(req.Group)
	if err != nil {
		return nil, err
	}
	if err := c.patterns.prepare(req.Pattern); err != nil {
		return nil, err
	}
	return call(ctx, s, func(reply func(*api.ConsumerHeartbeatResult, error)) {
		if ctx.Err() != nil { // a join of long ago must not seem to be a new one
			reply(nil, ctx.Err())
			return
		}
		result, err := c.consumerHeartbeat(s, req)
		s.emitOf(req.Group, func(failed error) {
			if failed != nil {
				reply(nil, decisionError(failed))
				return
			}
			if err != nil {
				reply(nil, err)
				return
			}
			result(reply)
		})
	})
}

// consumerHeartbeat does what a request asks for; what it returns runs once that
// is committed.
func (c *Coordinator) consumerHeartbeat(s *shard, req *api.ConsumerHeartbeat) (func(func(*api.ConsumerHeartbeatResult, error)), error) {
	g := s.groups[req.Group]
	if g != nil && g.refusal != nil {
		return nil, g.refusal
	}
	if req.MemberEpoch == api.EpochJoin {
		if len(req.Owned) > 0 {
			return nil, api.Errorf(api.CodeInvalidArgument, "a join with epoch 0 owns nothing, but lists %d partitions", len(req.Owned))
		}
		return c.consumerJoin(s, req, nil)
	}
	if err := consumerSpeaks(g, req); err != nil {
		return nil, err
	}
	if req.MemberEpoch < 0 {
		return c.consumerLeave(s, g, req)
	}
	owned := namedBy(g, req)
	stream := g.machine.Stream(req.MemberID)
	p := s.polled[stream]
	if p != nil {
		if err := p.check(req); err != nil {
			return nil, err
		}
		p.heard = req.MemberEpoch
	}
	if p == nil || req.HasTopics && !slices.Equal(req.Topics, p.topics) || req.HasPattern && req.Pattern != p.pattern {
		if !req.HasOwned || !req.HasTopics && !req.HasPattern {
			return nil, api.Errorf(api.CodeNotCoordinator, "the coordinator is new to member %q: send everything", req.MemberID)
		}
		return c.consumerJoin(s, req, owned)
	}
	s.step(time.Now(), g, consumergroup.Event{
		Kind: consumergroup.EventHeartbeat, MemberID: req.MemberID, Stream: stream,
		Epoch: req.MemberEpoch, HasOwned: req.HasOwned, Owned: owned,
	})
	return c.consumerAnswer(p, req, owned), nil
}

// consumerSpeaks checks that a request is one of the member that it names. Of a static
// one whose place another took, the word for that is what ends it: told that it is not
// known, it would join anew and take the place back.
func consumerSpeaks(g *group, req *api.ConsumerHeartbeat) error {
	if g != nil {
		if code, message := g.machine.CheckInstance(req.MemberID, req.InstanceID); code != consumergroup.CodeNone {
			return api.Errorf(codeOf(code), "group %q, member %q: %s", req.Group, req.MemberID, message)
		}
	}
	if g == nil || !g.machine.Speaks(req.MemberID) {
		return api.Errorf(api.CodeUnknownMember, "group %q has no member %q", req.Group, req.MemberID)
	}
	return nil
}

// namedBy is what a request lists by topic ids in the machine's terms, ascending.
func namedBy(g *group, req *api.ConsumerHeartbeat) []consumergroup.TopicPartition {
	listed := make([]consumergroup.Given, len(req.Owned))
	for i, p := range req.Owned {
		listed[i] = consumergroup.Given{TopicPartition: consumergroup.TopicPartition(p.TopicPartition), TopicID: consumergroup.TopicID(p.TopicID)}
	}
	owned := g.machine.Named(req.MemberID, listed)
	slices.SortFunc(owned, func(a, b consumergroup.TopicPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return owned
}

// consumerJoin begins a session, for a new member or for one that comes back and owns
// something.
func (c *Coordinator) consumerJoin(s *shard, req *api.ConsumerHeartbeat, owned []consumergroup.TopicPartition) (func(func(*api.ConsumerHeartbeatResult, error)), error) {
	join := api.JoinGroup{
		Group: req.Group, MemberID: req.MemberID, MemberEpoch: req.MemberEpoch, InstanceID: req.InstanceID,
		ClientID: req.ClientID, ClientHost: req.ClientHost, Rack: req.Rack, Topics: req.Topics, TopicPattern: req.Pattern,
		RebalanceTimeout: max(req.RebalanceTimeout, 0), Assignor: req.Assignor,
	}
	m, err := c.checkJoin(&join)
	if err != nil {
		return nil, err
	}
	g, err := s.groupFor(&join, m)
	if err != nil {
		return nil, err
	}
	if g.machine.Awaits() && !g.machine.Has(m.ID) {
		s.forgetIfVoid(g)
		return nil, api.Errorf(api.CodeCoordinatorLoading, "the coordinator waits for the members of group %q", req.Group)
	}
	stream := c.streams.Add(1)
	p := &polled{group: req.Group, memberID: m.ID, topics: req.Topics, pattern: req.Pattern, heard: req.MemberEpoch}
	s.polled[stream] = p
	now := time.Now()
	s.step(now, g, consumergroup.Event{
		Kind: consumergroup.EventJoin, MemberID: m.ID, Stream: stream, Epoch: req.MemberEpoch, Attach: int64(stream),
		Owned: owned, Join: m, Metadata: s.metadata(g, m),
	})
	if g.effects.Assign {
		// The answer must carry an epoch that is not 0: 0 would be a join again.
		s.step(now, g, consumergroup.Event{Kind: consumergroup.EventAssign})
	}
	return c.consumerAnswer(p, req, owned), nil
}

func (c *Coordinator) consumerLeave(s *shard, g *group, req *api.ConsumerHeartbeat) (func(func(*api.ConsumerHeartbeatResult, error)), error) {
	stream := g.machine.Stream(req.MemberID)
	delete(s.polled, stream)
	s.step(time.Now(), g, consumergroup.Event{
		Kind: consumergroup.EventLeave, MemberID: req.MemberID, Stream: stream, Final: req.MemberEpoch != api.EpochLeaveStatic,
	})
	return func(reply func(*api.ConsumerHeartbeatResult, error)) {
		reply(&api.ConsumerHeartbeatResult{MemberID: req.MemberID, MemberEpoch: req.MemberEpoch}, nil)
	}, nil
}

// consumerAnswer reads the member's session when it is time to answer.
func (c *Coordinator) consumerAnswer(p *polled, req *api.ConsumerHeartbeat, owned []consumergroup.TopicPartition) func(func(*api.ConsumerHeartbeatResult, error)) {
	return func(reply func(*api.ConsumerHeartbeatResult, error)) {
		if p.ended != nil {
			reply(nil, p.ended)
			return
		}
		r := &api.ConsumerHeartbeatResult{
			MemberID: p.memberID, MemberEpoch: p.latest.Epoch, HeartbeatInterval: c.cfg.SessionTimeout.Milliseconds() / 3,
		}
		// A member that lists something else did not get the last answer.
		if p.fresh || req.HasOwned && !slices.Equal(owned, p.latest.Assigned) {
			r.HasAssignment, r.Assignment = true, p.assignment()
			p.fresh = false
		}
		p.answered = r.MemberEpoch
		reply(r, nil)
	}
}
