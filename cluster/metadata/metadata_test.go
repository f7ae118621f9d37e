package metadata_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

var update = flag.Bool("update", false, "write the golden files of a level that has none")

// TestSnapshotDamage flips a bit of every byte and cuts at every byte: nothing of
// it may be taken for an image.
func TestSnapshotDamage(t *testing.T) {
	var out bytes.Buffer
	if err := metadata.WriteSnapshot(goldenImage(t, metadata.Version), &out); err != nil {
		t.Fatal(err)
	}
	good := out.Bytes()
	for i := range good {
		if _, err := metadata.ReadSnapshot(bytes.NewReader(good[:i])); !errors.Is(err, metadata.ErrCorruptSnapshot) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, err := metadata.ReadSnapshot(bytes.NewReader(bad)); !errors.Is(err, metadata.ErrCorruptSnapshot) {
			t.Fatalf("bit %d of byte %d: %v", i%8, i, err)
		}
	}
	if _, err := metadata.ReadSnapshot(bytes.NewReader(append(slices.Clone(good), 0))); !errors.Is(err, metadata.ErrCorruptSnapshot) {
		t.Errorf("a byte more: %v", err)
	}
	failed := errors.New("disk")
	if _, err := metadata.ReadSnapshot(io.MultiReader(bytes.NewReader(good[:9]), failing{failed})); !errors.Is(err, failed) {
		t.Errorf("a failing reader: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestMemoryIsBounded: the oldest outcome is forgotten, the others are not.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	id := func(n int) []byte { return fmt.Appendf(nil, "%016d", n) }
	const more = 100
	for n := range metadata.MemorySize + more {
		cmd := &metav1.Command{Version: 1, Id: id(n), Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "x"}}}
		w.im, _, _ = metadata.Apply(w.im, w.im.Index()+1, cmd)
	}
	for n, want := range map[int]bool{0: false, more - 1: false, more: true, metadata.MemorySize + more - 1: true} {
		key, _ := metadata.ParseID(id(n))
		if _, ok := w.im.Applied(key); ok != want {
			t.Errorf("command %d is remembered: %v", n, ok)
		}
	}
	if err := w.im.Check(); err != nil {
		t.Error(err)
	}
}

func TestFirstCommandSetsTheClusterID(t *testing.T) {
	set := func(id string) *metav1.Command {
		return &metav1.Command{Version: 1, Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: id}}}
	}
	register := &metav1.Command{Version: 1, Kind: &metav1.Command_RegisterBroker{
		RegisterBroker: &metav1.RegisterBroker{NodeId: 1, StorageId: nodeStorage(1)},
	}}
	steps := []struct {
		cmd  *metav1.Command
		want metadata.Code
	}{
		{register, metadata.CodeInvalidArgument},
		{set(""), metadata.CodeInvalidArgument},
		{set(strings.Repeat("x", 65)), metadata.CodeInvalidArgument},
		{&metav1.Command{Version: 1}, metadata.CodeInvalidArgument},
		{set("one"), metadata.CodeNone},
		{&metav1.Command{Version: 1}, metadata.CodeUnsupported},
		{set("one"), metadata.CodeNone},
		{set("two"), metadata.CodeIdentityConflict},
		{&metav1.Command{Version: 1, Id: []byte("short")}, metadata.CodeInvalidArgument},
		{nil, metadata.CodeUnsupported},
		{register, metadata.CodeNone},
	}
	im := metadata.Empty()
	for i, s := range steps {
		next, _, err := metadata.Apply(im, im.Index()+1, s.cmd)
		if (s.want == metadata.CodeNone) != (err == nil) || (err != nil && !errors.Is(err, &metadata.Error{Code: s.want})) {
			t.Errorf("step %d: %v, want %v", i, err, s.want)
		}
		if next.Index() != im.Index()+1 {
			t.Errorf("step %d: index %d after %d", i, next.Index(), im.Index())
		}
		im = next
	}
	again, _, err := metadata.Apply(im, im.Index(), register)
	if again != im || !errors.Is(err, &metadata.Error{Code: metadata.CodeInvalidArgument}) {
		t.Errorf("an index twice: %v", err)
	}
}

