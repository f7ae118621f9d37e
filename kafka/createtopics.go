package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// adminTimeout bounds administrative requests that name a longer time, or none.
const adminTimeout = 60 * time.Second

// within is a context for a request that says how long it may take.
func within(ctx context.Context, ms int32) (context.Context, context.CancelFunc) {
	timeout := time.Duration(ms) * time.Millisecond
	if timeout <= 0 || timeout > adminTimeout {
		timeout = adminTimeout
	}
	return context.WithTimeout(ctx, timeout)
}

func createTopics(ctx context.Context, d *Door, c *call, req *kmsg.CreateTopicsRequest) (*kmsg.CreateTopicsResponse, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	times := make(map[string]int, len(req.Topics))
	for i := range req.Topics {
		times[req.Topics[i].Topic]++
	}
	resp := kmsg.NewPtrCreateTopicsResponse()
	for i := range req.Topics {
		t := &req.Topics[i]
		out := kmsg.NewCreateTopicsResponseTopic()
		out.Topic, out.NumPartitions, out.ReplicationFactor = t.Topic, -1, -1
		var e *api.Error
		switch n := times[t.Topic]; {
		case n < 0:
			continue
		case n > 1:
			e = kafkaError(kerr.InvalidRequest, "the request names the topic %d times", n)
			times[t.Topic] = -1 // answered once
		default:
			e = d.createTopic(ctx, t, &out, req.ValidateOnly)
		}
		out.ErrorCode, out.ErrorMessage = c.code(e), messageOf(e)
		resp.Topics = append(resp.Topics, out)
	}
	return resp, nil
}

func (d *Door) createTopic(ctx context.Context, t *kmsg.CreateTopicsRequestTopic, out *kmsg.CreateTopicsResponseTopic, validateOnly bool) *api.Error {
	create := &api.CreateTopic{
		Name: t.Topic, Partitions: t.NumPartitions, ReplicationFactor: int32(t.ReplicationFactor),
		Configs: make(map[string]string, len(t.Configs)), ValidateOnly: validateOnly,
	}
	switch {
	case len(t.ReplicaAssignment) > 0:
		return kafkaError(kerr.InvalidReplicaAssignment, "replicas are placed by the controller: leave the assignment out")
	case t.NumPartitions == 0 || t.NumPartitions < -1:
		return kafkaError(kerr.InvalidPartitions, "%d partitions; a topic has 1 or more, -1 means the default", t.NumPartitions)
	case t.ReplicationFactor == 0 || t.ReplicationFactor < -1:
		return kafkaError(kerr.InvalidReplicationFactor, "replication factor %d; it is 1 or more, -1 means the default", t.ReplicationFactor)
	}
	if t.NumPartitions == -1 {
		create.Partitions = max(d.opts.NumPartitions, 1)
	}
	if t.ReplicationFactor == -1 {
		create.ReplicationFactor = d.opts.ReplicationFactor
	}
	for _, c := range t.Configs {
		if c.Value == nil {
			return kafkaError(kerr.InvalidConfig, "%s has no value", c.Name)
		}
		create.Configs[c.Name] = *c.Value
	}
	created, err := d.services.Topics.CreateTopic(ctx, create)
	if err != nil {
		return asError(err)
	}
	out.TopicID, out.NumPartitions, out.ReplicationFactor = created.ID, created.Partitions, int16(created.ReplicationFactor)
	if topic, err := d.services.Topics.DescribeTopic(ctx, t.Topic); err == nil {
		for i := range topic.Configs {
			c := &topic.Configs[i]
			config := kmsg.NewCreateTopicsResponseTopicConfig()
			config.Name, config.Value, config.Source = c.Name, &c.Value, int8(sourceOf(c))
			out.Configs = append(out.Configs, config)
		}
	}
	return nil
}
