package metadata_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// goldenImage has one of everything that a snapshot of a feature level can hold. Its
// commands are part of the golden files: they never change once a level is released.
func goldenImage(tb testing.TB, level uint32) *metadata.Image {
	tb.Helper()
	g := &goldenBuilder{world: newWorld(tb), level: level}
	g.base()
	if level >= 2 {
		g.operate()
	}
	if level >= 3 {
		g.damage()
	}
	if level >= 4 {
		g.compare()
	}
	return g.im
}

type goldenBuilder struct {
	*world
	level uint32
	id    byte
}

func (g *goldenBuilder) do(cmd *metav1.Command) {
	g.id++
	cmd.Version, cmd.Id = metadata.CommandLevel(cmd), bytes.Repeat([]byte{g.id}, 16)
	_, _ = g.apply(cmd) // a refusal is part of the image, too
}

// register begins a session; the first builds told no level but at their first start.
func (g *goldenBuilder) register(r *metav1.RegisterBroker) {
	if g.level > 1 {
		r.FeatureLevel = g.level
	}
	g.do(&metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: r}})
}

func (g *goldenBuilder) create(name string, configs map[string]string, replicas ...int32) {
	g.do(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: name, TopicId: topicID(name), Configs: configs, Partitions: []*metav1.PartitionAssignment{{Replicas: replicas}},
	}}})
}

func (g *goldenBuilder) fence(node int32) {
	g.do(&metav1.Command{Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: node, BrokerEpoch: g.epoch(node)}}})
}

// change lets the leader of a topic's only partition propose another in-sync set.
func (g *goldenBuilder) change(topic string, isr, failed []int32) {
	p := g.im.Topic(topic).Partitions[0]
	c := &metav1.IsrChange{TopicId: topicID(topic), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, Failed: failed}
	for _, node := range isr {
		c.Isr = append(c.Isr, &metav1.IsrMember{NodeId: node, BrokerEpoch: g.epoch(node)})
	}
	g.do(&metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
		NodeId: p.Leader, BrokerEpoch: g.epoch(p.Leader), Changes: []*metav1.IsrChange{c},
	}}})
}

// base is what there was before levels.
func (g *goldenBuilder) base() {
	for node := range int32(3) {
		g.register(&metav1.RegisterBroker{
			NodeId: node, StorageId: nodeStorage(node), Grpc: []*metav1.Endpoint{{Address: fmt.Sprintf("b%d:7070", node)}},
			Kafka:       []*metav1.Endpoint{{Listener: "host", Address: "localhost:9092"}, {Listener: "inner", Address: "b:9092"}},
			PeerAddress: "b:7073", RaftAddress: "b:7071", Rack: "a", Version: "0.1.0", FeatureLevel: 1,
		})
	}
	g.do(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "orders", TopicId: topicID("orders"), Configs: map[string]string{"retention.ms": "1000", "durability": "replicated"},
		Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{0, 1, 2}}, {Replicas: []int32{1, 2, 0}}},
	}}})
	g.do(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: metadata.ConsumerOffsetsTopic, TopicId: topicID("offsets"), Internal: true,
		Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{2, 0}}},
	}}})
	g.fence(0)
	g.register(&metav1.RegisterBroker{NodeId: 1, StorageId: nodeStorage(1), Replicas: []*metav1.RecoveredReplica{
		{TopicId: topicID("orders"), Partition: 0, LastEpoch: 1, LogEndOffset: 77, Damage: metav1.Damage_DAMAGE_LOST_BYTES},
	}})
	g.do(&metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
		NodeId: 2, BrokerEpoch: g.epoch(2), Changes: []*metav1.IsrChange{{TopicId: topicID("orders"), Partition: 9}},
	}}})
	g.do(&metav1.Command{Kind: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIds{
		NodeId: 2, BrokerEpoch: g.epoch(2), Count: 1000,
	}}})
	g.do(&metav1.Command{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "missing"}}})
	g.register(&metav1.RegisterBroker{NodeId: 4, StorageId: nodeStorage(4), StagingId: topicID("s"), Chunk: 0})
	g.register(&metav1.RegisterBroker{NodeId: 4, StorageId: nodeStorage(4), StagingId: topicID("s"), Chunk: 1})
}

