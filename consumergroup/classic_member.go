package consumergroup

import (
	"bytes"
	"slices"
	"strconv"
	"time"
)

func (c *Classic) join(now time.Time, ev ClassicEvent, out *ClassicEffects) {
	j := ev.Join
	if message := c.mismatch(ev); message != "" {
		c.fail(ev.Call, j.ID, CodeInconsistentProtocol, message, out)
		return
	}
	if j.ID == "" {
		c.joinNameless(now, ev, out)
		return
	}
	if _, waiting := c.pending[j.ID]; waiting && j.InstanceID == "" {
		delete(c.pending, j.ID)
		c.joinNew(now, ev, j.ID, out)
		return
	}
	m, code, message := c.find(j.ID, j.InstanceID)
	switch {
	case m == nil:
		c.fail(ev.Call, j.ID, code, message, out)
	case c.state == ClassicPreparing:
		c.rejoin(now, m, ev, out)
	case c.state == ClassicCompleting && sameProtocols(m.Protocols, j.Protocols):
		// The answer to its first join was lost.
		c.touch(now, m)
		out.List = append(out.List, c.joined(m, ev.Call))
	case c.state == ClassicStable && m.ID != c.leader && sameProtocols(m.Protocols, j.Protocols):
		c.touch(now, m)
		out.List = append(out.List, c.joined(m, ev.Call))
	default:
		c.rejoin(now, m, ev, out)
		c.prepare(now, out)
	}
}

// mismatch says why a join does not fit the group; empty: it does.
func (c *Classic) mismatch(ev ClassicEvent) string {
	j := ev.Join
	switch {
	case ev.ProtocolType == "" || len(j.Protocols) == 0:
		return "a join names a protocol type and at least one protocol"
	case len(c.members) == 0:
		return ""
	case ev.ProtocolType != c.protocolType:
		return "the group is of protocol type " + strconv.Quote(c.protocolType) + ", not " + strconv.Quote(ev.ProtocolType)
	}
	for _, p := range j.Protocols {
		common := true
		for _, m := range c.members {
			replaced := m.ID == j.ID || m.InstanceID != "" && m.InstanceID == j.InstanceID
			common = common && (replaced || supports(m.Protocols, p.Name))
		}
		if common {
			return ""
		}
	}
	return "no protocol of the member is known to all others"
}

// joinNameless admits a member that has no id yet.
func (c *Classic) joinNameless(now time.Time, ev ClassicEvent, out *ClassicEffects) {
	j := ev.Join
	if old, taken := c.instance[j.InstanceID]; taken && j.InstanceID != "" {
		c.replace(now, c.members[old], ev, out)
		return
	}
	if j.InstanceID == "" && ev.RequireKnownID {
		c.pending[ev.NewID] = now.Add(j.SessionTimeout)
		c.due(c.pending[ev.NewID])
		c.fail(ev.Call, ev.NewID, CodeMemberIDRequired, "join again with this member id", out)
		return
	}
	c.joinNew(now, ev, ev.NewID, out)
}

func (c *Classic) joinNew(now time.Time, ev ClassicEvent, id string, out *ClassicEffects) {
	if len(c.members) == 0 {
		c.protocolType = ev.ProtocolType
	}
	details := *ev.Join
	details.ID, details.Assignment = id, nil
	m := c.add(now, details)
	m.join = ev.Call
	if c.state == ClassicPreparing {
		c.tryComplete(now, out)
		return
	}
	c.prepare(now, out)
}

// rejoin parks the join of a known member.
func (c *Classic) rejoin(now time.Time, m *classicMember, ev ClassicEvent, out *ClassicEffects) {
	c.answerWaiting(m, CodeRebalanceInProgress, "a newer request of the member waits", out)
	c.take(m, ev.Join)
	m.join = ev.Call
	c.touch(now, m)
	c.tryComplete(now, out)
}

// take updates what a member said of itself.
func (c *Classic) take(m *classicMember, j *ClassicMember) {
	id, instance, assignment := m.ID, m.InstanceID, m.Assignment
	m.ClassicMember = *j
	m.ID, m.InstanceID, m.Assignment = id, instance, assignment
}

// replace lets the new process of a static member take the place of the old.
func (c *Classic) replace(now time.Time, old *classicMember, ev ClassicEvent, out *ClassicEffects) {
	j := ev.Join
	before := old.metadata(c.protocol)
	led := c.leader == old.ID
	c.forget(old, CodeFencedInstance, "another member with instance id "+strconv.Quote(j.InstanceID)+" took over", out)
	details := *j
	details.ID, details.Assignment = ev.NewID, old.Assignment
	m := c.add(now, details)
	if led {
		c.leader = m.ID
	}
	same := supports(m.Protocols, c.protocol) && bytes.Equal(before, m.metadata(c.protocol)) && c.elect() == c.protocol
	switch {
	case c.state == ClassicStable && same:
		// The record goes first: a coordinator that takes over must know the new id.
		out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})
		e := c.joined(m, ev.Call)
		e.SkipAssignment = led
		out.List = append(out.List, e)
	case c.state == ClassicPreparing:
		m.join = ev.Call
		c.tryComplete(now, out)
	default:
		m.join = ev.Call
		c.prepare(now, out)
	}
}

