package controller_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

func (w *world) reassign(c *metav1.PartitionReassignment) (refused *metadata.Error) {
	w.t.Helper()
	c.TopicId = id(2, 0)
	cmd := &metav1.Command{Kind: &metav1.Command_ReassignPartitions{
		ReassignPartitions: &metav1.ReassignPartitions{Partitions: []*metav1.PartitionReassignment{c}},
	}}
	cmd.Version = metadata.CommandLevel(cmd)
	next, result, err := metadata.Apply(w.im, w.im.Index()+1, cmd)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.im = next; result.Refused != nil {
		return result.Refused[0]
	}
	return nil
}

func (w *world) mustReassign(partition int32, to ...int32) {
	w.t.Helper()
	if err := w.reassign(&metav1.PartitionReassignment{Partition: partition, Replicas: to}); err != nil {
		w.t.Fatal(err)
	}
}

// catchUp is what leaders do: replicas that are there join the in-sync set. slow
// ones do not.
func (w *world) catchUp(slow ...int32) {
	w.t.Helper()
	for t := range w.im.Topics() {
		for i, p := range t.Partitions {
			if p.Leader == metadata.NoNode {
				continue
			}
			c := &metav1.IsrChange{TopicId: t.ID[:], Partition: int32(i), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
			for _, node := range nodesOf(p) {
				if b := w.im.Broker(node); !b.Fenced && (p.InISR(node) || !slices.Contains(slow, node)) {
					c.Isr = append(c.Isr, &metav1.IsrMember{NodeId: node, BrokerEpoch: b.Epoch})
				}
			}
			if len(c.GetIsr()) != len(p.ISR) {
				w.apply(&metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
					NodeId: p.Leader, BrokerEpoch: w.im.Broker(p.Leader).Epoch, Changes: []*metav1.IsrChange{c},
				}}})
			}
		}
	}
}

func nodesOf(p *metadata.Partition) []int32 {
	out := make([]int32, len(p.Replicas))
	for i := range p.Replicas {
		out[i] = p.Replicas[i].NodeID
	}
	return out
}

// settle lets leaders and the controller work until nothing changes any more.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		before := w.im
		w.catchUp()
		w.run(50 * time.Millisecond)
		if w.im == before {
			return
		}
	}
	w.t.Fatal("it does not come to rest")
}

func (w *world) decommission(node int32) {
	w.t.Helper()
	w.apply(&metav1.Command{Kind: &metav1.Command_DecommissionBroker{DecommissionBroker: &metav1.DecommissionBroker{NodeId: node, Throttle: 7}}})
}

// A reassignment is finished when all of its replicas are in sync, and not before;
// the leader stays if it can.
func TestSwitchWaitsForTheWholeTarget(t *testing.T) {
	w := newWorld(t, 5)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	w.mustReassign(0, 3, 4, 1)
	w.catchUp(4)
	w.run(time.Second)
	if p := w.partition(0); !p.Moving() || !slices.Equal(nodesOf(p), []int32{0, 1, 2, 3, 4}) {
		t.Fatalf("4 has not caught up: %+v", p)
	}
	w.catchUp()
	w.run(50 * time.Millisecond)
	if p := w.partition(0); p.Moving() || !slices.Equal(nodesOf(p), []int32{3, 4, 1}) || p.Leader != 3 || p.LeaderEpoch != 1 {
		t.Fatalf("all are in sync: %+v", p)
	}
	w.mustReassign(0, 0, 3)
	w.catchUp()
	w.run(50 * time.Millisecond)
	if p := w.partition(0); p.Moving() || p.Leader != 3 || p.LeaderEpoch != 1 {
		t.Fatalf("the leader could have stayed: %+v", p)
	}
	w.run(20 * time.Second)
	if p := w.partition(0); p.Leader != 0 {
		t.Fatalf("the preferred leader does not lead: %+v", p)
	}
}

// The leadership does not go to a broker that is about to leave, and the switch
// waits when there is nobody else.
func TestSwitchAvoidsLeavingLeaders(t *testing.T) {
	w := newWorld(t, 4)
	w.create(0, nil, assign([]int32{0, 1}, []int32{2, 1}))
	w.run(time.Second)
	w.mustReassign(0, 2, 3)
	w.stalled[2] = true // it still leads another partition, so it is not fenced yet
	w.catchUp()
	w.decide()
	if p := w.partition(0); p.Moving() || p.Leader != 3 {
		t.Fatalf("the disk of 2 hangs: %+v", p)
	}
}

