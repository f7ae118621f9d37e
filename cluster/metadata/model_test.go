package metadata_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// TestModel applies random commands beside a model of what each replica holds
// of the acknowledged records, and checks after each:
//
//   - every invariant of Check;
//   - that all in-sync and eligible members hold every acknowledged record, so
//     that no election but the one from LastISR can lose one (promise 1);
//   - that an election from LastISR takes who holds the most;
//   - that epochs only grow, and the partition epoch with every change;
//   - that the old image did not change and that a snapshot of the new one reads
//     back as the same.
//
// At the end the same commands give the same image again.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { runModel(t, rt, 0, 0) })
}

// runModel is one run of TestModel. Its brokers tell the level first when they register
// for the first time, and level after that; 0 is what builds told before there were levels.
func runModel(t *testing.T, rt *rapid.T, first, level uint32) *model {
	t.Helper()
	m := newModel(t, 4, first)
	for node := range int32(4) {
		m.mustApply(rt, m.registration(rt, node, true))
	}
	m.level = level
	m.create(rt)
	m.repeat(rt, map[string]func(*rapid.T){"delete": m.delete})
	m.replay(rt)
	return m
}

// repeat does what every cluster does, and more, in any order.
func (m *model) repeat(rt *rapid.T, more map[string]func(*rapid.T)) {
	all := map[string]func(*rapid.T){
		"ack":      m.ack,
		"create":   m.create,
		"register": m.register,
		"fence":    m.fence,
		"unfence":  m.unfence,
		"isr":      m.changeISR,
		"elect":    m.elect,
		"alter":    m.alter,
	}
	maps.Copy(all, more)
	rt.Repeat(all)
}

func newModel(t *testing.T, nodes int32, level uint32) *model {
	t.Helper()
	return &model{
		world: newWorld(t), nodes: nodes, level: level,
		held: make(map[part]map[int32]int), acked: make(map[part]int), seen: make(map[part]int), disks: make(map[int32]int32),
	}
}

// from lets an action happen only once the image is at a level.
func (m *model) from(level uint32, action func(*rapid.T)) func(*rapid.T) {
	return func(t *rapid.T) {
		if m.im.FeatureLevel() < level {
			t.Skip("not every broker knows that")
		}
		action(t)
	}
}

type part struct {
	topic string
	n     int
}

type model struct {
	*world
	nodes  int32
	topics int
	held   map[part]map[int32]int // acknowledged records that a replica holds
	acked  map[part]int
	// seen is how many were acknowledged before the image began to keep a LastISR, which
	// its members that never stopped hold at least.
	seen  map[part]int
	level uint32          // that the brokers know
	disks map[int32]int32 // how often a node got another disk
}

