package coordinator

import (
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// TestGoldenRecords: our bytes are those that Apache Kafka's own classes write
// (testdata/kafka), and what they write reads back.
func TestGoldenRecords(t *testing.T) {
	tp := api.TopicPartition{Topic: "t", Partition: 5}
	id := api.TopicID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	member := consumergroup.Member{
		ID: "m1", InstanceID: "i", ClientID: "c", Host: "h", Topics: []string{"t"},
		SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute, Assignor: "range",
	}
	byPattern := consumergroup.Member{ID: "m1", Rack: "a", Pattern: "t.*", SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute}
	stable := &consumergroup.StoredClassic{
		Generation: 3, ProtocolType: "consumer", Protocol: "range", Leader: "m1", Since: time.UnixMilli(7),
		Members: []consumergroup.ClassicMember{
			{
				ID: "m1", InstanceID: "i", ClientID: "c", Host: "/h", RebalanceTimeout: time.Minute, SessionTimeout: 10 * time.Second,
				Protocols: []consumergroup.ClassicProtocol{{Name: "range", Metadata: []byte{1, 2}}}, Assignment: []byte{3},
			},
			{
				ID: "m2", ClientID: "c", Host: "/h", RebalanceTimeout: time.Minute, SessionTimeout: 10 * time.Second,
				Protocols: []consumergroup.ClassicProtocol{{Name: "range", Metadata: []byte{}}}, Assignment: []byte{},
			},
		},
	}
	empty := &consumergroup.StoredClassic{Generation: 4, ProtocolType: "consumer", Since: time.UnixMilli(8)}
	hosted := consumergroup.Member{
		ID: "m1", ClientID: "c", Host: "h", Topics: []string{"t"}, SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute,
		Classic: []consumergroup.ClassicProtocol{{Name: "range", Metadata: []byte{1, 2}}},
	}
	m1 := consumergroup.Member{ID: "m1"}
	other := api.TopicID{17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32}
	ids := func(topic string) api.TopicID { return map[string]api.TopicID{"t": id, "u": other}[topic] }
	t0, t2 := consumergroup.TopicPartition{Topic: "t"}, consumergroup.TopicPartition{Topic: "t", Partition: 2}
	u1 := consumergroup.TopicPartition{Topic: "u", Partition: 1}
	given := func(tp consumergroup.TopicPartition, epoch int32) consumergroup.Given {
		return consumergroup.Given{TopicPartition: tp, Epoch: epoch}
	}
	for name, ours := range map[string]struct {
		key, value []byte // value nil: a tombstone, or a form that is only read
		want       entry
	}{
		"offset": {
			offsetKey("g", tp), offsetValue(committed{offset: 258, leaderEpoch: 2, metadata: "x", time: 1, topic: id}),
			entry{kind: 1, group: "g", partition: tp, committed: committed{258, 2, "x", 1, id}},
		},
		"offset-without-topic-id": {
			offsetKey("g", tp), offsetValue(committed{offset: 258, leaderEpoch: -1, time: 1}),
			entry{kind: 1, group: "g", partition: tp, committed: committed{offset: 258, leaderEpoch: -1, time: 1}},
		},
		"offset-v3":        {offsetKey("g", tp), nil, entry{kind: 1, group: "g", partition: tp, committed: committed{offset: 258, leaderEpoch: 2, metadata: "x", time: 1}}},
		"offset-tombstone": {offsetKey("g", tp), nil, entry{kind: 1, group: "g", partition: tp, tombstone: true}},
		"classic":          {classicKey("g"), classicValue(stable), entry{kind: 2, group: "g", classic: stable}},
		"classic-empty":    {classicKey("g"), classicValue(empty), entry{kind: 2, group: "g", classic: empty}},
		"group":            {groupKey("g"), groupValue(7, 0), entry{kind: 3, group: "g", epoch: 7}},
		"group-with-hash":  {groupKey("g"), groupValue(7, 0x0102030405060708), entry{kind: 3, group: "g", epoch: 7, hash: 0x0102030405060708}},
		"group-tombstone":  {groupKey("g"), nil, entry{kind: 3, group: "g", tombstone: true}},
		"member":           {memberKey("g", "m1"), memberValue(&member), entry{kind: 5, group: "g", member: member}},
		"member-of-a-pattern": {
			memberKey("g", "m1"), memberValue(&byPattern), entry{kind: 5, group: "g", member: byPattern},
		},
		"member-of-the-classic-protocol": {
			memberKey("g", "m1"), memberValue(&hosted), entry{kind: 5, group: "g", member: hosted},
		},
		"target-epoch":           {targetEpochKey("g"), targetEpochValue(7), entry{kind: 6, group: "g", epoch: 7}},
		"target-epoch-tombstone": {targetEpochKey("g"), nil, entry{kind: 6, group: "g", tombstone: true}},
		"target": {
			targetKey("g", "m1"), targetValue([]consumergroup.TopicPartition{{Topic: "gone"}, t0, t2, u1}, ids),
			entry{kind: 7, group: "g", member: m1, target: []idPartitions{{topic: id, partitions: []int32{0, 2}}, {topic: other, partitions: []int32{1}}}},
		},
		"target-of-nothing": {targetKey("g", "m1"), targetValue(nil, ids), entry{kind: 7, group: "g", member: m1}},
		"target-tombstone":  {targetKey("g", "m1"), nil, entry{kind: 7, group: "g", member: m1, tombstone: true}},
		"current": {
			currentKey("g", "m1"), currentValue(&consumergroup.Current{Epoch: 7, Previous: 6, Assigned: []consumergroup.Given{given(t0, 5), given(t2, 7)}}, ids),
			entry{kind: 8, group: "g", member: m1, current: &storedCurrent{
				epoch: 7, previous: 6, assigned: []idPartitions{{id, []int32{0, 2}, []int32{5, 7}}},
			}},
		},
		"current-giving-up": {
			currentKey("g", "m1"), currentValue(&consumergroup.Current{
				Epoch: 6, Previous: 5, Assigned: []consumergroup.Given{given(t0, 5)}, Revoking: []consumergroup.Given{given(t2, 6), given(u1, 6)}, Waiting: true,
			}, ids),
			entry{kind: 8, group: "g", member: m1, current: &storedCurrent{
				epoch: 6, previous: 5, state: memberUnrevoked, assigned: []idPartitions{{id, []int32{0}, []int32{5}}},
				revoking: []idPartitions{{id, []int32{2}, []int32{6}}, {other, []int32{1}, []int32{6}}},
			}},
		},
		"current-waiting": {
			currentKey("g", "m1"), currentValue(&consumergroup.Current{Epoch: 7, Waiting: true}, ids),
			entry{kind: 8, group: "g", member: m1, current: &storedCurrent{epoch: 7, state: memberUnreleased}},
		},
		"current-without-epochs": {
			currentKey("g", "m1"), nil,
			entry{kind: 8, group: "g", member: m1, current: &storedCurrent{epoch: 7, previous: 6, assigned: []idPartitions{{id, []int32{0, 2}, nil}}}},
		},
		"current-tombstone": {currentKey("g", "m1"), nil, entry{kind: 8, group: "g", member: m1, tombstone: true}},
		"pattern": {
			patternKey("g", "t.*"), patternValue([]string{"t", "t2"}, 9, time.UnixMilli(1)), entry{kind: 16, group: "g", pattern: "t.*", topics: []string{"t", "t2"}},
		},
		"pattern-tombstone": {patternKey("g", "t.*"), nil, entry{kind: 16, group: "g", pattern: "t.*", tombstone: true}},
		"member-tombstone":  {memberKey("g", "m1"), nil, entry{kind: 5, group: "g", member: consumergroup.Member{ID: "m1"}, tombstone: true}},
	} {
		t.Run(name, func(t *testing.T) {
			key, value := goldenRecord(t, name)
			if !bytes.Equal(ours.key, key) || ours.value != nil && !bytes.Equal(ours.value, value) {
				t.Fatalf("key %x, Kafka's %x\nvalue %x, Kafka's %x", ours.key, key, ours.value, value)
			}
			got, known, err := decode(&record.Record{Key: key, Value: value}, nil)
			if err != nil || !known || !reflect.DeepEqual(got, ours.want) {
				t.Fatalf("%+v %v %v, want %+v", got, known, err, ours.want)
			}
		})
	}
}

// goldenRecord reads a line of testdata/kafka/golden.txt.
func goldenRecord(t *testing.T, name string) (key, value []byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/kafka/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != name {
			continue
		}
		if key, err = hex.DecodeString(fields[1]); err == nil && fields[2] != "-" {
			value, err = hex.DecodeString(fields[2])
		}
		if err != nil {
			t.Fatal(err)
		}
		return key, value
	}
	t.Fatalf("no line %q", name)
	return nil, nil
}

