package consumergroup

import (
	"maps"
	"slices"
	"time"
)

// Group is one consumer group. It is not safe for concurrent use.
//
// Invariants: holder[p] == m exactly if p is in m.owned; wanted[p] == m exactly
// if p is in m.target; m.epoch <= targetEpoch <= epoch once nobody is awaited.
type Group struct {
	id          string
	epoch       int32
	targetEpoch int32
	dirty       bool // the target is older than the epoch
	awaited     int  // members that Restore brought and that have not come back

	members  map[string]*member
	order    []string          // ids, ascending: every loop over members uses it
	instance map[string]string // instance id -> member id
	assignor string            // of the last target
	metadata Metadata

	holder map[TopicPartition]*member
	wanted map[TopicPartition]*member
	wake   []*member // to reconcile before the Step ends
	next   time.Time // no deadline is earlier; zero: none is set
}

// member is a member and where it stands.
type member struct {
	Member
	epoch  int32
	attach int64
	stream uint64 // 0: none
	away   bool   // restored and not back yet
	left   bool   // static, said goodbye, may return

	owned  map[TopicPartition]int32 // what it may own by its own view -> member epoch it was given in
	target map[TopicPartition]struct{}
	told   map[TopicPartition]struct{} // the assignment it was last sent
	acked  bool                        // it listed exactly told since

	expires time.Time // session
	ackBy   time.Time // rebalance; while not acked
	queued  bool      // is in Group.wake
}

// New makes a group that has never been.
func New(id string) *Group {
	return &Group{
		id:       id,
		members:  map[string]*member{},
		instance: map[string]string{},
		holder:   map[TopicPartition]*member{},
		wanted:   map[TopicPartition]*member{},
	}
}

// Restore makes a group from what was persisted. The members are away, and
// their deadlines start in full, though not below grace: a former coordinator
// that is cut off may go on for that long.
func Restore(now time.Time, id string, epoch int32, members []Member, grace time.Duration) *Group {
	g := New(id)
	g.epoch, g.targetEpoch = epoch, epoch
	for i := range members {
		m := g.add(now, members[i])
		m.away = true
		if m.SessionTimeout < grace {
			m.expires = now.Add(grace)
		}
		g.awaited++
	}
	return g
}

// Step applies one event. It appends to out.
func (g *Group) Step(now time.Time, ev Event, out *Effects) {
	switch ev.Kind {
	case EventJoin:
		g.join(now, ev, out)
	case EventHeartbeat:
		g.heartbeat(now, ev, out)
	case EventDetach:
		g.detach(now, ev)
	case EventLeave:
		g.leave(now, ev, out)
	case EventMetadata:
		g.setMetadata(ev.Metadata, out)
	case EventAssign:
		g.assign()
	case EventTimer:
		g.expire(now, out)
	}
	for i := 0; i < len(g.wake); i++ {
		m := g.wake[i]
		m.queued = false
		g.reconcile(now, m, out)
	}
	clear(g.wake)
	g.wake = g.wake[:0]
	out.Assign = out.Assign || g.dirty && g.awaited == 0
	out.Deadline = g.next
}

// add makes a member and starts its session.
func (g *Group) add(now time.Time, details Member) *member {
	m := &member{
		Member: details,
		owned:  map[TopicPartition]int32{},
		target: map[TopicPartition]struct{}{},
		told:   map[TopicPartition]struct{}{},
		acked:  true,
	}
	g.members[m.ID] = m
	i, _ := slices.BinarySearch(g.order, m.ID)
	g.order = slices.Insert(g.order, i, m.ID)
	if m.InstanceID != "" {
		g.instance[m.InstanceID] = m.ID
	}
	m.expires = now.Add(m.SessionTimeout)
	g.due(m.expires)
	return m
}

// remove takes a member out for good: what it owned is free.
func (g *Group) remove(m *member, out *Effects) {
	delete(g.members, m.ID)
	if i, ok := slices.BinarySearch(g.order, m.ID); ok {
		g.order = slices.Delete(g.order, i, i+1)
	}
	if m.InstanceID != "" && g.instance[m.InstanceID] == m.ID {
		delete(g.instance, m.InstanceID)
	}
	out.List = append(out.List, Effect{Kind: EffectForgetMember, MemberID: m.ID})
	for p := range m.target {
		delete(g.wanted, p)
	}
	g.releaseAll(m)
	g.back(m, out)
	g.bump(out)
}

// back notes that a restored member is no longer awaited.
func (g *Group) back(m *member, out *Effects) {
	if !m.away {
		return
	}
	m.away = false
	g.awaited--
	if g.awaited == 0 {
		g.bump(out)
	}
}

// bump raises the group epoch; the target is to be computed again.
func (g *Group) bump(out *Effects) {
	g.epoch++
	g.dirty = true
	out.List = append(out.List, Effect{Kind: EffectPersistGroup, Epoch: g.epoch})
}

// release frees a partition that m no longer owns.
func (g *Group) release(m *member, p TopicPartition) {
	delete(m.owned, p)
	delete(g.holder, p)
	if next := g.wanted[p]; next != nil {
		g.queue(next)
	}
}

func (g *Group) releaseAll(m *member) {
	for _, p := range slices.SortedFunc(maps.Keys(m.owned), comparePartitions) {
		g.release(m, p)
	}
}

// hold makes m the owner of p, in its epoch.
func (g *Group) hold(m *member, p TopicPartition) {
	m.owned[p] = m.epoch
	g.holder[p] = m
}

// queue asks for m to be reconciled before the Step ends.
func (g *Group) queue(m *member) {
	if !m.queued {
		m.queued = true
		g.wake = append(g.wake, m)
	}
}

// due lowers the next deadline to t.
func (g *Group) due(t time.Time) {
	if g.next.IsZero() || t.Before(g.next) {
		g.next = t
	}
}

// drop ends m's stream, if it has one.
func (g *Group) drop(m *member, code Code, message string, out *Effects) {
	if m.stream != 0 {
		out.List = append(out.List, Effect{Kind: EffectDrop, MemberID: m.ID, Stream: m.stream, Code: code, Message: message})
		m.stream = 0
	}
}

// expire removes the members whose session or rebalance timeout has passed.
func (g *Group) expire(now time.Time, out *Effects) {
	for _, id := range slices.Clone(g.order) {
		m := g.members[id]
		switch {
		case !m.expires.After(now):
			g.drop(m, CodeUnknownMember, "no heartbeat within the session timeout of "+m.SessionTimeout.String(), out)
			g.remove(m, out)
		case !m.acked && !m.ackBy.After(now):
			g.drop(m, CodeFencedEpoch, "assignment not acknowledged within the rebalance timeout of "+m.RebalanceTimeout.String(), out)
			g.remove(m, out)
		}
	}
	g.next = time.Time{}
	for _, id := range g.order {
		m := g.members[id]
		g.due(m.expires)
		if !m.acked {
			g.due(m.ackBy)
		}
	}
}

// setMetadata takes a new view of the topics; one that differs raises the epoch.
func (g *Group) setMetadata(md *Metadata, out *Effects) {
	if md == nil || md.equal(&g.metadata) {
		return
	}
	g.metadata = *md
	if len(g.members) > 0 {
		g.bump(out)
	}
}

func (md *Metadata) equal(other *Metadata) bool {
	return maps.Equal(md.Partitions, other.Partitions) && maps.EqualFunc(md.Matches, other.Matches, slices.Equal[[]string]) &&
		maps.EqualFunc(md.Racks, other.Racks, func(a, b [][]string) bool { return slices.EqualFunc(a, b, slices.Equal[[]string]) })
}
