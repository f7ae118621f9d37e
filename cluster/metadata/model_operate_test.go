package metadata_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// TestModelOperate is TestModel with the commands of operators among the others.
// Besides what that one checks:
//
//   - a retired storage id never registers again, and a replaced broker has no
//     place in any set until it has caught up;
//   - nothing but an accepted loss, an election from LastISR and an operator's
//     order costs an acknowledged record;
//   - an order is refused while somebody can lead without loss;
//   - a retry of a command with its id changes nothing and gets the same answer;
//   - a broker that may still keep a replica of a deleted topic is waited for.
func TestModelOperate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { runOperate(t, rt, metadata.Version, metadata.Version) })
}

// runOperate is one run of TestModelOperate; the levels are those of runModel.
func runOperate(t *testing.T, rt *rapid.T, first, level uint32) *model {
	t.Helper()
	m := newModel(t, 4, first)
	for node := range int32(4) {
		m.mustApply(rt, m.registration(rt, node, true))
	}
	m.level = level
	m.create(rt)
	m.repeat(rt, map[string]func(*rapid.T){
		"delete":  m.from(2, m.forget),
		"replace": m.from(2, m.replace),
		"remove":  m.from(2, m.remove),
		"grow":    m.from(2, m.grow),
		"order":   m.from(2, m.order),
		"confirm": m.from(2, m.confirm),
		"recover": m.from(2, m.recover),
	})
	m.replay(rt)
	return m
}

// recover opens a replica anew while its broker goes on: its log failed, or is damaged.
func (m *model) recover(t *rapid.T) {
	k, topic, p := m.pick(t)
	if p == nil {
		t.Skip("no partition")
	}
	node := rapid.SampledFrom(replicas(p)).Draw(t, "node")
	damage := rapid.SampledFrom([]metav1.Damage{0, 0, 0, 1, 2, 3}).Draw(t, "damage")
	c := &metav1.RecoverReplica{
		NodeId: node, BrokerEpoch: m.epoch(node), LeaderEpoch: p.LeaderEpoch, Unflushed: rapid.Bool().Draw(t, "unflushed"),
		Replica: &metav1.RecoveredReplica{TopicId: topicID(topic.Name), Partition: int32(k.n), Damage: damage},
	}
	left := m.held[k][node]
	if damage != 0 || c.GetUnflushed() || topic.Settings().Durability == metadata.Replicated {
		left = rapid.IntRange(0, left).Draw(t, "left")
	}
	c.Replica.LogEndOffset = int64(left)
	cmd := &metav1.Command{Kind: &metav1.Command_RecoverReplica{RecoverReplica: c}}
	_, err := m.step(t, cmd)
	if (err == nil) == m.im.Broker(node).Fenced {
		t.Fatalf("%v of %+v: %v", cmd, p, err)
	}
	if err == nil {
		m.held[k][node] = left
	}
	m.holders(t, cmd)
}

// storage is the id of a node's present disk.
func (m *model) storage(node int32) []byte {
	id := nodeStorage(node)
	id[1] = byte(m.disks[node])
	return id
}

// twice applies a command and then a retry of it, which must change nothing.
func (m *model) twice(t *rapid.T, cmd *metav1.Command) error {
	cmd.Id = []byte("0123456789abcdef")
	cmd.Id[0], cmd.Id[1] = byte(len(m.commands)), byte(len(m.commands)>>8)
	first, err := m.step(t, cmd)
	before := withoutIndex(m.im)
	again, errAgain := m.step(t, cmd)
	if before != withoutIndex(m.im) || first.Index != again.Index || !errors.Is(errAgain, err) {
		t.Fatalf("the retry of %v came to %v, %v; the first time to %v, %v", cmd, again, errAgain, first, err)
	}
	return err
}

// withoutIndex is what an image holds besides its index.
func withoutIndex(im *metadata.Image) string {
	_, rest, _ := strings.Cut(describe(im), ":")
	return rest
}

func (m *model) replace(t *rapid.T) {
	node := m.node(t)
	b := m.im.Broker(node)
	if b.Replaced() {
		m.disks[node]-- // a repetition names the disk that was given up
		defer func() { m.disks[node]++ }()
	}
	accept := rapid.Bool().Draw(t, "accept")
	cost := m.im.LossWithout(node)
	cmd := &metav1.Command{Kind: &metav1.Command_ReplaceBroker{ReplaceBroker: &metav1.ReplaceBroker{
		NodeId: node, StorageId: m.storage(node), AcceptLoss: accept, Vote: rapid.Bool().Draw(t, "vote"),
	}}}
	err := m.twice(t, cmd)
	switch {
	case b.Replaced(): // a repetition
		if err != nil {
			t.Fatal(err)
		}
		return
	case (err == nil) != (b.Fenced && (accept || cost.Example == "")):
		t.Fatalf("replacing %+v at the cost of %+v, accepted %t: %v", b, cost, accept, err)
	case err != nil:
		return
	}
	for k := range m.held {
		if m.held[k][node] > 0 {
			m.held[k][node] = 0
		}
	}
	for topic := range m.im.Topics() {
		for i, p := range topic.Partitions {
			if slices.Contains(slices.Concat(p.ISR, p.ELR, p.LastISR), node) {
				t.Fatalf("%s-%d still counts on %d: %+v", topic.Name, i, node, p)
			}
		}
	}
	m.holders(t, cmd)
	m.refuseOld(t, node)
	m.disks[node]++
}

