package coordinator

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// TestGoldenRecords holds the bytes to Kafka's published schemas, field by field.
func TestGoldenRecords(t *testing.T) {
	member := consumergroup.Member{
		ID: "m1", InstanceID: "i", ClientID: "c", Host: "h", Topics: []string{"t"},
		SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute, Assignor: "range",
	}
	tp := api.TopicPartition{Topic: "t", Partition: 5}
	for _, c := range []struct {
		name       string
		key, value []byte
		hexKey     string
		hexValue   string
		want       entry
	}{
		{
			"offset commit", offsetKey("g", tp), offsetValue(committed{offset: 258, leaderEpoch: 2, metadata: "x", time: 1}),
			"0001" + "000167" + "000174" + "00000005",
			"0003" + "0000000000000102" + "00000002" + "000178" + "0000000000000001",
			entry{kind: 1, group: "g", partition: tp, committed: committed{258, 2, "x", 1}},
		},
		{
			"group metadata", groupKey("g"), groupValue(7),
			"0003" + "000167", "0000" + "00000007" + "00",
			entry{kind: 3, group: "g", epoch: 7},
		},
		{
			"member metadata", memberKey("g", "m1"), memberValue(&member),
			"0005" + "000167" + "00026d31",
			"0000" + "0269" + "00" + "0263" + "0268" + "02" + "0274" + "00" + "0000ea60" + "0672616e6765" +
				"01" + "a83d" + "04" + "00002710",
			entry{kind: 5, group: "g", member: member},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if hex.EncodeToString(c.key) != c.hexKey || hex.EncodeToString(c.value) != c.hexValue {
				t.Fatalf("key %x, want %s\nvalue %x, want %s", c.key, c.hexKey, c.value, c.hexValue)
			}
			got, known, err := decode(&record.Record{Key: c.key, Value: c.value})
			if err != nil || !known || !reflect.DeepEqual(got, c.want) {
				t.Fatalf("%+v %v %v", got, known, err)
			}
			got, known, err = decode(&record.Record{Key: c.key})
			if err != nil || !known || !got.tombstone {
				t.Fatalf("tombstone: %+v %v %v", got, known, err)
			}
			for n := range c.key {
				if _, _, err := decode(&record.Record{Key: c.key[:n], Value: c.value}); !errors.Is(err, errMalformed) {
					t.Fatalf("key cut to %d bytes: %v", n, err)
				}
			}
			for n := range len(c.value) - 1 {
				if _, _, err := decode(&record.Record{Key: c.key, Value: c.value[:n]}); !errors.Is(err, errMalformed) {
					t.Fatalf("value cut to %d bytes: %v", n, err)
				}
			}
		})
	}
}

// TestLoadPassesOver: what is not ours to understand keeps nobody else waiting.
func TestLoadPassesOver(t *testing.T) {
	b := record.NewBuilder(record.BuilderOptions{Codec: record.CodecZstd})
	for _, rec := range []record.Record{
		{Key: []byte{0, 9, 1, 2}, Value: []byte("a type of another time")},
		{Key: []byte{0}, Value: []byte("x")},
		{Key: nil, Value: []byte("x")},
		{Key: offsetKey("g", api.TopicPartition{Topic: "a"}), Value: []byte{0, 3}},
		{Key: groupKey("g"), Value: groupValue(4)},
		{Key: memberKey("g", "m"), Value: memberValue(&consumergroup.Member{})},
		{Key: memberKey("g", "m")},
		{Key: groupKey("gone"), Value: groupValue(4)},
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
	if _, err := log.Append(t.Context(), record.NewBuf(batch)); err != nil {
		t.Fatal(err)
	}
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
	f.Add(groupKey("g"), groupValue(1))
	f.Add(memberKey("g", "m"), memberValue(&member))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, known, err := decode(&record.Record{Key: key, Value: value})
		if err != nil || !known || e.tombstone {
			return
		}
		var k, v []byte
		switch e.kind {
		case keyOffsetCommit:
			k, v = offsetKey(e.group, e.partition), offsetValue(e.committed)
		case keyGroupMetadata:
			k, v = groupKey(e.group), groupValue(e.epoch)
		case keyMemberMetadata:
			if e.member.RebalanceTimeout < 0 || e.member.SessionTimeout < 0 {
				return
			}
			k, v = memberKey(e.group, e.member.ID), memberValue(&e.member)
		}
		again, known, err := decode(&record.Record{Key: k, Value: v})
		if err != nil || !known || !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v became %+v %v", e, again, err)
		}
		if e.kind != keyOffsetCommit && !bytes.Equal(k, key) && len(k) == len(key) {
			t.Fatalf("key %x became %x", key, k)
		}
	})
}
