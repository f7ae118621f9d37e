package consumergroup

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

// Group is one consumer group. It is not safe for concurrent use.
//
// Invariants: holder[p] == m exactly if p is in m.owned; wanted[p] == m exactly
// if p is in m.target; m.told is a part of m.owned; m.epoch <= targetEpoch <= epoch
// once nobody is awaited.
type Group struct {
	id          string
	epoch       int32
	targetEpoch int32
	targetIDs   map[string]TopicID // of the topics when the target was computed; it is persisted by them
	dirty       bool               // the target is older than the epoch
	awaited     int                // members that Restore brought without what they own, and that have not come back
	hosted      int                // members of the classic protocol

	members  map[string]*member
	order    []string          // ids, ascending: every loop over members uses it
	instance map[string]string // instance id -> member id
	assignor string            // of the last target
	metadata Metadata
	hash     int64 // of metadata, or of what it was before a restore; 0: none was ever seen
	seen     bool  // metadata is of this coordinator

	pending map[string]time.Time // ids that were given to classic members that have not joined

	holder map[TopicPartition]*member
	topic  map[TopicPartition]TopicID // of which topic the holder has it; absent: not known
	wanted map[TopicPartition]*member
	wake   []*member // to reconcile before the Step ends
	next   time.Time // no deadline is earlier; zero: none is set
}

// member is a member and where it stands.
type member struct {
	Member
	epoch    int32
	previous int32 // epoch before
	attach   int64
	stream   uint64 // 0: none
	away     bool   // restored without what it owns, and not back yet
	left     bool   // static, said goodbye, may return

	// Of a classic member:
	join    uint64                      // its join that waits for an answer; 0: none
	says    Subscription                // as of its last join
	syncing bool                        // a join was answered, its sync is due
	doubt   bool                        // a join since its last sync was taken for a stale one
	strays  map[TopicPartition]struct{} // what it listed in its last join and does not have

	owned  map[TopicPartition]int32 // what it may own by its own view -> member epoch it was given in
	target map[TopicPartition]struct{}
	saved  bool                        // target is persisted
	told   map[TopicPartition]struct{} // the assignment it was last sent
	acked  bool                        // it listed exactly told since

	expires time.Time // session
	// detached: the stream was lost, and expires may be the end of the grace.
	detached bool
	ackBy    time.Time // rebalance; while not acked
	queued   bool      // is in Group.wake
}

