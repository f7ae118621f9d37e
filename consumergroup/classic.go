package consumergroup

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// States of a Classic group, in Kafka's words.
const (
	ClassicEmpty      State = "Empty"
	ClassicPreparing  State = "PreparingRebalance"
	ClassicCompleting State = "CompletingRebalance"
	ClassicStable     State = "Stable"
)

// Classic is one group of the classic protocol: members join, one of them, the
// leader, assigns, and all sync. It is pure, like Group: the shell calls
//
//	c.Step(now, event, &effects)
//
// and carries out the effects in order.
//
//	Empty ----join----> PreparingRebalance: joins wait until all members sent one
//	                        |  all joined, or the rebalance timeout passed
//	                        v
//	                    CompletingRebalance: syncs wait for the leader's
//	                        |  the leader's sync is persisted
//	                        v
//	                    Stable: until somebody joins, leaves, changes or expires
//
// A generation is one pass through it. Persisted is what a leader assigned, and
// that a group became empty; joins are not: a coordinator that takes over knows
// the last stable generation, and members of a later one join again. So do all of
// a group that a Group was released into and that nobody has led since.
//
// A static member (group.instance.id) that comes back while the group is stable
// takes its former assignment over without a rebalance; its former member id is
// fenced.
type Classic struct {
	id           string
	initialDelay time.Duration

	state        State
	generation   int32
	protocolType string
	protocol     string // of the generation
	leader       string
	since        time.Time // of state

	members  map[string]*classicMember
	order    []string // ids, ascending
	instance map[string]string
	pending  map[string]time.Time // ids that were given out and have not joined

	notBefore time.Time // a rebalance of a group that was empty waits for others
	deadline  time.Time // of the joins or of the syncs
	next      time.Time // no deadline is earlier; zero: none is set
}

type classicMember struct {
	ClassicMember
	join, sync uint64 // calls that wait; 0: none
	expires    time.Time
	hosted     int32 // its generation in the Group that this one was, until it joins; 0: none
}

// speaks reports whether a generation is what the member knows.
func (c *Classic) speaks(m *classicMember, generation int32) bool {
	return generation == c.generation || m.hosted > 0 && generation == m.hosted
}

// waits reports whether the coordinator owes the member an answer: it sends no
// heartbeats meanwhile.
func (m *classicMember) waits() bool { return m.join != 0 || m.sync != 0 }

func (m *classicMember) metadata(protocol string) []byte {
	for i := range m.Protocols {
		if m.Protocols[i].Name == protocol {
			return m.Protocols[i].Metadata
		}
	}
	return nil
}

// NewClassic makes an empty group in a generation: 0, or the group epoch it had
// under the other protocol. The first rebalance of an empty group waits for
// initialDelay, so that members that start together share it.
func NewClassic(id string, generation int32, initialDelay time.Duration) *Classic {
	return &Classic{
		id: id, initialDelay: initialDelay, state: ClassicEmpty, generation: generation,
		members: map[string]*classicMember{}, instance: map[string]string{}, pending: map[string]time.Time{},
	}
}

// StoredClassic is what is persisted of a Classic group.
type StoredClassic struct {
	Generation   int32
	ProtocolType string
	Protocol     string
	Leader       string
	Since        time.Time // of the state
	Members      []ClassicMember
}

// RestoreClassic makes a group from what was persisted. Sessions start in full.
func RestoreClassic(now time.Time, id string, stored *StoredClassic, initialDelay time.Duration) *Classic {
	c := NewClassic(id, stored.Generation, initialDelay)
	c.protocolType, c.protocol, c.leader, c.since = stored.ProtocolType, stored.Protocol, stored.Leader, stored.Since
	for i := range stored.Members {
		c.add(now, stored.Members[i])
	}
	switch {
	case len(c.members) == 0:
	case c.leader != "":
		c.state = ClassicStable
	default:
		// A Group was released into it, and nobody has led it since: what the members
		// have may be a part only, and none of them would begin a rebalance.
		c.enter(now, ClassicPreparing)
		c.deadline = now.Add(c.patience())
		c.due(c.deadline)
	}
	return c
}

