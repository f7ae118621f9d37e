package kafka

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// consumerGroupHeartbeat is all that a member of the consumer protocol says to its
// coordinator: joining, leaving, what it owns and what it wants (KIP-848).
func consumerGroupHeartbeat(ctx context.Context, d *Door, c *call, req *kmsg.ConsumerGroupHeartbeatRequest) (*kmsg.ConsumerGroupHeartbeatResponse, error) {
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	if e := checkHeartbeat(c.version, req); e != nil {
		resp.ErrorCode, resp.ErrorMessage = c.code(e), messageOf(e)
		return resp, nil
	}
	beat := &api.ConsumerHeartbeat{
		Group: req.Group, MemberID: req.MemberID, MemberEpoch: req.MemberEpoch, InstanceID: value(req.InstanceID), Rack: value(req.RackID),
		ClientID: c.clientID, ClientHost: c.host, RebalanceTimeout: int64(req.RebalanceTimeoutMillis),
		HasTopics: req.SubscribedTopicNames != nil, Topics: req.SubscribedTopicNames,
		HasPattern: req.SubscribedTopicRegex != nil, Pattern: value(req.SubscribedTopicRegex),
		Assignor: value(req.ServerAssignor), HasOwned: req.Topics != nil,
	}
	if beat.MemberID == "" && beat.MemberEpoch == api.EpochJoin {
		beat.MemberID = rand.Text() // In version 0 the broker may make it.
	}
	for _, t := range req.Topics {
		name, _ := d.services.Cluster.TopicName(t.TopicID) // none: a topic that was deleted, which the member has still
		for _, p := range t.Partitions {
			beat.Owned = append(beat.Owned, api.OwnedPartition{TopicPartition: api.TopicPartition{Topic: name, Partition: p}, TopicID: t.TopicID})
		}
	}
	result, err := d.services.Groups.ConsumerHeartbeat(ctx, beat)
	if e := asError(err); e != nil {
		resp.ErrorCode, resp.ErrorMessage = c.ofGroup(e), messageOf(e)
		return resp, nil
	}
	resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = &result.MemberID, result.MemberEpoch, int32(result.HeartbeatInterval)
	if !result.HasAssignment {
		return resp, nil
	}
	a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
	for _, p := range result.Assignment {
		if n := len(a.Topics); n == 0 || a.Topics[n-1].TopicID != p.TopicID {
			t := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
			t.TopicID = p.TopicID
			a.Topics = append(a.Topics, t)
		}
		last := &a.Topics[len(a.Topics)-1]
		last.Partitions = append(last.Partitions, p.Partition)
	}
	resp.Assignment = &a
	return resp, nil
}

// checkHeartbeat refuses what contradicts itself, as Kafka does. Whitespace alone is as
// good as nothing.
func checkHeartbeat(version int16, req *kmsg.ConsumerGroupHeartbeatRequest) *api.Error {
	blank := func(s string) bool { return strings.TrimSpace(s) == "" }
	unnamed := version == 0 && (req.MemberEpoch == api.EpochJoin || req.MemberEpoch == api.EpochLeaveStatic)
	refuse := func(what string) *api.Error { return kafkaError(kerr.InvalidRequest, "%s", what) }
	switch {
	case blank(req.MemberID) && !unnamed:
		return refuse("a member makes its own member id")
	case blank(req.Group):
		return refuse("the group has no name")
	case req.InstanceID != nil && blank(*req.InstanceID):
		return refuse("the instance id is empty; a member that has none sends null")
	case req.RackID != nil && blank(*req.RackID):
		return refuse("the rack is empty; a member that knows none sends null")
	case req.MemberEpoch < api.EpochLeaveStatic:
		return kafkaError(kerr.InvalidRequest, "member epoch %d; of those below 0, -1 leaves and -2 leaves for a while", req.MemberEpoch)
	case req.MemberEpoch == api.EpochLeaveStatic && req.InstanceID == nil:
		return refuse("member epoch -2 without an instance id: only a static member leaves for a while")
	case req.MemberEpoch != api.EpochJoin:
		return nil
	case req.RebalanceTimeoutMillis == -1:
		return refuse("a join without a rebalance timeout")
	case req.Topics == nil || len(req.Topics) > 0:
		return refuse("a join that does not say, by an empty list, that the member owns nothing")
	case req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil:
		return refuse("a join that subscribes to nothing")
	}
	return nil
}
