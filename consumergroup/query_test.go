package consumergroup

import (
	"testing"
	"time"
)

// A target assignment is of the epoch that it was computed for.
func TestTargetEpoch(t *testing.T) {
	g, out := New("g"), Effects{}
	want := func(epoch, target int32) {
		t.Helper()
		if g.Epoch() != epoch || g.TargetEpoch() != target {
			t.Fatalf("epoch %d, that of the target %d", g.Epoch(), g.TargetEpoch())
		}
	}
	md := &Metadata{Partitions: map[string]int32{"a": 2}}
	g.Step(time.Unix(0, 0), Event{Kind: EventMetadata, Metadata: md}, &out)
	for i, id := range []string{"m1", "m2"} {
		g.Step(time.Unix(0, 0), Event{
			Kind: EventJoin, MemberID: id, Stream: uint64(i + 1), Attach: 1, Metadata: md,
			Join: &Member{ID: id, Topics: []string{"a"}, SessionTimeout: time.Second, RebalanceTimeout: time.Second},
		}, &out)
		want(int32(i+1), int32(i))
		g.Step(time.Unix(0, 0), Event{Kind: EventAssign}, &out)
		want(int32(i+1), int32(i+1))
	}
}
