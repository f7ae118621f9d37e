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
	classicWritten bool // it has a record
	queued         bool // is in shard.assigning

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
func (s *shard) restore(now time.Time, id string, lg *loadedGroup) {
	members := make([]consumergroup.Member, 0, len(lg.members))
	for _, memberID := range slices.Sorted(maps.Keys(lg.members)) {
		m := lg.members[memberID]
		if m.SessionTimeout <= 0 {
			m.SessionTimeout = s.cfg.SessionTimeout
		}
		if m.RebalanceTimeout <= 0 {
			m.RebalanceTimeout = s.cfg.RebalanceTimeout
		}
		members = append(members, m)
	}
	g := newGroup(consumergroup.Restore(now, id, lg.epoch, members, s.cfg.LoadGrace))
	s.adopt(g, lg.offsets)
	g.emptySince = lg.changed
	s.groups[id] = g
	if lg.classic != nil && len(members) == 0 {
		g.classicWritten = true
		g.classic = consumergroup.RestoreClassic(now, id, s.fillClassic(lg.classic), s.cfg.InitialRebalanceDelay)
		s.stepClassic(now, g, consumergroup.ClassicEvent{Kind: consumergroup.ClassicTimer})
		return
	}
	if len(members) > 0 {
		s.step(now, g, consumergroup.Event{Kind: consumergroup.EventMetadata, Metadata: s.metadata(g, nil)})
	}
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
// makes one, and turns one of the classic protocol that has no members.
func (s *shard) groupFor(join *api.JoinGroup, m *consumergroup.Member) (*group, error) {
	g := s.groups[join.Group]
	if g == nil {
		g = newGroup(consumergroup.New(join.Group))
		s.groups[join.Group] = g
	}
	if g.classic != nil {
		if g.classic.Len() > 0 {
			return nil, api.Errorf(api.CodeInconsistentProtocol, "group %q has members of the classic protocol", join.Group)
		}
		s.dropClassic(time.Now(), g)
	}
	if n := g.machine.Len(); n >= s.cfg.MaxMembers && !g.machine.Has(m.ID) {
		return nil, api.Errorf(api.CodeGroupFull, "group %q has %d members, the most allowed", join.Group, n)
	}
	return g, nil
}

// step gives a group one event and carries out the effects.
func (s *shard) step(now time.Time, g *group, ev consumergroup.Event) {
	g.effects.Reset()
	g.machine.Step(now, ev, &g.effects)
	for i := range g.effects.List {
		s.carryOut(g, g.effects.List[i])
	}
	if g.effects.Assign && !g.queued {
		g.queued = true
		s.assigning = append(s.assigning, g)
	}
	g.notePresence(now)
	if s.groups != nil {
		s.deadlines.set(g, g.effects.Deadline)
	}
}

func (s *shard) carryOut(g *group, e consumergroup.Effect) {
	switch e.Kind {
	case consumergroup.EffectPersistGroup:
		s.persist(groupKey(g.id), groupValue(e.Epoch))
	case consumergroup.EffectPersistMember:
		s.persist(memberKey(g.id, e.MemberID), memberValue(e.Member))
	case consumergroup.EffectForgetMember:
		s.persist(memberKey(g.id, e.MemberID), nil)
	case consumergroup.EffectUpdate:
		s.emit(func(err error) {
			if err != nil {
				return
			}
			if ses := s.sessions[e.Stream]; ses != nil {
				ses.push(e)
			} else if p := s.polled[e.Stream]; p != nil {
				p.fresh = p.fresh || p.latest.Epoch == 0 || !slices.Equal(p.latest.Assigned, e.Assigned)
				p.latest = e
			}
		})
	case consumergroup.EffectDrop:
		s.emit(func(err error) {
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
		s.step(time.Now(), g, consumergroup.Event{Kind: consumergroup.EventAssign})
	}
}

// fire gives the groups whose deadline has come their timer event.
func (s *shard) fire(now time.Time) {
	for g := s.deadlines.due(now); g != nil; g = s.deadlines.due(now) {
		if g.classic != nil {
			s.stepClassic(now, g, consumergroup.ClassicEvent{Kind: consumergroup.ClassicTimer})
		} else {
			s.step(now, g, consumergroup.Event{Kind: consumergroup.EventTimer})
		}
	}
}

func (s *shard) topicsChanged() {
	clear(s.matches)
	now := time.Now()
	s.dropOffsetsOfOtherTopics(now)
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		if g := s.groups[id]; g != nil && g.machine.Len() > 0 {
			s.step(now, g, consumergroup.Event{Kind: consumergroup.EventMetadata, Metadata: s.metadata(g, nil)})
		}
	}
}