func sameProtocols(a, b []ClassicProtocol) bool {
	return slices.EqualFunc(a, b, func(x, y ClassicProtocol) bool {
		return x.Name == y.Name && bytes.Equal(x.Metadata, y.Metadata)
	})
}

func (c *Classic) sync(now time.Time, ev ClassicEvent, out *ClassicEffects) {
	m, code, message := c.find(ev.MemberID, ev.InstanceID)
	switch {
	case m == nil:
	case !c.speaks(m, ev.Generation):
		code, message = CodeIllegalGeneration, c.notGeneration(ev.Generation)
	case ev.ProtocolType != "" && ev.ProtocolType != c.protocolType || ev.Protocol != "" && ev.Protocol != c.protocol:
		code = CodeInconsistentProtocol
		message = "the group's protocol is " + strconv.Quote(c.protocol) + " of type " + strconv.Quote(c.protocolType)
	case c.state == ClassicPreparing:
		code, message = CodeRebalanceInProgress, "the group rebalances: join again"
	}
	if code != CodeNone {
		c.fail(ev.Call, ev.MemberID, code, message, out)
		return
	}
	c.touch(now, m)
	if c.state == ClassicStable {
		out.List = append(out.List, c.synced(m, ev.Call))
		return
	}
	if m.sync != 0 {
		c.fail(m.sync, m.ID, CodeRebalanceInProgress, "a newer request of the member waits", out)
	}
	m.sync = ev.Call
	if m.ID == c.leader {
		c.stabilize(now, ev.Assignments, out)
	}
}

// stabilize takes the leader's assignment and answers all syncs.
func (c *Classic) stabilize(now time.Time, assignments map[string][]byte, out *ClassicEffects) {
	c.enter(now, ClassicStable)
	c.deadline = time.Time{}
	for _, id := range c.order {
		c.members[id].Assignment = assignments[id]
	}
	out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})
	for _, id := range c.order {
		if m := c.members[id]; m.sync != 0 {
			out.List = append(out.List, c.synced(m, m.sync))
			m.sync = 0
			c.touch(now, m)
		}
	}
}

func (c *Classic) synced(m *classicMember, call uint64) ClassicEffect {
	return ClassicEffect{
		Kind: ClassicReply, Call: call, MemberID: m.ID, Generation: c.generation, ProtocolType: c.protocolType, Protocol: c.protocol, Leader: c.leader,
		Assignment: m.Assignment,
	}
}

func (c *Classic) heartbeat(now time.Time, ev ClassicEvent, out *ClassicEffects) {
	m, code, message := c.find(ev.MemberID, ev.InstanceID)
	if m != nil {
		if c.speaks(m, ev.Generation) {
			c.touch(now, m)
		}
		switch {
		case !c.speaks(m, ev.Generation):
			code, message = CodeIllegalGeneration, c.notGeneration(ev.Generation)
		case c.state == ClassicPreparing:
			code, message = CodeRebalanceInProgress, "the group rebalances: join again"
		}
	}
	out.List = append(out.List, ClassicEffect{
		Kind: ClassicReply, Call: ev.Call, MemberID: ev.MemberID, Generation: c.generation, Code: code, Message: message,
	})
}

func (c *Classic) leave(now time.Time, ev ClassicEvent, out *ClassicEffects) {
	id := ev.MemberID
	if _, waiting := c.pending[id]; waiting && ev.InstanceID == "" {
		delete(c.pending, id)
		out.List = append(out.List, ClassicEffect{Kind: ClassicReply, Call: ev.Call, MemberID: id})
		return
	}
	if id == "" && ev.InstanceID != "" { // an administrator's
		id = c.instance[ev.InstanceID]
	}
	m, code, message := c.find(id, ev.InstanceID)
	if m == nil {
		c.fail(ev.Call, ev.MemberID, code, message, out)
		return
	}
	c.forget(m, CodeUnknownMember, "the member left", out)
	out.List = append(out.List, ClassicEffect{Kind: ClassicReply, Call: ev.Call, MemberID: id})
	c.changed(now, out)
}

// Touch renews the session of a member that committed, as Kafka does.
func (c *Classic) Touch(now time.Time, memberID string) {
	if m := c.members[memberID]; m != nil {
		c.touch(now, m)
	}
}

// changed goes on after a member is gone.
func (c *Classic) changed(now time.Time, out *ClassicEffects) {
	if c.state == ClassicPreparing {
		c.tryComplete(now, out)
		return
	}
	c.prepare(now, out)
}
