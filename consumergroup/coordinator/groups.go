package coordinator

import (
	"maps"
	"regexp"
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
	// written holds every partition with a record in the log or on its way
	// there: what a deletion must cover.
	written  map[api.TopicPartition]struct{}
	patterns map[string]*regexp.Regexp
	queued   bool // is in shard.assigning

	deadline time.Time
	place    int // in shard.deadlines; 0: not in it
}

func newGroup(machine *consumergroup.Group) *group {
	return &group{
		id: machine.ID(), machine: machine,
		offsets: map[api.TopicPartition]committed{}, written: map[api.TopicPartition]struct{}{},
		patterns: map[string]*regexp.Regexp{},
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
	g.offsets = lg.offsets
	for tp := range lg.offsets {
		g.written[tp] = struct{}{}
	}
	s.groups[id] = g
	if len(members) > 0 {
		s.step(now, g, consumergroup.Event{Kind: consumergroup.EventMetadata, Metadata: s.metadata(g, nil)})
	}
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
	if s.groups != nil {
		s.deadlines.set(g, g.effects.Deadline)
	}
}

func (s *shard) carryOut(g *group, e consumergroup.Effect) {
	switch e.Kind {
	case consumergroup.EffectPersistGroup:
		s.persist(groupKey(g.id), groupValue(e.Epoch), true)
	case consumergroup.EffectPersistMember:
		s.persist(memberKey(g.id, e.MemberID), memberValue(e.Member), true)
	case consumergroup.EffectForgetMember:
		s.persist(memberKey(g.id, e.MemberID), nil, true)
	case consumergroup.EffectUpdate:
		s.emit(func(err error) {
			if ses := s.sessions[e.Stream]; err == nil && ses != nil {
				ses.push(e)
			}
		})
	case consumergroup.EffectDrop:
		s.emit(func(err error) {
			if ses := s.sessions[e.Stream]; err == nil && ses != nil {
				delete(s.sessions, e.Stream)
				ses.finish(api.Errorf(codeOf(e.Code), "group %q, member %q: %s", g.id, e.MemberID, e.Message))
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
		s.step(now, g, consumergroup.Event{Kind: consumergroup.EventTimer})
	}
}

func (s *shard) topicsChanged() {
	now := time.Now()
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		if g := s.groups[id]; g != nil && g.machine.Len() > 0 {
			s.step(now, g, consumergroup.Event{Kind: consumergroup.EventMetadata, Metadata: s.metadata(g, nil)})
		}
	}
}

// metadata resolves what the group, and a member that joins it, subscribe to.
func (s *shard) metadata(g *group, joining *consumergroup.Member) *consumergroup.Metadata {
	topics, patterns := g.machine.Subscriptions()
	if joining != nil {
		topics = append(topics, joining.Topics...)
		if joining.Pattern != "" {
			patterns = append(patterns, joining.Pattern)
		}
	}
	md := &consumergroup.Metadata{Partitions: map[string]int32{}, Matches: map[string][]string{}}
	for _, topic := range topics {
		if n := s.cfg.Topics.Partitions(topic); n > 0 {
			md.Partitions[topic] = n
		}
	}
	slices.Sort(patterns)
	for _, pattern := range slices.Compact(patterns) {
		re := g.compile(pattern)
		if re == nil {
			continue
		}
		for topic, n := range s.cfg.Topics.All() {
			if re.MatchString(topic) {
				md.Partitions[topic] = n
				md.Matches[pattern] = append(md.Matches[pattern], topic)
			}
		}
	}
	return md
}

// compile returns the expression of a pattern, nil for one that does not
// compile: joins are checked, but a log may hold what another version accepted.
func (g *group) compile(pattern string) *regexp.Regexp {
	re, ok := g.patterns[pattern]
	if !ok {
		re, _ = compilePattern(pattern)
		g.patterns[pattern] = re
	}
	return re
}

// compilePattern compiles an RE2 expression that must match a whole topic name.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	return regexp.Compile("^(?:" + pattern + ")$")
}