// TestSharing: what a command does not change is the same object afterwards.
func TestSharing(t *testing.T) {
	old := goldenImage(t, metadata.Version)
	im, _, err := metadata.Apply(old, old.Index()+1, &metav1.Command{Version: 1, Kind: &metav1.Command_AlterTopicConfig{
		AlterTopicConfig: &metav1.AlterTopicConfig{Name: "orders", Set: map[string]string{"segment.bytes": "8192"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if im.Topic(metadata.ConsumerOffsetsTopic) != old.Topic(metadata.ConsumerOffsetsTopic) || im.Broker(1) != old.Broker(1) {
		t.Error("an untouched topic or broker was copied")
	}
	if im.Topic("orders") == old.Topic("orders") || im.Topic("orders").Partitions[0] != old.Topic("orders").Partitions[0] {
		t.Error("the altered topic is the same, or its partitions are not")
	}
	if old.Topic("orders").Settings().SegmentBytes == 8192 || im.Topic("orders").Settings().SegmentBytes != 8192 {
		t.Error("the settings are not those of the image")
	}
}

// TestInternalTopicKeepsItsRecords: whatever is asked for, committed offsets are
// synced and not removed by age or size.
func TestInternalTopicKeepsItsRecords(t *testing.T) {
	s := goldenImage(t, metadata.Version).Topic(metadata.ConsumerOffsetsTopic).Settings()
	if s.Durability != metadata.Synced || s.RetentionAge != metadata.Unlimited || s.RetentionBytes != metadata.Unlimited {
		t.Errorf("settings %+v", s)
	}
}

func TestTopicConfigs(t *testing.T) {
	s, err := metadata.ParseSettings(nil)
	if err != nil {
		t.Fatal("the defaults are not valid: ", err)
	}
	want := metadata.TopicSettings{
		Durability: metadata.Synced, MinInSyncReplicas: 2, RetentionAge: 7 * 24 * time.Hour, RetentionBytes: -1,
		SegmentBytes: 1 << 30, SegmentAge: 7 * 24 * time.Hour, FlushInterval: time.Second,
		MaxMessageBytes: 1_048_588, IndexInterval: 4096, Delete: true, MinDirtyRatio: 0.5, DeleteRetention: 24 * time.Hour, TimestampBefore: math.MaxInt64, TimestampAfter: 3_600_000,
	}
	if s != want {
		t.Errorf("defaults %+v, want %+v", s, want)
	}
	table := metadata.TopicConfigs()
	if !slices.IsSortedFunc(table, func(a, b metadata.TopicConfig) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the table is not in order of name")
	}
	for _, c := range table {
		if c.Type == "" || c.Range == "" || !strings.HasSuffix(c.Doc, ".") {
			t.Errorf("%s is not documented: %+v", c.Name, c)
		}
	}
	for _, tc := range []struct {
		key, value string
		ok         bool
	}{
		{"retention.ms", "-1", true},
		{"retention.ms", "9223372036854", true},
		{"retention.ms", "9223372036855", false},
		{"retention.ms", "1h", false},
		{"message.timestamp.type", "LogAppendTime", true},
		{"message.timestamp.type", "logappendtime", false},
		{"segment.bytes", "4095", false},
		{"max.message.bytes", "33554433", false},
		{"cleanup.policy", "delete", true},
		{"cleanup.policy", "compact", true},
		{"cleanup.policy", "compact,delete", true},
		{"cleanup.policy", "delete, compact", true},
		{"cleanup.policy", "", false},
		{"cleanup.policy", "compact,compact", false},
		{"cleanup.policy", "compress", false},
		{"min.cleanable.dirty.ratio", "0", true},
		{"min.cleanable.dirty.ratio", "1", true},
		{"min.cleanable.dirty.ratio", "1.01", false},
		{"min.cleanable.dirty.ratio", "NaN", false},
		{"delete.retention.ms", "0", true},
		{"delete.retention.ms", "-1", false},
		{"min.compaction.lag.ms", "60000", true},
		{"min.compaction.lag.ms", "-1", false},
		{"unclean.leader.election.enable", "false", true},
	} {
		_, err := metadata.ParseSettings(map[string]string{tc.key: tc.value})
		if (err == nil) != tc.ok {
			t.Errorf("%s=%s: %v", tc.key, tc.value, err)
		}
		if err != nil && (!errors.Is(err, &metadata.Error{Code: metadata.CodeInvalidConfig}) || !strings.Contains(err.Error(), tc.key)) {
			t.Errorf("%s=%s: the error does not say what is wrong: %v", tc.key, tc.value, err)
		}
	}
}

func TestValidateTopicName(t *testing.T) {
	for _, name := range []string{"a", "A.b_c-9", "...", strings.Repeat("x", 249)} {
		if err := metadata.ValidateTopicName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a b", "a/b", "ä", "a\x00", strings.Repeat("x", 250), strings.Repeat("ä", 200)} {
		if err := metadata.ValidateTopicName(name); !errors.Is(err, &metadata.Error{Code: metadata.CodeInvalidTopic}) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestCodes: the numbers are those of the public protocol.
func TestCodes(t *testing.T) {
	for c := range metadata.Code(64) {
		if name := c.String(); !strings.HasPrefix(name, "code ") && c != metadata.CodeNone {
			want := "ERROR_CODE_" + strings.ToUpper(strings.ReplaceAll(name, " ", "_"))
			if got := pb.ErrorCode(c).String(); got != want {
				t.Errorf("%d is %s, in the protocol %s", c, want, got)
			}
		}
	}
}

func FuzzReadSnapshot(f *testing.F) {
	var out bytes.Buffer
	if err := metadata.WriteSnapshot(goldenImage(f, metadata.Version), &out); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Add(out.Bytes()[:40])
	f.Add([]byte("PSKIMG01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4 { // with a right CRC, or nothing behind it would be reached
			b = binary.BigEndian.AppendUint32(b[:len(b)-4:len(b)-4], crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)))
		}
		im, err := metadata.ReadSnapshot(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, metadata.ErrCorruptSnapshot) {
				t.Fatal(err)
			}
			return
		}
		if err := im.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzApply applies whatever decodes as a command to an image with everything.
func FuzzApply(f *testing.F) {
	im := goldenImage(f, metadata.Version)
	for _, cmd := range []*metav1.Command{
		{Version: 1, Kind: &metav1.Command_RegisterBroker{RegisterBroker: &metav1.RegisterBroker{NodeId: 1, StorageId: nodeStorage(1)}}},
		{Version: 1, Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: 1, BrokerEpoch: im.Broker(1).Epoch}}},
		{Version: 1, Kind: &metav1.Command_UnfenceBroker{UnfenceBroker: &metav1.UnfenceBroker{NodeId: 0, BrokerEpoch: im.Broker(0).Epoch}}},
		{Version: 1, Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
			Name: "n", TopicId: topicID("n"), Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{0, 1}}},
		}}},
		{Version: 1, Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "orders"}}},
		{Version: 1, Kind: &metav1.Command_AlterTopicConfig{AlterTopicConfig: &metav1.AlterTopicConfig{
			Name: "orders", Set: map[string]string{"retention.ms": "5"}, Unset: []string{"durability"},
		}}},
		{Version: 1, Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
			NodeId: 2, BrokerEpoch: im.Broker(2).Epoch, Changes: []*metav1.IsrChange{{
				TopicId: topicID("orders"), LeaderEpoch: 1, PartitionEpoch: 2, Isr: []*metav1.IsrMember{{NodeId: 2, BrokerEpoch: im.Broker(2).Epoch}},
			}},
		}}},
		{Version: 1, Kind: &metav1.Command_ElectLeaders{ElectLeaders: &metav1.ElectLeaders{
			Changes: []*metav1.LeaderChange{{TopicId: topicID("orders"), Leader: 1, FromLastIsr: true}},
		}}},
		{Version: 1, Kind: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIds{NodeId: 2, Count: 1}}},
	} {
		b, err := proto.Marshal(cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var cmd metav1.Command
		if proto.Unmarshal(b, &cmd) != nil {
			return
		}
		next, _, err := metadata.Apply(im, im.Index()+1, &cmd)
		if _, typed := errors.AsType[*metadata.Error](err); err != nil && !typed {
			t.Fatalf("untyped error %v", err)
		}
		if err := next.Check(); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := metadata.WriteSnapshot(next, &out); err != nil {
			t.Fatal(err)
		}
		if _, err := metadata.ReadSnapshot(&out); err != nil {
			t.Fatal(err)
		}
	})
}

