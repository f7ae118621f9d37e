package consumergroup

import (
	"maps"
	"time"
)

// Stored is what is persisted of a group.
type Stored struct {
	Epoch       int32
	Hash        int64 // as in EffectPersistGroup
	TargetEpoch int32
	TargetIDs   map[string]TopicID // of the topics that the members' targets name
	Members     []StoredMember
}

// StoredMember is what is persisted of a member.
type StoredMember struct {
	Member
	Subscription Subscription // of a classic member: as read from what it said
	Target       []TopicPartition
	// Current is nil when it is not known what the member owns: a build that did
	// not write it had the group last. The member is away then: it brings along
	// what it owns, and until all have, nobody is given anything.
	Current *Current
}

// Restore makes a group from what was persisted. Deadlines start in full, though
// not below grace: a former coordinator that is cut off may go on for that long.
// Nothing is computed anew unless the epoch was ahead of the target already, or
// the topics are others (the EventMetadata that must follow).
func Restore(now time.Time, id string, stored *Stored, grace time.Duration) *Group {
	g := New(id)
	g.epoch, g.hash = stored.Epoch, stored.Hash
	g.targetEpoch, g.targetIDs = min(stored.TargetEpoch, g.epoch), stored.TargetIDs
	whole := stored.TargetEpoch <= stored.Epoch // else it is another group's, of that name
	for i := range stored.Members {
		s := &stored.Members[i]
		m := g.add(now, s.Member)
		m.says = s.Subscription
		if m.SessionTimeout < grace {
			m.expires = now.Add(grace)
		}
		if s.Current == nil {
			m.away = true
			g.awaited++
			continue
		}
		whole = g.resume(now, m, s) && whole
	}
	if g.awaited > 0 {
		// The claims of those that come back are checked against it.
		g.targetEpoch = g.epoch
	}
	if g.targetEpoch > 0 {
		g.assignor = g.chooseAssignor()
	}
	g.dirty = len(g.members) > 0 && (!whole || g.targetEpoch < g.epoch)
	return g
}

// resume puts m where it was. It returns false when records contradict each
// other, as they may when not all of an assignment came into the log: a
// partition stays with who had it, and the target is to be computed again.
func (g *Group) resume(now time.Time, m *member, s *StoredMember) (whole bool) {
	whole = true
	m.epoch, m.previous = s.Current.Epoch, s.Current.Previous
	for i, list := range [][]Given{s.Current.Assigned, s.Current.Revoking} {
		for _, p := range list {
			if g.holder[p.TopicPartition] != nil {
				whole = false
				continue
			}
			m.owned[p.TopicPartition] = p.Epoch
			g.holder[p.TopicPartition] = m
			g.setTopic(p.TopicPartition, p.TopicID)
			if i == 0 {
				m.told[p.TopicPartition] = struct{}{}
			}
		}
	}
	for _, p := range s.Target {
		if g.wanted[p] != nil {
			whole = false
			continue
		}
		m.target[p] = struct{}{}
		g.wanted[p] = m
	}
	m.saved = true
	if len(m.told) < len(m.owned) {
		g.expectAck(now, m)
	}
	return whole
}

// saveCurrent persists where m stands. What others may be given because of it
// comes after it.
func (g *Group) saveCurrent(m *member, out *Effects) {
	c := &Current{Epoch: m.epoch, Previous: m.previous}
	for _, p := range m.ownedSorted() {
		if g.topic[p] == deletedTopic() {
			continue // records name topics by their ids
		}
		given := Given{p, m.owned[p], g.topic[p]}
		if _, ok := m.told[p]; ok {
			c.Assigned = append(c.Assigned, given)
		} else {
			c.Revoking = append(c.Revoking, given)
		}
	}
	for p := range m.target {
		if _, has := m.owned[p]; !has {
			c.Waiting = true
			break
		}
	}
	out.List = append(out.List, Effect{Kind: EffectPersistCurrent, MemberID: m.ID, Current: c})
}

// saveTarget persists where m is headed.
func (g *Group) saveTarget(m *member, out *Effects) {
	m.saved = true
	out.List = append(out.List, Effect{Kind: EffectPersistTargetOf, MemberID: m.ID, Assigned: sorted(m.target)})
}

// sameSet reports whether two sets of partitions are equal.
func sameSet(a, b map[TopicPartition]struct{}) bool { return maps.Equal(a, b) }
