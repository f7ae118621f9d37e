package metadata_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// TestReassignModel adds reassignments to TestModel, of six brokers, and checks:
//
//   - no reassignment, cancellation or switch leaves a partition with fewer members
//     that hold every acknowledged record than before, unless there are still
//     enough of them (its minimum in sync), and none takes one out of LastISR;
//   - the replicas from before stay until the switch, in their order;
//   - a switch leaves exactly the target, all of it in sync;
//   - at the end, with every broker back and every replica caught up, each
//     reassignment under way comes to its target.
func TestReassignModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { runReassign(t, rt, metadata.Version, metadata.Version) })
}

// runReassign is one run of TestReassignModel; the levels are those of runModel.
func runReassign(t *testing.T, rt *rapid.T, first, level uint32) *model {
	t.Helper()
	m := newModel(t, 6, first)
	for node := range m.nodes {
		m.mustApply(rt, m.cleanRegistration(node))
	}
	m.level = level
	m.create(rt)
	m.repeat(rt, map[string]func(*rapid.T){
		"catch up":     m.catchUp,
		"reassign":     m.from(2, m.reassign),
		"cancel":       m.from(2, m.cancel),
		"finish":       m.from(2, m.finish),
		"decommission": m.from(2, m.decommission),
	})
	m.settle(rt)
	m.replay(rt)
	return m
}

// safe are the members that may lead without loss: each holds everything.
func safe(p *metadata.Partition) int { return len(p.ISR) + len(p.ELR) }