// bigImage has 100,000 partitions in 1,000 topics on 10 brokers.
func bigImage(b *testing.B) *world {
	b.Helper()
	w := newWorld(b)
	for node := range int32(10) {
		if _, err := w.apply(&metav1.Command{Version: 1, Kind: &metav1.Command_RegisterBroker{
			RegisterBroker: &metav1.RegisterBroker{NodeId: node, StorageId: nodeStorage(node)},
		}}); err != nil {
			b.Fatal(err)
		}
	}
	for n := range 1000 {
		c := &metav1.CreateTopic{Name: fmt.Sprintf("topic-%04d", n), TopicId: topicID(fmt.Sprintf("topic-%04d", n))}
		for p := range int32(100) {
			c.Partitions = append(c.Partitions, &metav1.PartitionAssignment{Replicas: []int32{p % 10, (p + 1) % 10, (p + 2) % 10}})
		}
		if _, err := w.apply(&metav1.Command{Version: 1, Kind: &metav1.Command_CreateTopic{CreateTopic: c}}); err != nil {
			b.Fatal(err)
		}
	}
	return w
}

func BenchmarkApply(b *testing.B) {
	w := bigImage(b)
	p := w.im.Topic("topic-0500").Partitions[0]
	change := &metav1.Command{Version: 1, Id: topicID("change"), Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
		NodeId: p.Leader, BrokerEpoch: w.epoch(p.Leader), Changes: []*metav1.IsrChange{{
			TopicId: topicID("topic-0500"), Isr: []*metav1.IsrMember{{NodeId: p.Leader, BrokerEpoch: w.epoch(p.Leader)}},
		}},
	}}}
	fence := &metav1.Command{Version: 1, Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: 3, BrokerEpoch: w.epoch(3)}}}
	for _, bm := range []struct {
		name string
		cmd  *metav1.Command
	}{{"ChangeIsr", change}, {"FenceBroker", fence}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, result, err := metadata.Apply(w.im, w.im.Index()+1, bm.cmd); err != nil || result.Refused != nil {
					b.Fatal(err, result.Refused)
				}
			}
		})
	}
	b.Run("ReadSnapshot", func(b *testing.B) {
		var snapshot bytes.Buffer
		if err := metadata.WriteSnapshot(w.im, &snapshot); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := metadata.ReadSnapshot(bytes.NewReader(snapshot.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := metadata.WriteSnapshot(w.im, io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
}