// Stored returns what is to be persisted.
func (c *Classic) Stored() *StoredClassic {
	s := &StoredClassic{Generation: c.generation, ProtocolType: c.protocolType, Protocol: c.protocol, Leader: c.leader, Since: c.since}
	for _, id := range c.order {
		m := c.members[id].ClassicMember
		m.Protocols = []ClassicProtocol{{Name: c.protocol, Metadata: c.members[id].metadata(c.protocol)}}
		s.Members = append(s.Members, m)
	}
	return s
}

// State is where the group stands.
func (c *Classic) State() State { return c.state }

// Generation is the number of the last generation.
func (c *Classic) Generation() int32 { return c.generation }

// ProtocolType is what kind of group it is, "consumer" for consumers; Protocol
// the chosen assignor. Both may be empty.
func (c *Classic) ProtocolType() string { return c.protocolType }

// Protocol is the protocol of the generation; empty: none was chosen.
func (c *Classic) Protocol() string { return c.protocol }

// Len is the number of members.
func (c *Classic) Len() int { return len(c.members) }

// Has reports whether there is a member of that id, or one with that instance id.
func (c *Classic) Has(memberID, instanceID string) bool {
	if _, ok := c.members[memberID]; ok {
		return true
	}
	_, ok := c.instance[instanceID]
	return ok && instanceID != ""
}

// Void reports whether there is nothing to remember: no member, no id given
// out, no generation that ever was.
func (c *Classic) Void() bool {
	return len(c.members) == 0 && len(c.pending) == 0 && c.generation == 0
}

// Members describes the members, ascending by id.
func (c *Classic) Members() []ClassicMember {
	out := make([]ClassicMember, 0, len(c.order))
	for _, id := range c.order {
		out = append(out, c.members[id].ClassicMember)
	}
	return out
}

// CheckCommit reports whether a member may commit in a generation.
func (c *Classic) CheckCommit(memberID, instanceID string, generation int32) (Code, string) {
	m, code, message := c.find(memberID, instanceID)
	switch {
	case m == nil:
		return code, message
	case !c.speaks(m, generation):
		return CodeIllegalGeneration, c.notGeneration(generation)
	case c.state == ClassicCompleting:
		return CodeRebalanceInProgress, "the group waits for its leader's assignment"
	}
	return CodeNone, ""
}

// Step applies one event. It appends to out.
func (c *Classic) Step(now time.Time, ev ClassicEvent, out *ClassicEffects) {
	switch ev.Kind {
	case ClassicJoin:
		c.join(now, ev, out)
	case ClassicSync:
		c.sync(now, ev, out)
	case ClassicHeartbeat:
		c.heartbeat(now, ev, out)
	case ClassicLeave:
		c.leave(now, ev, out)
	case ClassicTimer:
		c.expire(now, out)
	}
	out.Deadline = c.next
}

func (c *Classic) add(now time.Time, details ClassicMember) *classicMember {
	m := &classicMember{ClassicMember: details, expires: now.Add(details.SessionTimeout)}
	c.members[m.ID] = m
	i, _ := slices.BinarySearch(c.order, m.ID)
	c.order = slices.Insert(c.order, i, m.ID)
	if m.InstanceID != "" {
		c.instance[m.InstanceID] = m.ID
	}
	c.due(m.expires)
	return m
}

// forget takes a member out; calls of it that wait are answered.
func (c *Classic) forget(m *classicMember, code Code, message string, out *ClassicEffects) {
	delete(c.members, m.ID)
	if i, ok := slices.BinarySearch(c.order, m.ID); ok {
		c.order = slices.Delete(c.order, i, i+1)
	}
	if m.InstanceID != "" && c.instance[m.InstanceID] == m.ID {
		delete(c.instance, m.InstanceID)
	}
	if c.leader == m.ID {
		c.leader = ""
	}
	c.answerWaiting(m, code, message, out)
}

