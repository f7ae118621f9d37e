package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// polled is the session of a member that asks rather than keeps a stream: one
// that speaks KIP-848 over Kafka's protocol. It belongs to the actor.
type polled struct {
	memberID string
	latest   consumergroup.Effect // the newest update; what it lists is what the member may own
	fresh    bool                 // latest was not handed out yet
	ended    *api.Error           // not nil: it is over
	topics   []string             // of the last full request
	pattern  string
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
		s.emit(func(failed error) {
			if failed != nil {
				reply(nil, errLoading())
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
	switch {
	case req.MemberEpoch < 0:
		return c.consumerLeave(s, g, req)
	case req.MemberEpoch == api.EpochJoin:
		return c.consumerJoin(s, req)
	case g == nil || !g.machine.Speaks(req.MemberID):
		return nil, api.Errorf(api.CodeUnknownMember, "group %q has no member %q", req.Group, req.MemberID)
	}
	stream := g.machine.Stream(req.MemberID)
	p := s.polled[stream]
	if p == nil || req.HasTopics && !slices.Equal(req.Topics, p.topics) || req.HasPattern && req.Pattern != p.pattern {
		if !req.HasOwned || !req.HasTopics && !req.HasPattern {
			return nil, api.Errorf(api.CodeNotCoordinator, "the coordinator is new to member %q: send everything", req.MemberID)
		}
		return c.consumerJoin(s, req)
	}
	s.step(time.Now(), g, consumergroup.Event{
		Kind: consumergroup.EventHeartbeat, MemberID: req.MemberID, Stream: stream,
		Epoch: req.MemberEpoch, HasOwned: req.HasOwned, Owned: toMachine(req.Owned),
	})
	return c.consumerAnswer(p, req), nil
}

// consumerJoin begins a session, for a new member or for one that comes back.
func (c *Coordinator) consumerJoin(s *shard, req *api.ConsumerHeartbeat) (func(func(*api.ConsumerHeartbeatResult, error)), error) {
	join := api.JoinGroup{
		Group: req.Group, MemberID: req.MemberID, MemberEpoch: req.MemberEpoch, InstanceID: req.InstanceID,
		ClientID: req.ClientID, ClientHost: req.ClientHost, Rack: req.Rack, Topics: req.Topics, TopicPattern: req.Pattern,
		RebalanceTimeout: max(req.RebalanceTimeout, 0), Assignor: req.Assignor, Owned: req.Owned,
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
	p := &polled{memberID: m.ID, topics: req.Topics, pattern: req.Pattern}
	s.polled[stream] = p
	now := time.Now()
	s.step(now, g, consumergroup.Event{
		Kind: consumergroup.EventJoin, MemberID: m.ID, Stream: stream, Epoch: req.MemberEpoch, Attach: int64(stream),
		Owned: toMachine(req.Owned), Join: m, Metadata: s.metadata(g, m),
	})
	if g.effects.Assign {
		// The answer must carry an epoch that is not 0: 0 would be a join again.
		s.step(now, g, consumergroup.Event{Kind: consumergroup.EventAssign})
	}
	return c.consumerAnswer(p, req), nil
}

func (c *Coordinator) consumerLeave(s *shard, g *group, req *api.ConsumerHeartbeat) (func(func(*api.ConsumerHeartbeatResult, error)), error) {
	if g == nil || !g.machine.Speaks(req.MemberID) {
		return nil, api.Errorf(api.CodeUnknownMember, "group %q has no member %q", req.Group, req.MemberID)
	}
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
func (c *Coordinator) consumerAnswer(p *polled, req *api.ConsumerHeartbeat) func(func(*api.ConsumerHeartbeatResult, error)) {
	return func(reply func(*api.ConsumerHeartbeatResult, error)) {
		if p.ended != nil {
			reply(nil, p.ended)
			return
		}
		r := &api.ConsumerHeartbeatResult{
			MemberID: p.memberID, MemberEpoch: p.latest.Epoch, HeartbeatInterval: c.cfg.SessionTimeout.Milliseconds() / 3,
		}
		// A member that lists something else did not get the last answer.
		if p.fresh || req.HasOwned && !slices.Equal(toMachineSorted(req.Owned), p.latest.Assigned) {
			r.HasAssignment, r.Assignment = true, fromMachine(p.latest.Assigned)
			p.fresh = false
		}
		reply(r, nil)
	}
}
