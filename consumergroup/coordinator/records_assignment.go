package coordinator

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// The records about who is to own what, and who may: Kafka's target and current
// assignments (KIP-848), which name topics by their ids, and its resolved
// patterns. A topic that is gone has no id: its partitions are left out.

// States of a member in ConsumerGroupCurrentMemberAssignmentValue.
const (
	memberStable     = 0
	memberUnrevoked  = 1
	memberUnreleased = 2
)

// tagAssignmentEpochs is the member epoch in which each partition was given
// (KIP-1251).
const tagAssignmentEpochs = 0

// idPartitions are partitions of a topic, as records have them.
type idPartitions struct {
	topic      api.TopicID
	partitions []int32
	epochs     []int32 // of a current assignment, beside partitions; nil: the member's
}

// storedCurrent is a current assignment, as its record has it.
type storedCurrent struct {
	epoch, previous    int32
	state              int8
	assigned, revoking []idPartitions
}

// topicIDs tells the id of a topic; zero: there is none of that name.
type topicIDs func(topic string) api.TopicID

func (s *shard) topicID(topic string) api.TopicID {
	id, _ := s.cfg.Topics.Topic(topic)
	return id
}

func targetEpochKey(group string) []byte { return keyOf(keyTargetMetadata, group) }

// targetEpochValue is ConsumerGroupTargetAssignmentMetadataValue version 0.
func targetEpochValue(epoch int32) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(epoch)), 0)
}

func targetKey(group, member string) []byte { return keyOf(keyTargetMember, group, member) }

// targetValue is ConsumerGroupTargetAssignmentMemberValue version 0.
func targetValue(target []consumergroup.TopicPartition, ids topicIDs) []byte {
	given := make([]consumergroup.Given, len(target))
	for i, p := range target {
		given[i].TopicPartition = p
	}
	return append(appendPartitions([]byte{0, 0}, byID(given, ids, false)), 0)
}

func currentKey(group, member string) []byte { return keyOf(keyCurrentMember, group, member) }

// currentValue is ConsumerGroupCurrentMemberAssignmentValue version 0.
func currentValue(c *consumergroup.Current, ids topicIDs) []byte {
	state := byte(memberStable)
	switch {
	case len(c.Revoking) > 0:
		state = memberUnrevoked
	case c.Waiting:
		state = memberUnreleased
	}
	b := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(c.Epoch))
	b = binary.BigEndian.AppendUint32(b, uint32(c.Previous))
	b = appendPartitions(append(b, state), byID(c.Assigned, ids, true))
	return append(appendPartitions(b, byID(c.Revoking, ids, true)), 0)
}

// byID gathers ascending partitions under their topics' ids: what was given of a topic
// that was deleted does not go over to the one of its name.
func byID(list []consumergroup.Given, ids topicIDs, epochs bool) []idPartitions {
	var out []idPartitions
	topic, today := "", api.TopicID{}
	for _, p := range list {
		if p.Topic != topic {
			topic, today = p.Topic, ids(p.Topic)
		}
		id := cmp.Or(api.TopicID(p.TopicID), today)
		if id.IsZero() {
			continue
		}
		if n := len(out); n == 0 || out[n-1].topic != id {
			out = append(out, idPartitions{topic: id})
		}
		last := &out[len(out)-1]
		last.partitions = append(last.partitions, p.Partition)
		if epochs {
			last.epochs = append(last.epochs, p.Epoch)
		}
	}
	return out
}

func appendPartitions(b []byte, list []idPartitions) []byte {
	b = binary.AppendUvarint(b, uint64(len(list))+1)
	for _, t := range list {
		b = appendInts(append(b, t.topic[:]...), t.partitions)
		if t.epochs == nil {
			b = append(b, 0)
			continue
		}
		epochs := appendInts(nil, t.epochs)
		b = binary.AppendUvarint(append(b, 1, tagAssignmentEpochs), uint64(len(epochs)))
		b = append(b, epochs...)
	}
	return b
}

