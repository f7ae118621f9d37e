package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

func findCoordinator(ctx context.Context, d *Door, c *call, req *kmsg.FindCoordinatorRequest) (*kmsg.FindCoordinatorResponse, error) {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if c.version >= 4 {
		for _, key := range req.CoordinatorKeys {
			resp.Coordinators = append(resp.Coordinators, d.coordinator(ctx, c, req.CoordinatorType, key))
		}
		return resp, nil
	}
	one := d.coordinator(ctx, c, req.CoordinatorType, req.CoordinatorKey)
	resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = one.ErrorCode, one.ErrorMessage, one.NodeID, one.Host, one.Port
	return resp, nil
}

func (d *Door) coordinator(ctx context.Context, c *call, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	out := kmsg.NewFindCoordinatorResponseCoordinator()
	out.Key, out.NodeID, out.Port = key, -1, -1
	node, e := d.coordinatorOf(ctx, kind, key)
	if e == nil {
		host, port, ok := hostPort(d.services.Cluster.KafkaAddress(node, c.listener))
		if ok {
			out.NodeID, out.Host, out.Port = node, host, port
			return out
		}
		e = api.Errorf(api.CodeCoordinatorNotAvailable, "broker %d has no Kafka listener", node)
	}
	out.ErrorCode, out.ErrorMessage = c.ofGroup(e), messageOf(e)
	return out
}

func (d *Door) coordinatorOf(ctx context.Context, kind int8, key string) (int32, *api.Error) {
	switch kind {
	case 0: // group
		node, err := d.services.Offsets.FindCoordinator(ctx, key)
		return node, asError(err)
	case 1: // transaction
		return -1, kafkaError(kerr.TransactionalIDAuthorizationFailed, "transactions are not in this version")
	default:
		return -1, kafkaError(kerr.InvalidRequest, "coordinators of type %d are not in this version", kind)
	}
}
