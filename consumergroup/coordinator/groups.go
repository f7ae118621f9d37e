package coordinator

import (
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// group is a group as its shard's actor has it.
type group struct {
	id      string
	machine *consumergroup.Group
	effects consumergroup.Effects
	// offsets holds what is committed.
	offsets map[api.TopicPartition]committed
	// onTheWay counts the commits of a partition whose records are not committed yet.
	onTheWay map[api.TopicPartition]int
	// emptySince is when the last member went; zero: it has some, or never had.
	emptySince time.Time

	// classic is not nil while the group is of the classic protocol; machine is
	// then one without members.
	classic        *consumergroup.Classic
	classicEffects consumergroup.ClassicEffects
	classicWritten bool                // it has a record
	queued         bool                // is in shard.assigning
	patterns       map[string][]string // what was written of the patterns that members subscribe to

	// written is what the log has of the group beside its offsets: values by key.
	written map[string][]byte
	// refusal is why the log did not take what the group last decided. The group stands as
	// the log has it, and decides nothing, until its deadline. nil: all is well.
	refusal *api.Error
	backoff time.Duration // how long the last such pause was; 0: its records are taken

	deadline time.Time
	place    int // in shard.deadlines; 0: not in it
}

func newGroup(machine *consumergroup.Group) *group {
	return &group{
		id: machine.ID(), machine: machine,
		offsets: map[api.TopicPartition]committed{}, onTheWay: map[api.TopicPartition]int{},
	}
}

// restore makes a group of what the log has.
func (s *shard) restore(now time.Time, id string, lg *loadedGroup, names topicNames) {
	g := newGroup(consumergroup.New(id))
	s.adopt(g, lg.offsets)
	g.emptySince, g.written = lg.changed, lg.written
	s.groups[id] = g
	s.rebuild(now, g, lg, names)
	s.settle(now, g, lg)
}

// rebuild puts the state machine where the log has it. It decides nothing.
func (s *shard) rebuild(now time.Time, g *group, lg *loadedGroup, names topicNames) {
	g.patterns, g.classicWritten = lg.patterns, lg.classic != nil
	if lg.classic != nil && (len(lg.classic.Members) > 0 || len(lg.members) == 0) {
		g.machine = consumergroup.New(g.id)
		g.classic = consumergroup.RestoreClassic(now, g.id, s.fillClassic(lg.classic), s.cfg.InitialRebalanceDelay)
		return
	}
	g.classic = nil
	g.machine = consumergroup.Restore(now, g.id, s.stored(lg, names), s.cfg.LoadGrace)
}

// settle has a group that was rebuilt decide what follows from where it stands. What a
// classic one has left of the other protocol, which it came from or was on its way to, goes.
func (s *shard) settle(now time.Time, g *group, lg *loadedGroup) {
	if g.classic == nil {
		if len(lg.members) > 0 {
			s.step(now, g, consumergroup.Event{Kind: consumergroup.EventMetadata, Metadata: s.metadata(g, nil)})
		}
		return
	}
	for _, memberID := range slices.Sorted(maps.Keys(lg.members)) {
		s.forgetMember(g, memberID)
	}
	if lg.epoch > 0 {
		g.machine = consumergroup.Restore(now, g.id, &consumergroup.Stored{Epoch: lg.epoch}, 0)
		s.dropMachine(g)
	}
	s.stepClassic(now, g, consumergroup.ClassicEvent{Kind: consumergroup.ClassicTimer})
}

// stored is a group of the consumer protocol as its machine takes it.
func (s *shard) stored(lg *loadedGroup, names topicNames) *consumergroup.Stored {
	stored := &consumergroup.Stored{Epoch: lg.epoch, Hash: lg.hash, TargetEpoch: lg.target, TargetIDs: map[string]consumergroup.TopicID{}}
	for _, memberID := range slices.Sorted(maps.Keys(lg.members)) {
		m := consumergroup.StoredMember{Member: lg.members[memberID]}
		if m.SessionTimeout <= 0 {
			m.SessionTimeout = s.cfg.SessionTimeout
		}
		if m.RebalanceTimeout <= 0 {
			m.RebalanceTimeout = s.cfg.RebalanceTimeout
		}
		if lg.hash != 0 { // else: a build that knew no current assignments wrote last
			m.Current, m.Target = names.current(lg.currents[memberID]), names.target(lg.targets[memberID], stored.TargetIDs)
		}
		if len(m.Classic) > 0 {
			m.Subscription, _ = readSubscription(m.Classic[0].Metadata)
		}
		if m.Current != nil { // behind it only where records were given up
			stored.Epoch = max(stored.Epoch, m.Current.Epoch)
		}
		stored.Members = append(stored.Members, m)
	}
	return stored
}

// fillClassic gives restored members the timeouts that an old record may lack.
func (s *shard) fillClassic(stored *consumergroup.StoredClassic) *consumergroup.StoredClassic {
	for i := range stored.Members {
		m := &stored.Members[i]
		if m.SessionTimeout <= 0 {
			m.SessionTimeout = s.cfg.SessionTimeout
		}
		if m.RebalanceTimeout <= 0 {
			m.RebalanceTimeout = m.SessionTimeout
		}
	}
	return stored
}

// groupFor returns the group that a join of the consumer protocol is for: it
// makes one, and turns one of the classic protocol.
func (s *shard) groupFor(join *api.JoinGroup, m *consumergroup.Member) (*group, error) {
	g := s.groups[join.Group]
	if g == nil {
		g = newGroup(consumergroup.New(join.Group))
		s.groups[join.Group] = g
	}
	if g.refusal != nil {
		return nil, g.refusal
	}
	if n := g.members(); n >= s.cfg.MaxMembers && !g.machine.Has(m.ID) {
		return nil, api.Errorf(api.CodeGroupFull, "group %q has %d members, the most allowed", join.Group, n)
	}
	switch {
	case g.classic == nil:
	case g.classic.Len() > 0:
		if err := s.host(time.Now(), g, join); err != nil {
			return nil, err
		}
	default:
		s.dropClassic(time.Now(), g)
	}
	return g, nil
}

// step gives a group one event and carries out the effects.
func (s *shard) step(now time.Time, g *group, ev consumergroup.Event) {
	g.effects.Reset()
	g.machine.Step(now, ev, &g.effects)
	s.logExpired(g.id, g.effects.Expired)
	gone := false
	for i := range g.effects.List {
		s.carryOut(g, g.effects.List[i])
		gone = gone || g.effects.List[i].Kind == consumergroup.EffectForgetMember
	}
	if g.effects.Assign && !g.queued {
		g.queued = true
		s.assigning = append(s.assigning, g)
	}
	if ev.Metadata != nil || gone {
		s.savePatterns(now, g, ev.Metadata)
	}
	g.notePresence(now)
	switch {
	case s.groups == nil || g.classic != nil:
	case s.cfg.Migration.down() && g.machine.OnlyClassic():
		s.release(now, g)
	default:
		s.deadlines.set(g, g.effects.Deadline)
	}
}

// logExpired tells the operator who was removed against his will.
func (s *shard) logExpired(group string, list []consumergroup.Expired) {
	for _, m := range list {
		s.logger.Info("group member removed", "group", group, "member", m.MemberID, "instance", m.InstanceID,
			"client", m.ClientID, "host", m.Host, "why", m.Why)
	}
}

func (s *shard) carryOut(g *group, e consumergroup.Effect) {
	switch e.Kind {
	case consumergroup.EffectPersistGroup:
		s.persist(g, groupKey(g.id), groupValue(e.Epoch, e.Hash))
	case consumergroup.EffectPersistMember:
		s.persist(g, memberKey(g.id, e.MemberID), memberValue(e.Member))
	case consumergroup.EffectForgetMember:
		s.forgetMember(g, e.MemberID)
	case consumergroup.EffectPersistTarget:
		s.persist(g, targetEpochKey(g.id), targetEpochValue(e.Epoch))
	case consumergroup.EffectPersistTargetOf:
		s.persist(g, targetKey(g.id, e.MemberID), targetValue(e.Assigned, s.topicID))
	case consumergroup.EffectPersistCurrent:
		s.persist(g, currentKey(g.id, e.MemberID), currentValue(e.Current, s.topicID))
	case consumergroup.EffectReply:
		if e.Reply.Assigned != nil {
			e.Reply.Assignment = appendAssignment(e.Reply.Version, e.Reply.Assigned)
		}
		s.answer(g, e.Reply)
	case consumergroup.EffectUpdate:
		s.emitOf(g.id, func(err error) {
			if err != nil {
				return
			}
			if ses := s.sessions[e.Stream]; ses != nil {
				ses.push(e)
			} else if p := s.polled[e.Stream]; p != nil {
				same := slices.Equal(p.latest.Assigned, e.Assigned) && slices.Equal(p.latest.TopicIDs, e.TopicIDs)
				p.fresh = p.fresh || p.latest.Epoch == 0 || !same
				p.latest = e
			}
		})
	case consumergroup.EffectDrop:
		s.emitOf(g.id, func(err error) {
			if err != nil {
				return
			}
			cause := api.Errorf(codeOf(e.Code), "group %q, member %q: %s", g.id, e.MemberID, e.Message)
			if ses := s.sessions[e.Stream]; ses != nil {
				delete(s.sessions, e.Stream)
				ses.finish(cause)
			} else if p := s.polled[e.Stream]; p != nil {
				delete(s.polled, e.Stream)
				p.ended = cause
			}
		})
	}
}

// assign computes the targets that are due.
func (s *shard) assign() {
	due := s.assigning
	s.assigning = nil
	for _, g := range due {
		g.queued = false
		if g.classic != nil || g.refusal != nil {
			continue // it went back to the classic protocol meanwhile, or to what it was
		}
		s.step(time.Now(), g, consumergroup.Event{Kind: consumergroup.EventAssign})
	}
}

// dropAssignment takes back what is due of a group: it is to decide nothing more.
func (s *shard) dropAssignment(id string) {
	s.assigning = slices.DeleteFunc(s.assigning, func(g *group) bool {
		due := g.id == id
		g.queued = g.queued && !due
		return due
	})
}

// fire gives the groups whose deadline has come their timer event.
func (s *shard) fire(now time.Time) {
	for g := s.deadlines.due(now); g != nil; g = s.deadlines.due(now) {
		switch {
		case g.refusal != nil:
			s.goOn(now, g)
		case g.classic != nil:
			s.stepClassic(now, g, consumergroup.ClassicEvent{Kind: consumergroup.ClassicTimer})
		default:
			s.step(now, g, consumergroup.Event{Kind: consumergroup.EventTimer})
		}
	}
}

func (s *shard) topicsChanged() {
	now := time.Now()
	s.dropOffsetsOfOtherTopics(now)
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		if g := s.groups[id]; g != nil && g.machine.Len() > 0 && g.refusal == nil {
			s.step(now, g, consumergroup.Event{Kind: consumergroup.EventMetadata, Metadata: s.metadata(g, nil)})
		}
	}
}
