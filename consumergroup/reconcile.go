package consumergroup

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/consumergroup/assignor"
)

// reconcile brings m one step nearer to its target; see the package comment.
// While a new target is due nobody moves: a member that joined anew would
// otherwise get its partitions back in the epoch of its former process.
func (g *Group) reconcile(now time.Time, m *member, out *Effects) {
	if g.members[m.ID] != m || m.away || g.assigning() {
		return
	}
	if m.isHosted() {
		g.reconcileHosted(now, m, out)
		return
	}
	if m.stream == 0 || !m.acked {
		return
	}
	news, ask := g.advance(m, out)
	if ask {
		g.expectAck(now, m)
	}
	if news {
		g.update(m, out)
	}
}

// advance changes what m is told: less, while it has something to give up, of a
// topic that was deleted and created again also what it is to get back, or while it
// lists what it does not have; else
// its epoch comes to the target's, and it gets what nobody holds of its target.
// news: there is something to tell. ask: m must list what it is told.
func (g *Group) advance(m *member, out *Effects) (news, ask bool) {
	keep := make(map[TopicPartition]struct{}, len(m.owned))
	for p := range m.owned {
		if _, ok := m.target[p]; ok && !g.gone(p) {
			keep[p] = struct{}{}
		}
	}
	if len(keep) < len(m.owned) || len(m.strays) > 0 {
		m.told = keep
		g.saveCurrent(m, out)
		return true, true
	}
	raised := m.epoch != g.targetEpoch
	if raised {
		m.previous, m.epoch = m.epoch, g.targetEpoch
	}
	given := false
	for _, p := range sorted(m.target) {
		if _, has := m.owned[p]; !has && g.holder[p] == nil {
			g.hold(m, p)
			keep[p] = struct{}{}
			given = true
		}
	}
	changed := raised || given || !sameSet(m.told, keep)
	m.told = keep
	if changed {
		g.saveCurrent(m, out)
	}
	return given || raised, given
}

// update sends m its epoch and all that it was told.
func (g *Group) update(m *member, out *Effects) {
	assigned := sorted(m.told)
	ids := make([]TopicID, len(assigned))
	for i, p := range assigned {
		ids[i] = g.topicOf(p)
	}
	out.List = append(out.List, Effect{
		Kind: EffectUpdate, MemberID: m.ID, Stream: m.stream, Epoch: m.epoch, Assigned: assigned, TopicIDs: ids,
	})
}

// assign computes the target for the group epoch and wakes everybody.
func (g *Group) assign(out *Effects) {
	if !g.dirty || g.awaited > 0 {
		return // asked for twice, or too early
	}
	g.dirty, g.targetEpoch = false, g.epoch
	in, topics := g.input()
	g.assignor = g.chooseAssignor()
	choose, err := assignor.ByName(g.assignor)
	if err != nil {
		choose, g.assignor = assignor.AssignUniform, assignor.Uniform
	}
	result, err := choose(in)
	if err != nil {
		// input keeps the assignor's rules, so this does not happen; the old
		// target is still one in which no partition has two owners.
		return
	}
	clear(g.wanted)
	former := g.targetIDs
	g.targetIDs = g.metadata.IDs
	for i, id := range g.order {
		m := g.members[id]
		before := m.target
		m.target = make(map[TopicPartition]struct{}, len(result[i]))
		for _, p := range result[i] {
			tp := TopicPartition{Topic: topics[p.Topic], Partition: p.Partition}
			m.target[tp] = struct{}{}
			g.wanted[tp] = m
		}
		if !m.saved || !sameSet(before, m.target) || g.ofOtherTopics(m.target, former) {
			g.saveTarget(m, out)
		}
		g.queue(m)
	}
	// Last: an epoch in the log vouches for the targets before it.
	out.List = append(out.List, Effect{Kind: EffectPersistTarget, Epoch: g.targetEpoch})
}

// ofOtherTopics reports whether a topic of a target was another one before.
func (g *Group) ofOtherTopics(target map[TopicPartition]struct{}, former map[string]TopicID) bool {
	for p := range target {
		if former[p.Topic] != g.targetIDs[p.Topic] {
			return true
		}
	}
	return false
}

// input writes the group in the assignor's terms: topics by index. What a
// member "owns" there is its last target, where it is headed.
func (g *Group) input() (in assignor.Input, names []string) {
	names = slices.Sorted(maps.Keys(g.metadata.Partitions))
	index := make(map[string]int32, len(names))
	for i, name := range names {
		index[name] = int32(i)
		in.Topics = append(in.Topics, assignor.Topic{Name: name, Partitions: g.metadata.Partitions[name], Racks: g.metadata.Racks[name]})
	}
	wishes := map[string][]int32{} // most members want what others want: they share one list
	var key []byte
	for _, id := range g.order {
		m := g.members[id]
		am := assignor.Member{ID: m.ID, InstanceID: m.InstanceID, Rack: m.Rack}
		key = m.appendWish(key[:0])
		wish, known := wishes[string(key)]
		if !known {
			wish = g.resolve(m, index)
			wishes[string(key)] = wish
		}
		am.Topics = wish
		for _, p := range sorted(m.target) {
			if i, ok := index[p.Topic]; ok {
				am.Owned = append(am.Owned, assignor.Partition{Topic: i, Partition: p.Partition})
			}
		}
		in.Members = append(in.Members, am)
	}
	return in, names
}

// resolve returns the topics that m subscribes to, by index, ascending.
func (g *Group) resolve(m *member, index map[string]int32) (wish []int32) {
	for _, list := range [][]string{m.Topics, g.metadata.Matches[m.Pattern]} {
		for _, name := range list {
			if i, ok := index[name]; ok {
				wish = append(wish, i)
			}
		}
	}
	slices.Sort(wish)
	return slices.Compact(wish)
}

// appendWish appends what tells subscriptions apart.
func (m *member) appendWish(b []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(m.Pattern))), m.Pattern...)
	for _, topic := range m.Topics {
		b = append(binary.AppendUvarint(b, uint64(len(topic))), topic...)
	}
	return b
}

// KnownAssignor reports whether a member may ask for an assignor of that name;
// the empty name is no wish.
func KnownAssignor(name string) bool {
	_, err := assignor.ByName(name)
	return err == nil
}

// chooseAssignor returns the assignor that most members ask for, the first by
// name of several; uniform when nobody asks.
func (g *Group) chooseAssignor() string {
	votes := map[string]int{}
	for _, id := range g.order {
		if name := g.members[id].Assignor; name != "" {
			votes[name]++
		}
	}
	if len(votes) == 0 {
		return assignor.Uniform
	}
	return slices.MaxFunc(slices.Sorted(maps.Keys(votes)), func(a, b string) int {
		return cmp.Or(cmp.Compare(votes[a], votes[b]), cmp.Compare(b, a))
	})
}

// sorted returns the keys of a set of partitions, ascending.
func sorted[V any](set map[TopicPartition]V) []TopicPartition {
	ps := make([]TopicPartition, 0, len(set))
	for p := range set {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, comparePartitions)
	return ps
}
