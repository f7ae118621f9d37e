package coordinator

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// call of the classic protocol that waits for its answer. It runs once, on the
// actor: with an effect, or with the error that ended the shard.
type classicCall func(e *consumergroup.ClassicEffect, err *api.Error)

// pendingCall is one that has not run.
type pendingCall struct {
	group  string
	answer classicCall
}

// JoinClassic joins a group of the classic protocol. It returns when the
// rebalance is through the joining, or ctx ends. Beside CodeMemberIDRequired the
// result carries the member id to join with.
func (c *Coordinator) JoinClassic(ctx context.Context, req *api.ClassicJoin) (*api.ClassicJoined, error) {
	member, err := c.checkClassicJoin(req)
	if err != nil {
		return nil, err
	}
	s, err := c.shardOf(req.Group)
	if err != nil {
		return nil, err
	}
	newID := req.ClientID + "-" + rand.Text()
	if req.InstanceID != "" {
		newID = req.InstanceID + "-" + rand.Text()
	}
	joined, err := call(ctx, s, func(reply func(*api.ClassicJoined, error)) {
		g, err := s.classicFor(req)
		if err != nil {
			s.emit(func(error) { reply(nil, err) })
			return
		}
		s.classicRequest(g, consumergroup.ClassicEvent{
			Kind: consumergroup.ClassicJoin, Join: member, ProtocolType: req.ProtocolType,
			NewID: newID, RequireKnownID: req.RequireKnownID,
		}, func(e *consumergroup.ClassicEffect, err *api.Error) {
			if err != nil {
				reply(nil, err)
				return
			}
			reply(joinedOf(req, e))
		})
	})
	return joined, err
}

func joinedOf(req *api.ClassicJoin, e *consumergroup.ClassicEffect) (*api.ClassicJoined, error) {
	j := &api.ClassicJoined{
		MemberID: e.MemberID, Generation: e.Generation, ProtocolType: e.ProtocolType, Protocol: e.Protocol,
		Leader: e.Leader, SkipAssignment: e.SkipAssignment,
	}
	for _, m := range e.Members {
		j.Members = append(j.Members, api.ClassicListed{MemberID: m.ID, InstanceID: m.InstanceID, Metadata: m.Metadata})
	}
	if e.Code != consumergroup.CodeNone {
		return j, classicError(req.Group, e)
	}
	return j, nil
}

func classicError(group string, e *consumergroup.ClassicEffect) error {
	if e.Code == consumergroup.CodeNone {
		return nil
	}
	return api.Errorf(codeOf(e.Code), "group %q: %s", group, e.Message)
}

// SyncClassic fetches a member's assignment, and brings everybody's when it is
// the leader's. It returns when the leader's assignment is committed, or ctx ends.
func (c *Coordinator) SyncClassic(ctx context.Context, req *api.ClassicSync) (*api.ClassicSynced, error) {
	return classicCallOf(ctx, c, req.Group, consumergroup.ClassicEvent{
		Kind: consumergroup.ClassicSync, MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation,
		ProtocolType: req.ProtocolType, Protocol: req.Protocol, Assignments: req.Assignments,
	}, func(e *consumergroup.ClassicEffect) *api.ClassicSynced {
		return &api.ClassicSynced{ProtocolType: e.ProtocolType, Protocol: e.Protocol, Assignment: e.Assignment}
	})
}

// HeartbeatClassic keeps a member's session. CodeRebalanceInProgress: it is to
// join again.
func (c *Coordinator) HeartbeatClassic(ctx context.Context, req *api.ClassicHeartbeat) error {
	_, err := classicCallOf(ctx, c, req.Group, consumergroup.ClassicEvent{
		Kind: consumergroup.ClassicHeartbeat, MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation,
	}, func(*consumergroup.ClassicEffect) struct{} { return struct{}{} })
	return err
}

// LeaveClassic removes members; the errors are theirs, in order.
func (c *Coordinator) LeaveClassic(ctx context.Context, groupID string, members []api.ClassicLeave) ([]*api.Error, error) {
	errs := make([]*api.Error, len(members))
	for i, m := range members {
		_, err := classicCallOf(ctx, c, groupID, consumergroup.ClassicEvent{
			Kind: consumergroup.ClassicLeave, MemberID: m.MemberID, InstanceID: m.InstanceID,
		}, func(*consumergroup.ClassicEffect) struct{} { return struct{}{} })
		switch api.CodeOf(err) {
		case api.CodeNone:
		case api.CodeUnknownMember, api.CodeFencedInstanceID:
			errs[i] = asError(err)
		default:
			return nil, err
		}
	}
	return errs, nil
}

// classicCallOf gives an existing classic group one event and waits for the answer.
func classicCallOf[T any](ctx context.Context, c *Coordinator, groupID string, ev consumergroup.ClassicEvent, result func(*consumergroup.ClassicEffect) T) (T, error) {
	var zero T
	s, err := c.shardOf(groupID)
	if err != nil {
		return zero, err
	}
	return call(ctx, s, func(reply func(T, error)) {
		g := s.groups[groupID]
		if g == nil || g.classic == nil && g.machine.Len() == 0 {
			s.emit(func(error) {
				reply(zero, api.Errorf(api.CodeUnknownMember, "group %q has no member %q", groupID, ev.MemberID))
			})
			return
		}
		if g.refusal != nil {
			reply(zero, g.refusal)
			return
		}
		s.classicRequest(g, ev, func(e *consumergroup.ClassicEffect, err *api.Error) {
			switch {
			case err != nil:
				reply(zero, err)
			case e.Code != consumergroup.CodeNone:
				reply(zero, classicError(groupID, e))
			default:
				reply(result(e), nil)
			}
		})
	})
}