// TestLoadPassesOver: what is not ours to understand keeps nobody else waiting.
func TestLoadPassesOver(t *testing.T) {
	b := record.NewBuilder(record.BuilderOptions{Codec: record.CodecZstd})
	for _, rec := range []record.Record{
		{Key: []byte{0, 9, 1, 2}, Value: []byte("a type of another time")},
		{Key: []byte{0}, Value: []byte("x")},
		{Key: nil, Value: []byte("x")},
		{Key: offsetKey("g", api.TopicPartition{Topic: "a"}), Value: []byte{0, 3}},
		{Key: groupKey("g"), Value: groupValue(4, 1)},
		{Key: memberKey("g", "m"), Value: memberValue(&consumergroup.Member{})},
		{Key: memberKey("g", "m")},
		{Key: groupKey("gone"), Value: groupValue(4, 0)},
		{Key: groupKey("gone")},
	} {
		if err := b.Append(&rec); err != nil {
			t.Fatal(err)
		}
	}
	batch, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	log := &fakeLog{}
	log.mustAppend(t, batch)
	l, err := load(context.Background(), log)
	if err != nil || l.records != 9 || l.skipped != 4 || len(l.groups) != 1 || l.groups["g"].epoch != 4 || len(l.groups["g"].members) != 0 {
		t.Fatalf("%+v %v", l, err)
	}
	log.batches[0][70] ^= 0xff
	if _, err := load(context.Background(), log); err == nil {
		t.Fatal("a damaged batch was loaded")
	}
}

