package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// offsetDelete removes committed offsets of topics that nobody in the group
// subscribes to.
func offsetDelete(ctx context.Context, d *Door, c *call, req *kmsg.OffsetDeleteRequest) (*kmsg.OffsetDeleteResponse, error) {
	var partitions []api.TopicPartition
	for i := range req.Topics {
		for _, p := range req.Topics[i].Partitions {
			partitions = append(partitions, api.TopicPartition{Topic: req.Topics[i].Topic, Partition: p.Partition})
		}
	}
	resp := kmsg.NewPtrOffsetDeleteResponse()
	outcomes, err := d.services.GroupAdmin.DeleteOffsets(ctx, req.Group, partitions)
	if err != nil {
		resp.ErrorCode = c.ofGroup(asError(err))
		return resp, nil
	}
	for i := range req.Topics {
		t := kmsg.NewOffsetDeleteResponseTopic()
		t.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			e := outcomes[0]
			outcomes = outcomes[1:]
			if e != nil && e.Code == api.CodeGroupNotEmpty {
				e = kafkaError(kerr.GroupSubscribedToTopic, "%s", e.Message)
			}
			out := kmsg.NewOffsetDeleteResponseTopicPartition()
			out.Partition, out.ErrorCode = p.Partition, c.ofGroup(e)
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}
