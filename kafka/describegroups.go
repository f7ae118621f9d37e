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
	names := distinct(req.Groups, itself)
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(names))
	return resp, eachGroup(len(names), func(i int) error {
		out := &resp.Groups[i]
		*out = kmsg.NewDescribeGroupsResponseGroup()
		out.Group, out.AuthorizedOperations = names[i], noOperations
		g, err := d.services.GroupAdmin.DescribeGroup(ctx, names[i])
		e := asError(err)
		if e == nil && g.Type == api.GroupTypeConsumer {
			e = api.Errorf(api.CodeUnknownGroup, "group %q is of the consumer protocol", names[i])
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
			classicGroup(out, g)
		}
		return nil
	})
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
	names := distinct(req.Groups, itself)
	resp.Groups = make([]kmsg.ConsumerGroupDescribeResponseGroup, len(names))
	return resp, eachGroup(len(names), func(i int) error {
		out := &resp.Groups[i]
		*out = kmsg.NewConsumerGroupDescribeResponseGroup()
		out.Group, out.AuthorizedOperations = names[i], noOperations
		g, err := d.services.GroupAdmin.DescribeGroup(ctx, names[i])
		e := asError(err)
		if e == nil && g.Type != api.GroupTypeConsumer {
			e = kafkaError(kerr.GroupIDNotFound, "group %q is not of the consumer protocol", names[i])
		}
		if out.ErrorCode, out.ErrorMessage = c.ofGroup(e), messageOf(e); e == nil {
			d.consumerGroup(out, g)
		}
		return nil
	})
}

func (d *Door) consumerGroup(out *kmsg.ConsumerGroupDescribeResponseGroup, g *api.GroupDescription) {
	out.State, out.Epoch, out.AssignmentEpoch, out.AssignorName = groupState(g.State), g.Epoch, g.AssignmentEpoch, g.Assignor
	for i := range g.Members {
		m := &g.Members[i]
		v := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		v.MemberID, v.InstanceID, v.RackID, v.MemberEpoch = m.MemberID, optional(m.InstanceID), optional(m.Rack), m.MemberEpoch
		v.ClientID, v.ClientHost, v.SubscribedTopics, v.SubscribedTopicRegex = m.ClientID, m.Host, m.Topics, optional(m.Pattern)
		v.Assignment, v.TargetAssignment = d.assigned(m.Assigned, m.AssignedIDs), d.assigned(m.Target, m.TargetIDs)
		if v.MemberType = 1; m.Classic {
			v.MemberType = 0
		}
		out.Members = append(out.Members, v)
	}
}

// assigned names partitions by the topics that they are of. What is of a topic that is no
// more is left out, as in Kafka, although another may have its name.
func (d *Door) assigned(partitions []api.TopicPartition, ids []api.TopicID) kmsg.Assignment {
	out := kmsg.NewAssignment()
	for i, p := range partitions {
		if ids[i] != (api.TopicID{}) {
			if _, there := d.services.Cluster.TopicName(ids[i]); !there {
				continue
			}
		}
		if n := len(out.TopicPartitions); n == 0 || out.TopicPartitions[n-1].Topic != p.Topic {
			v := kmsg.NewAssignmentTopicPartition()
			v.Topic, v.TopicID = p.Topic, ids[i]
			out.TopicPartitions = append(out.TopicPartitions, v)
		}
		last := &out.TopicPartitions[len(out.TopicPartitions)-1]
		last.Partitions = append(last.Partitions, p.Partition)
	}
	return out
}
