package kafka

import (
	"context"
	"crypto/rand"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// consumerGroupHeartbeat is all that a member of the consumer protocol says to its
// coordinator: joining, leaving, what it owns and what it wants (KIP-848).
func consumerGroupHeartbeat(ctx context.Context, d *Door, c *call, req *kmsg.ConsumerGroupHeartbeatRequest) (*kmsg.ConsumerGroupHeartbeatResponse, error) {
	beat := &api.ConsumerHeartbeat{
		Group: req.Group, MemberID: req.MemberID, MemberEpoch: req.MemberEpoch, InstanceID: value(req.InstanceID), Rack: value(req.RackID),
		ClientID: c.clientID, ClientHost: c.host, RebalanceTimeout: int64(req.RebalanceTimeoutMillis),
		HasTopics: req.SubscribedTopicNames != nil, Topics: req.SubscribedTopicNames,
		HasPattern: req.SubscribedTopicRegex != nil, Pattern: value(req.SubscribedTopicRegex),
		Assignor: value(req.ServerAssignor), HasOwned: req.Topics != nil,
	}
	if beat.MemberID == "" && beat.MemberEpoch == api.EpochJoin && c.version == 0 {
		beat.MemberID = rand.Text() // In version 0 the broker may make it.
	}
	for _, t := range req.Topics {
		if name, ok := d.services.Cluster.TopicName(t.TopicID); ok { // Of a topic that is gone there is nothing to own.
			for _, p := range t.Partitions {
				beat.Owned = append(beat.Owned, api.TopicPartition{Topic: name, Partition: p})
			}
		}
	}
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	result, err := d.services.Groups.ConsumerHeartbeat(ctx, beat)
	if e := asError(err); e != nil {
		resp.ErrorCode, resp.ErrorMessage = c.ofGroup(e), messageOf(e)
		return resp, nil
	}
	resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = &result.MemberID, result.MemberEpoch, int32(result.HeartbeatInterval)
	if !result.HasAssignment {
		return resp, nil
	}
	ids, err := d.topicIDs(ctx)
	if err != nil {
		return nil, err
	}
	a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
	for _, t := range byTopic(result.Assignment) {
		v := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
		v.TopicID, v.Partitions = ids[t.topic], t.partitions
		a.Topics = append(a.Topics, v)
	}
	resp.Assignment = &a
	return resp, nil
}
