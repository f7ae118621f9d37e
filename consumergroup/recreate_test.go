package consumergroup

import (
	"maps"
	"slices"
)

// In the model topics are deleted and created again under their names.

// known leaves out what a member has of topics that were deleted: records name topics
// by their ids, and nobody can tell what the id of one was the name of.
func (w *model) known(id string, c *Current) *Current {
	if c == nil {
		return nil
	}
	known := *c
	for _, list := range []*[]Given{&known.Assigned, &known.Revoking} {
		*list = slices.DeleteFunc(slices.Clone(*list), func(p Given) bool {
			lost := w.former(p.Topic, p.TopicID)
			for _, c := range w.clients {
				if lost && c.id == id && !c.dead {
					c.dropped[p.TopicPartition] = true
				}
			}
			return lost
		})
	}
	return &known
}

// knownTarget does it for what a member is to have, and notes which topics are known.
func (w *model) knownTarget(id string, ids map[string]TopicID) (target []TopicPartition) {
	for _, p := range w.store.targets[id] {
		if !w.former(p.Topic, p.TopicID) {
			target = append(target, p.TopicPartition)
			ids[p.Topic] = p.TopicID
		}
	}
	return target
}

// ofToday is how partitions are written: by the ids of their topics.
func (w *model) ofToday(list []TopicPartition) []Given {
	given := make([]Given, len(list))
	for i, p := range list {
		given[i] = Given{TopicPartition: p, TopicID: w.id(p.Topic)}
	}
	return given
}

// former reports whether an id is that of a topic of the name that was deleted.
func (w *model) former(topic string, id TopicID) bool { return id != (TopicID{}) && id != w.id(topic) }

func (w *model) id(topic string) TopicID {
	id := TopicID{w.lives[topic] + 1}
	copy(id[1:], topic)
	return id
}

// recreate deletes a topic and creates it again. The group may have seen neither.
func (w *model) recreate(topic string, seen bool) {
	w.lives[topic]++
	for _, offsets := range []map[TopicPartition]int64{w.committed, w.processed} {
		maps.DeleteFunc(offsets, func(p TopicPartition, _ int64) bool { return p.Topic == topic })
	}
	if w.unheard = !seen; seen {
		w.hear()
	}
}

// hear tells the group of the topics of now.
func (w *model) hear() {
	w.unheard = false
	w.changes++
	w.step(Event{Kind: EventMetadata, Metadata: w.metadata()})
}

// believed: after a build that did not write what members own, what c says is believed
// by name. Of which life of a topic it is nobody can tell, so that the model looks away.
func (w *model) believed(c *modelClient) {
	former := func(p TopicPartition, life byte) bool { return life != w.lives[p.Topic] }
	w.commits = slices.DeleteFunc(w.commits, func(m modelCommit) bool { return m.id == c.id && former(m.partition, m.life) })
	for p := range c.owned {
		if former(p, c.lives[p]) {
			w.begin(c, p)
		}
	}
}
