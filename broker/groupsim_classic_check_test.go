package broker

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// simGeneration is a group of the classic protocol as the log has it: who is in it, and what
// its leader assigned.
type simGeneration struct {
	number  int32
	members map[string][]api.TopicPartition
	// released are the members of the group that the coordinator assigned, where this one was
	// made of it: until they join they may speak of the epochs that they had there.
	released map[string]*simCurrent
}

func (g *simGeneration) has(member string, p api.TopicPartition) bool {
	return slices.Contains(g.members[member], p)
}

// classicCounts: the members assign among themselves, by the log, whatever else it has yet.
func (t *simTruth) classicCounts() bool {
	return t.classic != nil && (len(t.classic.members) > 0 || len(t.members) == 0)
}

// memberIDs are who is in the group.
func (t *simTruth) memberIDs() []string {
	if t.classicCounts() {
		return sortedKeys(t.classic.members)
	}
	return sortedKeys(t.members)
}

// number is the group epoch or the generation, whichever the log has.
func (t *simTruth) number() int32 {
	if t.classic != nil {
		return max(t.epoch, t.classic.number)
	}
	return t.epoch
}

// replayClassic takes the record of a classic group. value nil: the group is the coordinator's.
func (w *simWorld) replayClassic(value []byte) {
	t := &w.truth
	before := t.classic
	if value == nil {
		if before != nil && len(before.members) > 0 && len(t.members) > 0 {
			w.counts.Upgraded++
			t.upgraded = w.committed[len(w.committed)-1].image
		}
		t.classic = nil
		return
	}
	var v kmsg.GroupMetadataValue
	if err := v.ReadFrom(value); err != nil {
		w.brokenf(keepsSane, "the record of a classic group: %v", err)
		return
	}
	t.classic = &simGeneration{number: v.Generation, members: map[string][]api.TopicPartition{}}
	owner := map[api.TopicPartition]string{}
	for _, m := range v.Members {
		parts := readSimAssignment(m.Assignment)
		t.classic.members[m.MemberID] = parts
		for _, p := range parts {
			if owner[p] != "" {
				w.brokenf(keepsOneOwner, "%v is %s's and %s's in generation %d", p, owner[p], m.MemberID, v.Generation)
			}
			owner[p] = m.MemberID
		}
	}
	if before == nil && len(t.members) > 0 && len(v.Members) > 0 {
		w.counts.Downgraded++
		t.classic.released = maps.Clone(t.currents)
		w.checkReleased(t.classic)
	}
	t.generations = append(t.generations, t.classic)
}

// checkReleased holds a group that was given back to its members against what they had.
func (w *simWorld) checkReleased(g *simGeneration) {
	for id, c := range g.released {
		if _, stays := g.members[id]; !stays && len(c.places()) > 0 {
			w.brokenf(keepsOneOwner, "%s had partitions when the group was given back to its members, of which it is none", id)
		}
	}
}

// checkClassicCommitter checks a commit in a group whose members assign. It is fenced by the
// generation; who owns what the members know, and these are honest: what another one was
// assigned they do not commit.
func (w *simWorld) checkClassicCommitter(p api.TopicPartition, o simOffset, tag simTag) {
	g := w.truth.classic
	w.counts.ClassicCommits++
	if lifeOf(o.topic) > tag.topicLife {
		w.ofFormer(p, o)
		return
	}
	_, in := g.members[tag.member]
	released := g.released[tag.member]
	switch {
	case !in:
		w.brokenf(keepsFenced, "%v: %s is not in generation %d", p, tag, g.number)
	case tag.epoch != g.number && (released == nil || released.epoch != tag.epoch):
		w.brokenf(keepsFenced, "%v: %s, and the generation is %d", p, tag, g.number)
	}
	for _, other := range sortedKeys(g.members) {
		if other != tag.member && g.has(other, p) {
			w.brokenf(keepsFenced, "%v: %s, and in generation %d it is %s's", p, tag, g.number, other)
		}
	}
}

// ofFormer takes an offset of a topic that was deleted for one of that which has its name now:
// who commits in a group whose members assign names topics and nothing more.
func (w *simWorld) ofFormer(p api.TopicPartition, o simOffset) {
	place := simPlace{o.topic, p.Partition}
	w.truth.read[place] = max(w.truth.read[place], o.offset)
}

// checkSynced is called when a member is told its assignment: it was committed, if not just now.
func (w *simWorld) checkSynced(member string, generation int32, assignment []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := readSimAssignment(assignment)
	for _, g := range w.truth.generations {
		if g.number == generation && slices.Equal(g.members[member], parts) {
			return
		}
	}
	for _, c := range w.truth.stood[member] {
		if c.epoch == generation && c.hasAll(parts) {
			w.counts.HostedSynced++
			return
		}
	}
	w.brokenf(keepsCommitted, "%s is told %v in generation %d, which the log never had", member, parts, generation)
}

// sinceClassic: a topic was created while members assigned among themselves. Which of its
// name they had when the coordinator took over is not known.
func (w *simWorld) sinceClassic(topic api.TopicID) bool { return w.bornAt[topic] <= w.truth.upgraded }

// absent are the topics that a coordinator may have known to be deleted when it wrote, a
// little before it had an image.
func (w *simWorld) absent(image int) (names []string) {
	for _, name := range sortedKeys(w.born) {
		for at := max(image-4, 0); at <= image; at++ {
			if _, partitions := (simImage{w.images[at]}).topic(name); partitions == 0 {
				names = append(names, name)
				break
			}
		}
	}
	return names
}
