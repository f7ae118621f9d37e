package consumergroup

import (
	"slices"
	"strconv"
	"time"
)

// join lets a stream speak for a member, new or returning.
func (g *Group) join(now time.Time, ev Event, out *Effects) {
	m := g.members[ev.MemberID]
	switch {
	case ev.Epoch == 0 && len(ev.Owned) > 0:
		refuse(ev, CodeInvalid, "a join with epoch 0 owns nothing, but lists "+ev.Owned[0].String(), out)
	case m == nil && ev.Epoch != 0:
		refuse(ev, CodeUnknownMember, "not a member of the group: join with epoch 0", out)
	case m == nil:
		g.joinNew(now, ev, out)
	case m.InstanceID != ev.Join.InstanceID:
		refuse(ev, CodeInvalid, "the member is known with instance id "+strconv.Quote(m.InstanceID)+", not "+strconv.Quote(ev.Join.InstanceID), out)
	case m.superseded(ev):
		refuse(ev, CodeFencedEpoch, "a newer stream of the member is attached", out)
	case m.isHosted():
		refuse(ev, CodeInvalid, "a member of that id speaks the classic protocol", out)
	case ev.Epoch == 0:
		g.joinAfresh(now, m, ev, out)
	default:
		g.rejoin(now, m, ev, out)
	}
}

// superseded reports whether a join comes from an older stream than m's. A
// process that starts anew counts its streams anew, and may once none is attached.
func (m *member) superseded(ev Event) bool {
	switch {
	case m.away:
		return false
	case m.stream != 0:
		return ev.Attach <= m.attach
	}
	return ev.Epoch != 0 && ev.Attach < m.attach
}

// refuse ends the stream of a join or heartbeat that is not accepted.
func refuse(ev Event, code Code, message string, out *Effects) {
	out.List = append(out.List, Effect{Kind: EffectDrop, MemberID: ev.MemberID, Stream: ev.Stream, Code: code, Message: message})
}

// joinNew adds a member. One with the instance id of another takes its place.
func (g *Group) joinNew(now time.Time, ev Event, out *Effects) {
	g.admit(now, g.succeed(now, *ev.Join, out), ev, out)
}

// succeed adds a member, and lets it inherit where the member with its instance
// id was headed, so that the assignor keeps it in place.
func (g *Group) succeed(now time.Time, details Member, out *Effects) *member {
	id, taken := g.instance[details.InstanceID]
	if !taken || details.InstanceID == "" {
		return g.add(now, details)
	}
	old := g.members[id]
	g.drop(old, CodeFencedInstance, "another member with instance id "+details.InstanceID+" took over", out)
	target := old.target
	old.target = nil
	g.remove(old, out)
	m := g.add(now, details)
	m.target = target
	for p := range target {
		g.wanted[p] = m
	}
	return m
}

// joinAfresh restarts a known member that says it owns nothing.
func (g *Group) joinAfresh(now time.Time, m *member, ev Event, out *Effects) {
	g.drop(m, CodeFencedEpoch, "the member joined anew on another stream", out)
	g.releaseAll(m)
	m.epoch, m.previous = 0, 0
	g.back(m, out)
	m.Member = *ev.Join
	g.admit(now, m, ev, out)
}

// admit attaches a member that owns nothing, raises the epoch and greets it
// with an empty assignment, which needs no acknowledgement.
func (g *Group) admit(now time.Time, m *member, ev Event, out *Effects) {
	g.setMetadata(ev.Metadata, out)
	g.bump(out)
	out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})
	m.left = false
	clear(m.told)
	g.saveCurrent(m, out)
	g.attach(now, m, ev)
	g.update(m, out)
}

// rejoin brings back a member that kept its identity and what it owns. When all is as it
// was there is nothing to write: who only lost its stream comes back also while the log
// takes no records.
func (g *Group) rejoin(now time.Time, m *member, ev Event, out *Effects) {
	if !g.claimsHold(m, ev) {
		out.Expired = append(out.Expired, expired(&m.Member, "it came back claiming what it was not given"))
		g.drop(m, CodeFencedEpoch, "another stream of the member claimed what it was not given", out)
		refuse(ev, CodeFencedEpoch, "the member epoch or a partition claimed was not given to the member: join with epoch 0", out)
		g.remove(m, out)
		return
	}
	g.drop(m, CodeFencedEpoch, "a newer stream of the member is attached", out)
	moved := m.away
	if m.away {
		g.reclaim(m, ev)
	} else {
		moved = g.keepOnly(m, ev.Owned)
	}
	g.back(m, out)
	changed := !sameWish(&m.Member, ev.Join)
	m.Member = *ev.Join
	g.setMetadata(ev.Metadata, out)
	if changed {
		g.bump(out)
		out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})
	}
	m.left = false
	g.attach(now, m, ev)
	if moved || len(m.told) < len(m.owned) {
		clear(m.told)
		for p := range m.owned {
			m.told[p] = struct{}{}
		}
		g.saveCurrent(m, out)
	}
	g.update(m, out)
	g.queue(m)
}

