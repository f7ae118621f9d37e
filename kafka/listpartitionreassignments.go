package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// listPartitionReassignments lists those under way, of the topics named or of all.
// Partitions of which none is are left out, as are those that do not exist.
func listPartitionReassignments(ctx context.Context, d *Door, c *call, req *kmsg.ListPartitionReassignmentsRequest) (*kmsg.ListPartitionReassignmentsResponse, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	list, err := d.services.Placement.Reassignments(ctx, nil)
	if err != nil {
		e := asError(err)
		resp.ErrorCode, resp.ErrorMessage = c.code(e), messageOf(e)
		return resp, nil
	}
	asked := make(map[api.TopicPartition]bool)
	for i := range req.Topics {
		for _, p := range req.Topics[i].Partitions {
			asked[api.TopicPartition{Topic: req.Topics[i].Topic, Partition: p}] = true
		}
	}
	for i := range list { // by topic
		r := &list[i]
		if req.Topics != nil && !asked[api.TopicPartition{Topic: r.Topic, Partition: r.Partition}] {
			continue
		}
		out := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
		out.Partition, out.Replicas, out.AddingReplicas, out.RemovingReplicas = r.Partition, r.Replicas, r.Adding, r.Removing
		if n := len(resp.Topics); n == 0 || resp.Topics[n-1].Topic != r.Topic {
			t := kmsg.NewListPartitionReassignmentsResponseTopic()
			t.Topic = r.Topic
			resp.Topics = append(resp.Topics, t)
		}
		t := &resp.Topics[len(resp.Topics)-1]
		t.Partitions = append(t.Partitions, out)
	}
	return resp, nil
}
