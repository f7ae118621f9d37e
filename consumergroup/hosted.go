package consumergroup

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

// Members of the classic protocol in a group that the coordinator assigns.
//
// Such a member is a consumer whose embedded protocol the shell can read. It asks
// and is never told: JoinGroup says what it owns, like a heartbeat that lists it,
// SyncGroup fetches what it is to own, and a Heartbeat is answered
// CodeRebalanceInProgress when it is to join again: because it has something to
// give up, or because something of its target became free. One whose partitions
// stay as they are is not disturbed; its generation, which is its member epoch,
// stays behind the group's then.
//
// After the answer to its join the sync is due within the rebalance timeout; so is
// a join, from when it is wanted. Nobody leads among them: a join is answered as to a follower.

// consumerProtocolType is the protocol type of consumers.
const consumerProtocolType = "consumer"

// generationVersion is the version of consumers' metadata from which on they say
// in which generation they own what they list (KIP-792).
const generationVersion = 2

// Subscription is what a consumer says of itself inside the bytes of a classic
// protocol.
type Subscription struct {
	Version    int16
	Topics     []string
	Owned      []TopicPartition
	Generation int32 // in which it owns them; 0 or less: it does not say
	Rack       string
}

func (m *member) isHosted() bool { return len(m.Classic) > 0 }

// failClassic refuses a request of the classic protocol.
func failClassic(call uint64, memberID string, code Code, message string, out *Effects) {
	replyClassic(&ClassicEffect{Call: call, MemberID: memberID, Generation: -1, Code: code, Message: message}, out)
}

func replyClassic(e *ClassicEffect, out *Effects) {
	e.Kind = ClassicReply
	out.List = append(out.List, Effect{Kind: EffectReply, MemberID: e.MemberID, Reply: e})
}

// classic serves one request.
func (g *Group) classic(now time.Time, ev Event, out *Effects) {
	switch c := ev.Classic; c.Kind {
	case ClassicJoin:
		g.classicJoin(now, ev, out)
	case ClassicSync:
		g.classicSync(now, c, out)
	case ClassicHeartbeat:
		g.classicHeartbeat(now, c, out)
	case ClassicLeave:
		g.classicLeave(c, out)
	case ClassicTimer:
	}
}

// findClassic returns the classic member that a request names, or why there is none.
func (g *Group) findClassic(memberID, instanceID string) (*member, Code, string) {
	if code, message := g.CheckInstance(memberID, instanceID); code != CodeNone {
		return nil, code, message
	}
	m := g.members[memberID]
	if m == nil || !m.isHosted() {
		return nil, CodeUnknownMember, "member " + strconv.Quote(memberID) + " is not in the group, or does not speak the classic protocol"
	}
	return m, CodeNone, ""
}

func (g *Group) classicJoin(now time.Time, ev Event, out *Effects) {
	c := ev.Classic
	j := c.Join
	if message := g.mismatch(ev); message != "" {
		failClassic(c.Call, j.ID, CodeInconsistentProtocol, message, out)
		return
	}
	switch _, given := g.pending[j.ID]; {
	case j.ID == "" && j.InstanceID == "" && c.RequireKnownID:
		g.expectJoin(c.NewID, now.Add(j.SessionTimeout))
		failClassic(c.Call, c.NewID, CodeMemberIDRequired, "join again with this member id", out)
	case j.ID == "":
		g.classicJoinNew(now, ev, c.NewID, out)
	case given && j.InstanceID == "":
		delete(g.pending, j.ID)
		g.classicJoinNew(now, ev, j.ID, out)
	default:
		m, code, message := g.findClassic(j.ID, j.InstanceID)
		if m == nil {
			failClassic(c.Call, j.ID, code, message, out)
			return
		}
		g.classicRejoin(now, m, ev, out)
	}
}

// expectJoin remembers an id that was given to a member.
func (g *Group) expectJoin(id string, until time.Time) {
	if g.pending == nil {
		g.pending = map[string]time.Time{}
	}
	g.pending[id] = until
	g.due(until)
}

// mismatch says why a join does not fit the group; empty: it does. The classic
// members must have a protocol in common, for the day when they are alone again.
func (g *Group) mismatch(ev Event) string {
	j := ev.Classic.Join
	switch {
	case ev.Classic.ProtocolType != consumerProtocolType:
		return "the coordinator assigns in the group, to consumers only, not to members of protocol type " + strconv.Quote(ev.Classic.ProtocolType)
	case len(j.Protocols) == 0 || ev.Subscription == nil:
		return "the coordinator assigns in the group, and cannot read what the member subscribes to"
	}
	for _, p := range j.Protocols {
		common := true
		for _, m := range g.members {
			replaced := m.ID == j.ID || m.InstanceID != "" && m.InstanceID == j.InstanceID
			common = common && (replaced || !m.isHosted() || supports(m.Classic, p.Name))
		}
		if common {
			return ""
		}
	}
	return "no protocol of the member is known to all others of the classic protocol"
}

