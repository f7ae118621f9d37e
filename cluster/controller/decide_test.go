package controller_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

func TestSilenceFencesAtTheSessionTimeout(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	w.silent[0] = true
	w.run(2900 * time.Millisecond)
	if w.im.Broker(0).Fenced {
		t.Fatal("fenced before the session timeout")
	}
	w.run(150 * time.Millisecond)
	if !w.im.Broker(0).Fenced || w.partition(0).Leader != 1 {
		t.Fatalf("fenced %v, leader %d after the session timeout", w.im.Broker(0).Fenced, w.partition(0).Leader)
	}
	delete(w.silent, 0)
	w.run(100 * time.Millisecond)
	if w.im.Broker(0).Fenced || w.fences != 1 {
		t.Fatalf("fenced %v after heartbeats came back, %d fences", w.im.Broker(0).Fenced, w.fences)
	}
}

func TestRefusedDialsFenceSooner(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	w.silent[0] = true
	w.live.Refused(0, w.now)
	w.run(100 * time.Millisecond)
	if w.im.Broker(0).Fenced {
		t.Fatal("fenced before 100 ms of refused dials")
	}
	// An accepted dial: some process is there, so only the session counts.
	w.live.Accepted(0)
	w.run(200 * time.Millisecond)
	if w.im.Broker(0).Fenced {
		t.Fatal("fenced though dials are accepted")
	}
	w.live.Refused(0, w.now)
	w.live.Refused(0, w.now.Add(90*time.Millisecond)) // counts from the first
	w.run(150 * time.Millisecond)
	if !w.im.Broker(0).Fenced {
		t.Fatal("not fenced after 100 ms of refused dials")
	}
}

func TestNewControllerGivesAFreshDeadline(t *testing.T) {
	w := newWorld(t, 3)
	w.silent[0], w.silent[1] = true, true
	w.now = w.now.Add(time.Hour)
	w.live = controller.NewLiveness(w.now)
	w.run(2900 * time.Millisecond)
	if w.fences != 0 {
		t.Fatal("fenced by what an earlier controller did not hear")
	}
	w.run(200 * time.Millisecond)
	if w.fences != 2 {
		t.Fatalf("%d fences after the session timeout, want 2", w.fences)
	}
}

func TestHeartbeatsOfAnotherSessionDoNotCount(t *testing.T) {
	w := newWorld(t, 1)
	w.live.Observe(w.im, w.now)
	epoch := w.im.Broker(0).Epoch
	for _, tc := range []struct {
		node  int32
		epoch int64
		stale bool
	}{{0, epoch, false}, {0, epoch - 1, true}, {0, epoch + 1, false}, {7, 1, true}} {
		if got := w.live.Heard(controller.Heartbeat{NodeID: tc.node, BrokerEpoch: tc.epoch}, w.now); got != tc.stale {
			t.Errorf("node %d, epoch %d: stale %v", tc.node, tc.epoch, got)
		}
	}
	w.now = w.now.Add(4 * time.Second)
	w.live.Heard(controller.Heartbeat{NodeID: 0, BrokerEpoch: epoch - 1}, w.now)
	if d := controller.Decide(w.im, w.live, w.now, w.opts); len(d.Commands) != 1 || d.Commands[0].GetFenceBroker() == nil {
		t.Errorf("heartbeats of an old session kept the broker: %v", d.Commands)
	}
}

func TestShutdownHandsOverFirst(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, nil, assign([]int32{0, 1, 2}, []int32{0, 2, 1}))
	w.create(1, nil, assign([]int32{0}))
	w.run(time.Second)
	w.stopping[0] = true
	commands := w.decide()
	if len(commands) != 1 || len(commands[0].GetElectLeaders().GetChanges()) != 2 {
		t.Fatalf("first: %v, want two leaderships to move", commands)
	}
	if w.partition(0).Leader != 1 || w.partition(1).Leader != 2 || !w.partition(0).InISR(0) || controller.MayShutdown(w.im, 0) {
		t.Fatal("the leaderships did not move, or the broker left its sets too early")
	}
	w.decide()
	single := w.im.Topic("t1").Partitions[0]
	if !controller.MayShutdown(w.im, 0) || w.partition(0).InISR(0) || single.Leader != metadata.NoNode || !single.InISR(0) {
		t.Fatalf("then: may shut down %v, %+v", controller.MayShutdown(w.im, 0), single)
	}
	w.run(time.Second)
	if !w.im.Broker(0).Fenced {
		t.Error("unfenced while it stops")
	}
	if !controller.MayShutdown(w.im, 99) {
		t.Error("a broker that is not there may stop")
	}
}

