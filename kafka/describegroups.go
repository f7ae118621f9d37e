package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// describeGroups shows groups of the classic protocol. Others are unknown to it, as
// in Kafka: ConsumerGroupDescribe shows them.
func describeGroups(ctx context.Context, d *Door, c *call, req *kmsg.DescribeGroupsRequest) (*kmsg.DescribeGroupsResponse, error) {
	resp := kmsg.NewPtrDescribeGroupsResponse()
	for _, name := range distinct(req.Groups, itself) {
		out := kmsg.NewDescribeGroupsResponseGroup()
		out.Group, out.AuthorizedOperations = name, noOperations
		g, err := d.services.GroupAdmin.DescribeGroup(ctx, name)
		e := asError(err)
		if e == nil && g.Type == api.GroupTypeConsumer {
			e = api.Errorf(api.CodeUnknownGroup, "group %q is of the consumer protocol", name)
		}
		switch {
		case e != nil && e.Code == api.CodeUnknownGroup && c.version < 6:
			out.State = "Dead" // the older versions' word for it
		case e != nil:
			out.ErrorCode, out.ErrorMessage = c.ofGroup(e), messageOf(e)
			if e.Code == api.CodeUnknownGroup {
				out.State = "Dead"
			}
		default:
			classicGroup(&out, g)
		}
		resp.Groups = append(resp.Groups, out)
	}
	return resp, nil
}

func classicGroup(out *kmsg.DescribeGroupsResponseGroup, g *api.GroupDescription) {
	out.State, out.ProtocolType, out.Protocol = groupState(g.State), g.ProtocolType, g.Assignor
	for i := range g.Members {
		m := &g.Members[i]
		v := kmsg.NewDescribeGroupsResponseGroupMember()
		v.MemberID, v.InstanceID, v.ClientID, v.ClientHost = m.MemberID, optional(m.InstanceID), m.ClientID, m.Host
		v.ProtocolMetadata, v.MemberAssignment = append([]byte{}, m.Metadata...), append([]byte{}, m.Assignment...)
		out.Members = append(out.Members, v)
	}
}

// consumerGroupDescribe shows groups of the consumer protocol (KIP-848).
func consumerGroupDescribe(ctx context.Context, d *Door, c *call, req *kmsg.ConsumerGroupDescribeRequest) (*kmsg.ConsumerGroupDescribeResponse, error) {
	resp := kmsg.NewPtrConsumerGroupDescribeResponse()
	for _, name := range distinct(req.Groups, itself) {
		out := kmsg.NewConsumerGroupDescribeResponseGroup()
		out.Group, out.AuthorizedOperations = name, noOperations
		g, err := d.services.GroupAdmin.DescribeGroup(ctx, name)
		e := asError(err)
		if e == nil && g.Type != api.GroupTypeConsumer {
			e = kafkaError(kerr.GroupIDNotFound, "group %q is not of the consumer protocol", name)
		}
		if out.ErrorCode, out.ErrorMessage = c.ofGroup(e), messageOf(e); e == nil {
			if err := d.consumerGroup(ctx, &out, g); err != nil {
				return nil, err
			}
		}
		resp.Groups = append(resp.Groups, out)
	}
	return resp, nil
}

func (d *Door) consumerGroup(ctx context.Context, out *kmsg.ConsumerGroupDescribeResponseGroup, g *api.GroupDescription) error {
	out.State, out.Epoch, out.AssignmentEpoch, out.AssignorName = groupState(g.State), g.Epoch, g.AssignmentEpoch, g.Assignor
	ids, err := d.topicIDs(ctx)
	if err != nil {
		return err
	}
	for i := range g.Members {
		m := &g.Members[i]
		v := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		v.MemberID, v.InstanceID, v.RackID, v.MemberEpoch = m.MemberID, optional(m.InstanceID), optional(m.Rack), m.MemberEpoch
		v.ClientID, v.ClientHost, v.SubscribedTopics, v.SubscribedTopicRegex = m.ClientID, m.Host, m.Topics, optional(m.Pattern)
		v.Assignment, v.TargetAssignment = assigned(m.Assigned, ids), assigned(m.Target, ids)
		if v.MemberType = 1; m.Classic {
			v.MemberType = 0
		}
		out.Members = append(out.Members, v)
	}
	return nil
}

// topicIDs are those of all topics by name.
func (d *Door) topicIDs(ctx context.Context) (map[string]api.TopicID, error) {
	md, err := d.services.Cluster.Metadata(ctx, nil, true, "")
	if err != nil {
		return nil, err
	}
	ids := make(map[string]api.TopicID, len(md.Topics))
	for i := range md.Topics {
		ids[md.Topics[i].Name] = md.Topics[i].ID
	}
	return ids, nil
}

func assigned(partitions []api.TopicPartition, ids map[string]api.TopicID) kmsg.Assignment {
	out := kmsg.NewAssignment()
	for _, t := range byTopic(partitions) {
		v := kmsg.NewAssignmentTopicPartition()
		v.Topic, v.TopicID, v.Partitions = t.topic, ids[t.topic], t.partitions
		out.TopicPartitions = append(out.TopicPartitions, v)
	}
	return out
}

// topicPartitions are partitions of one topic.
type topicPartitions struct {
	topic      string
	partitions []int32
}

// byTopic gathers partitions under their topics, in the order of their first ones.
func byTopic(list []api.TopicPartition) []topicPartitions {
	var out []topicPartitions
	places := make(map[string]int)
	for _, tp := range list {
		i, ok := places[tp.Topic]
		if !ok {
			i = len(out)
			places[tp.Topic] = i
			out = append(out, topicPartitions{topic: tp.Topic})
		}
		out[i].partitions = append(out[i].partitions, tp.Partition)
	}
	return out
}