func supports(protocols []ClassicProtocol, name string) bool {
	return slices.ContainsFunc(protocols, func(p ClassicProtocol) bool { return p.Name == name })
}

// hostedMember is a classic member in the group's terms.
func hostedMember(id string, j *ClassicMember, says *Subscription) Member {
	m := Member{
		ID: id, InstanceID: j.InstanceID, ClientID: j.ClientID, Host: j.Host, Rack: says.Rack,
		Topics: slices.Clone(says.Topics), SessionTimeout: j.SessionTimeout, RebalanceTimeout: j.RebalanceTimeout, Classic: j.Protocols,
	}
	slices.Sort(m.Topics)
	m.Topics = slices.Compact(m.Topics)
	return m
}

// classicJoinNew adds a member. One with the instance id of another, of either
// protocol, takes its place.
func (g *Group) classicJoinNew(now time.Time, ev Event, id string, out *Effects) {
	details := hostedMember(id, ev.Classic.Join, ev.Subscription)
	m := g.succeed(now, details, out)
	g.setMetadata(ev.Metadata, out)
	g.bump(out)
	out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})
	g.saveCurrent(m, out)
	g.park(m, ev)
}

// park lets the join of m wait for the Step's end, or for the target.
func (g *Group) park(m *member, ev Event) {
	m.says, m.join, m.syncing = *ev.Subscription, ev.Classic.Call, false
	m.acked, m.ackBy = true, time.Time{}
	g.queue(m)
}

// classicRejoin takes a join for what it says: which partitions the member still has.
func (g *Group) classicRejoin(now time.Time, m *member, ev Event, out *Effects) {
	g.touch(now, m)
	if m.stale(ev.Subscription) {
		// It was on its way while the member synced by another: what it lists is
		// what the member had before.
		m.doubt = true
		replyClassic(m.joined(ev.Classic.Call), out)
		return
	}
	// A member that says of which generation it speaks, and speaks of none, lost
	// what it had: what a former process of it may still do is of the past.
	afresh := !m.syncing && m.join == 0 && ev.Subscription.Version >= generationVersion && ev.Subscription.Generation <= 0
	if m.join != 0 {
		failClassic(m.join, m.ID, CodeRebalanceInProgress, "a newer request of the member waits", out)
	}
	before := len(m.owned)
	if afresh {
		g.releaseAll(m)
	} else {
		g.keepOnly(m, ev.Subscription.Owned)
	}
	m.strays = g.strays(m, ev.Subscription.Owned)
	maps.DeleteFunc(m.told, func(p TopicPartition, _ struct{}) bool {
		_, has := m.owned[p]
		return !has
	})
	if len(m.owned) < before {
		g.saveCurrent(m, out)
	}
	g.back(m, out)
	details := hostedMember(m.ID, ev.Classic.Join, ev.Subscription)
	bump := afresh || !slices.Equal(m.Topics, details.Topics) || m.Rack != details.Rack
	changed := !sameWish(&m.Member, &details)
	m.Member = details
	g.setMetadata(ev.Metadata, out)
	if bump {
		g.bump(out)
	}
	if changed {
		out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})
	}
	g.park(m, ev)
}

// strays are the partitions that m lists and does not have. It stays in its epoch, and is told
// nothing new, until it joins without: what it reads there may be of a topic that was deleted, of
// which a coordinator that came since knows nothing. A consumer that is told what it lists would
// go on with that, and its commits that are on their way would be of the epoch it has.
func (g *Group) strays(m *member, listed []TopicPartition) map[TopicPartition]struct{} {
	strays := setOf(listed)
	maps.DeleteFunc(strays, func(p TopicPartition, _ struct{}) bool { return g.holder[p] == m })
	return strays
}

// stale reports whether a join is older than the last sync that the member was
// answered. Consumers of before KIP-792 do not say of which generation they speak,
// and a client may say it wrong: twice in a row it is believed.
func (m *member) stale(says *Subscription) bool {
	return !m.syncing && m.join == 0 && !m.doubt && says.Generation > 0 && says.Generation < m.epoch
}

// touch starts the session of m anew.
func (g *Group) touch(now time.Time, m *member) {
	m.expires = now.Add(m.SessionTimeout)
	g.due(m.expires)
}

