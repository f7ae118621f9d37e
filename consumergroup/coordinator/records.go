package coordinator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// Record types of __consumer_offsets: the first two bytes of a key. Kafka
// calls the number the key's version.
const (
	keyOffsetCommitV0 = 0
	keyOffsetCommit   = 1
	keyClassic        = 2  // GroupMetadata of the classic protocol
	keyGroupMetadata  = 3  // ConsumerGroupMetadata (KIP-848)
	keyMemberMetadata = 5  // ConsumerGroupMemberMetadata (KIP-848)
	keyTargetMetadata = 6  // ConsumerGroupTargetAssignmentMetadata
	keyTargetMember   = 7  // ConsumerGroupTargetAssignmentMember
	keyCurrentMember  = 8  // ConsumerGroupCurrentMemberAssignment
	keyPattern        = 16 // ConsumerGroupRegularExpression
)

const (
	offsetCommitValueVersion = 4 // from 4 on with the topic's id
	// tagSessionTimeout is our own tagged field of a member's value: its session
	// timeout in ms, int32. Kafka has a group-wide setting instead, and its
	// readers pass over tags that they do not know.
	tagSessionTimeout = 7848
	tagMetadataHash   = 0 // of a group's value
	tagClassicMember  = 0 // of a member's value
)

// errMalformed is the cause of errors about records that do not decode.
var errMalformed = errors.New("malformed record")

// committed is the value of an offset commit.
type committed struct {
	offset      record.Offset
	leaderEpoch record.Epoch
	metadata    string
	time        int64       // ms
	topic       api.TopicID // zero: not known
}

func offsetKey(group string, tp api.TopicPartition) []byte { return appendOffsetKey(nil, group, tp) }

func appendOffsetKey(dst []byte, group string, tp api.TopicPartition) []byte {
	key := kmsg.OffsetCommitKey{Version: keyOffsetCommit, Group: group, Topic: tp.Topic, Partition: tp.Partition}
	return key.AppendTo(dst)
}

func appendOffsetValue(dst []byte, c *committed) []byte {
	value := kmsg.OffsetCommitValue{
		Version: offsetCommitValueVersion, Offset: int64(c.offset), LeaderEpoch: int32(c.leaderEpoch),
		Metadata: c.metadata, CommitTimestamp: c.time, TopicID: c.topic,
	}
	return value.AppendTo(dst)
}

func groupKey(group string) []byte { return keyOf(keyGroupMetadata, group) }

// keyOf is a key that names a group, and what else it names.
func keyOf(kind uint16, names ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	for _, name := range names {
		b = appendString(b, name)
	}
	return b
}

// groupValue is ConsumerGroupMetadataValue version 0.
func groupValue(epoch int32, hash int64) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(epoch))
	if hash == 0 {
		return append(b, 0)
	}
	b = append(b, 1, tagMetadataHash, 8)
	return binary.BigEndian.AppendUint64(b, uint64(hash))
}

func memberKey(group, member string) []byte { return keyOf(keyMemberMetadata, group, member) }

// memberValue is ConsumerGroupMemberMetadataValue version 0.
func memberValue(m *consumergroup.Member) []byte {
	b := appendNullable([]byte{0, 0}, m.InstanceID)
	b = appendNullable(b, m.Rack)
	b = appendCompact(b, m.ClientID)
	b = appendCompact(b, m.Host)
	b = binary.AppendUvarint(b, uint64(len(m.Topics))+1)
	for _, topic := range m.Topics {
		b = appendCompact(b, topic)
	}
	b = appendNullable(b, m.Pattern)
	b = binary.BigEndian.AppendUint32(b, milliseconds(m.RebalanceTimeout))
	b = appendNullable(b, m.Assignor)
	b = binary.AppendUvarint(b, 1) // tagged fields
	if len(m.Classic) > 0 {
		classic := classicMemberValue(m)
		b = binary.AppendUvarint(append(b, tagClassicMember), uint64(len(classic)))
		return append(b, classic...)
	}
	b = binary.AppendUvarint(b, tagSessionTimeout)
	b = binary.AppendUvarint(b, 4)
	return binary.BigEndian.AppendUint32(b, milliseconds(m.SessionTimeout))
}

// classicMemberValue is the field ClassicMemberMetadata: not null, with what the
// member says under each of its protocols.
func classicMemberValue(m *consumergroup.Member) []byte {
	b := binary.BigEndian.AppendUint32([]byte{1}, milliseconds(m.SessionTimeout))
	b = binary.AppendUvarint(b, uint64(len(m.Classic))+1)
	for _, p := range m.Classic {
		b = appendCompact(b, p.Name)
		b = appendCompact(b, string(p.Metadata))
		b = append(b, 0)
	}
	return append(b, 0)
}

func milliseconds(d time.Duration) uint32 { return uint32(min(d.Milliseconds(), math.MaxInt32)) }

// entry is one decoded record. Fields beside kind and group depend on kind.
type entry struct {
	kind      int16 // key version
	group     string
	tombstone bool

	partition api.TopicPartition           // keyOffsetCommit
	committed committed                    // keyOffsetCommit
	classic   *consumergroup.StoredClassic // keyClassic
	epoch     int32                        // keyGroupMetadata, keyTargetMetadata
	hash      int64                        // keyGroupMetadata
	member    consumergroup.Member         // keyMemberMetadata; its ID also in a tombstone, and of the next two
	target    []idPartitions               // keyTargetMember
	current   *storedCurrent               // keyCurrentMember
	pattern   string                       // keyPattern
	topics    []string                     // keyPattern
}