func TestAllMayShutDown(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, nil, assign([]int32{0, 1, 2}, []int32{1, 2, 0}))
	for node := range int32(3) {
		w.stopping[node] = true
	}
	w.run(200 * time.Millisecond)
	for node := range int32(3) {
		if !controller.MayShutdown(w.im, node) {
			t.Errorf("broker %d may not", node)
		}
	}
	for i := range 2 {
		if p := w.partition(i); len(p.ISR) != 1 || p.Leader != metadata.NoNode {
			t.Errorf("partition %d: %+v", i, p)
		}
	}
}

func TestStalledDiskHandsOver(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, nil, assign([]int32{0, 1, 2}))
	w.create(1, nil, assign([]int32{1, 0}))
	w.run(time.Second)
	w.stalled[0] = true
	w.run(200 * time.Millisecond)
	if w.partition(0).Leader != 1 || w.im.Topic("t1").Partitions[0].InISR(0) {
		t.Fatalf("%+v", w.partition(0))
	}
	// The last in-sync member goes on.
	w.silent[2] = true
	w.run(4 * time.Second)
	w.stalled[1] = true
	w.run(time.Second)
	if p := w.partition(0); p.Leader != 1 || len(p.ISR) != 1 {
		t.Fatalf("the last member does not lead: %+v", p)
	}
	w.stalled = make(map[int32]bool)
	w.run(time.Second)
	if w.im.Broker(0).Fenced {
		t.Error("still fenced after the stall")
	}
}

// TestELRWaitsForTheISR: an eligible leader is taken only after 2 s without the
// in-sync member.
func TestELRWaitsForTheISR(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, nil, assign([]int32{0, 1}))
	w.run(time.Second)
	w.silent[1] = true
	w.run(4 * time.Second)
	w.silent[0] = true
	w.run(4 * time.Second)
	if p := w.partition(0); p.Leader != metadata.NoNode || !slices.Equal(p.ISR, []int32{0}) || !slices.Equal(p.ELR, []int32{1}) {
		t.Fatalf("%+v", p)
	}
	w.register(1, "", []int64{10})
	w.run(1900 * time.Millisecond)
	if p := w.partition(0); p.Leader != metadata.NoNode {
		t.Fatalf("elected before 2 s: %+v", p)
	}
	w.run(200 * time.Millisecond)
	if p := w.partition(0); p.Leader != 1 || !slices.Equal(p.ISR, []int32{1}) || !slices.Equal(p.ELR, []int32{0}) || w.possibleLoss != 0 {
		t.Fatalf("not elected after 2 s: %+v, possible loss %d", p, w.possibleLoss)
	}
}

func TestPowerCutOfAReplicatedTopic(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, map[string]string{"durability": "replicated"}, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	for node, end := range []int64{50, 70, 60} {
		if w.decide(); w.possibleLoss != 0 {
			t.Fatalf("elected before broker %d was back", node)
		}
		w.register(int32(node), "", []int64{end})
	}
	w.decide()
	if w.partition(0).Leader != 1 || w.possibleLoss != 1 {
		t.Fatalf("leader %d, want the longest log, 1; possible loss counted %d times", w.partition(0).Leader, w.possibleLoss)
	}
}

func TestBalanceReturnsOnceAndRests(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, nil, assign([]int32{0, 1, 2}, []int32{0, 1, 2}, []int32{1, 2, 0}))
	w.run(time.Second)
	w.silent[0] = true
	w.run(4 * time.Second)
	w.register(0, "", []int64{1, 1, 1})
	w.join(0)
	w.moves = 0
	w.run(14 * time.Second)
	if w.moves != 0 {
		t.Fatal("moved before the preferred leader was steady")
	}
	w.run(2 * time.Second)
	if w.partition(0).Leader != 0 || w.partition(1).Leader != 0 || w.moves != 2 {
		t.Fatalf("leaders %d and %d after %d moves", w.partition(0).Leader, w.partition(1).Leader, w.moves)
	}
	w.run(time.Minute)
	if w.moves != 2 {
		t.Fatalf("%d moves", w.moves)
	}
}

