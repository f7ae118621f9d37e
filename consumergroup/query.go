package consumergroup

import (
	"maps"
	"slices"
	"strconv"
)

// State is where a group stands.
type State string

// The states; see the package comment.
const (
	StateEmpty       State = "empty"
	StateAssigning   State = "assigning"
	StateReconciling State = "reconciling"
	StateStable      State = "stable"
)

// ID is the group's name.
func (g *Group) ID() string { return g.id }

// Epoch is the group epoch.
func (g *Group) Epoch() int32 { return g.epoch }

// TargetEpoch is the group epoch that the target assignment was computed for: older
// than Epoch while a new one is due.
func (g *Group) TargetEpoch() int32 { return g.targetEpoch }

// Len is the number of members, those that are away included.
func (g *Group) Len() int { return len(g.members) }

// Has reports whether there is a member of that id.
func (g *Group) Has(memberID string) bool { return g.members[memberID] != nil }

// Speaks reports whether there is a member of that id that speaks the new protocol.
func (g *Group) Speaks(memberID string) bool {
	m := g.members[memberID]
	return m != nil && !m.isHosted()
}

// HasInstance reports whether there is a member of that instance id.
func (g *Group) HasInstance(instanceID string) bool {
	_, ok := g.instance[instanceID]
	return ok && instanceID != ""
}

// Awaits reports whether restored members have still to come back, so that
// nobody is given anything.
func (g *Group) Awaits() bool { return g.awaited > 0 }

// Named is what a member lists, by name, where it lists topics by their ids. What it was
// given of a topic that was deleted it has, under the name of then, until it lists it no
// more. What is of no topic of now and was not given to it is left out: it is nobody's.
// Epochs are not looked at; a TopicID of zero is not known.
func (g *Group) Named(memberID string, listed []Given) []TopicPartition {
	names := map[TopicID]string{}
	if m := g.members[memberID]; m != nil {
		for p := range m.owned {
			names[g.topic[p]] = p.Topic
		}
	}
	out := make([]TopicPartition, 0, len(listed))
	for _, l := range listed {
		p, known := l.TopicPartition, l.TopicID != (TopicID{})
		if name, had := names[l.TopicID]; had && known {
			p.Topic = name
		}
		given, holds := g.topic[p]
		if p.Topic == "" || known && holds && given != l.TopicID {
			continue
		}
		out = append(out, p)
	}
	return out
}

// CheckInstance reports whether a member may speak for an instance id: not when there is
// none, or another member took it over. No instance id is anybody's.
func (g *Group) CheckInstance(memberID, instanceID string) (Code, string) {
	id, taken := g.instance[instanceID]
	switch {
	case instanceID == "":
		return CodeNone, ""
	case !taken:
		return CodeUnknownMember, "the group has no member with instance id " + strconv.Quote(instanceID)
	case id != memberID:
		return CodeFencedInstance, "another member with instance id " + strconv.Quote(instanceID) + " took over"
	}
	return CodeNone, ""
}

// Stream is the stream by which a member is attached; 0: none.
func (g *Group) Stream(memberID string) uint64 {
	if m := g.members[memberID]; m != nil {
		return m.stream
	}
	return 0
}

// Assignor is the name of the assignor that made the target; empty before the first.
func (g *Group) Assignor() string { return g.assignor }

// State computes the group's state.
func (g *Group) State() State {
	switch {
	case len(g.members) == 0:
		return StateEmpty
	case g.assigning():
		return StateAssigning
	}
	for _, m := range g.members {
		if !m.settled(g.targetEpoch) {
			return StateReconciling
		}
	}
	for p := range g.topic {
		if g.gone(p) {
			return StateReconciling
		}
	}
	return StateStable
}

func (g *Group) assigning() bool { return g.dirty || g.awaited > 0 }

func (m *member) settled(epoch int32) bool {
	if m.left {
		return true
	}
	if m.epoch != epoch && !m.isHosted() || !m.acked || m.join != 0 || len(m.owned) != len(m.target) {
		return false
	}
	for p := range m.target {
		if _, ok := m.owned[p]; !ok {
			return false
		}
	}
	return true
}