// change applies a command about one partition and checks what it may cost.
func (m *model) change(t *rapid.T, k part, cmd *metav1.Command) metadata.Result {
	before := m.im.Topic(k.topic).Partitions[k.n]
	result, err := m.step(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	topic := m.im.Topic(k.topic)
	p := topic.Partitions[k.n]
	if safe(p) < min(safe(before), topic.MinISR(p)) {
		t.Fatalf("%v left %d safe copies of %d: %+v became %+v", cmd, safe(p), safe(before), before, p)
	}
	if !slices.Equal(p.LastISR, before.LastISR) {
		t.Fatalf("%v changed who may be the last to hold records: %+v became %+v", cmd, before, p)
	}
	if (p.Leader == metadata.NoNode) != (before.Leader == metadata.NoNode) {
		t.Fatalf("%v: leader %d became %d", cmd, before.Leader, p.Leader)
	}
	if missing := slices.ContainsFunc(p.Original(), func(node int32) bool { return !p.InISR(node) }); p.UnderReplicated() != missing {
		t.Fatalf("under-replicated %t: %+v", p.UnderReplicated(), p)
	}
	m.deleted(t, k, p)
	m.holders(t, cmd)
	return result
}

// deleted forgets what replicas hold that are gone: some of it may still be there
// when they come back.
func (m *model) deleted(t *rapid.T, k part, p *metadata.Partition) {
	for node := range m.nodes {
		if held := m.held[k][node]; p.Replica(node) == nil && held > 0 {
			m.held[k][node] = rapid.IntRange(0, held).Draw(t, "left behind")
		}
	}
}

func (m *model) ask(t *rapid.T, k part, c *metav1.PartitionReassignment) metadata.Result {
	c.TopicId, c.Partition = topicID(k.topic), int32(k.n)
	return m.change(t, k, &metav1.Command{Kind: &metav1.Command_ReassignPartitions{
		ReassignPartitions: &metav1.ReassignPartitions{Partitions: []*metav1.PartitionReassignment{c}},
	}})
}

func (m *model) reassign(t *rapid.T) {
	k, _, p := m.pick(t)
	target := rapid.Permutation([]int32{0, 1, 2, 3, 4, 5}).Draw(t, "target")[:rapid.IntRange(0, 5).Draw(t, "length")]
	before := p.Original()
	impossible := len(target) == 0
	for _, node := range target {
		b := m.im.Broker(node)
		impossible = impossible || b.Decommissioning || b.Fenced && p.Replica(node) == nil
	}
	result := m.ask(t, k, &metav1.PartitionReassignment{Replicas: target, Throttle: rapid.Int64Range(0, 2).Draw(t, "throttle")})
	q := m.im.Topic(k.topic).Partitions[k.n]
	switch {
	case result.Refused != nil:
		if q != p {
			t.Fatalf("a refusal changed %+v to %+v", p, q)
		}
	case impossible:
		t.Fatalf("%v was not refused: %+v", target, q)
	case !slices.Equal(q.Final(), target):
		t.Fatalf("asked for %v, to be are %v", target, q.Final())
	case q.Moving() && !slices.Equal(q.Original(), before):
		t.Fatalf("the replicas %v became %v before the switch", before, q.Original())
	}
}

func (m *model) cancel(t *rapid.T) {
	k, _, p := m.pick(t)
	before := p.Original()
	result := m.ask(t, k, &metav1.PartitionReassignment{Cancel: true})
	q := m.im.Topic(k.topic).Partitions[k.n]
	switch {
	case !p.Moving() && (result.Refused == nil || result.Refused[0].Code != metadata.CodeNoReassignmentInProgress):
		t.Fatalf("nothing to cancel: %v", result.Refused)
	case result.Refused == nil && (q.Moving() || !slices.Equal(replicas(q), before)):
		t.Fatalf("cancelled: %v became %v, to %v", before, replicas(q), q.Target)
	case result.Refused != nil && q != p:
		t.Fatalf("a refusal changed %+v to %+v", p, q)
	}
}

// finish proposes the switch whether or not it may be, led by whomever.
func (m *model) finish(t *rapid.T) {
	k, topic, p := m.pick(t)
	leader := rapid.SampledFrom(append([]int32{p.Leader, metadata.NoNode}, p.Target...)).Draw(t, "leader")
	epoch := p.PartitionEpoch - rapid.SampledFrom([]int32{0, 0, 0, 1}).Draw(t, "stale")
	result := m.switchOver(t, k, epoch, leader)
	q := m.im.Topic(k.topic).Partitions[k.n]
	if result.Refused != nil {
		return
	}
	allInSync := !slices.ContainsFunc(p.Target, func(node int32) bool { return !p.InISR(node) })
	if !p.Moving() || !allInSync || len(p.ISR) < topic.MinISR(p) || epoch != p.PartitionEpoch {
		t.Fatalf("switched too early: %+v became %+v", p, q)
	}
	if !slices.Equal(replicas(q), p.Target) || q.Moving() || len(q.ISR) != len(p.Target) {
		t.Fatalf("the target was %v: %+v", p.Target, q)
	}
	if kept := q.Replica(p.Leader) != nil; kept && q.Leader != p.Leader {
		t.Fatalf("the leader %d could have stayed: %+v", p.Leader, q)
	}
}

func (m *model) switchOver(t *rapid.T, k part, epoch, leader int32) metadata.Result {
	return m.change(t, k, &metav1.Command{Kind: &metav1.Command_FinishReassignments{FinishReassignments: &metav1.FinishReassignments{
		Partitions: []*metav1.FinishedReassignment{{TopicId: topicID(k.topic), Partition: int32(k.n), PartitionEpoch: epoch, Leader: leader}},
	}}})
}

// catchUp lets a leader take everybody in who is there.
func (m *model) catchUp(t *rapid.T) {
	k, _, p := m.pick(t)
	if p.Leader == metadata.NoNode {
		t.Skip("no leader")
	}
	m.joinAll(t, k, p)
}

func (m *model) joinAll(t *rapid.T, k part, p *metadata.Partition) {
	change := &metav1.IsrChange{TopicId: topicID(k.topic), Partition: int32(k.n), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, node := range replicas(p) {
		if b := m.im.Broker(node); !b.Fenced {
			change.Isr = append(change.Isr, &metav1.IsrMember{NodeId: node, BrokerEpoch: b.Epoch})
			m.held[k][node] = m.acked[k]
		}
	}
	result, err := m.step(t, &metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
		NodeId: p.Leader, BrokerEpoch: m.epoch(p.Leader), Changes: []*metav1.IsrChange{change},
	}}})
	if err != nil || result.Refused != nil {
		t.Fatalf("%v: %v %v", change, err, result.Refused)
	}
}