// evict forgets m against its will, and says so.
func (c *Classic) evict(m *classicMember, why string, out *ClassicEffects) {
	out.Expired = append(out.Expired, Expired{MemberID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, Why: why})
	c.forget(m, CodeUnknownMember, "", out)
}

func (c *Classic) answerWaiting(m *classicMember, code Code, message string, out *ClassicEffects) {
	for _, call := range []uint64{m.join, m.sync} {
		if call != 0 {
			c.fail(call, m.ID, code, message, out)
		}
	}
	m.join, m.sync = 0, 0
}

func (c *Classic) fail(call uint64, memberID string, code Code, message string, out *ClassicEffects) {
	out.List = append(out.List, ClassicEffect{Kind: ClassicReply, Call: call, MemberID: memberID, Generation: -1, Code: code, Message: message})
}

func (c *Classic) due(t time.Time) {
	if c.next.IsZero() || t.Before(c.next) {
		c.next = t
	}
}

func (c *Classic) enter(now time.Time, s State) { c.state, c.since = s, now }

// find returns the member that a request names, or why there is none.
func (c *Classic) find(memberID, instanceID string) (*classicMember, Code, string) {
	if instanceID != "" {
		id, ok := c.instance[instanceID]
		switch {
		case !ok:
			return nil, CodeUnknownMember, "the group has no member with instance id " + strconv.Quote(instanceID)
		case memberID != id:
			return nil, CodeFencedInstance, "another member with instance id " + strconv.Quote(instanceID) + " took over"
		}
	}
	m := c.members[memberID]
	if m == nil {
		return nil, CodeUnknownMember, "member " + strconv.Quote(memberID) + " is not in the group"
	}
	return m, CodeNone, ""
}

func (c *Classic) notGeneration(generation int32) string {
	return "the generation is " + strconv.Itoa(int(c.generation)) + ", not " + strconv.Itoa(int(generation))
}

// prepare begins a rebalance: everybody is to join.
func (c *Classic) prepare(now time.Time, out *ClassicEffects) {
	if c.state == ClassicCompleting {
		for _, id := range c.order {
			m := c.members[id]
			if m.sync != 0 {
				c.fail(m.sync, id, CodeRebalanceInProgress, "the group rebalances again", out)
				m.sync = 0
				c.touch(now, m)
			}
		}
	}
	if c.state == ClassicEmpty {
		c.notBefore = now.Add(c.initialDelay)
		c.due(c.notBefore)
	}
	c.enter(now, ClassicPreparing)
	c.deadline = now.Add(c.patience())
	c.due(c.deadline)
	c.tryComplete(now, out)
}

// patience is the longest rebalance timeout of the members.
func (c *Classic) patience() time.Duration {
	var longest time.Duration
	for _, m := range c.members {
		longest = max(longest, m.RebalanceTimeout)
	}
	return longest
}

// tryComplete ends the joining once every member has joined.
func (c *Classic) tryComplete(now time.Time, out *ClassicEffects) {
	if c.state != ClassicPreparing || now.Before(c.notBefore) {
		return
	}
	for _, m := range c.members {
		if m.join == 0 {
			return
		}
	}
	c.complete(now, out)
}

// complete begins a generation of those who joined.
func (c *Classic) complete(now time.Time, out *ClassicEffects) {
	if c.generation == math.MaxInt32 {
		c.generation = 0
	}
	c.generation++
	c.deadline, c.notBefore = time.Time{}, time.Time{}
	if len(c.members) == 0 {
		c.enter(now, ClassicEmpty)
		c.protocol, c.leader = "", ""
		out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})
		return
	}
	c.protocol = c.elect()
	if m := c.members[c.leader]; m == nil || m.join == 0 {
		c.leader = ""
		for _, id := range c.order {
			if c.members[id].join != 0 {
				c.leader = id
				break
			}
		}
	}
	c.enter(now, ClassicCompleting)
	c.deadline = now.Add(c.patience())
	c.due(c.deadline)
	for _, id := range c.order {
		m := c.members[id]
		m.hosted = 0
		if m.join != 0 {
			out.List = append(out.List, c.joined(m, m.join))
			m.join = 0
			c.touch(now, m)
		}
	}
}