// names lets strings that come again and again be one. A nil map keeps none.
type names map[string]string

func (n names) get(b []byte) string {
	if s, ok := n[string(b)]; ok {
		return s
	}
	s := string(b)
	if n != nil {
		n[s] = s
	}
	return s
}

// decode reads a record of __consumer_offsets. used is false for types that
// this version does not use: they are left alone, as Kafka does.
func decode(rec *record.Record, known names) (e entry, used bool, err error) {
	if len(rec.Key) < 2 {
		return e, false, fmt.Errorf("%w: key of %d bytes", errMalformed, len(rec.Key))
	}
	e.kind = int16(binary.BigEndian.Uint16(rec.Key))
	e.tombstone = rec.Value == nil
	switch e.kind {
	case keyOffsetCommitV0, keyOffsetCommit:
		err = e.decodeOffset(rec, known)
		e.kind = keyOffsetCommit
	case keyClassic:
		err = e.decodeClassic(rec)
	case keyGroupMetadata:
		err = e.decodeGroup(rec)
	case keyMemberMetadata:
		err = e.decodeMember(rec)
	case keyTargetMetadata:
		err = e.decodeTargetEpoch(rec)
	case keyTargetMember:
		err = e.decodeTarget(rec)
	case keyCurrentMember:
		err = e.decodeCurrent(rec)
	case keyPattern:
		err = e.decodePattern(rec)
	default:
		return e, false, nil
	}
	return e, err == nil, err
}

func (e *entry) decodeOffset(rec *record.Record, known names) error {
	key := decoder{b: rec.Key[2:]}
	group, topic, partition := key.bytes(), key.bytes(), key.int32()
	if key.bad {
		return fmt.Errorf("%w: offset commit key of %d bytes", errMalformed, len(rec.Key))
	}
	e.group, e.partition = known.get(group), api.TopicPartition{Topic: known.get(topic), Partition: partition}
	if e.tombstone {
		return nil
	}
	var value kmsg.OffsetCommitValue
	if err := value.ReadFrom(rec.Value); err != nil {
		return fmt.Errorf("%w: offset commit value of group %q: %w", errMalformed, e.group, err)
	}
	if value.Version < 0 || value.Version > 4 {
		return fmt.Errorf("%w: offset commit value of group %q: version %d, known are 0 to 4", errMalformed, e.group, value.Version)
	}
	e.committed = committed{
		offset: record.Offset(value.Offset), leaderEpoch: record.Epoch(value.LeaderEpoch),
		metadata: value.Metadata, time: value.CommitTimestamp, topic: value.TopicID,
	}
	if value.Version < 3 {
		e.committed.leaderEpoch = record.UnknownEpoch
	}
	return nil
}

func (e *entry) decodeGroup(rec *record.Record) error {
	key := decoder{b: rec.Key[2:]}
	e.group = key.string()
	if key.bad {
		return fmt.Errorf("%w: group metadata key", errMalformed)
	}
	if e.tombstone {
		return nil
	}
	value := decoder{b: rec.Value}
	version := value.int16()
	e.epoch = value.int32()
	value.tags(func(tag uint64, b []byte) {
		if tag == tagMetadataHash && len(b) == 8 {
			e.hash = int64(binary.BigEndian.Uint64(b))
		}
	})
	if value.bad || version != 0 {
		return fmt.Errorf("%w: group metadata value of group %q: version %d, %d bytes", errMalformed, e.group, version, len(rec.Value))
	}
	return nil
}

func (e *entry) decodeMember(rec *record.Record) error {
	key := decoder{b: rec.Key[2:]}
	e.group, e.member.ID = key.string(), key.string()
	if key.bad {
		return fmt.Errorf("%w: member metadata key", errMalformed)
	}
	if e.tombstone {
		return nil
	}
	v := decoder{b: rec.Value}
	version := v.int16()
	m := &e.member
	m.InstanceID, m.Rack, m.ClientID, m.Host = v.compact(), v.compact(), v.compact(), v.compact()
	for n := v.count(); n > 0 && !v.bad; n-- {
		m.Topics = append(m.Topics, v.compact())
	}
	m.Pattern = v.compact()
	m.RebalanceTimeout = time.Duration(v.int32()) * time.Millisecond
	m.Assignor = v.compact()
	v.tags(func(tag uint64, b []byte) {
		switch {
		case tag == tagSessionTimeout && len(b) == 4:
			m.SessionTimeout = time.Duration(int32(binary.BigEndian.Uint32(b))) * time.Millisecond
		case tag == tagClassicMember:
			v.bad = !readClassicMember(b, m) || v.bad
		}
	})
	if v.bad || version != 0 {
		return fmt.Errorf("%w: member metadata value of group %q, member %q: version %d, %d bytes", errMalformed, e.group, m.ID, version, len(rec.Value))
	}
	return nil
}

// readClassicMember reads the field ClassicMemberMetadata.
func readClassicMember(b []byte, m *consumergroup.Member) bool {
	d := decoder{b: b}
	if present := d.take(1); d.bad || present[0] == 0 {
		return !d.bad // null
	}
	m.SessionTimeout = time.Duration(d.int32()) * time.Millisecond
	for n := d.count(); n > 0 && !d.bad; n-- {
		m.Classic = append(m.Classic, consumergroup.ClassicProtocol{Name: d.compact(), Metadata: []byte(d.compact())})
		d.tags(func(uint64, []byte) {})
	}
	d.tags(func(uint64, []byte) {})
	return !d.bad
}
