package coordinator

import (
	"context"
	"time"

	"github.com/penstock/penstock/broker/api"
)

// DeleteOffsets removes committed offsets of a group and returns the outcome of
// each partition, in order, once that is committed. CodeGroupNotEmpty of a partition:
// members subscribe to its topic, and would commit it again. Where nothing is
// committed there is nothing to do. An error is about the whole request:
// CodeUnknownGroup, or CodeGroupNotEmpty of a group whose members do not say in
// words known here what they subscribe to.
func (c *Coordinator) DeleteOffsets(ctx context.Context, groupID string, partitions []api.TopicPartition) ([]*api.Error, error) {
	s, err := c.shardOf(groupID)
	if err != nil {
		return nil, err
	}
	return call(ctx, s, func(reply func([]*api.Error, error)) { s.deleteOffsets(groupID, partitions, reply) })
}

// deleteOffsets covers commits whose records are still on their way: its own come
// behind them in the log, and their outputs run first.
func (s *shard) deleteOffsets(groupID string, partitions []api.TopicPartition, reply func([]*api.Error, error)) {
	g := s.groups[groupID]
	if err := offsetsDeletable(g, groupID); err != nil {
		s.emit(func(error) { reply(nil, err) })
		return
	}
	results := make([]*api.Error, len(partitions))
	now := time.Now()
	subscribed := g.subscribed()
	var dropped []api.TopicPartition
	var places []int // of dropped, in results
	for i, tp := range partitions {
		_, has := g.offsets[tp]
		_, exist := s.cfg.Topics.Topic(tp.Topic)
		switch {
		case tp.Partition < 0 || tp.Partition >= exist:
			results[i] = api.Errorf(api.CodeUnknownPartition, "there is no such partition").At(tp.Topic, tp.Partition)
		case subscribed(tp.Topic):
			results[i] = api.Errorf(api.CodeGroupNotEmpty, "members of group %q subscribe to the topic", groupID).At(tp.Topic, tp.Partition)
		case has || g.onTheWay[tp] > 0:
			dropped, places = append(dropped, tp), append(places, i)
		}
	}
	write := func(key []byte) *batch { return s.persistAt(now, key, nil, false) }
	s.dropOffsets(g, dropped, write, func(i int, err error) {
		tp := dropped[i]
		results[places[i]] = commitError(err).At(tp.Topic, tp.Partition)
	})
	s.emit(func(error) { reply(results, nil) })
}

// dropOffsets writes tombstones, each by write. An offset can be read until its own is
// committed; refused hears of those that are not.
func (s *shard) dropOffsets(g *group, dropped []api.TopicPartition, write func(key []byte) *batch, refused func(i int, err error)) {
	ended := func(from, to int) output {
		return output{group: g.id, own: true, run: func(err error) {
			for i := from; i < to; i++ {
				if err != nil {
					refused(i, err)
				} else {
					delete(g.offsets, dropped[i])
				}
			}
		}}
	}
	var current *batch
	from := 0
	for i, tp := range dropped {
		b := write(offsetKey(g.id, tp))
		if current != nil && b != current {
			current.outputs = append(current.outputs, ended(from, i))
			from = i
		}
		current = b
	}
	if current != nil {
		current.outputs = append(current.outputs, ended(from, len(dropped)))
	}
}

func offsetsDeletable(g *group, groupID string) *api.Error {
	switch {
	case g == nil:
		return api.Errorf(api.CodeUnknownGroup, "there is no group %q", groupID)
	case g.classic != nil && g.members() > 0 && g.classic.ProtocolType() != consumerProtocolType:
		return api.Errorf(api.CodeGroupNotEmpty, "group %q has %d members of the protocol type %q", groupID, g.members(), g.classic.ProtocolType())
	}
	return nil
}

// subscribed tells whether a member wants a topic, as far as is known: what a member of
// the classic protocol says and cannot be read may be any topic.
func (g *group) subscribed() func(topic string) bool {
	if g.classic == nil {
		return g.machine.Subscribes
	}
	topics := make(map[string]struct{})
	for _, m := range g.classic.Members() {
		for _, p := range m.Protocols {
			sub, ok := readSubscription(p.Metadata)
			if !ok {
				return func(string) bool { return true }
			}
			for _, topic := range sub.Topics {
				topics[topic] = struct{}{}
			}
		}
	}
	return func(topic string) bool {
		_, ok := topics[topic]
		return ok
	}
}