func appendInts(b []byte, list []int32) []byte {
	b = binary.AppendUvarint(b, uint64(len(list))+1)
	for _, n := range list {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return b
}

func (d *decoder) ints() []int32 {
	n := d.count()
	if n == 0 || n > len(d.b)/4 {
		d.bad = d.bad || n > 0
		return nil
	}
	list := make([]int32, n)
	for i := range list {
		list[i] = d.int32()
	}
	return list
}

func (d *decoder) partitions() (list []idPartitions) {
	for n := d.count(); n > 0 && !d.bad; n-- {
		var t idPartitions
		copy(t.topic[:], d.take(uint64(len(t.topic))))
		t.partitions = d.ints()
		d.tags(func(tag uint64, b []byte) {
			if tag != tagAssignmentEpochs {
				return
			}
			epochs := decoder{b: b}
			t.epochs = epochs.ints()
			d.bad = d.bad || epochs.bad || t.epochs != nil && len(t.epochs) != len(t.partitions)
		})
		if !d.bad {
			list = append(list, t)
		}
	}
	return list
}

// patternKey is ConsumerGroupRegularExpressionKey.
func patternKey(group, pattern string) []byte { return keyOf(keyPattern, group, pattern) }

// patternValue is ConsumerGroupRegularExpressionValue version 0: what a pattern
// matches, in which version of the topics, since when.
func patternValue(topics []string, version uint64, now time.Time) []byte {
	b := binary.AppendUvarint([]byte{0, 0}, uint64(len(topics))+1)
	for _, topic := range topics {
		b = appendCompact(b, topic)
	}
	b = binary.BigEndian.AppendUint64(b, version)
	return append(binary.BigEndian.AppendUint64(b, uint64(now.UnixMilli())), 0)
}

func (e *entry) decodeTargetEpoch(rec *record.Record) error {
	key, v := decoder{b: rec.Key[2:]}, decoder{b: rec.Value}
	if e.group = key.string(); key.bad {
		return fmt.Errorf("%w: target assignment key", errMalformed)
	}
	if e.tombstone {
		return nil
	}
	version := v.int16()
	if e.epoch = v.int32(); v.bad || version != 0 {
		return fmt.Errorf("%w: target assignment value of group %q: version %d, %d bytes", errMalformed, e.group, version, len(rec.Value))
	}
	return nil
}

func (e *entry) decodeTarget(rec *record.Record) error {
	key, v := decoder{b: rec.Key[2:]}, decoder{b: rec.Value}
	if e.group, e.member.ID = key.string(), key.string(); key.bad {
		return fmt.Errorf("%w: target assignment key", errMalformed)
	}
	if e.tombstone {
		return nil
	}
	version := v.int16()
	if e.target = v.partitions(); v.bad || version != 0 {
		return fmt.Errorf("%w: target assignment value of group %q, member %q: version %d, %d bytes", errMalformed, e.group, e.member.ID, version, len(rec.Value))
	}
	return nil
}

func (e *entry) decodeCurrent(rec *record.Record) error {
	key, v := decoder{b: rec.Key[2:]}, decoder{b: rec.Value}
	if e.group, e.member.ID = key.string(), key.string(); key.bad {
		return fmt.Errorf("%w: current assignment key", errMalformed)
	}
	if e.tombstone {
		return nil
	}
	version := v.int16()
	c := &storedCurrent{epoch: v.int32(), previous: v.int32()}
	if state := v.take(1); !v.bad {
		c.state = int8(state[0])
	}
	c.assigned, c.revoking = v.partitions(), v.partitions()
	if v.bad || version != 0 {
		return fmt.Errorf("%w: current assignment value of group %q, member %q: version %d, %d bytes", errMalformed, e.group, e.member.ID, version, len(rec.Value))
	}
	e.current = c
	return nil
}

func (e *entry) decodePattern(rec *record.Record) error {
	key, v := decoder{b: rec.Key[2:]}, decoder{b: rec.Value}
	if e.group, e.pattern = key.string(), key.string(); key.bad {
		return fmt.Errorf("%w: regular expression key", errMalformed)
	}
	if e.tombstone {
		return nil
	}
	version := v.int16()
	for n := v.count(); n > 0 && !v.bad; n-- {
		e.topics = append(e.topics, v.compact())
	}
	if v.take(16); v.bad || version != 0 {
		return fmt.Errorf("%w: regular expression value of group %q: version %d, %d bytes", errMalformed, e.group, version, len(rec.Value))
	}
	return nil
}

// topicNames is what records call topics by their ids.
type topicNames map[api.TopicID]string

// topicNames reads the names of all topics; nil when no group needs them.
func (s *shard) topicNames(l *loaded) topicNames {
	needed := false
	for _, lg := range l.groups {
		needed = needed || len(lg.members) > 0
	}
	if !needed {
		return nil
	}
	names := topicNames{}
	for name := range s.cfg.Topics.All() {
		names[s.topicID(name)] = name
	}
	return names
}

// given reads partitions of topics that still are; epoch is that of the member.
func (n topicNames) given(list []idPartitions, epoch int32) []consumergroup.Given {
	var out []consumergroup.Given
	for _, t := range list {
		name, ok := n[t.topic]
		if !ok {
			continue
		}
		for i, p := range t.partitions {
			g := consumergroup.Given{TopicPartition: consumergroup.TopicPartition{Topic: name, Partition: p}, Epoch: epoch, TopicID: consumergroup.TopicID(t.topic)}
			if t.epochs != nil {
				g.Epoch = t.epochs[i]
			}
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b consumergroup.Given) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}

func (n topicNames) current(c *storedCurrent) *consumergroup.Current {
	if c == nil {
		return nil
	}
	return &consumergroup.Current{
		Epoch: c.epoch, Previous: c.previous, Waiting: c.state == memberUnreleased,
		Assigned: n.given(c.assigned, c.epoch), Revoking: n.given(c.revoking, c.epoch),
	}
}

// target reads a member's target, and adds the topics that it is of to ids.
func (n topicNames) target(list []idPartitions, ids map[string]consumergroup.TopicID) []consumergroup.TopicPartition {
	given := n.given(list, 0)
	out := make([]consumergroup.TopicPartition, len(given))
	for i := range given {
		out[i] = given[i].TopicPartition
		ids[given[i].Topic] = given[i].TopicID
	}
	return out
}