// classicRequest gives a classic group a request; answer runs once.
func (s *shard) classicRequest(g *group, ev consumergroup.ClassicEvent, answer classicCall) {
	s.lastCall++
	ev.Call = s.lastCall
	s.calls[ev.Call] = pendingCall{g.id, answer}
	if g.classic != nil {
		s.stepClassic(time.Now(), g, ev)
	} else {
		s.hostedRequest(time.Now(), g, ev)
	}
	s.forgetIfVoid(g)
}

// stepClassic gives a classic group one event and carries out the effects.
func (s *shard) stepClassic(now time.Time, g *group, ev consumergroup.ClassicEvent) {
	g.classicEffects.Reset()
	g.classic.Step(now, ev, &g.classicEffects)
	s.logExpired(g.id, g.classicEffects.Expired)
	s.carryOutClassic(now, g)
}

func (s *shard) carryOutClassic(now time.Time, g *group) {
	for _, e := range g.classicEffects.List {
		if e.Kind == consumergroup.ClassicPersist {
			g.classicWritten = true
			s.persist(g, classicKey(g.id), classicValue(e.Stored))
			continue
		}
		s.answer(g, &e)
	}
	g.notePresence(now)
	if s.groups != nil {
		s.deadlines.set(g, g.classicEffects.Deadline)
	}
}

// classicFor returns the group that a classic join is for: it makes one, and
// turns one of the other protocol that has no members. One that has takes the
// classic member in.
func (s *shard) classicFor(req *api.ClassicJoin) (*group, error) {
	g := s.groups[req.Group]
	if g == nil {
		g = newGroup(consumergroup.New(req.Group))
		s.groups[req.Group] = g
	}
	if g.refusal != nil {
		return nil, g.refusal
	}
	if g.classic == nil && g.machine.Len() == 0 {
		g.classic = consumergroup.NewClassic(req.Group, g.machine.Epoch(), s.cfg.InitialRebalanceDelay)
		if g.machine.Epoch() > 0 { // its number goes on whatever happens
			s.persist(g, classicKey(g.id), classicValue(g.classic.Stored()))
			g.classicWritten = true
		}
		s.dropMachine(g)
		s.deadlines.set(g, time.Time{})
	}
	known := g.classic != nil && g.classic.Has(req.MemberID, req.InstanceID) ||
		g.machine.Has(req.MemberID) || g.machine.HasInstance(req.InstanceID)
	if n := g.members(); n >= s.cfg.MaxMembers && !known {
		return nil, api.Errorf(api.CodeGroupFull, "group %q has %d members, the most allowed", req.Group, n)
	}
	return g, nil
}

// dropMachine forgets what was written of a group under the consumer protocol.
func (s *shard) dropMachine(g *group) {
	s.forgetMachine(g)
	g.machine = consumergroup.New(g.id)
	g.effects.Reset()
}

// forgetMachine writes tombstones for what is written of a group under the
// consumer protocol, beside its members.
func (s *shard) forgetMachine(g *group) {
	if g.machine.Epoch() > 0 {
		s.persist(g, targetEpochKey(g.id), nil)
		s.persist(g, groupKey(g.id), nil)
	}
	s.dropPatterns(g, nil)
}

// dropClassic forgets what was written of a group under the classic protocol;
// its generation becomes the group epoch.
func (s *shard) dropClassic(now time.Time, g *group) {
	if g.classic == nil {
		return
	}
	g.machine = consumergroup.Restore(now, g.id, &consumergroup.Stored{Epoch: g.classic.Generation()}, 0)
	if g.machine.Epoch() > 0 { // its number goes on whatever happens
		s.persist(g, groupKey(g.id), groupValue(g.machine.Epoch(), 1))
	}
	if g.classicWritten {
		s.persist(g, classicKey(g.id), nil)
	}
	g.classic, g.classicWritten = nil, false
	s.deadlines.set(g, time.Time{})
}

func (c *Coordinator) checkClassicJoin(req *api.ClassicJoin) (*consumergroup.ClassicMember, error) {
	if err := ValidateGroupID(req.Group); err != nil {
		return nil, err
	}
	if err := checkIdentity(req.MemberID, req.InstanceID, req.ClientID, req.ClientHost, ""); err != nil {
		return nil, err
	}
	session, err := c.checkSessionTimeout(req.SessionTimeout)
	if err != nil {
		return nil, err
	}
	m := &consumergroup.ClassicMember{
		ID: req.MemberID, InstanceID: req.InstanceID, ClientID: req.ClientID, Host: req.ClientHost,
		SessionTimeout: session, RebalanceTimeout: session,
	}
	if req.RebalanceTimeout > 0 {
		m.RebalanceTimeout = time.Duration(req.RebalanceTimeout) * time.Millisecond
	}
	size := 0
	for _, p := range req.Protocols {
		size += len(p.Name) + len(p.Metadata)
		m.Protocols = append(m.Protocols, consumergroup.ClassicProtocol(p))
	}
	if size > maxClassicBytes {
		return nil, api.Errorf(api.CodeInvalidArgument, "the protocols have %d bytes, at most %d are allowed", size, maxClassicBytes)
	}
	return m, nil
}

func asError(err error) *api.Error {
	if e, ok := err.(*api.Error); ok { //nolint:errorlint // call returns it unwrapped
		return e
	}
	return api.Errorf(api.CodeUnknown, "%w", err)
}