// join adds a broker to every in-sync set of topic t0, as the leaders would.
// TestLossyElectionWaitsForASignOfLife: what a registration told counts once its process
// has been heard of. That of one that has ended since may be applied late.
func TestLossyElectionWaitsForASignOfLife(t *testing.T) {
	w := newWorld(t, 3)
	w.create(0, map[string]string{"durability": "replicated"}, assign([]int32{0, 1, 2}))
	w.run(time.Second)
	for node, end := range []int64{50, 70, 60} {
		w.register(int32(node), "", []int64{end})
	}
	w.silent[2] = true
	if w.decide(); w.partition(0).Leader != metadata.NoNode {
		t.Fatalf("%d leads before 2 was heard of", w.partition(0).Leader)
	}
	delete(w.silent, 2)
	if w.decide(); w.partition(0).Leader != 1 {
		t.Fatalf("leader %d, want the longest log, 1", w.partition(0).Leader)
	}
}

func (w *world) join(node int32) {
	w.t.Helper()
	for i, p := range w.im.Topic("t0").Partitions {
		change := &metav1.IsrChange{TopicId: id(2, 0), Partition: int32(i), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
		for _, n := range append(slices.Clone(p.ISR), node) {
			change.Isr = append(change.Isr, &metav1.IsrMember{NodeId: n, BrokerEpoch: w.im.Broker(n).Epoch})
		}
		w.apply(&metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
			NodeId: p.Leader, BrokerEpoch: w.im.Broker(p.Leader).Epoch, Changes: []*metav1.IsrChange{change},
		}}})
	}
}

func TestMaxChangesBoundsACommand(t *testing.T) {
	w := newWorld(t, 2)
	var sets [][]int32
	for range 25 {
		sets = append(sets, []int32{0, 1})
	}
	w.create(0, nil, assign(sets...))
	w.opts.MaxChanges = 10
	w.stopping[0] = true
	for _, want := range []int{10, 10, 5} {
		commands := w.decide()
		if n := len(commands[0].GetElectLeaders().GetChanges()); n != want {
			t.Fatalf("%d changes, want %d", n, want)
		}
	}
}

// TestDecide: whatever brokers do, every decision applies cleanly (each command
// is checked by apply), and once nothing happens any more the controller comes
// to rest, with every partition led that has an unfenced in-sync member, and by
// its preferred leader where that is in sync.
func TestDecide(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 4)
		for topic := range 2 {
			var sets [][]int32
			rf := rapid.IntRange(1, 4).Draw(rt, "rf")
			for range rapid.IntRange(1, 4).Draw(rt, "partitions") {
				sets = append(sets, rapid.Permutation([]int32{0, 1, 2, 3}).Draw(rt, "replicas")[:rf])
			}
			w.create(topic, map[string]string{"durability": rapid.SampledFrom([]string{"synced", "replicated"}).Draw(rt, "durability")}, assign(sets...))
		}
		node := rapid.Int32Range(0, 3)
		rt.Repeat(map[string]func(*rapid.T){
			"time": func(rt *rapid.T) {
				w.run(time.Duration(rapid.IntRange(1, 80).Draw(rt, "ticks")) * 50 * time.Millisecond)
			},
			"silence":  func(rt *rapid.T) { w.silent[node.Draw(rt, "node")] = true },
			"speak":    func(rt *rapid.T) { delete(w.silent, node.Draw(rt, "node")) },
			"stop":     func(rt *rapid.T) { w.stopping[node.Draw(rt, "node")] = true },
			"stall":    func(rt *rapid.T) { w.stalled[node.Draw(rt, "node")] = rapid.Bool().Draw(rt, "stalled") },
			"refuse":   func(rt *rapid.T) { w.live.Refused(node.Draw(rt, "node"), w.now) },
			"restart":  func(rt *rapid.T) { w.register(node.Draw(rt, "node"), "", nil) },
			"takeover": func(*rapid.T) { w.live = controller.NewLiveness(w.now) },
		})
		w.run(40 * time.Second)
		if commands := w.decide(); len(commands) != 0 {
			rt.Fatalf("the controller does not come to rest: %v", commands)
		}
		w.checkRest(rt)
	})
}