// operate is what level 2 added.
func (g *goldenBuilder) operate() {
	for node := int32(5); node < 9; node++ {
		g.register(&metav1.RegisterBroker{NodeId: node, StorageId: nodeStorage(node), Version: "0.2.0"})
	}
	g.create("moves", nil, 5, 6)
	g.create("gone", nil, 6, 5, 7)
	g.create("lost", nil, 7)
	g.create("lossy", map[string]string{"min.insync.replicas": "1"}, 7, 6)
	g.create("eligible", map[string]string{"min.insync.replicas": "3"}, 5, 6, 8)
	g.do(&metav1.Command{Kind: &metav1.Command_AddPartitions{AddPartitions: &metav1.AddPartitions{
		Name: "moves", TopicId: topicID("moves"), From: 1, Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{6, 2}}},
	}}})
	g.do(&metav1.Command{Kind: &metav1.Command_ReassignPartitions{ReassignPartitions: &metav1.ReassignPartitions{
		Partitions: []*metav1.PartitionReassignment{
			{TopicId: topicID("moves"), Replicas: []int32{6, 2}, Throttle: 4096},
			{TopicId: topicID("moves"), Partition: 9}, // refused
		},
	}}})
	g.do(&metav1.Command{Kind: &metav1.Command_DecommissionBroker{DecommissionBroker: &metav1.DecommissionBroker{NodeId: 5, Throttle: 8192}}})
	g.do(&metav1.Command{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "gone", TopicId: topicID("gone")}}})
	g.do(&metav1.Command{Kind: &metav1.Command_ConfirmDeletions{ConfirmDeletions: &metav1.ConfirmDeletions{
		NodeId: 6, BrokerEpoch: g.epoch(6), Index: g.im.Index(),
	}}})
	g.change("lossy", []int32{7}, nil)
	g.fence(7)
	g.do(&metav1.Command{Kind: &metav1.Command_ReplaceBroker{ReplaceBroker: &metav1.ReplaceBroker{
		NodeId: 7, StorageId: nodeStorage(7), AcceptLoss: true, Vote: true,
	}}})
	g.do(&metav1.Command{Kind: &metav1.Command_ElectUnclean{ElectUnclean: &metav1.ElectUnclean{
		TopicId: topicID("lossy"), PartitionEpoch: g.im.Topic("lossy").Partitions[0].PartitionEpoch, Leader: 6,
	}}})
	g.fence(8)
	g.do(&metav1.Command{Kind: &metav1.Command_RecoverReplica{RecoverReplica: &metav1.RecoverReplica{
		NodeId: 6, BrokerEpoch: g.epoch(6), LeaderEpoch: g.im.Topic("eligible").Partitions[0].LeaderEpoch,
		Replica: &metav1.RecoveredReplica{TopicId: topicID("eligible"), LastEpoch: 0, LogEndOffset: 5},
	}}})
}

// damage is what level 3 added.
func (g *goldenBuilder) damage() {
	g.create("failed", nil, 5, 6)
	g.change("failed", []int32{6}, []int32{5})
}

// compare is what level 4 added: who came back is compared with the eligible ones.
func (g *goldenBuilder) compare() {
	for node := int32(9); node < 11; node++ {
		g.register(&metav1.RegisterBroker{NodeId: node, StorageId: nodeStorage(node), Version: "0.4.0"})
	}
	g.create("forgotten", nil, 9, 10)
	g.fence(10)
	for i, node := range []int32{9, 10} {
		g.register(&metav1.RegisterBroker{NodeId: node, StorageId: nodeStorage(node), Version: "0.4.0", Replicas: []*metav1.RecoveredReplica{
			{TopicId: topicID("forgotten"), LastEpoch: 0, LogEndOffset: 90 + int64(i)},
		}})
	}
}

// goldenRest is what happens after the snapshot was read, and what that came to.
func goldenRest(im *metadata.Image, level uint32) (*metadata.Image, []string) {
	registered := level
	if level == 1 {
		registered = 0
	}
	register := func(r *metav1.RegisterBroker) *metav1.Command {
		r.FeatureLevel = registered
		return &metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: r}}
	}
	commands := []*metav1.Command{
		// The staged registration goes on from the snapshot.
		register(&metav1.RegisterBroker{NodeId: 4, StorageId: nodeStorage(4), StagingId: topicID("s"), Chunk: 2, Final: true}),
		register(&metav1.RegisterBroker{NodeId: 0, StorageId: nodeStorage(0), Replicas: []*metav1.RecoveredReplica{
			{TopicId: topicID("orders"), Partition: 1, LastEpoch: 2, LogEndOffset: 9},
		}}),
		{Id: bytes.Repeat([]byte{8}, 16), Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "orders"}}}, // remembered: nothing happens
		{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "orders"}}},
		{Kind: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIds{NodeId: 2, BrokerEpoch: im.Broker(2).Epoch, Count: 7}}},
	}
	var outcomes []string
	for _, cmd := range commands {
		var (
			result metadata.Result
			err    error
		)
		cmd.Version = metadata.CommandLevel(cmd)
		im, result, err = metadata.Apply(im, im.Index()+1, cmd)
		outcomes = append(outcomes, fmt.Sprintf("%+v %v", result, err))
	}
	return im, outcomes
}

