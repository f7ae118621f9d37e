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

// What a member lists by topic ids is what it was given, also of a topic that was
// deleted; a topic of that name that came later is another.
func TestNamed(t *testing.T) {
	former, today, other, unknown := TopicID{1}, TopicID{2}, TopicID{3}, TopicID{4}
	a0 := TopicPartition{Topic: "a"}
	g := Restore(time.Unix(0, 0), "g", &Stored{Epoch: 1, Hash: 1, TargetEpoch: 1, Members: []StoredMember{{
		Member:  Member{ID: "m", InstanceID: "i", Topics: []string{"a"}, SessionTimeout: time.Minute},
		Current: &Current{Epoch: 1, Assigned: []Given{{TopicPartition: a0, Epoch: 1, TopicID: former}}},
	}}}, 0)
	for _, tt := range []struct {
		name   string
		listed Given
		want   []TopicPartition
	}{
		{"what it was given", Given{TopicPartition: a0, TopicID: former}, []TopicPartition{a0}},
		{"of a topic that was deleted", Given{TopicID: former}, []TopicPartition{a0}},
		{"the one of that name that came later", Given{TopicPartition: a0, TopicID: today}, nil},
		{"nobody's", Given{TopicID: unknown}, nil},
		{"another's, which is not the member's", Given{TopicPartition: TopicPartition{"b", 3}, TopicID: other}, []TopicPartition{{"b", 3}}},
		{"by name alone", Given{TopicPartition: a0}, []TopicPartition{a0}},
	} {
		if got := g.Named("m", []Given{tt.listed}); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, not %v", tt.name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		member, instance string
		want             Code
	}{{"m", "i", CodeNone}, {"m", "", CodeNone}, {"n", "", CodeNone}, {"n", "i", CodeFencedInstance}, {"m", "j", CodeUnknownMember}} {
		if code, _ := g.CheckInstance(tt.member, tt.instance); code != tt.want {
			t.Errorf("member %q of instance %q: %s, not %s", tt.member, tt.instance, code, tt.want)
		}
	}
}
