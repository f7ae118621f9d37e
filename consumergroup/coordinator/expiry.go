package coordinator

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// topicUse is what a shard remembers of a topic that groups have offsets of.
type topicUse struct {
	id     api.TopicID // as it was when last looked at
	stale  bool        // there are offsets of another id
	groups map[*group]struct{}
}

// store makes an offset readable: its record is committed.
func (s *shard) store(g *group, tp api.TopicPartition, c committed) {
	g.offsets[tp] = c
	use := s.uses(g, tp.Topic)
	use.stale = use.stale || c.of(use.id)
}

// of reports whether an offset is known to be of another topic than that of an id.
func (c *committed) of(id api.TopicID) (another bool) { return !c.topic.IsZero() && c.topic != id }

// uses notes that g has offsets of a topic. It may have none later: notes are
// taken back when the topic goes.
func (s *shard) uses(g *group, topic string) *topicUse {
	use := s.topicUse[topic]
	if use == nil {
		id, _ := s.cfg.Topics.Topic(topic)
		use = &topicUse{id: id, groups: map[*group]struct{}{}}
		s.topicUse[topic] = use
		s.progress.want(id)
	}
	use.groups[g] = struct{}{}
	return use
}

// adopt gives a restored group its offsets. Those of topics that are gone, or
// are others by now, go when the topics are looked at next.
func (s *shard) adopt(g *group, offsets map[api.TopicPartition]committed) {
	g.offsets = offsets
	var use *topicUse
	topic := ""
	for tp, c := range offsets {
		if use == nil || tp.Topic != topic {
			topic = tp.Topic
			use = s.uses(g, topic)
		}
		use.stale = use.stale || c.of(use.id)
	}
}

// arrived notes that a commit is through.
func (g *group) arrived(tp api.TopicPartition) {
	if g.onTheWay[tp]--; g.onTheWay[tp] <= 0 {
		delete(g.onTheWay, tp)
	}
}

// committing yields the partitions that have a record in the log or on its way
// there: what a deletion must cover.
func (g *group) committing() iter.Seq[api.TopicPartition] {
	return func(yield func(api.TopicPartition) bool) {
		for tp := range g.offsets {
			if !yield(tp) {
				return
			}
		}
		for tp := range g.onTheWay {
			if _, has := g.offsets[tp]; !has && !yield(tp) {
				return
			}
		}
	}
}

// notePresence keeps emptySince.
func (g *group) notePresence(now time.Time) {
	switch {
	case g.members() > 0:
		g.emptySince = time.Time{}
	case g.emptySince.IsZero():
		g.emptySince = now
	}
}

// dropOffsetsOfOtherTopics removes the offsets of topics that were deleted, also
// when another of the same name exists by now: its offsets begin anew.
func (s *shard) dropOffsetsOfOtherTopics(now time.Time) {
	for _, topic := range slices.Sorted(maps.Keys(s.topicUse)) {
		s.dropOffsetsOfOther(now, topic)
	}
}

// dropOffsetsOfOther does it for one name. What is on its way has to wait: it is looked
// at again when it has arrived.
func (s *shard) dropOffsetsOfOther(now time.Time, topic string) {
	use := s.topicUse[topic]
	id, partitions := s.cfg.Topics.Topic(topic)
	if partitions > 0 && id == use.id && !use.stale {
		return
	}
	use.id, use.stale = id, false
	s.progress.want(id)
	for g := range use.groups {
		if s.groups[g.id] == g {
			waits := s.drop(now, g, func(tp api.TopicPartition, c committed) bool {
				return tp.Topic == topic && (partitions == 0 || c.of(id))
			})
			use.stale = use.stale || waits
		}
	}
	if partitions == 0 && !use.stale {
		delete(s.topicUse, topic)
	}
}

// sweepStep is how many offsets, about, are looked at before requests are served again.
const sweepStep = 10_000

// sweep looks at the groups for offsets that expired, some at a time, and
// returns when to go on.
func (s *shard) sweep(now time.Time) time.Duration {
	if s.groups == nil {
		return s.cfg.OffsetsRetentionCheck
	}
	if len(s.sweeping) == 0 {
		s.dropOffsetsOfOtherTopics(now) // what the log did not take when the topics changed
		s.sweeping = slices.Sorted(maps.Keys(s.groups))
	}
	for looked := 0; looked < sweepStep && len(s.sweeping) > 0; {
		g := s.groups[s.sweeping[0]]
		s.sweeping = s.sweeping[1:]
		if g != nil && g.refusal == nil {
			looked += len(g.offsets) + 1
			s.expireOffsets(now, g)
		}
	}
	if len(s.sweeping) > 0 {
		return time.Millisecond
	}
	return s.cfg.OffsetsRetentionCheck
}

// expireOffsets removes what retention says of one group: of one without members
// everything that is older than that since it has none; of one with members what
// nobody subscribes to any more, as far as that is known: of the classic protocol
// between rebalances, and of consumers only (KIP-211). Then a group of which nothing
// is left goes.
func (s *shard) expireOffsets(now time.Time, g *group) {
	limit := now.Add(-s.cfg.OffsetsRetention).UnixMilli()
	switch {
	case g.members() == 0:
		if g.emptySince.UnixMilli() > limit {
			break
		}
		s.drop(now, g, func(_ api.TopicPartition, c committed) bool { return c.time <= limit })
	case g.classic == nil || g.classic.State() == consumergroup.ClassicStable && g.classic.ProtocolType() == consumerProtocolType:
		subscribed := g.subscribed()
		s.drop(now, g, func(tp api.TopicPartition, c committed) bool {
			return c.time <= limit && !subscribed(tp.Topic)
		})
	}
	if g.members() == 0 && len(g.offsets) == 0 && len(g.onTheWay) == 0 {
		s.forget(g)
	}
}

// drop writes tombstones for the offsets that match. They can be read until
// those are committed. waits: there are more, with another commit on its way.
func (s *shard) drop(now time.Time, g *group, matches func(api.TopicPartition, committed) bool) (waits bool) {
	var dropped []api.TopicPartition
	for tp, c := range g.offsets {
		switch {
		case !matches(tp, c):
		case g.onTheWay[tp] > 0:
			waits = true
		default:
			dropped = append(dropped, tp)
		}
	}
	write := func(key []byte) *batch { return s.persistAt(now, key, nil, true) }
	s.dropOffsets(g, dropped, write, func(i int, _ error) {
		if use := s.topicUse[dropped[i].Topic]; use != nil {
			use.stale = true // the next sweep looks again
		}
	})
	return waits
}

// forget writes tombstones for what is left of a group beside its offsets, and
// drops it.
func (s *shard) forget(g *group) {
	s.forgetMachine(g)
	if g.classicWritten {
		s.persist(g, classicKey(g.id), nil)
	}
	delete(s.groups, g.id)
	s.dropAssignment(g.id)
	s.deadlines.set(g, time.Time{})
}