// refuseOld tries to come back with the disk that was given up.
func (m *model) refuseOld(t *rapid.T, node int32) {
	old := &metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: &metav1.RegisterBroker{
		NodeId: node, StorageId: m.storage(node), FeatureLevel: m.level,
	}}}
	if _, err := m.step(t, old); !errors.Is(err, &metadata.Error{Code: metadata.CodeIdentityConflict}) {
		t.Fatalf("the given-up disk of %d came back: %v", node, err)
	}
}

// remove takes a broker out for good and lets a new one of its id come.
func (m *model) remove(t *rapid.T) {
	node := m.node(t)
	b := m.im.Broker(node)
	holds := false
	for topic := range m.im.Topics() {
		for _, p := range topic.Partitions {
			holds = holds || p.Replica(node) != nil
		}
	}
	c := &metav1.RemoveBroker{NodeId: node, StorageId: m.storage(node)}
	if b.Replaced() {
		c.StorageId = nil
	}
	err := m.twice(t, &metav1.Command{Kind: &metav1.Command_RemoveBroker{RemoveBroker: c}})
	if (err == nil) != (b.Fenced && !holds) {
		t.Fatalf("removing %+v, which holds replicas: %t: %v", b, holds, err)
	}
	if err != nil {
		return
	}
	if !b.Replaced() {
		m.refuseOld(t, node)
		m.disks[node]++
	}
	m.mustApply(t, m.registration(t, node, false))
}

func (m *model) grow(t *rapid.T) {
	k, topic, p := m.pick(t)
	if p == nil {
		t.Skip("no topic")
	}
	have := len(topic.Partitions)
	c := &metav1.AddPartitions{
		Name: k.topic, TopicId: topicID(k.topic), From: int32(have + rapid.SampledFrom([]int{0, 0, 0, -1, 1}).Draw(t, "from")),
		Partitions: []*metav1.PartitionAssignment{{Replicas: rapid.Permutation([]int32{0, 1, 2, 3}).Draw(t, "replicas")[:topic.ReplicationFactor()]}},
	}
	err := m.twice(t, &metav1.Command{Kind: &metav1.Command_AddPartitions{AddPartitions: c}})
	switch grown := len(m.im.Topic(k.topic).Partitions); {
	case err == nil && int(c.GetFrom()) != have:
		t.Fatalf("%v was not refused with %d partitions", c, have)
	case err == nil:
		m.held[part{k.topic, have}], m.acked[part{k.topic, have}] = make(map[int32]int), 0
	case grown != have:
		t.Fatalf("%v was refused and added %d", c, grown-have)
	}
}

func (m *model) order(t *rapid.T) {
	k, topic, p := m.pick(t)
	if p == nil {
		t.Skip("no partition")
	}
	node := m.node(t)
	cmd := &metav1.Command{Kind: &metav1.Command_ElectUnclean{ElectUnclean: &metav1.ElectUnclean{
		TopicId: topicID(topic.Name), Partition: int32(k.n), PartitionEpoch: p.PartitionEpoch, Leader: node,
	}}}
	clean := m.im.Elect(p, metadata.ElectOptions{Waited: true})
	may := p.Leader == metadata.NoNode && clean.Leader == metadata.NoNode && p.Replica(node) != nil &&
		p.Replica(node).Damage != metadata.DamageFailed && !m.im.Broker(node).Fenced
	if err := m.twice(t, cmd); (err == nil) != may {
		t.Fatalf("ordering %d for %+v: %v", node, p, err)
	}
	if !may {
		return
	}
	q := m.im.Topic(k.topic).Partitions[k.n]
	if q.Leader != node || q.LossyEpoch != q.LeaderEpoch || q.LeaderEpoch != p.LeaderEpoch+1 || q.Lost {
		t.Fatalf("ordering %d for %+v came to %+v", node, p, q)
	}
	m.acked[k] = m.held[k][node] // the rest is lost, and was counted as such
	m.holders(t, cmd)
}

// forget deletes a topic; its replicas must be waited for.
func (m *model) forget(t *rapid.T) {
	k, topic, p := m.pick(t)
	if p == nil || rapid.IntRange(0, 4).Draw(t, "really") > 0 {
		t.Skip("keep it")
	}
	m.mustApply(t, &metav1.Command{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: k.topic}}})
	d, ok := m.im.Deletion(topic.ID)
	for _, p := range topic.Partitions {
		for i := range p.Replicas {
			if !ok || !slices.Contains(d.Nodes, p.Replicas[i].NodeID) {
				t.Fatalf("the deletion of %s does not wait for %d: %+v", k.topic, p.Replicas[i].NodeID, d)
			}
		}
	}
}

func (m *model) confirm(t *rapid.T) {
	node := m.node(t)
	index := rapid.Uint64Range(0, m.im.Index()).Draw(t, "index")
	m.mustApply(t, &metav1.Command{Kind: &metav1.Command_ConfirmDeletions{ConfirmDeletions: &metav1.ConfirmDeletions{
		NodeId: node, BrokerEpoch: m.epoch(node), Index: index,
	}}})
	for d := range m.im.Deletions() {
		if d.Index <= index && slices.Contains(d.Nodes, node) {
			t.Fatalf("%+v still waits for %d, which confirmed up to %d", d, node, index)
		}
	}
}
