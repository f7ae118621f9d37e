package consumergroup

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hostedGroup is a group with a static member of the classic protocol that owns
// both partitions of topic a, as a classic group of generation 7 left it.
func hostedGroup(t *testing.T, now time.Time) *Group {
	t.Helper()
	stored := &StoredClassic{Generation: 7, ProtocolType: "consumer", Protocol: "range", Leader: "s1", Members: []ClassicMember{
		{
			ID: "s1", InstanceID: "i", SessionTimeout: time.Minute, RebalanceTimeout: 20 * time.Second,
			Protocols:  []ClassicProtocol{{Name: "range", Metadata: []byte(`{"Topics":["a"]}`)}},
			Assignment: []byte(`[{"Topic":"a","Partition":0},{"Topic":"a","Partition":1}]`),
		},
	}}
	var out Effects
	g, why := Host(now, RestoreClassic(now, "g", stored, 0), readModel, &out)
	require.NotNil(t, g, why)
	return g
}

// The generation that a member had in a mixed group counts until the classic group
// has its next one, not after.
func TestGenerationOfBeforeTheRelease(t *testing.T) {
	now := time.Unix(1000, 0)
	g := hostedGroup(t, now)
	var out ClassicEffects
	c := g.Release(now, 0, writeModel, &out)
	beat := func() Code {
		out.Reset()
		c.Step(now, ClassicEvent{Kind: ClassicHeartbeat, Call: 1, MemberID: "s1", InstanceID: "i", Generation: 7}, &out)
		return out.List[0].Code
	}
	require.Equal(t, CodeRebalanceInProgress, beat())
	code, _ := c.CheckCommit("s1", "i", 7)
	require.Equal(t, CodeNone, code, "what it did before it heard of the rebalance")

	// Another joins and s1 does not, in time: static, it keeps its place.
	out.Reset()
	c.Step(now, ClassicEvent{Kind: ClassicJoin, Call: 2, ProtocolType: "consumer", NewID: "c2", Join: &ClassicMember{
		SessionTimeout: time.Minute, RebalanceTimeout: 20 * time.Second, Protocols: []ClassicProtocol{{Name: "range"}},
	}}, &out)
	now = now.Add(21 * time.Second)
	out.Reset()
	c.Step(now, ClassicEvent{Kind: ClassicTimer}, &out)
	require.Equal(t, ClassicCompleting, c.State())
	require.True(t, c.Has("s1", "i"))
	require.Equal(t, CodeIllegalGeneration, beat())
	code, _ = c.CheckCommit("s1", "i", 7)
	require.Equal(t, CodeIllegalGeneration, code)
}

// The coordinator moves after a group was given back to its members, before these had a
// generation of their own: what they have may be a part only, and nobody leads them. Each
// of them hears that it is to join, or they would stay so.
func TestReleasedGroupRebalancesUnderItsNextCoordinator(t *testing.T) {
	now := time.Unix(1000, 0)
	var out ClassicEffects
	stored := hostedGroup(t, now).Release(now, 0, writeModel, &out).Stored()
	require.Empty(t, stored.Leader)
	c := RestoreClassic(now, "g", stored, 0)
	out.Reset()
	c.Step(now, ClassicEvent{Kind: ClassicHeartbeat, Call: 1, MemberID: "s1", InstanceID: "i", Generation: 7}, &out)
	require.Equal(t, CodeRebalanceInProgress, out.List[0].Code)
	code, _ := c.CheckCommit("s1", "i", 7)
	require.Equal(t, CodeNone, code, "it has what it has until then")
	out.Reset()
	c.Step(now, ClassicEvent{Kind: ClassicJoin, Call: 2, ProtocolType: "consumer", Join: &ClassicMember{
		ID: "s1", InstanceID: "i", SessionTimeout: time.Minute, RebalanceTimeout: 20 * time.Second, Protocols: []ClassicProtocol{{Name: "range"}},
	}}, &out)
	require.Equal(t, int32(8), out.List[0].Generation)
	require.Equal(t, "s1", out.List[0].Leader)
}