func snapshot(t *rapid.T, im *metadata.Image) []byte {
	var b bytes.Buffer
	if err := metadata.WriteSnapshot(im, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// step applies a command and checks what must hold whatever it was.
func (m *model) step(t *rapid.T, cmd *metav1.Command) (metadata.Result, error) {
	cmd.Version = metadata.CommandLevel(cmd)
	old, before := m.im, snapshot(t, m.im)
	result, err := m.apply(cmd)
	if !bytes.Equal(before, snapshot(t, old)) {
		t.Fatalf("%v changed the image it was applied to", cmd)
	}
	if err := m.im.Check(); err != nil {
		t.Fatalf("after %v: %v", cmd, err)
	}
	after := snapshot(t, m.im)
	read, rerr := metadata.ReadSnapshot(bytes.NewReader(after))
	if rerr != nil || !bytes.Equal(after, snapshot(t, read)) {
		t.Fatalf("after %v: the snapshot does not read back: %v", cmd, rerr)
	}
	m.compare(t, old, cmd)
	return result, err
}

func (m *model) mustApply(t *rapid.T, cmd *metav1.Command) {
	if _, err := m.step(t, cmd); err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
}

func (m *model) compare(t *rapid.T, old *metadata.Image, cmd *metav1.Command) {
	for topic := range m.im.Topics() {
		was := old.Topic(topic.Name)
		for i, p := range topic.Partitions {
			if was == nil || was.ID != topic.ID || i >= len(was.Partitions) {
				continue
			}
			q := was.Partitions[i]
			changed := p.Leader != q.Leader || p.LeaderEpoch != q.LeaderEpoch || !slices.Equal(p.ISR, q.ISR) ||
				!slices.Equal(p.ELR, q.ELR) || !slices.Equal(p.LastISR, q.LastISR) || p.Lost != q.Lost ||
				!slices.Equal(replicas(p), replicas(q)) || !slices.Equal(p.Target, q.Target) || p.Throttle != q.Throttle
			// A ChangeIsr to the present set settles earlier proposals by a new epoch.
			asked := cmd.GetChangeIsr() != nil
			bumped := p.PartitionEpoch == q.PartitionEpoch+1
			if (changed && !bumped) || (!changed && p.PartitionEpoch != q.PartitionEpoch && (!asked || !bumped)) {
				t.Fatalf("%s-%d: %+v became %+v by %v", topic.Name, i, q, p, cmd)
			}
			if p.LeaderEpoch < q.LeaderEpoch || (p.Leader != q.Leader && p.LeaderEpoch == q.LeaderEpoch) {
				t.Fatalf("%s-%d: leader %d of epoch %d became %d of epoch %d", topic.Name, i, q.Leader, q.LeaderEpoch, p.Leader, p.LeaderEpoch)
			}
		}
	}
}

// holders checks that every member that may lead holds everything.
func (m *model) holders(t *rapid.T, cmd *metav1.Command) {
	for topic := range m.im.Topics() {
		for i, p := range topic.Partitions {
			k := part{topic.Name, i}
			for _, node := range slices.Concat(p.ISR, p.ELR) {
				if m.held[k][node] != m.acked[k] {
					t.Fatalf("after %v: %d may lead %v with %d of %d acknowledged records: %+v",
						cmd, node, k, m.held[k][node], m.acked[k], p)
				}
			}
		}
	}
}

func (m *model) ack(t *rapid.T) {
	k, topic, p := m.pick(t)
	if p == nil || p.Leader == metadata.NoNode || len(p.ISR) < topic.MinISR(p) {
		t.Skip("nothing can be acknowledged")
	}
	m.acked[k]++
	if len(p.LastISR) == 0 {
		m.seen[k] = m.acked[k]
	}
	for _, node := range p.ISR {
		m.held[k][node] = m.acked[k]
	}
}

func (m *model) pick(t *rapid.T) (part, *metadata.Topic, *metadata.Partition) {
	var parts []part
	for topic := range m.im.Topics() {
		for i := range topic.Partitions {
			parts = append(parts, part{topic.Name, i})
		}
	}
	if len(parts) == 0 {
		return part{}, nil, nil
	}
	k := rapid.SampledFrom(parts).Draw(t, "partition")
	topic := m.im.Topic(k.topic)
	return k, topic, topic.Partitions[k.n]
}

func (m *model) create(t *rapid.T) {
	if m.topics == 4 {
		t.Skip("enough topics")
	}
	m.topics++
	name := fmt.Sprintf("t%d", m.topics)
	c := &metav1.CreateTopic{Name: name, TopicId: topicID(name), Configs: map[string]string{
		"durability":          rapid.SampledFrom([]string{"synced", "replicated"}).Draw(t, "durability"),
		"min.insync.replicas": rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "min"),
	}}
	rf := rapid.IntRange(1, 4).Draw(t, "rf")
	for i := range rapid.IntRange(1, 3).Draw(t, "partitions") {
		c.Partitions = append(c.Partitions, &metav1.PartitionAssignment{
			Replicas: rapid.Permutation([]int32{0, 1, 2, 3}).Draw(t, "replicas")[:rf],
		})
		m.held[part{name, i}], m.acked[part{name, i}] = make(map[int32]int), 0
	}
	cmd := &metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: c}}
	_, _ = m.step(t, cmd) // all brokers of a partition may be fenced
	m.holders(t, cmd)
}

