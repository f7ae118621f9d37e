package coordinator

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// fetchAllowed checks the member that asks (KIP-848): one that was removed, or lost
// partitions that it does not know of yet, must not begin to read from what it is told.
// Groups of the classic protocol know no such check.
func (s *shard) fetchAllowed(req *api.FetchOffsets) error {
	g := s.groups[req.Group]
	if !req.ByMember || g == nil || g.kind() != api.GroupTypeConsumer {
		return nil
	}
	if code, message := g.machine.CheckFetch(req.MemberID, req.MemberEpoch, toMachine(req.Partitions)); code != consumergroup.CodeNone {
		return api.Errorf(codeOf(code), "group %q: %s", req.Group, message)
	}
	return nil
}

// fetch returns what is committed; all of it when partitions is empty.
func (s *shard) fetch(groupID string, partitions []api.TopicPartition) []api.CommittedOffset {
	var offsets map[api.TopicPartition]committed
	if g := s.groups[groupID]; g != nil {
		offsets = g.offsets
	}
	if len(partitions) == 0 {
		partitions = slices.SortedFunc(maps.Keys(offsets), func(a, b api.TopicPartition) int {
			return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
		})
	}
	results := make([]api.CommittedOffset, len(partitions))
	name, id := "", api.TopicID{}
	for i, tp := range partitions {
		if tp.Topic != name {
			name, id = tp.Topic, s.topicID(tp.Topic)
		}
		results[i] = api.CommittedOffset{TopicPartition: tp, Offset: record.UnknownOffset, LeaderEpoch: record.UnknownEpoch, CommitTime: -1}
		if c, ok := offsets[tp]; ok && (id.IsZero() || !c.of(id)) { // one of a former topic is on its way out
			results[i].Offset, results[i].LeaderEpoch, results[i].Metadata, results[i].CommitTime = c.offset, c.leaderEpoch, c.metadata, c.time
		}
	}
	return results
}

// describe returns all that is known of a group.
func (s *shard) describe(g *group) *api.GroupDescription {
	l := g.listing()
	d := &api.GroupDescription{
		Group: g.id, Type: l.Type, State: l.State, ProtocolType: l.ProtocolType, Coordinator: s.cfg.NodeID,
		Epoch: g.machine.Epoch(), AssignmentEpoch: g.machine.TargetEpoch(), Assignor: g.machine.Assignor(),
		Members: s.describeMembers(g), Offsets: s.fetch(g.id, nil), Lags: s.lags(time.Now(), g),
	}
	if g.classic != nil {
		d.Epoch, d.AssignmentEpoch, d.Assignor = g.classic.Generation(), g.classic.Generation(), g.classic.Protocol()
	}
	return d
}

func (s *shard) describeMembers(g *group) []api.GroupMember {
	if g.classic != nil {
		return describeClassic(g.classic)
	}
	infos := g.machine.Members()
	members := make([]api.GroupMember, 0, len(infos))
	for i := range infos {
		m := &infos[i]
		members = append(members, api.GroupMember{
			MemberID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, MemberEpoch: m.Epoch, Rack: m.Rack,
			Assigned: fromMachine(m.Owned), Target: fromMachine(m.Target), AssignedIDs: apiTopicIDs(m.OwnedIDs), TargetIDs: apiTopicIDs(m.TargetIDs),
			Topics: slices.Clone(m.Topics), Pattern: m.Pattern,
			Classic: len(m.Classic) > 0,
		})
	}
	return members
}

func apiTopicIDs(ids []consumergroup.TopicID) []api.TopicID {
	out := make([]api.TopicID, len(ids))
	for i, id := range ids {
		out[i] = api.TopicID(id)
	}
	return out
}

func describeClassic(c *consumergroup.Classic) []api.GroupMember {
	listed := c.Members()
	members := make([]api.GroupMember, 0, len(listed))
	for i := range listed {
		m := &listed[i]
		out := api.GroupMember{
			MemberID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host,
			MemberEpoch: c.Generation(), Classic: true, Assignment: m.Assignment,
		}
		for _, p := range m.Protocols {
			if p.Name == c.Protocol() {
				out.Metadata = p.Metadata
			}
		}
		if c.ProtocolType() == consumerProtocolType {
			if sub, ok := readSubscription(out.Metadata); ok {
				out.Topics = sub.Topics
			}
			if assigned, ok := readAssignment(out.Assignment); ok {
				out.Assigned = fromMachine(assigned)
			}
		}
		members = append(members, out)
	}
	return members
}

// members is the number of members, of either protocol.
func (g *group) members() int {
	if g.classic != nil {
		return g.classic.Len()
	}
	return g.machine.Len()
}

// kind tells which protocol the group's members speak.
func (g *group) kind() api.GroupType {
	switch {
	case g.classic != nil:
		return api.GroupTypeClassic
	case g.machine.Epoch() > 0:
		return api.GroupTypeConsumer
	}
	return api.GroupTypeNone
}

func (g *group) listing() api.GroupListing {
	l := api.GroupListing{Group: g.id, Type: g.kind(), State: string(g.machine.State()), Members: g.members()}
	if g.classic != nil {
		l.State, l.ProtocolType = string(g.classic.State()), g.classic.ProtocolType()
	}
	return l
}

// remove deletes an empty group: a tombstone for each of its records.
func (s *shard) remove(groupID string, reply func(error)) {
	g := s.groups[groupID]
	var refused *api.Error
	switch {
	case g == nil:
		refused = api.Errorf(api.CodeUnknownGroup, "there is no group %q", groupID)
	case g.members() > 0:
		refused = api.Errorf(api.CodeGroupNotEmpty, "group %q has %d members", groupID, g.members())
	default:
		refused = g.refusal
	}
	if refused != nil {
		s.emit(func(error) { reply(refused) })
		return
	}
	write := func(key []byte) *batch { return s.persist(g, key, nil) }
	s.dropOffsets(g, slices.Collect(g.committing()), write, func(int, error) {})
	s.forget(g)
	s.emitOf(g.id, func(err error) {
		if err != nil {
			reply(commitError(err))
			return
		}
		reply(nil)
	})
}

// forgetIfVoid drops a group that nothing was written of: a join or a commit
// that was refused leaves no trace.
func (s *shard) forgetIfVoid(g *group) {
	if g.members() == 0 && g.machine.Epoch() == 0 && len(g.offsets) == 0 && len(g.onTheWay) == 0 && (g.classic == nil || g.classic.Void()) {
		delete(s.groups, g.id)
		s.deadlines.set(g, time.Time{})
	}
}

func fromMachine(ps []consumergroup.TopicPartition) []api.TopicPartition {
	out := make([]api.TopicPartition, len(ps))
	for i, p := range ps {
		out[i] = api.TopicPartition(p)
	}
	return out
}

func toMachine(ps []api.TopicPartition) []consumergroup.TopicPartition {
	out := make([]consumergroup.TopicPartition, len(ps))
	for i, p := range ps {
		out[i] = consumergroup.TopicPartition(p)
	}
	return out
}
