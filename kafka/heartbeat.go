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
	resp.ErrorCode = c.code(asError(err))
	return resp, nil
}