// registration restarts a broker; what its replicas lose is lost in the model.
func (m *model) registration(t *rapid.T, node int32, clean bool) *metav1.Command {
	c := &metav1.RegisterBroker{NodeId: node, StorageId: m.storage(node), FeatureLevel: m.level, CleanStop: clean, CleanStopEpoch: m.epoch(node)}
	for topic := range m.im.Topics() {
		for i, p := range topic.Partitions {
			if p.Replica(node) == nil {
				continue
			}
			k := part{topic.Name, i}
			damage := rapid.SampledFrom([]metav1.Damage{0, 0, 0, 0, 0, 1, 2, 3}).Draw(t, "damage")
			if damage != 0 || (!clean && topic.Settings().Durability == metadata.Replicated) {
				m.held[k][node] = rapid.IntRange(0, m.held[k][node]).Draw(t, "left")
			}
			if damage == metav1.Damage_DAMAGE_MISSING {
				m.held[k][node] = 0
				continue // it is not mentioned
			}
			c.Replicas = append(c.Replicas, &metav1.RecoveredReplica{
				TopicId: topicID(topic.Name), Partition: int32(i), LastEpoch: 0, LogEndOffset: int64(m.held[k][node]), Damage: damage,
			})
		}
	}
	return &metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: c}}
}

func (m *model) node(t *rapid.T) int32 { return rapid.Int32Range(0, m.nodes-1).Draw(t, "node") }

func (m *model) register(t *rapid.T) {
	node := m.node(t)
	led := m.ledBy(node)
	cmd := m.registration(t, node, rapid.Bool().Draw(t, "clean"))
	m.mustApply(t, cmd)
	m.holders(t, cmd)
	for k, epoch := range led {
		if p := m.im.Topic(k.topic).Partitions[k.n]; p.LeaderEpoch == epoch {
			t.Fatalf("%v still has leader epoch %d after its leader %d began a new session", k, epoch, node)
		}
	}
}

func (m *model) ledBy(node int32) map[part]int32 {
	led := make(map[part]int32)
	for topic := range m.im.Topics() {
		for i, p := range topic.Partitions {
			if p.Leader == node {
				led[part{topic.Name, i}] = p.LeaderEpoch
			}
		}
	}
	return led
}

func (m *model) fence(t *rapid.T) {
	node := m.node(t)
	cmd := &metav1.Command{Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: node, BrokerEpoch: m.epoch(node)}}}
	m.mustApply(t, cmd)
	if len(m.ledBy(node)) > 0 {
		t.Fatalf("the fenced broker %d leads %v", node, m.ledBy(node))
	}
	m.holders(t, cmd)
}

func (m *model) unfence(t *rapid.T) {
	node := m.node(t)
	cmd := &metav1.Command{Kind: &metav1.Command_UnfenceBroker{UnfenceBroker: &metav1.UnfenceBroker{NodeId: node, BrokerEpoch: m.epoch(node)}}}
	if _, err := m.step(t, cmd); err != nil && !m.im.Broker(node).Replaced() {
		t.Fatal(err)
	}
	m.holders(t, cmd)
}

// changeISR is what a leader may ask for, and now and then what it may not. A
// joining replica has caught up. Now and then the leader resigns.
func (m *model) changeISR(t *rapid.T) {
	k, topic, p := m.pick(t)
	if p == nil || p.Leader == metadata.NoNode {
		t.Skip("no leader")
	}
	off := rapid.SampledFrom([]int32{0, 0, 0, 0, -1, 1})
	change := &metav1.IsrChange{
		TopicId: topicID(topic.Name), Partition: int32(k.n),
		LeaderEpoch: p.LeaderEpoch + off.Draw(t, "leader epoch"), PartitionEpoch: p.PartitionEpoch + off.Draw(t, "version"),
	}
	resign := rapid.IntRange(0, 5).Draw(t, "resign") == 0
	for i := range p.Replicas {
		node := p.Replicas[i].NodeID
		if node == p.Leader && !resign || node != p.Leader && rapid.Bool().Draw(t, "member") {
			change.Isr = append(change.Isr, &metav1.IsrMember{NodeId: node, BrokerEpoch: m.epoch(node)})
		} else if m.im.KeepsFailed() && rapid.IntRange(0, 3).Draw(t, "failed") == 0 {
			change.Failed = append(change.Failed, node)
		} else if p.InISR(node) && rapid.Bool().Draw(t, "damaged") {
			change.Damaged = append(change.Damaged, node)
		}
	}
	cmd := &metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
		NodeId: p.Leader, BrokerEpoch: m.epoch(p.Leader), Changes: []*metav1.IsrChange{change},
	}}}
	result, err := m.step(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	stale := change.GetLeaderEpoch() != p.LeaderEpoch || change.GetPartitionEpoch() != p.PartitionEpoch
	grows := slices.ContainsFunc(change.GetIsr(), func(m *metav1.IsrMember) bool { return !p.InISR(m.GetNodeId()) })
	// The last of a set resigns to the eligible by an empty one.
	resigns := len(p.ELR) > 0 && (slices.Contains(change.GetDamaged(), p.Leader) || slices.Contains(change.GetFailed(), p.Leader))
	if (stale || len(change.GetIsr()) == 0 && !resigns || (resign && grows)) && result.Refused == nil {
		t.Fatalf("%v was not refused", change)
	}
	if result.Refused == nil {
		for _, member := range change.GetIsr() {
			m.held[k][member.GetNodeId()] = m.acked[k]
		}
		for _, node := range change.GetDamaged() {
			m.held[k][node] = 0
		}
	}
	m.holders(t, cmd)
}