// What is written of a group that was given back is of before the rebalance that it begins
// with, also when all have joined already and that is over at once: nobody has synced.
func TestReleasedGroupIsWrittenAsItWas(t *testing.T) {
	now := time.Unix(1000, 0)
	g := hostedGroup(t, now)
	var out Effects
	g.Step(now, Event{Kind: EventMetadata, Metadata: &Metadata{}}, &out) // a target is due, and the join waits for it
	g.Step(now, Event{Kind: EventClassic, Subscription: &Subscription{Topics: []string{"a"}}, Classic: &ClassicEvent{
		Kind: ClassicJoin, Call: 1, ProtocolType: "consumer", Join: &ClassicMember{
			ID: "s1", InstanceID: "i", SessionTimeout: time.Minute, RebalanceTimeout: 20 * time.Second, Protocols: []ClassicProtocol{{Name: "range"}},
		},
	}}, &out)
	var released ClassicEffects
	c := g.Release(now, 0, writeModel, &released)
	require.Equal(t, ClassicCompleting, c.State())
	require.Equal(t, ClassicPersist, released.List[0].Kind)
	require.Equal(t, c.Generation()-1, released.List[0].Stored.Generation)
	require.Empty(t, released.List[0].Stored.Leader)
}

// Who cannot be hosted is left as it is.
func TestHostRefuses(t *testing.T) {
	now := time.Unix(1000, 0)
	member := func(id, metadata, assignment string) ClassicMember {
		return ClassicMember{
			ID: id, SessionTimeout: time.Minute, Protocols: []ClassicProtocol{{Name: "p", Metadata: []byte(metadata)}}, Assignment: []byte(assignment),
		}
	}
	const both = `[{"Topic":"a","Partition":0},{"Topic":"a","Partition":1}]`
	for name, c := range map[string]struct {
		kind    string
		members []ClassicMember
		why     string
	}{
		"no consumers":       {"connect", []ClassicMember{member("m1", `{}`, "")}, `the members are of protocol type "connect"`},
		"unreadable":         {"consumer", []ClassicMember{member("m1", `{}`, ""), member("m2", `?`, "")}, `what member "m2" said or was assigned cannot be read`},
		"assignment twofold": {"consumer", []ClassicMember{member("m1", `{}`, both), member("m2", `{}`, both)}, `a-0 is assigned to "m1" and to "m2"`},
	} {
		t.Run(name, func(t *testing.T) {
			classic := RestoreClassic(now, "g", &StoredClassic{Generation: 7, ProtocolType: c.kind, Protocol: "p", Leader: "m1", Members: c.members}, 0)
			var out Effects
			g, why := Host(now, classic, readModel, &out)
			require.Nil(t, g)
			require.Equal(t, c.why, why)
			require.Empty(t, out.List)
			require.Equal(t, ClassicStable, classic.State())
		})
	}
}

// A cooperative consumer keeps what its leader wants it to give up until its sync:
// nobody gets that before it says that it let go.
func TestHostHoldsWhatIsBeingGivenUp(t *testing.T) {
	now := time.Unix(1000, 0)
	stored := &StoredClassic{Generation: 7, ProtocolType: "consumer", Protocol: "p", Leader: "m1", Members: []ClassicMember{{
		ID: "m1", SessionTimeout: time.Minute, RebalanceTimeout: time.Minute, Assignment: []byte(`[{"Topic":"a","Partition":0}]`),
		Protocols: []ClassicProtocol{{Name: "p", Metadata: []byte(`{"Topics":["a"],"Generation":6,"Owned":[{"Topic":"a","Partition":0},{"Topic":"a","Partition":1}]}`)}},
	}}}
	var out Effects
	g, why := Host(now, RestoreClassic(now, "g", stored, 0), readModel, &out)
	require.NotNil(t, g, why)
	step := func(ev Event) {
		out.Reset()
		g.Step(now, ev, &out)
		if out.Assign {
			g.Step(now, Event{Kind: EventAssign}, &out)
		}
	}
	owned := func(id string) []TopicPartition { return g.members[id].ownedSorted() }
	step(Event{Kind: EventJoin, MemberID: "n", Stream: 1, Join: &Member{ID: "n", Topics: []string{"a"}, SessionTimeout: time.Minute, RebalanceTimeout: time.Minute}, Metadata: &Metadata{Partitions: map[string]int32{"a": 2}}})
	require.Empty(t, owned("n"))
	says := &Subscription{Version: 3, Topics: []string{"a"}, Generation: 7, Owned: []TopicPartition{{"a", 0}}}
	step(Event{Kind: EventClassic, Subscription: says, Classic: &ClassicEvent{
		Kind: ClassicJoin, Call: 2, ProtocolType: "consumer", Join: &ClassicMember{ID: "m1", SessionTimeout: time.Minute, RebalanceTimeout: time.Minute, Protocols: []ClassicProtocol{{Name: "p"}}},
	}})
	require.Equal(t, []TopicPartition{{"a", 1}}, owned("n"))
	require.Equal(t, []TopicPartition{{"a", 0}}, owned("m1"))
}
