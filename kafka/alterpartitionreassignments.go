package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// alterPartitionReassignments answers when the moves have begun. A partition
// without a list of replicas goes back to those from before.
func alterPartitionReassignments(ctx context.Context, d *Door, c *call, req *kmsg.AlterPartitionAssignmentsRequest) (*kmsg.AlterPartitionAssignmentsResponse, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	ask := &api.Reassign{KeepFactor: !req.AllowReplicationFactorChange}
	for i := range req.Topics {
		t := &req.Topics[i]
		for _, p := range t.Partitions {
			ask.Partitions = append(ask.Partitions, api.ReassignPartition{
				PartitionRef: api.PartitionRef{Topic: t.Topic, Partition: p.Partition}, Replicas: p.Replicas, Cancel: p.Replicas == nil,
			})
		}
	}
	errs, err := d.services.Placement.Reassign(ctx, ask)
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
	if err != nil {
		e := asError(err)
		resp.ErrorCode, resp.ErrorMessage = c.code(e), messageOf(e)
		return resp, nil
	}
	for i := range req.Topics {
		t := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		t.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			out := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			out.Partition, out.ErrorCode, out.ErrorMessage = p.Partition, c.code(errs[0]), messageOf(errs[0])
			errs = errs[1:]
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}