// joined is the answer to a join: the leader hears of everybody.
func (c *Classic) joined(m *classicMember, call uint64) ClassicEffect {
	e := ClassicEffect{Kind: ClassicReply, Call: call, MemberID: m.ID, Generation: c.generation, ProtocolType: c.protocolType, Protocol: c.protocol, Leader: c.leader}
	if m.ID == c.leader {
		e.Members = c.listed()
	}
	return e
}

func (c *Classic) listed() []ClassicListed {
	list := make([]ClassicListed, 0, len(c.order))
	for _, id := range c.order {
		m := c.members[id]
		list = append(list, ClassicListed{ID: id, InstanceID: m.InstanceID, Metadata: m.metadata(c.protocol)})
	}
	return list
}

// elect returns the protocol, of those that all members know, that most of them
// like best; the first by name of several.
func (c *Classic) elect() string {
	votes := map[string]int{}
	for _, m := range c.members {
		for _, p := range m.Protocols {
			if c.allSupport(p.Name) {
				votes[p.Name]++
				break
			}
		}
	}
	best := ""
	for _, name := range slices.Sorted(maps.Keys(votes)) {
		if best == "" || votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

func (c *Classic) allSupport(protocol string) bool {
	for _, m := range c.members {
		if !supports(m.Protocols, protocol) {
			return false
		}
	}
	return true
}

// touch starts the member's session anew; never earlier than before.
func (c *Classic) touch(now time.Time, m *classicMember) {
	m.expires = now.Add(m.SessionTimeout)
	c.due(m.expires)
}

// expire removes who is silent, and ends phases that took too long.
func (c *Classic) expire(now time.Time, out *ClassicEffects) {
	for _, id := range slices.Sorted(maps.Keys(c.pending)) {
		if !c.pending[id].After(now) {
			delete(c.pending, id)
		}
	}
	gone := false
	for _, id := range slices.Clone(c.order) {
		if m := c.members[id]; !m.waits() && !m.expires.After(now) {
			c.evict(m, "no heartbeat within the session timeout of "+m.SessionTimeout.String(), out)
			gone = true
		}
	}
	if gone {
		c.changed(now, out)
	}
	if !c.deadline.IsZero() && !c.deadline.After(now) {
		c.late(now, out)
	}
	c.tryComplete(now, out)
	c.reckon()
}

// late removes the members that did not join, or did not sync, in time. Static
// ones keep their place until their session is over.
func (c *Classic) late(now time.Time, out *ClassicEffects) {
	joining := c.state == ClassicPreparing
	came := 0
	for _, id := range slices.Clone(c.order) {
		m := c.members[id]
		switch {
		case m.waits():
			came++
		case joining && m.InstanceID != "":
		case joining:
			c.evict(m, "it did not join within the rebalance timeout", out)
		default:
			c.evict(m, "it did not sync within the rebalance timeout", out)
		}
	}
	switch {
	case !joining:
		c.prepare(now, out)
	case came == 0 && len(c.members) > 0:
		c.deadline = now.Add(c.patience())
	default:
		c.complete(now, out)
	}
}

// reckon computes the next deadline.
func (c *Classic) reckon() {
	c.next = time.Time{}
	for _, m := range c.members {
		if !m.waits() {
			c.due(m.expires)
		}
	}
	for _, t := range c.pending {
		c.due(t)
	}
	for _, t := range []time.Time{c.deadline, c.notBefore} {
		if !t.IsZero() {
			c.due(t)
		}
	}
}