// The new broker dies on its way: the old ones go on, and the move ends when it is
// back.
func TestTargetDiesMidway(t *testing.T) {
	w := newWorld(t, 4)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	w.mustReassign(0, 3, 1, 2)
	w.catchUp()
	w.silent[3] = true
	// The switch came first: now 3 leads and dies.
	w.run(10 * time.Second)
	if p := w.partition(0); p.Moving() || p.Leader == 3 || len(p.ISR) != 2 {
		t.Fatalf("after the switch: %+v", p)
	}
	w = newWorld(t, 4)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	w.mustReassign(0, 3, 1, 2)
	w.silent[3] = true
	w.run(10 * time.Second)
	w.catchUp()
	w.run(time.Minute)
	if p := w.partition(0); !p.Moving() || p.Leader != 0 || !slices.Equal(p.ISR, []int32{0, 1, 2}) {
		t.Fatalf("before the switch: %+v", p)
	}
	delete(w.silent, 3)
	w.run(time.Second)
	w.settle()
	if p := w.partition(0); p.Moving() || !slices.Equal(nodesOf(p), []int32{3, 1, 2}) {
		t.Fatalf("3 is back: %+v", p)
	}
}

// A decommission moves everything, some at a time, keeps racks apart, and forgets
// the broker when it has stopped.
func TestDecommission(t *testing.T) {
	w := newWorld(t, 0)
	for node := range int32(6) {
		w.register(node, fmt.Sprintf("rack-%d", node%3), nil)
	}
	for i := range 40 {
		assignments, err := controller.Place(w.im, 3, 3, uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		w.create(i, nil, assignments)
	}
	w.run(time.Second)
	w.opts.MaxReassigning = 10
	before := counts(w.im)
	w.decommission(4)
	most := 0
	for range 100 {
		w.run(50 * time.Millisecond)
		moving := 0
		for t := range w.im.Topics() {
			for _, p := range t.Partitions {
				if p.Moving() {
					moving++
					if p.Throttle != 7 {
						w.t.Fatalf("not throttled: %+v", p)
					}
				}
			}
		}
		most = max(most, moving)
		w.catchUp()
	}
	w.settle()
	if n := w.im.ReplicasOn(4); n != 0 || most != 10 {
		t.Fatalf("%d replicas are left; %d moved at a time", n, most)
	}
	after := counts(w.im)
	for topic := range w.im.Topics() {
		for _, p := range topic.Partitions {
			if racks(w.im, nodesOf(p)) != 3 || len(p.Replicas) != 3 {
				t.Errorf("%s: %v", topic.Name, nodesOf(p))
			}
		}
	}
	// Racks bind all of them to one broker here.
	if after[1] != before[1]+before[4] {
		t.Errorf("rack 1 holds %d on broker 1, was %d and %d", after[1], before[1], before[4])
	}
	w.run(time.Minute)
	if w.im.Broker(4) == nil {
		t.Fatal("forgotten while it runs")
	}
	w.stopping[4] = true
	w.run(time.Second)
	w.silent[4] = true
	w.run(9 * time.Second)
	if b := w.im.Broker(4); b == nil || !b.Fenced {
		t.Fatalf("%+v", b)
	}
	w.opts.Votes = func(node int32) bool { return node == 4 }
	w.run(10 * time.Second)
	if w.im.Broker(4) == nil {
		t.Fatal("a voter was forgotten")
	}
	w.opts.Votes = func(node int32) bool { return node == 3 }
	w.run(time.Second)
	if w.im.Broker(4) != nil {
		t.Fatal("not forgotten")
	}
}

// What moves to a broker that is away for long goes to another.
func TestDecommissionGoesAroundTheDead(t *testing.T) {
	w := newWorld(t, 5)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	w.decommission(0)
	w.run(time.Second)
	p := w.partition(0)
	if len(p.Adding) != 1 {
		t.Fatalf("%+v", p)
	}
	dead := p.Adding[0]
	w.silent[dead] = true
	w.run(50 * time.Second)
	if p := w.partition(0); !slices.Equal(p.Adding, []int32{dead}) {
		t.Fatalf("gone around too early: %+v", p)
	}
	w.run(15 * time.Second)
	w.catchUp()
	w.run(time.Second)
	if p := w.partition(0); p.Moving() || p.Replica(dead) != nil || p.Replica(0) != nil || len(p.ISR) != 3 {
		t.Fatalf("not gone around %d: %+v", dead, p)
	}
}

// A broker that is down is emptied like any other, and forgotten when it is empty.
func TestDecommissionOfTheDead(t *testing.T) {
	w := newWorld(t, 4)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	w.silent[0] = true
	w.run(20 * time.Second)
	w.decommission(0)
	w.run(time.Second)
	if w.im.Broker(0) == nil || !w.partition(0).Moving() {
		t.Fatalf("forgotten with a replica on it: %+v", w.partition(0))
	}
	w.settle()
	if p := w.partition(0); p.Replica(0) != nil || len(p.ISR) != 3 || w.im.Broker(0) != nil {
		t.Fatalf("%+v, broker %+v", p, w.im.Broker(0))
	}
}

// Two brokers go at once, of five with three replicas each.
func TestDecommissionOfTwo(t *testing.T) {
	w := newWorld(t, 5)
	w.create(0, nil, assign([]int32{0, 1, 2}, []int32{1, 0, 3}, []int32{4, 3, 2}))
	w.run(time.Second)
	w.decommission(0)
	w.decommission(1)
	w.settle()
	for i := range 3 {
		if got := slices.Sorted(slices.Values(nodesOf(w.partition(i)))); !slices.Equal(got, []int32{2, 3, 4}) {
			t.Errorf("partition %d: %v", i, got)
		}
	}
}

func counts(im *metadata.Image) map[int32]int {
	out := make(map[int32]int)
	for t := range im.Topics() {
		for _, p := range t.Partitions {
			for _, node := range p.Final() {
				out[node]++
			}
		}
	}
	return out
}

func racks(im *metadata.Image, nodes []int32) int {
	seen := make(map[string]bool)
	for _, node := range nodes {
		b := im.Broker(node)
		name := b.Rack
		if name == "" {
			name = fmt.Sprintf("broker %d", node)
		}
		seen[name] = true
	}
	return len(seen)
}

// TestMoveModel: whatever is asked for, taken back and dies meanwhile, every
// partition comes to its last target once all brokers are there, the preferred
// leader leads it, and its number of replicas is what was asked for.
func TestMoveModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 6)
		w.create(0, nil, assign([]int32{0, 1, 2}, []int32{3, 4, 5}, []int32{5, 0, 1}))
		want := map[int32][]int32{0: {0, 1, 2}, 1: {3, 4, 5}, 2: {5, 0, 1}} // what each comes to
		back := map[int32][]int32{0: {0, 1, 2}, 1: {3, 4, 5}, 2: {5, 0, 1}} // what it goes back to
		follow := func() {
			for i := range int32(3) {
				if p := w.partition(int(i)); !p.Moving() {
					back[i] = nodesOf(p)
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { follow() },
			"reassign": func(rt *rapid.T) {
				i := rapid.Int32Range(0, 2).Draw(rt, "partition")
				to := rapid.Permutation([]int32{0, 1, 2, 3, 4, 5}).Draw(rt, "to")[:rapid.IntRange(1, 4).Draw(rt, "length")]
				if w.reassign(&metav1.PartitionReassignment{Partition: i, Replicas: to}) == nil {
					want[i] = to
				}
			},
			"cancel": func(rt *rapid.T) {
				i := rapid.Int32Range(0, 2).Draw(rt, "partition")
				if w.reassign(&metav1.PartitionReassignment{Partition: i, Cancel: true}) == nil {
					want[i] = back[i]
				}
			},
			"silent": func(rt *rapid.T) { w.silent[rapid.Int32Range(0, 5).Draw(rt, "node")] = true },
			"heard":  func(rt *rapid.T) { delete(w.silent, rapid.Int32Range(0, 5).Draw(rt, "node")) },
			"restart": func(rt *rapid.T) {
				w.register(rapid.Int32Range(0, 5).Draw(rt, "node"), "", []int64{0, 0, 0})
			},
			"catch up": func(rt *rapid.T) { w.catchUp(rapid.Int32Range(0, 5).Draw(rt, "slow")) },
			"run": func(rt *rapid.T) {
				w.run(time.Duration(rapid.IntRange(1, 50).Draw(rt, "ticks")) * 100 * time.Millisecond)
			},
		})
		clear(w.silent)
		w.run(5 * time.Second)
		w.settle()
		w.run(20 * time.Second)
		for i := range int32(3) {
			p := w.partition(int(i))
			if p.Moving() || !slices.Equal(nodesOf(p), want[i]) || len(p.ISR) != len(want[i]) || p.Leader != want[i][0] {
				rt.Fatalf("partition %d was to come to %v: %+v", i, want[i], p)
			}
		}
	})
}

