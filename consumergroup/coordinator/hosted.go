package coordinator

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// Groups with members of both protocols: the coordinator assigns, and reads and
// writes the bytes in which classic consumers speak with each other.

// Migration says which way a group with members may go from one protocol to the
// other (Kafka's group.consumer.migration.policy).
type Migration string

// The policies.
const (
	MigrateBoth Migration = "bidirectional"
	MigrateUp   Migration = "upgrade"
	MigrateDown Migration = "downgrade"
	MigrateNot  Migration = "disabled"
)

func (m Migration) up() bool   { return m == MigrateBoth || m == MigrateUp }
func (m Migration) down() bool { return m == MigrateBoth || m == MigrateDown }

// known says that it is one of the policies.
func (m Migration) known() bool { return m.up() || m.down() || m == MigrateNot }

// host takes a classic group with members over: a member of the consumer protocol joins it.
func (s *shard) host(now time.Time, g *group, join *api.JoinGroup) error {
	switch {
	case !s.cfg.Migration.up():
		return api.Errorf(api.CodeInconsistentProtocol, "group %q has members of the classic protocol, and group.consumer.migration.policy is %s", g.id, s.cfg.Migration)
	case join.MemberEpoch != api.EpochJoin || len(join.Owned) > 0:
		return api.Errorf(api.CodeUnknownMember, "group %q has no member %q: join with epoch 0", g.id, join.MemberID)
	}
	var out consumergroup.Effects
	generation, members := g.classic.Generation(), g.classic.Len()
	machine, why := consumergroup.Host(now, g.classic, readClaims, &out)
	if machine == nil {
		return api.Errorf(api.CodeInconsistentProtocol, "group %q has members of the classic protocol, beside whom no others can be: %s", g.id, why)
	}
	g.machine, g.classic = machine, nil
	for i := range out.List {
		s.carryOut(g, out.List[i])
	}
	if g.classicWritten {
		// Last: while it is there, the classic group counts.
		s.persist(g, classicKey(g.id), nil)
		g.classicWritten = false
	}
	s.logger.Info("the coordinator assigns in a group of the classic protocol from now on", "group", g.id, "generation", generation, "classic_members", members)
	return nil
}

// release gives a group in which only classic members are left back to them.
func (s *shard) release(now time.Time, g *group) {
	members := g.machine.Members()
	machine := g.machine
	g.classicEffects.Reset()
	g.classic = machine.Release(now, s.cfg.InitialRebalanceDelay, appendAssignment, &g.classicEffects)
	s.carryOutClassic(now, g) // its record first: once it is there, it counts
	for i := range members {
		s.forgetMember(g, members[i].ID)
	}
	s.dropMachine(g)
	s.deadlines.set(g, g.classicEffects.Deadline)
	s.logger.Info("a group's members assign among themselves from now on", "group", g.id, "generation", g.classic.Generation(), "classic_members", len(members))
}

// forgetMember writes tombstones for all that is written of a member.
func (s *shard) forgetMember(g *group, member string) {
	s.persist(g, currentKey(g.id, member), nil)
	s.persist(g, targetKey(g.id, member), nil)
	s.persist(g, memberKey(g.id, member), nil)
}

// readClaims reads what a classic member said and was assigned.
func readClaims(m *consumergroup.ClassicMember) (claims consumergroup.Claims, ok bool) {
	if len(m.Protocols) == 0 {
		return claims, false
	}
	if claims.Subscription, ok = readSubscription(m.Protocols[0].Metadata); !ok || len(m.Assignment) == 0 {
		return claims, ok
	}
	claims.Assigned, ok = readAssignment(m.Assignment)
	return claims, ok
}

// readAssignment reads what a consumer was told.
func readAssignment(assignment []byte) (assigned []consumergroup.TopicPartition, ok bool) {
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(assignment); err != nil {
		return nil, false
	}
	for _, t := range a.Topics {
		for _, p := range t.Partitions {
			assigned = append(assigned, consumergroup.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	return assigned, true
}

// readSubscription reads what a consumer says of itself.
func readSubscription(metadata []byte) (consumergroup.Subscription, bool) {
	var m kmsg.ConsumerMemberMetadata
	if err := m.ReadFrom(metadata); err != nil {
		return consumergroup.Subscription{}, false
	}
	sub := consumergroup.Subscription{Version: max(m.Version, 0), Topics: m.Topics, Generation: -1}
	for _, t := range m.OwnedPartitions {
		for _, p := range t.Partitions {
			sub.Owned = append(sub.Owned, consumergroup.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	if m.Version >= 2 {
		sub.Generation = m.Generation
	}
	if m.Version >= 3 {
		sub.Rack = valueOf(m.Rack)
	}
	return sub, true
}

// maxAssignmentVersion is the newest version of consumers' assignments.
const maxAssignmentVersion = 3

// appendAssignment writes an assignment as consumers' leaders do.
func appendAssignment(version int16, partitions []consumergroup.TopicPartition) []byte {
	a := kmsg.ConsumerMemberAssignment{Version: min(version, maxAssignmentVersion)}
	for _, p := range partitions {
		if n := len(a.Topics); n == 0 || a.Topics[n-1].Topic != p.Topic {
			a.Topics = append(a.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: p.Topic})
		}
		t := &a.Topics[len(a.Topics)-1]
		t.Partitions = append(t.Partitions, p.Partition)
	}
	return a.AppendTo(nil)
}

// hostedRequest gives a group that the coordinator assigns a request of the
// classic protocol.
func (s *shard) hostedRequest(now time.Time, g *group, ev consumergroup.ClassicEvent) {
	event := consumergroup.Event{Kind: consumergroup.EventClassic, Classic: &ev}
	if ev.Kind == consumergroup.ClassicJoin && len(ev.Join.Protocols) > 0 {
		if sub, ok := readSubscription(ev.Join.Protocols[0].Metadata); ok {
			event.Subscription = &sub
			event.Metadata = s.metadata(g, &consumergroup.Member{Topics: sub.Topics, Rack: sub.Rack})
		}
	}
	s.step(now, g, event)
}

// answer hands the outcome of a request of the classic protocol to who waits for it.
func (s *shard) answer(g *group, e *consumergroup.ClassicEffect) {
	s.emitOf(g.id, func(err error) {
		call, waits := s.calls[e.Call]
		delete(s.calls, e.Call)
		switch {
		case !waits:
		case err != nil:
			call.answer(nil, decisionError(err))
		default:
			call.answer(e, nil)
		}
	})
}

// renew starts the session of a classic member anew that commits, as Kafka does.
func (g *group) renew(now time.Time, memberID string) {
	if g.classic != nil {
		g.classic.Touch(now, memberID)
		return
	}
	g.machine.TouchClassic(now, memberID)
}