func (m *model) decommission(t *rapid.T) {
	node := m.node(t)
	cancel := rapid.Bool().Draw(t, "cancel")
	cmd := &metav1.Command{Kind: &metav1.Command_DecommissionBroker{DecommissionBroker: &metav1.DecommissionBroker{NodeId: node, Cancel: cancel}}}
	_, err := m.step(t, cmd)
	if err == nil && m.im.Broker(node).Decommissioning == cancel {
		t.Fatalf("%v: %+v", cmd, m.im.Broker(node))
	}
	for topic := range m.im.Topics() {
		for i, p := range topic.Partitions {
			m.deleted(t, part{topic.Name, i}, p)
		}
	}
	m.holders(t, cmd)
}

// settle brings everybody back, lets them catch up, and switches.
func (m *model) settle(t *rapid.T) {
	for node := range m.nodes {
		cmd := m.cleanRegistration(node)
		m.mustApply(t, cmd)
		m.holders(t, cmd)
	}
	for topic := range m.im.Topics() {
		for i := range topic.Partitions {
			k := part{topic.Name, i}
			at := func() *metadata.Partition { return m.im.Topic(k.topic).Partitions[k.n] }
			if p := at(); p.Leader == metadata.NoNode {
				m.lead(t, k, p)
			}
			m.joinAll(t, k, at())
			p := at()
			if !p.Moving() {
				continue
			}
			leader := p.Leader
			if q, ok := topic.Switched(p); !ok {
				t.Fatalf("everybody is in sync, but it cannot be finished: %+v", p)
			} else if q.Replica(leader) == nil {
				leader = m.im.Elect(q, metadata.ElectOptions{Waited: true}).Leader
			}
			if result := m.switchOver(t, k, p.PartitionEpoch, leader); result.Refused != nil {
				t.Fatalf("the last switch: %v: %+v", result.Refused[0], p)
			}
			if q := at(); !slices.Equal(replicas(q), p.Target) || q.Leader != leader {
				t.Fatalf("%+v did not come to its target: %+v", p, q)
			}
		}
	}
}

// cleanRegistration restarts a broker that lost nothing.
func (m *model) cleanRegistration(node int32) *metav1.Command {
	c := &metav1.RegisterBroker{NodeId: node, StorageId: nodeStorage(node), FeatureLevel: m.level, CleanStop: true, CleanStopEpoch: m.epoch(node)}
	for topic := range m.im.Topics() {
		for i, p := range topic.Partitions {
			if p.Replica(node) != nil {
				c.Replicas = append(c.Replicas, &metav1.RecoveredReplica{
					TopicId: topicID(topic.Name), Partition: int32(i), LogEndOffset: int64(m.held[part{topic.Name, i}][node]),
				})
			}
		}
	}
	return &metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: c}}
}

// lead elects whoever may, by LastISR at the last.
func (m *model) lead(t *rapid.T, k part, p *metadata.Partition) {
	c := m.im.Elect(p, metadata.ElectOptions{Waited: true, LastISR: true})
	result, err := m.step(t, &metav1.Command{Kind: &metav1.Command_ElectLeaders{ElectLeaders: &metav1.ElectLeaders{Changes: []*metav1.LeaderChange{{
		TopicId: topicID(k.topic), Partition: int32(k.n), PartitionEpoch: p.PartitionEpoch,
		Leader: c.Leader, FromLastIsr: c.Source == metadata.FromLastISR,
	}}}}})
	if err != nil || result.Refused != nil || c.Leader == metadata.NoNode {
		t.Fatalf("nobody leads though all are back: %+v %v %v", p, err, result.Refused)
	}
	if c.Source == metadata.FromLastISR {
		m.acked[k] = m.held[k][c.Leader] // the rest is lost, and was counted as such
		m.seen[k] = min(m.seen[k], m.acked[k])
	}
}