// Subscriptions returns the topics and the patterns that members subscribe to,
// each once, ascending: what the next Metadata must cover.
func (g *Group) Subscriptions() (topics, patterns []string) {
	names, expressions := map[string]struct{}{}, map[string]struct{}{}
	for _, m := range g.members {
		for _, topic := range m.Topics {
			names[topic] = struct{}{}
		}
		if m.Pattern != "" {
			expressions[m.Pattern] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(expressions))
}

// HasRacks reports whether a member said in which rack it is.
func (g *Group) HasRacks() bool {
	for _, m := range g.members {
		if m.Rack != "" {
			return true
		}
	}
	return false
}

// Subscribes reports whether a member subscribes to a topic, by name or pattern.
func (g *Group) Subscribes(topic string) bool {
	for _, m := range g.members {
		if slices.Contains(m.Topics, topic) || slices.Contains(g.metadata.Matches[m.Pattern], topic) {
			return true
		}
	}
	return false
}

// MemberInfo describes a member.
type MemberInfo struct {
	Member
	Epoch  int32
	Owned  []TopicPartition // what it may own by its own view, ascending
	Target []TopicPartition // where it is headed, ascending
	// OwnedIDs and TargetIDs say beside them of which topics these are: of when they were
	// given and chosen, not of now.
	OwnedIDs, TargetIDs []TopicID
}

// Members describes the members, ascending by id.
func (g *Group) Members() []MemberInfo {
	infos := make([]MemberInfo, 0, len(g.order))
	for _, id := range g.order {
		m := g.members[id]
		info := MemberInfo{Member: m.Member, Epoch: m.epoch, Owned: m.ownedSorted(), Target: sorted(m.target)}
		for _, p := range info.Owned {
			info.OwnedIDs = append(info.OwnedIDs, g.topic[p])
		}
		for _, p := range info.Target {
			info.TargetIDs = append(info.TargetIDs, g.targetIDs[p.Topic])
		}
		infos = append(infos, info)
	}
	return infos
}

// CheckMember reports whether a member may commit at all with an epoch. A classic
// member commits with its generation.
func (g *Group) CheckMember(memberID, instanceID string, epoch int32) (Code, string) {
	m := g.members[memberID]
	switch {
	case m == nil || m.left:
		if id, taken := g.instance[instanceID]; taken && instanceID != "" && id != memberID {
			return CodeFencedInstance, "another member with instance id " + strconv.Quote(instanceID) + " took over"
		}
		return CodeUnknownMember, "member " + strconv.Quote(memberID) + " is not in the group"
	case m.away:
		return CodeAway, "member " + strconv.Quote(memberID) + " has not come back to the new coordinator yet"
	case epoch <= m.epoch && epoch >= 0:
		return CodeNone, ""
	case m.isHosted():
		return CodeIllegalGeneration, m.notGeneration(epoch)
	}
	return CodeFencedEpoch, "member epoch " + strconv.Itoa(int(epoch)) + " was not given; the member's is " + strconv.Itoa(int(m.epoch))
}

// CheckFetch reports whether a member may ask with an epoch for the offsets of
// partitions. Its epoch may have risen without its knowing; with an older one it may
// ask, as it may commit, for what is its own and was when that was given.
func (g *Group) CheckFetch(memberID string, epoch int32, of []TopicPartition) (Code, string) {
	m := g.members[memberID]
	switch {
	case m == nil || m.left:
		return CodeUnknownMember, "member " + strconv.Quote(memberID) + " is not in the group"
	case m.away:
		return CodeAway, "member " + strconv.Quote(memberID) + " has not come back to the new coordinator yet"
	case epoch == m.epoch:
		return CodeNone, ""
	case m.isHosted():
		return CodeIllegalGeneration, m.notGeneration(epoch)
	}
	unheard := epoch >= 0 && epoch < m.epoch && len(of) > 0
	for _, p := range of {
		given, owns := m.owned[p]
		unheard = unheard && owns && epoch >= given
	}
	if !unheard {
		return CodeStaleEpoch, "the member's epoch is " + strconv.Itoa(int(m.epoch)) + ", not " + strconv.Itoa(int(epoch))
	}
	return CodeNone, ""
}

// CheckCommit reports whether a member that passed CheckMember may commit an
// offset of p with that epoch: p is its own, and was when the epoch was given. topic
// is which one has the name today, which the group may not have heard of yet: an
// offset of the one before says nothing of it. Zero: not known.
func (g *Group) CheckCommit(memberID string, epoch int32, p TopicPartition, topic TopicID) (Code, string) {
	m := g.members[memberID]
	if m == nil {
		return CodeUnknownMember, "member " + strconv.Quote(memberID) + " is not in the group"
	}
	code := CodeStaleEpoch
	if m.isHosted() {
		code = CodeIllegalGeneration
		if m.join != 0 || m.syncing || g.rejoins(m) {
			code = CodeRebalanceInProgress
		}
	}
	given, owns := m.owned[p]
	had, known := g.topic[p]
	switch {
	case !owns:
		return code, "the partition is not assigned to member " + strconv.Quote(memberID)
	case epoch < given:
		return code, "member epoch " + strconv.Itoa(int(epoch)) + " is older than the assignment of the partition, " + strconv.Itoa(int(given))
	case known && topic != (TopicID{}) && had != topic:
		if m.isHosted() {
			return CodeRebalanceInProgress, "the topic was deleted and created again: join again"
		}
		return CodeGone, "the topic was deleted and created again: what the member has is of the former one"
	}
	return CodeNone, ""
}
