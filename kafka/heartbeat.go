package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

func heartbeat(ctx context.Context, d *Door, c *call, req *kmsg.HeartbeatRequest) (*kmsg.HeartbeatResponse, error) {
	err := d.services.Groups.HeartbeatClassic(ctx, &api.ClassicHeartbeat{
		Group: req.Group, MemberID: req.MemberID, InstanceID: value(req.InstanceID), Generation: req.Generation,
	})
	resp := kmsg.NewPtrHeartbeatResponse()
	e := asError(err)
	if e != nil && e.Code == api.CodeCoordinatorLoading {
		e = nil // As in Kafka: there is nothing that the member should do about it, and it is not taken for gone.
	}
	resp.ErrorCode = c.ofGroup(e)
	return resp, nil
}
