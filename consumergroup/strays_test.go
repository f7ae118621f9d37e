package consumergroup

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A topic is deleted, the coordinator moves, and the topic is created again: the new
// coordinator knows nothing of what a classic member had of the former one. The member
// lists it, by its name, and is told it only once it let go, or it would go on where it was.
func TestClassicMemberLetsGoOfWhatItDoesNotHave(t *testing.T) {
	now := time.Unix(1000, 0)
	b0 := TopicPartition{"b", 0}
	g := Restore(now, "g", &Stored{Epoch: 7, Hash: 1, TargetEpoch: 7, Members: []StoredMember{{
		Member: Member{
			ID: "m", Topics: []string{"b"}, SessionTimeout: time.Minute, RebalanceTimeout: time.Minute, Classic: []ClassicProtocol{{Name: "p"}},
		},
		Current: &Current{Epoch: 7},
	}}}, 0)
	var out Effects
	step := func(ev Event) {
		out.Reset()
		g.Step(now, ev, &out)
		if out.Assign {
			g.Step(now, Event{Kind: EventAssign}, &out)
		}
	}
	step(Event{Kind: EventMetadata, Metadata: &Metadata{Partitions: map[string]int32{"b": 1}, IDs: map[string]TopicID{"b": {2}}}})
	told := func(generation int32, owned ...TopicPartition) []TopicPartition {
		step(Event{Kind: EventClassic, Subscription: &Subscription{Version: 3, Topics: []string{"b"}, Generation: generation, Owned: owned}, Classic: &ClassicEvent{
			Kind: ClassicJoin, Call: 1, ProtocolType: "consumer", Join: &ClassicMember{
				ID: "m", SessionTimeout: time.Minute, RebalanceTimeout: time.Minute, Protocols: []ClassicProtocol{{Name: "p"}},
			},
		}})
		step(Event{Kind: EventClassic, Classic: &ClassicEvent{Kind: ClassicSync, Call: 2, MemberID: "m", Generation: g.members["m"].epoch}})
		reply := out.List[len(out.List)-1].Reply
		require.Equal(t, CodeNone, reply.Code, reply.Message)
		return reply.Assigned
	}
	require.Empty(t, told(7, b0))
	code, _ := g.CheckCommit("m", g.members["m"].epoch, b0, TopicID{2})
	require.Equal(t, CodeRebalanceInProgress, code)
	require.Equal(t, []TopicPartition{b0}, told(g.members["m"].epoch))
}

// A topic is deleted while members assign among themselves, then the coordinator takes over,
// then there is a topic of that name again: which is not the one that a member has.
func TestHostedPartitionOfADeletedTopic(t *testing.T) {
	now := time.Unix(1000, 0)
	a0 := TopicPartition{"a", 0}
	g := hostedGroup(t, now)
	var out Effects
	join := &Member{ID: "n", Topics: []string{"a"}, SessionTimeout: time.Minute, RebalanceTimeout: time.Minute}
	g.Step(now, Event{Kind: EventJoin, MemberID: "n", Stream: 1, Join: join, Metadata: &Metadata{}}, &out)
	g.Step(now, Event{Kind: EventMetadata, Metadata: &Metadata{Partitions: map[string]int32{"a": 2}, IDs: map[string]TopicID{"a": {2}}}}, &out)
	code, _ := g.CheckCommit("s1", 7, a0, TopicID{2})
	require.Equal(t, CodeRebalanceInProgress, code)
	for _, e := range out.List {
		if e.Kind == EffectPersistCurrent && e.MemberID == "s1" {
			require.Empty(t, e.Current.Assigned, "it would be of the topic of today")
		}
	}
}

// A target epoch ahead of the group's is of an earlier group of that name (a build before
// wrote one behind the tombstones of a group that was deleted): there is no target yet.
func TestTargetOfAnEarlierGroup(t *testing.T) {
	now := time.Unix(1000, 0)
	m := Member{ID: "m", Topics: []string{"a"}, SessionTimeout: time.Minute, RebalanceTimeout: time.Minute}
	md := &Metadata{Partitions: map[string]int32{"a": 2}}
	stored := &Stored{TargetEpoch: 3}
	var out Effects
	New("g").Step(now, Event{Kind: EventJoin, MemberID: m.ID, Stream: 1, Join: &m, Metadata: md}, &out)
	for _, e := range out.List { // as far as the log has it when the coordinator moves
		if e.Kind == EffectPersistGroup {
			stored.Epoch, stored.Hash = e.Epoch, e.Hash
		}
		if e.Kind == EffectPersistCurrent {
			stored.Members = []StoredMember{{Member: m, Current: e.Current}}
		}
	}
	require.Less(t, stored.Epoch, stored.TargetEpoch)
	require.Len(t, stored.Members, 1)
	g := Restore(now, "g", stored, 0)
	out.Reset()
	g.Step(now, Event{Kind: EventMetadata, Metadata: md}, &out)
	require.True(t, out.Assign)
	g.Step(now, Event{Kind: EventAssign}, &out)
	require.Len(t, g.Members()[0].Target, 2)
}
