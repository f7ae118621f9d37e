package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// syncGroup waits until the group's leader has assigned.
func syncGroup(ctx context.Context, d *Door, c *call, req *kmsg.SyncGroupRequest) (*kmsg.SyncGroupResponse, error) {
	ask := &api.ClassicSync{
		Group: req.Group, MemberID: req.MemberID, InstanceID: value(req.InstanceID), Generation: req.Generation,
		ProtocolType: value(req.ProtocolType), Protocol: value(req.Protocol),
	}
	if len(req.GroupAssignment) > 0 {
		ask.Assignments = make(map[string][]byte, len(req.GroupAssignment))
		for _, a := range req.GroupAssignment {
			ask.Assignments[a.MemberID] = a.MemberAssignment
		}
	}
	synced, err := d.services.Groups.SyncClassic(ctx, ask)
	resp := kmsg.NewPtrSyncGroupResponse()
	resp.ErrorCode, resp.MemberAssignment = c.ofGroup(asError(err)), []byte{}
	if err == nil {
		resp.ProtocolType, resp.Protocol = &synced.ProtocolType, &synced.Protocol
		resp.MemberAssignment = append(resp.MemberAssignment, synced.Assignment...)
	}
	return resp, nil
}
