package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

func deleteTopics(ctx context.Context, d *Door, c *call, req *kmsg.DeleteTopicsRequest) (*kmsg.DeleteTopicsResponse, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	if c.version < 6 {
		for _, name := range req.TopicNames {
			req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
		}
	}
	resp := kmsg.NewPtrDeleteTopicsResponse()
	for i := range req.Topics {
		in := &req.Topics[i]
		out := kmsg.NewDeleteTopicsResponseTopic()
		out.Topic, out.TopicID = in.Topic, in.TopicID
		e := d.deleteTopic(ctx, in, &out)
		out.ErrorCode, out.ErrorMessage = c.code(e), messageOf(e)
		resp.Topics = append(resp.Topics, out)
	}
	return resp, nil
}

func (d *Door) deleteTopic(ctx context.Context, in *kmsg.DeleteTopicsRequestTopic, out *kmsg.DeleteTopicsResponseTopic) *api.Error {
	name := ""
	switch byID := api.TopicID(in.TopicID); {
	case in.Topic != nil && !byID.IsZero():
		return kafkaError(kerr.InvalidRequest, "a topic is named by name or by id, not by both")
	case in.Topic != nil:
		name = *in.Topic
		md, err := d.services.Cluster.Metadata(ctx, []string{name}, true, "")
		if err == nil && len(md.Topics) == 1 {
			out.TopicID = md.Topics[0].ID
		}
	default:
		var known bool
		if name, known = d.services.Cluster.TopicName(byID); !known {
			return kafkaError(kerr.UnknownTopicID, "there is no topic with the id %s", byID)
		}
		out.Topic = &name
	}
	return asError(d.services.Topics.DeleteTopic(ctx, name))
}
