package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// createPartitions lets topics grow.
func createPartitions(ctx context.Context, d *Door, c *call, req *kmsg.CreatePartitionsRequest) (*kmsg.CreatePartitionsResponse, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrCreatePartitionsResponse()
	for i := range req.Topics {
		t := &req.Topics[i]
		var e *api.Error
		if len(t.Assignment) > 0 {
			e = kafkaError(kerr.InvalidReplicaAssignment, "replicas are placed by the controller: leave the assignment out")
		} else {
			_, err := d.services.Growth.AddPartitions(ctx, &api.AddPartitions{Name: t.Topic, Total: t.Count, ValidateOnly: req.ValidateOnly})
			e = asError(err)
		}
		out := kmsg.NewCreatePartitionsResponseTopic()
		out.Topic, out.ErrorCode, out.ErrorMessage = t.Topic, c.code(e), messageOf(e)
		resp.Topics = append(resp.Topics, out)
	}
	return resp, nil
}
