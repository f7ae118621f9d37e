package partition

import (
	"testing"
	"time"

	"github.com/penstock/penstock/log/record"
)

// TestHotStepsDoNotAllocate covers append, ack and flush on both sides.
func TestHotStepsDoNotAllocate(t *testing.T) {
	now := time.Unix(0, 0)
	var out Effects
	a := &Assignment{Leader: 1, LeaderEpoch: 1, PartitionEpoch: 1, MinISR: 2, Synced: true, Replicas: []Assigned{
		{Node: 1, BrokerEpoch: 1, ISR: true}, {Node: 2, BrokerEpoch: 1, ISR: true}, {Node: 3, BrokerEpoch: 1, ISR: true},
	}}
	leader := New(Config{Node: 1})
	follower := New(Config{Node: 2})
	leader.Step(now, Assign(a), &out)
	follower.Step(now, Assign(a), &out)
	for _, n := range []int32{2, 3} {
		leader.Step(now, Handshake(n, 1, 1, 1, -1, 0, 0, -1, 0, 0, 0), &out)
	}
	follower.Step(now, Begin(1, -1), &out)
	follower.Step(now, Reply(1, 1, OutcomeOK, true, false, -1, 0, 0, 0, -1, 0), &out)

	end, completed := record.Offset(0), 0
	deadline := now.Add(time.Minute)
	heard := []Heard{{Node: 2, At: now}, {Node: 3, At: now}}
	round := func() {
		end += 10
		for i := range 8 {
			out.Reset()
			if leader.Admit(AcksAll) != OutcomeOK {
				t.Fatal("refused")
			}
			leader.Step(now, Appended(end-10, end, AcksAll, uint64(i), deadline), &out)
		}
		out.Reset()
		follower.Step(now, Push(1, 1, end-10, end, leader.HighWatermark(), 0), &out)
		follower.Step(now, AppendedFollower(end), &out)
		follower.Step(now, Progress(end, end), &out)
		out.Reset()
		leader.Step(now, Progress(end, end), &out)
		leader.Step(now, Ack(2, 1, 1, end, end, 0), &out)
		leader.Step(now, Ack(3, 1, 1, end, end, 0), &out)
		for _, e := range out.List {
			if e.Kind == EffectComplete {
				completed++
			}
		}
		leader.Step(now, Tick(heard), &out)
	}
	for range 20 {
		round()
	}
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations a round, want none", n)
	}
	if follower.End() != end || leader.HighWatermark() != end || completed < 8*1000 {
		t.Errorf("follower at %d, HW %d, completed %d; end %d", follower.End(), leader.HighWatermark(), completed, end)
	}
}
