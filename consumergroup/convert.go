package consumergroup

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"
)

// A group goes from one protocol to the other while its members roll.
//
//	classic    -- a member of the new protocol joins --> Group
//	Group      -- the last of them goes, classic ones stay --> classic
//
// Its number goes on: the generation becomes the group epoch and the other way
// round, and never falls, so that what an earlier one could do stays fenced. Who
// may own what goes along, too much rather than too little: a partition is given
// to nobody before the member that may own it has said that it does not.

// Claims is what the bytes of a classic member say.
type Claims struct {
	Subscription Subscription
	Assigned     []TopicPartition // what the leader of its generation gave it
}

// Host makes a group of a classic one. read returns what a member says and has;
// every member must be a consumer that can be read, and no partition may be
// assigned twice. When one is, or is not, it returns nil and why, and changes
// nothing. Calls that wait are taken over: joins are answered once the target is
// known, syncs are refused, for what a leader assigns does not count any more.
//
// The effects replace what is persisted of c, whose tombstone must come last:
// while the record is there, it counts.
func Host(now time.Time, c *Classic, read func(m *ClassicMember) (Claims, bool), out *Effects) (*Group, string) {
	if c.protocolType != consumerProtocolType {
		return nil, "the members are of protocol type " + strconv.Quote(c.protocolType)
	}
	claims := make(map[string]Claims, len(c.order))
	for _, id := range c.order {
		said, ok := read(&c.members[id].ClassicMember)
		if !ok {
			return nil, "what member " + strconv.Quote(id) + " said or was assigned cannot be read"
		}
		claims[id] = said
	}
	g := New(c.id)
	g.epoch, g.targetEpoch = c.generation, c.generation
	for _, id := range c.order {
		said := claims[id]
		m := g.add(now, hostedMember(id, &c.members[id].ClassicMember, &said.Subscription))
		m.epoch, m.says = cmp.Or(c.members[id].hosted, c.generation), said.Subscription
		for _, p := range said.Assigned {
			if other := g.holder[p]; other != nil {
				return nil, p.String() + " is assigned to " + strconv.Quote(other.ID) + " and to " + strconv.Quote(id)
			}
			g.hold(m, p)
			m.target[p], g.wanted[p] = struct{}{}, m
			m.told[p] = struct{}{}
		}
	}
	g.claim(claims)
	for _, id := range c.order {
		if m := g.members[id]; len(m.told) < len(m.owned) {
			g.expectAck(now, m)
		}
	}
	g.pending = maps.Clone(c.pending)
	for _, t := range g.pending {
		g.due(t)
	}
	g.save(out)
	for _, id := range c.order {
		m, said := c.members[id], claims[id]
		if m.sync != 0 {
			failClassic(m.sync, id, CodeRebalanceInProgress, "the coordinator assigns from now on: join again", out)
		}
		if m.join != 0 {
			details := m.ClassicMember
			g.classicRejoin(now, g.members[id], Event{
				Classic: &ClassicEvent{Kind: ClassicJoin, Call: m.join, Join: &details}, Subscription: &said.Subscription,
			}, out)
		}
	}
	return g, ""
}

// claim lets members hold what they said they own and nobody was assigned: a
// cooperative consumer gives up a partition only after its sync.
func (g *Group) claim(claims map[string]Claims) {
	latest := slices.SortedStableFunc(slices.Values(g.order), func(a, b string) int {
		return cmp.Compare(claims[b].Subscription.Generation, claims[a].Subscription.Generation)
	})
	for _, id := range latest {
		m := g.members[id]
		for _, p := range claims[id].Subscription.Owned {
			if g.holder[p] == nil {
				g.hold(m, p)
			}
		}
	}
}

// save persists everything.
func (g *Group) save(out *Effects) {
	for _, id := range g.order {
		m := g.members[id]
		out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: id, Member: m.details()})
		g.saveTarget(m, out)
		g.saveCurrent(m, out)
	}
	out.List = append(out.List, Effect{Kind: EffectPersistTarget, Epoch: g.targetEpoch})
	g.saveEpoch(out)
}

// OnlyClassic reports whether all members speak the classic protocol, so that
// Release may be called.
func (g *Group) OnlyClassic() bool {
	return g.hosted > 0 && g.hosted == len(g.members) && g.awaited == 0
}

// Release makes a classic group of one that has only classic members, in its
// epoch, and has them join again. assignment writes the partitions that a member
// may own. Joins that wait count. g must not be used any more.
//
// The effects persist the new group. That record must come before the tombstones
// for what is persisted of g: once it is there, it counts.
func (g *Group) Release(now time.Time, initialDelay time.Duration, assignment func(version int16, owned []TopicPartition) []byte, out *ClassicEffects) *Classic {
	c := NewClassic(g.id, g.epoch, initialDelay)
	c.protocolType = consumerProtocolType
	for _, id := range g.order {
		m := g.members[id]
		cm := c.add(now, ClassicMember{
			ID: id, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, SessionTimeout: m.SessionTimeout, RebalanceTimeout: m.RebalanceTimeout,
			Protocols: m.Classic, Assignment: assignment(m.says.Version, m.ownedSorted()),
		})
		cm.expires = m.expires
		c.due(m.expires)
		cm.join, cm.hosted = m.join, m.epoch
	}
	c.protocol = c.elect()
	if g.pending != nil {
		c.pending = g.pending
	}
	for _, t := range c.pending {
		c.due(t)
	}
	c.enter(now, ClassicStable)
	out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})
	c.prepare(now, out)
	out.Deadline = c.next
	return c
}