func TestRebalance(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 0)
		brokers := rapid.Int32Range(2, 7).Draw(rt, "brokers")
		nracks := rapid.Int32Range(0, 3).Draw(rt, "racks")
		for node := range brokers {
			rack := ""
			if nracks > 0 {
				rack = fmt.Sprint(node % nracks)
			}
			w.register(node, rack, nil)
		}
		all := make([]int32, brokers)
		for i := range all {
			all[i] = int32(i)
		}
		for topic := range rapid.IntRange(1, 4).Draw(rt, "topics") {
			rf := rapid.IntRange(1, min(3, int(brokers))).Draw(rt, "rf")
			var sets [][]int32
			for range rapid.IntRange(1, 12).Draw(rt, "partitions") {
				sets = append(sets, rapid.Permutation(all).Draw(rt, "replicas")[:rf])
			}
			w.create(topic, nil, assign(sets...))
		}
		leaves := rapid.Int32Range(-1, brokers-1).Draw(rt, "leaves")
		if leaves >= 0 && w.im.CheckDecommission(leaves) == nil {
			w.decommission(leaves)
		} else {
			leaves = -1
		}
		moves := controller.Rebalance(w.im, nil)
		stay := slices.DeleteFunc(slices.Clone(all), func(node int32) bool { return node == leaves })
		before, after, leaders := counts(w.im), counts(w.im), make(map[int32]int)
		for t := range w.im.Topics() {
			for _, p := range t.Partitions {
				leaders[p.Preferred()]++
			}
		}
		moved := 0
		for _, m := range moves {
			if len(m.To) != len(m.From) || racks(w.im, m.To) < racks(w.im, m.From) {
				rt.Fatalf("%v became %v", m.From, m.To)
			}
			for i, node := range m.To {
				if slices.Contains(m.To[:i], node) || !slices.Contains(all, node) {
					rt.Fatalf("%v", m.To)
				}
				if !slices.Contains(m.From, node) {
					moved++
					after[m.To[i]]++
					if node == leaves {
						rt.Fatalf("%d leaves and is given %v", leaves, m.To)
					}
				}
			}
			for _, node := range m.From {
				if !slices.Contains(m.To, node) {
					after[node]--
				}
			}
			leaders[m.From[0]]--
			leaders[m.To[0]]++
		}
		if nracks == 0 && leaves < 0 {
			if spread(stay, after) > 1 {
				rt.Fatalf("replicas %v became %v", before, after)
			}
			least := 0
			for _, node := range stay {
				least += max(0, after[node]-before[node])
			}
			if moved != least {
				rt.Fatalf("%d replicas moved, %d would do: %v became %v", moved, least, before, after)
			}
		}
		// The plan is one that can be carried out, and leaves nothing to do.
		for _, m := range moves {
			c := m.Reassignment(0)
			w.apply(&metav1.Command{Kind: &metav1.Command_ReassignPartitions{
				ReassignPartitions: &metav1.ReassignPartitions{Partitions: []*metav1.PartitionReassignment{c}},
			}})
		}
		for t := range w.im.Topics() {
			for _, p := range t.Partitions {
				for _, node := range p.Final() {
					if leaves < 0 && leaders[p.Final()[0]] > leaders[node]+1 {
						rt.Fatalf("%v is led by %d, of leaderships %v", p.Final(), p.Final()[0], leaders)
					}
				}
			}
		}
		if again := controller.Rebalance(w.im, nil); leaves < 0 && nracks == 0 && len(again) > 0 {
			rt.Fatalf("after %d moves %d more, the first %v to %v", len(moves), len(again), again[0].From, again[0].To)
		}
	})
}