// elect is what a controller does for a partition without a leader.
func (m *model) elect(t *rapid.T) {
	k, topic, p := m.pick(t)
	if p == nil {
		t.Skip("no partition")
	}
	c := metadata.Choice{Leader: m.node(t)}
	if p.Leader == metadata.NoNode {
		c = m.im.Elect(p, metadata.ElectOptions{Waited: rapid.Bool().Draw(t, "waited"), LastISR: true})
	}
	most := 0
	for _, node := range p.LastISR {
		most = max(most, m.held[k][node])
	}
	// One that never stopped comes first. It may have left since, before the leader had the
	// last set forgotten, and lack what was acknowledged in between.
	if r := p.Replica(c.Leader); r != nil && r.RecoveredEpoch != m.im.Broker(c.Leader).Epoch {
		most = min(most, m.seen[k])
	}
	cmd := &metav1.Command{Kind: &metav1.Command_ElectLeaders{ElectLeaders: &metav1.ElectLeaders{Changes: []*metav1.LeaderChange{{
		TopicId: topicID(topic.Name), Partition: int32(k.n), PartitionEpoch: p.PartitionEpoch,
		Leader: c.Leader, FromLastIsr: c.Source == metadata.FromLastISR,
	}}}}}
	result, err := m.step(t, cmd)
	switch {
	case err != nil:
		t.Fatal(err)
	case c.Source != 0 && result.Refused != nil:
		t.Fatalf("what Elect chose was refused: %v", result.Refused[0])
	case c.Source == metadata.FromLastISR:
		if m.held[k][c.Leader] < most { // a replica outside of a damaged set may hold more
			t.Fatalf("%d of %v leads with %d records, somebody holds %d", c.Leader, p.LastISR, m.held[k][c.Leader], most)
		}
		m.acked[k] = m.held[k][c.Leader] // the rest is lost, and was counted as such
		m.seen[k] = min(m.seen[k], m.acked[k])
	}
	m.holders(t, cmd)
}

func (m *model) alter(t *rapid.T) {
	k, _, p := m.pick(t)
	if p == nil {
		t.Skip("no topic")
	}
	cmd := &metav1.Command{Kind: &metav1.Command_AlterTopicConfig{AlterTopicConfig: &metav1.AlterTopicConfig{
		Name: k.topic, Set: map[string]string{"min.insync.replicas": rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "min")},
	}}}
	m.mustApply(t, cmd)
	m.holders(t, cmd)
}

func (m *model) delete(t *rapid.T) {
	k, _, p := m.pick(t)
	if p == nil || rapid.IntRange(0, 9).Draw(t, "really") > 0 {
		t.Skip("keep it")
	}
	m.mustApply(t, &metav1.Command{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: k.topic}}})
}

func (m *model) replay(t *rapid.T) {
	im := metadata.Empty()
	for i, cmd := range m.commands {
		im, _, _ = metadata.Apply(im, uint64(i+1), cmd)
	}
	if !bytes.Equal(snapshot(t, im), snapshot(t, m.im)) {
		t.Fatal("the same commands gave another image")
	}
}