// FuzzDecode: no bytes make decode panic, and what it reads it writes again.
func FuzzDecode(f *testing.F) {
	member := consumergroup.Member{ID: "m", Topics: []string{"t"}, Pattern: "x.*", SessionTimeout: time.Second}
	f.Add(offsetKey("g", api.TopicPartition{Topic: "t"}), offsetValue(committed{offset: 1}))
	f.Add(groupKey("g"), groupValue(1, 2))
	hosted := consumergroup.Member{ID: "m", Classic: []consumergroup.ClassicProtocol{{Name: "range", Metadata: []byte("x")}}}
	f.Add(memberKey("g", "m"), memberValue(&hosted))
	given := []consumergroup.Given{{TopicPartition: consumergroup.TopicPartition{Topic: "t"}, Epoch: 3}}
	ids := func(string) api.TopicID { return api.TopicID{7} }
	f.Add(targetKey("g", "m"), targetValue([]consumergroup.TopicPartition{{Topic: "t"}}, ids))
	f.Add(currentKey("g", "m"), currentValue(&consumergroup.Current{Epoch: 4, Assigned: given, Revoking: given}, ids))
	f.Add(patternKey("g", "x.*"), patternValue([]string{"xa"}, 1, time.UnixMilli(1)))
	f.Add(memberKey("g", "m"), memberValue(&member))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, known, err := decode(&record.Record{Key: key, Value: value}, nil)
		if err != nil || !known || e.tombstone {
			return
		}
		var k, v []byte
		switch e.kind {
		case keyOffsetCommit:
			k, v = offsetKey(e.group, e.partition), offsetValue(e.committed)
		case keyGroupMetadata:
			k, v = groupKey(e.group), groupValue(e.epoch, e.hash)
		case keyMemberMetadata:
			if e.member.RebalanceTimeout < 0 || e.member.SessionTimeout < 0 {
				return
			}
			k, v = memberKey(e.group, e.member.ID), memberValue(&e.member)
		default:
			return // they are written of other forms than they are read into
		}
		again, known, err := decode(&record.Record{Key: k, Value: v}, nil)
		if err != nil || !known || !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v became %+v %v", e, again, err)
		}
		if e.kind != keyOffsetCommit && !bytes.Equal(k, key) && len(k) == len(key) {
			t.Fatalf("key %x became %x", key, k)
		}
	})
}