// A new broker gets its share and nothing else moves.
func TestRebalanceFillsANewBroker(t *testing.T) {
	w := newWorld(t, 3)
	assignments, err := controller.Place(w.im, 12, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.create(0, nil, assignments)
	w.create(1, nil, assignments)
	w.register(3, "", nil)
	moves := controller.Rebalance(w.im, nil)
	after := counts(w.im)
	leaders := make(map[int32]int)
	for topic := range w.im.Topics() {
		for _, p := range topic.Partitions {
			leaders[p.Preferred()]++
		}
	}
	moved := 0
	for _, m := range moves {
		leaders[m.From[0]]--
		leaders[m.To[0]]++
		for i := range m.To {
			if !slices.Contains(m.From, m.To[i]) {
				moved++
				after[m.To[i]]++
				if m.To[i] != 3 {
					t.Errorf("%v became %v", m.From, m.To)
				}
			}
			if !slices.Contains(m.To, m.From[i]) {
				after[m.From[i]]--
			}
		}
	}
	all := []int32{0, 1, 2, 3}
	if moved != 18 || spread(all, after) != 0 || spread(all, leaders) != 0 {
		t.Fatalf("%d moved, replicas %v, leaders %v", moved, after, leaders)
	}
	// One topic alone.
	for _, m := range controller.Rebalance(w.im, func(t *metadata.Topic) bool { return t.Name == "t1" }) {
		if m.Topic.Name != "t1" {
			t.Fatalf("%s moves", m.Topic.Name)
		}
	}
}
