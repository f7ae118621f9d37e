package consumergroup

import (
	"slices"
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

// Members that want the same share one list, so that a target costs what it has
// partitions, not members times topics.
func TestMembersShareWhatTheyWant(t *testing.T) {
	g, out := New("g"), Effects{}
	md := &Metadata{Partitions: map[string]int32{"a": 1, "ab": 1, "b": 1}, Matches: map[string][]string{"a.*": {"a", "ab"}}}
	for i, m := range []Member{{ID: "m1", Pattern: "a.*"}, {ID: "m2", Topics: []string{"a", "b"}}, {ID: "m3", Pattern: "a.*"}, {ID: "m4", Topics: []string{"a", "b"}}, {ID: "m5", Topics: []string{"ab"}}} {
		m.SessionTimeout, m.RebalanceTimeout = time.Second, time.Second
		g.Step(time.Unix(0, 0), Event{Kind: EventJoin, MemberID: m.ID, Stream: uint64(i + 1), Attach: 1, Metadata: md, Join: &m}, &out)
	}
	in, _ := g.input()
	for i, want := range [][]int32{{0, 1}, {0, 2}, {0, 1}, {0, 2}, {1}} {
		if got := in.Members[i].Topics; !slices.Equal(got, want) {
			t.Errorf("member %d: %v, not %v", i, got, want)
		}
	}
	if &in.Members[0].Topics[0] != &in.Members[2].Topics[0] || &in.Members[1].Topics[0] != &in.Members[3].Topics[0] {
		t.Error("what is the same was resolved twice")
	}
}