func writeSnapshot(tb testing.TB, im *metadata.Image) []byte {
	tb.Helper()
	var out bytes.Buffer
	if err := metadata.WriteSnapshot(im, &out); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// TestGoldenSnapshots holds the bytes of a snapshot of each feature level: what a
// released build wrote must stay readable, must be the same image, and must go on like
// it. A level without a file fails; -update writes the file of such a level, and never
// changes one that is there.
func TestGoldenSnapshots(t *testing.T) {
	for level := uint32(1); level <= metadata.Version; level++ {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			im := goldenImage(t, level)
			if im.FeatureLevel() != level {
				t.Fatalf("the golden image is of level %d", im.FeatureLevel())
			}
			golden := filepath.Join("testdata", fmt.Sprintf("image_v%d.snapshot", level))
			if *update {
				addGolden(t, golden, writeSnapshot(t, im))
			}
			want := readGolden(t, golden)
			if !bytes.Equal(writeSnapshot(t, im), want) {
				t.Error("the same commands come to another image, or to other bytes, than in the build that released this level")
			}
			read, err := metadata.ReadSnapshot(bytes.NewReader(want))
			if err != nil {
				t.Fatal(err)
			}
			if describe(read) != describe(im) {
				t.Errorf("read as\n%sit was\n%s", describe(read), describe(im))
			}
			if !bytes.Equal(writeSnapshot(t, read), want) {
				t.Error("what was read is written in other bytes")
			}
			a, saidA := goldenRest(im, level)
			b, saidB := goldenRest(read, level)
			if !bytes.Equal(writeSnapshot(t, a), writeSnapshot(t, b)) || !slices.Equal(saidA, saidB) {
				t.Errorf("from the snapshot it goes on to\n%s%v\nnot to\n%s%v", describe(b), saidB, describe(a), saidA)
			}
			if a.Broker(4) == nil {
				t.Errorf("the staged registration does not go on: %s", saidB[0])
			}
		})
	}
}

// TestGoldenSnapshotsHaveAll: every field of every kind of entry is set in the golden
// snapshot of some level. One that is added asks for a file of another level.
func TestGoldenSnapshotsHaveAll(t *testing.T) {
	set := map[protoreflect.FullName]bool{}
	var see func(m protoreflect.Message)
	see = func(m protoreflect.Message) {
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			set[fd.FullName()] = true
			switch {
			case fd.Message() == nil || fd.IsMap():
			case fd.IsList():
				for i := range v.List().Len() {
					see(v.List().Get(i).Message())
				}
			default:
				see(v.Message())
			}
			return true
		})
	}
	for level := uint32(1); level <= metadata.Version; level++ {
		for _, m := range snapshotMessages(t, readGolden(t, filepath.Join("testdata", fmt.Sprintf("image_v%d.snapshot", level)))) {
			see(m.ProtoReflect())
		}
	}
	// Chunks of registrations are commands, which TestGoldenCommands has.
	all := map[protoreflect.FullName]bool{}
	var want func(d protoreflect.MessageDescriptor)
	want = func(d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			all[fd.FullName()] = true
			if m := fd.Message(); m != nil && !fd.IsMap() && m.Name() != "RegisterBroker" {
				want(m)
			}
		}
	}
	want((&metav1.ImageHeader{}).ProtoReflect().Descriptor())
	want((&metav1.ImageEntry{}).ProtoReflect().Descriptor())
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !set[name] {
			t.Errorf("%s is in no golden snapshot", name)
		}
	}
}

// snapshotMessages decodes a snapshot without package metadata.
func snapshotMessages(t *testing.T, b []byte) []proto.Message {
	t.Helper()
	b = b[len("PSKIMG01") : len(b)-4]
	var out []proto.Message
	for len(b) > 0 {
		size, n := consumeVarint(t, b)
		var m proto.Message = new(metav1.ImageEntry)
		if out == nil {
			m = new(metav1.ImageHeader)
		}
		if err := proto.Unmarshal(b[n:n+size], m); err != nil {
			t.Fatal(err)
		}
		out, b = append(out, m), b[n+size:]
	}
	return out
}

// readGolden returns a golden file that is the one of its release.
func readGolden(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: a feature level is released with its golden files, see golden_files_test.go", err)
	}
	checkGoldenSum(t, path, b)
	return b
}