// reconcileHosted answers the join that waits, or notes that one is due.
func (g *Group) reconcileHosted(now time.Time, m *member, out *Effects) {
	if m.join == 0 {
		if m.acked && g.rejoins(m) {
			g.expectAck(now, m)
		}
		return
	}
	g.advance(m, out)
	replyClassic(m.joined(m.join), out)
	m.join, m.syncing = 0, true
	g.touch(now, m)
	g.expectAck(now, m)
}

// joined is the answer to a join.
func (m *member) joined(call uint64) *ClassicEffect {
	return &ClassicEffect{
		Call: call, MemberID: m.ID, Generation: m.epoch, ProtocolType: consumerProtocolType, Protocol: m.Classic[0].Name,
	}
}

// rejoins reports whether m is to join again.
func (g *Group) rejoins(m *member) bool {
	for p := range m.owned {
		if _, keeps := m.target[p]; !keeps {
			return true
		}
		if _, told := m.told[p]; !told || g.gone(p) {
			return true
		}
	}
	for p := range m.target {
		if _, has := m.owned[p]; !has && g.holder[p] == nil {
			return true
		}
	}
	return false
}

func (g *Group) classicSync(now time.Time, c *ClassicEvent, out *Effects) {
	m, code, message := g.findClassic(c.MemberID, c.InstanceID)
	switch {
	case m == nil:
	case c.Generation != m.epoch:
		code, message = CodeIllegalGeneration, m.notGeneration(c.Generation)
	case c.ProtocolType != "" && c.ProtocolType != consumerProtocolType || c.Protocol != "" && !supports(m.Classic, c.Protocol):
		code = CodeInconsistentProtocol
		message = "the member's protocol is " + strconv.Quote(m.Classic[0].Name) + " of type " + strconv.Quote(consumerProtocolType)
	case m.join != 0:
		code, message = CodeRebalanceInProgress, "the group rebalances: join again"
	}
	if code != CodeNone {
		failClassic(c.Call, c.MemberID, code, message, out)
		return
	}
	g.touch(now, m)
	if m.syncing {
		m.syncing, m.doubt = false, false
		m.acked, m.ackBy = true, time.Time{}
		g.queue(m) // what it lists last may have changed meanwhile
	}
	replyClassic(&ClassicEffect{
		Call: c.Call, MemberID: m.ID, Generation: m.epoch, ProtocolType: consumerProtocolType, Protocol: m.Classic[0].Name,
		Assigned: sorted(m.told), Version: m.says.Version,
	}, out)
}

func (m *member) notGeneration(generation int32) string {
	return "the member's generation is " + strconv.Itoa(int(m.epoch)) + ", not " + strconv.Itoa(int(generation))
}

func (g *Group) classicHeartbeat(now time.Time, c *ClassicEvent, out *Effects) {
	m, code, message := g.findClassic(c.MemberID, c.InstanceID)
	switch {
	case m == nil:
	case c.Generation != m.epoch:
		code, message = CodeIllegalGeneration, m.notGeneration(c.Generation)
	default:
		g.touch(now, m)
		if m.join != 0 || !m.syncing && !g.assigning() && g.rejoins(m) {
			code, message = CodeRebalanceInProgress, "the group rebalances: join again"
		}
	}
	replyClassic(&ClassicEffect{Call: c.Call, MemberID: c.MemberID, Generation: -1, Code: code, Message: message}, out)
}

func (g *Group) classicLeave(c *ClassicEvent, out *Effects) {
	id := c.MemberID
	if _, given := g.pending[id]; given && c.InstanceID == "" {
		delete(g.pending, id)
		replyClassic(&ClassicEffect{Call: c.Call, MemberID: id}, out)
		return
	}
	if id == "" && c.InstanceID != "" { // an administrator's
		id = g.instance[c.InstanceID]
		if m := g.members[id]; m != nil && !m.isHosted() {
			g.drop(m, CodeUnknownMember, "an administrator removed the member", out)
			g.remove(m, out)
			replyClassic(&ClassicEffect{Call: c.Call, MemberID: id}, out)
			return
		}
	}
	m, code, message := g.findClassic(id, c.InstanceID)
	if m == nil {
		failClassic(c.Call, c.MemberID, code, message, out)
		return
	}
	g.drop(m, CodeUnknownMember, "the member left", out)
	g.remove(m, out)
	replyClassic(&ClassicEffect{Call: c.Call, MemberID: id}, out)
}

// TouchClassic renews the session of a classic member: its commits do, as in Kafka.
func (g *Group) TouchClassic(now time.Time, memberID string) {
	if m := g.members[memberID]; m != nil && m.isHosted() {
		g.touch(now, m)
	}
}