// claimsHold reports whether what a returning member says can be true. While
// members are awaited, targetEpoch is the epoch that was restored: nothing was
// ever given in a later one.
func (g *Group) claimsHold(m *member, ev Event) bool {
	limit := m.epoch
	if m.away {
		limit = g.targetEpoch
	}
	if ev.Epoch < 0 || ev.Epoch > limit {
		return false
	}
	return !slices.ContainsFunc(ev.Owned, func(p TopicPartition) bool {
		if m.away {
			return g.holder[p] != nil
		}
		_, given := m.owned[p]
		return !given
	})
}

// reclaim believes a restored member; until the next target it is to keep all.
func (g *Group) reclaim(m *member, ev Event) {
	m.epoch = ev.Epoch
	for _, p := range ev.Owned {
		g.hold(m, p)
		m.target[p] = struct{}{}
		g.wanted[p] = m
	}
}

// keepOnly releases what m owned and no longer lists, and reports whether that was anything.
func (g *Group) keepOnly(m *member, listed []TopicPartition) (released bool) {
	keep := setOf(listed)
	for _, p := range m.ownedSorted() {
		if _, ok := keep[p]; !ok {
			g.release(m, p)
			released = true
		}
	}
	return released
}

// attach gives m its stream and a full session. What was told on an older
// stream counts no more: the join said what is owned.
func (g *Group) attach(now time.Time, m *member, ev Event) {
	m.stream, m.attach, m.detached = ev.Stream, ev.Attach, false
	m.acked, m.ackBy = true, time.Time{}
	m.expires = now.Add(m.SessionTimeout)
	g.due(m.expires)
}

// heartbeat keeps the session and takes an acknowledgement.
func (g *Group) heartbeat(now time.Time, ev Event, out *Effects) {
	m := g.members[ev.MemberID]
	switch {
	case m == nil:
		refuse(ev, CodeUnknownMember, "not a member of the group: join with epoch 0", out)
		return
	case m.stream != ev.Stream:
		refuse(ev, CodeFencedEpoch, "a newer stream of the member is attached", out)
		return
	case ev.Epoch > m.epoch || ev.Epoch < 0:
		g.evict(m, CodeFencedEpoch, "the member epoch was not given to the member", out)
		return
	}
	m.expires = now.Add(m.SessionTimeout) // never earlier than before: next stays a lower bound
	if ev.HasOwned {
		g.acknowledge(now, m, ev.Owned, out)
	}
}

// acknowledge compares what m says it owns with what it was told.
func (g *Group) acknowledge(now time.Time, m *member, listed []TopicPartition, out *Effects) {
	for _, p := range listed {
		if _, given := m.owned[p]; !given {
			g.evict(m, CodeFencedEpoch, "the member lists "+p.String()+", which it was not given", out)
			return
		}
	}
	has := setOf(listed)
	released := false
	for _, p := range m.ownedSorted() {
		_, still := has[p]
		if _, may := m.told[p]; !may && !still {
			g.release(m, p)
			released = true
		}
	}
	if released {
		g.saveCurrent(m, out)
	}
	complete := len(has) == len(m.told) && len(m.owned) == len(m.told)
	switch {
	case complete:
		m.acked, m.ackBy = true, time.Time{}
		g.queue(m)
	case m.acked:
		// It listed all of told once and does not now: tell it again.
		g.expectAck(now, m)
		g.update(m, out)
	}
}

// expectAck starts the rebalance timeout.
func (g *Group) expectAck(now time.Time, m *member) {
	m.acked, m.ackBy = false, now.Add(m.RebalanceTimeout)
	g.due(m.ackBy)
}

// detach notes that a member lost its stream.
func (g *Group) detach(now time.Time, ev Event) {
	m := g.members[ev.MemberID]
	if m == nil || m.stream != ev.Stream {
		return
	}
	m.stream, m.detached = 0, true
	if until := now.Add(ev.Grace); ev.Grace > 0 && until.Before(m.expires) {
		m.expires = until
		g.due(until)
	}
}

// leave ends a membership; a static member keeps its place, owning nothing,
// for its session timeout.
func (g *Group) leave(now time.Time, ev Event, out *Effects) {
	m := g.members[ev.MemberID]
	if m == nil || m.stream != ev.Stream || m.isHosted() {
		return
	}
	m.stream = 0
	if m.InstanceID == "" || ev.Final {
		g.remove(m, out)
		return
	}
	m.left = true
	g.releaseAll(m)
	clear(m.told)
	g.saveCurrent(m, out)
	m.acked, m.ackBy = true, time.Time{}
	m.expires = now.Add(m.SessionTimeout)
	g.due(m.expires)
}

func (m *member) details() *Member {
	d := m.Member
	return &d
}

func (m *member) ownedSorted() []TopicPartition { return sorted(m.owned) }

// sameWish reports whether nothing that is persisted of a member differs.
func sameWish(a, b *Member) bool {
	return a.ClientID == b.ClientID && a.Host == b.Host && a.Rack == b.Rack && a.Pattern == b.Pattern &&
		a.Assignor == b.Assignor && a.SessionTimeout == b.SessionTimeout && a.RebalanceTimeout == b.RebalanceTimeout &&
		slices.Equal(a.Topics, b.Topics) && sameProtocols(a.Classic, b.Classic)
}

func setOf(ps []TopicPartition) map[TopicPartition]struct{} {
	set := make(map[TopicPartition]struct{}, len(ps))
	for _, p := range ps {
		set[p] = struct{}{}
	}
	return set
}