func (w *world) checkRest(t *rapid.T) {
	for topic := range w.im.Topics() {
		for i, p := range topic.Partitions {
			for _, n := range slices.Concat(p.ISR, p.ELR) {
				if p.Leader == metadata.NoNode && !w.im.Broker(n).Fenced {
					t.Fatalf("%s-%d has no leader though %d could: %+v", topic.Name, i, n, p)
				}
			}
			if p.InISR(p.Preferred()) && !w.im.Broker(p.Preferred()).Fenced && !w.stalled[p.Preferred()] && p.Leader != p.Preferred() {
				t.Fatalf("%s-%d is not led by its preferred leader: %+v", topic.Name, i, p)
			}
		}
	}
}

// TestDeadlinesBeginAtTheBase: what was observed before the controller passed
// its barrier does not shorten a deadline.
func TestDeadlinesBeginAtTheBase(t *testing.T) {
	w := newWorld(t, 1)
	base := w.now.Add(time.Hour)
	w.live = controller.NewLiveness(base)
	w.live.Observe(w.im, w.now)
	if d := controller.Decide(w.im, w.live, base.Add(2900*time.Millisecond), w.opts); len(d.Commands) != 0 {
		t.Errorf("%v", d.Commands)
	}
	if d := controller.Decide(w.im, w.live, base.Add(3*time.Second), w.opts); len(d.Commands) != 1 {
		t.Errorf("%v, want a fence", d.Commands)
	}
}

// TestNewControllerUnfencesOnlyWhomItHears: a fresh deadline is no sign of life.
func TestNewControllerUnfencesOnlyWhomItHears(t *testing.T) {
	w := newWorld(t, 2)
	w.silent[0] = true
	w.run(4 * time.Second)
	w.live = controller.NewLiveness(w.now)
	w.run(time.Second)
	if !w.im.Broker(0).Fenced {
		t.Fatal("unfenced without a heartbeat")
	}
	delete(w.silent, 0)
	w.run(100 * time.Millisecond)
	if w.im.Broker(0).Fenced {
		t.Fatal("still fenced after a heartbeat")
	}
}

// TestLeavingLeaderStaysAboveTheEligible: a leader that stops is not replaced by
// an eligible leader while it lives; that one may lack what is not yet
// acknowledged. Afterwards it waits for the in-sync member first.
func TestLeavingLeaderStaysAboveTheEligible(t *testing.T) {
	w := newWorld(t, 2)
	w.create(0, nil, assign([]int32{0, 1}))
	w.run(time.Second)
	w.silent[1] = true
	w.run(4 * time.Second)
	delete(w.silent, 1)
	w.run(time.Second)
	w.stopping[0] = true
	w.decide()
	if p := w.partition(0); p.Leader != metadata.NoNode || !slices.Equal(p.ISR, []int32{0}) || !slices.Equal(p.ELR, []int32{1}) {
		t.Fatalf("%+v", p)
	}
	w.run(3 * time.Second)
	if p := w.partition(0); p.Leader != 1 || w.possibleLoss != 0 {
		t.Fatalf("%+v", p)
	}
}

// A broker whose disk hangs keeps what only it could lead. A partition that
// loses its leader meanwhile, and has nobody else, is better led by it than by
// nobody.
func TestStalledDiskLeadsWhereNobodyElseCould(t *testing.T) {
	w := newWorld(t, 2)
	w.create(0, nil, assign([]int32{0, 1}))
	w.create(1, nil, assign([]int32{1}))
	w.run(time.Second)
	w.silent[1] = true
	w.run(4 * time.Second) // in the sets: broker 0 alone; eligible: broker 1
	delete(w.silent, 1)
	w.run(time.Second)
	w.stalled[1], w.silent[0] = true, true
	w.run(8 * time.Second)
	if p := w.partition(0); p.Leader != 1 {
		t.Fatalf("%+v, broker 1 fenced: %v", p, w.im.Broker(1).Fenced)
	}
	w.stalled[1] = false
	delete(w.silent, 0)
	w.run(4 * time.Second)
	if commands := w.decide(); len(commands) != 0 {
		t.Fatalf("no rest: %v", commands)
	}
}