// New makes a group that has never been.
func New(id string) *Group {
	return &Group{
		id:       id,
		members:  map[string]*member{},
		instance: map[string]string{},
		holder:   map[TopicPartition]*member{},
		topic:    map[TopicPartition]TopicID{},
		wanted:   map[TopicPartition]*member{},
	}
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
	case EventClassic:
		g.classic(now, ev, out)
	case EventLeave:
		g.leave(now, ev, out)
	case EventMetadata:
		g.setMetadata(ev.Metadata, out)
	case EventAssign:
		g.assign(out)
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
	if m.isHosted() {
		g.hosted++
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
	if m.isHosted() {
		g.hosted--
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
	g.saveEpoch(out)
}

// saveEpoch persists the group epoch. A hash beside it vouches for the members'
// current assignments: there is none while some are not known.
func (g *Group) saveEpoch(out *Effects) {
	e := Effect{Kind: EffectPersistGroup, Epoch: g.epoch}
	if g.awaited == 0 {
		e.Hash = cmp.Or(g.hash, 1)
	}
	out.List = append(out.List, e)
}

// release frees a partition that m no longer owns.
func (g *Group) release(m *member, p TopicPartition) {
	delete(m.owned, p)
	delete(g.holder, p)
	delete(g.topic, p)
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
	g.setTopic(p, g.metadata.IDs[p.Topic])
}

// setTopic notes of which topic the holder of p has it.
func (g *Group) setTopic(p TopicPartition, id TopicID) {
	if id != (TopicID{}) {
		g.topic[p] = id
	}
}

// deletedTopic stands for a topic that is not there and whose id is not known: whichever
// has its name later is another. It is neither written nor told to members; who describes
// the group (Members) sees it for what it is, the id of no topic that there is.
func deletedTopic() TopicID { return TopicID([]byte("a deleted topic.")) }

// topicOf is of which topic the holder of p is told that it has it; zero: it is not known.
func (g *Group) topicOf(p TopicPartition) TopicID {
	if id := g.topic[p]; id != deletedTopic() {
		return id
	}
	return TopicID{}
}

// gone reports whether the holder of p has it of a topic that was deleted, although
// there is one of that name. It has to give p up, and may get it anew: what it read
// and commits is of the other topic.
func (g *Group) gone(p TopicPartition) bool {
	had, known := g.topic[p]
	id := g.metadata.IDs[p.Topic]
	return known && id != (TopicID{}) && had != id
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

// drop ends m's stream, if it has one, or the join of it that waits.
func (g *Group) drop(m *member, code Code, message string, out *Effects) {
	if m.join != 0 {
		failClassic(m.join, m.ID, code, message, out)
		m.join = 0
	}
	if m.stream != 0 {
		out.List = append(out.List, Effect{Kind: EffectDrop, MemberID: m.ID, Stream: m.stream, Code: code, Message: message})
		m.stream = 0
	}
}

func expired(m *Member, why string) Expired {
	return Expired{MemberID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, Why: why}
}

// evict removes m against its will, and says so.
func (g *Group) evict(m *member, code Code, why string, out *Effects) {
	out.Expired = append(out.Expired, expired(&m.Member, why))
	g.drop(m, code, why, out)
	g.remove(m, out)
}

// expire removes the members whose session or rebalance timeout has passed.
func (g *Group) expire(now time.Time, out *Effects) {
	for _, id := range slices.Clone(g.order) {
		m := g.members[id]
		switch {
		case m.join != 0: // it waits for us
		case !m.expires.After(now):
			why := "no heartbeat within the session timeout of " + m.SessionTimeout.String()
			if m.detached {
				why = "it lost its connection and did not come back in time"
			}
			g.evict(m, CodeUnknownMember, why, out)
		case !m.acked && !m.ackBy.After(now):
			g.evict(m, CodeFencedEpoch, "assignment not acknowledged within the rebalance timeout of "+m.RebalanceTimeout.String(), out)
		}
	}
	g.next = time.Time{}
	for id, t := range g.pending {
		if !t.After(now) {
			delete(g.pending, id)
			continue
		}
		g.due(t)
	}
	for _, id := range g.order {
		m := g.members[id]
		if m.join != 0 {
			continue
		}
		g.due(m.expires)
		if !m.acked {
			g.due(m.ackBy)
		}
	}
}

// setMetadata takes a new view of the topics; one that differs raises the epoch.
func (g *Group) setMetadata(md *Metadata, out *Effects) {
	if md == nil || g.seen && md.equal(&g.metadata) {
		return
	}
	before := g.hash
	g.metadata, g.hash = *md, md.hash()
	restored := !g.seen
	g.seen = true
	for p := range g.holder {
		if _, known := g.topic[p]; known {
			continue
		}
		// The members assigned it among themselves, or the former coordinator did not say.
		g.setTopic(p, md.IDs[p.Topic])
		if md.Partitions[p.Topic] == 0 {
			g.topic[p] = deletedTopic()
		}
	}
	if restored && before == g.hash {
		return // as it was under the coordinator before
	}
	if len(g.members) > 0 {
		g.bump(out)
	}
}

func (md *Metadata) equal(other *Metadata) bool {
	return maps.Equal(md.Partitions, other.Partitions) && maps.Equal(md.IDs, other.IDs) && maps.EqualFunc(md.Matches, other.Matches, slices.Equal[[]string]) &&
		maps.EqualFunc(md.Racks, other.Racks, func(a, b [][]string) bool { return slices.EqualFunc(a, b, slices.Equal[[]string]) })
}

// hash tells whether the topics are those that another coordinator saw: it is
// persisted beside the group epoch. It is never 0.
func (md *Metadata) hash() int64 {
	h := fnv.New64a()
	text := func(s string) { fmt.Fprintf(h, "%d:%s", len(s), s) }
	for _, topic := range slices.Sorted(maps.Keys(md.Partitions)) {
		text(topic)
		fmt.Fprintf(h, "%d;", md.Partitions[topic])
		if id, ok := md.IDs[topic]; ok {
			h.Write(id[:])
		}
		for _, racks := range md.Racks[topic] {
			fmt.Fprintf(h, "%d,", len(racks))
			for _, rack := range racks {
				text(rack)
			}
		}
	}
	for _, pattern := range slices.Sorted(maps.Keys(md.Matches)) {
		text(pattern)
		fmt.Fprintf(h, "%d,", len(md.Matches[pattern]))
		for _, topic := range md.Matches[pattern] {
			text(topic)
		}
	}
	return cmp.Or(int64(h.Sum64()), 1)
}
