package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

func leaveGroup(ctx context.Context, d *Door, c *call, req *kmsg.LeaveGroupRequest) (*kmsg.LeaveGroupResponse, error) {
	members := make([]api.ClassicLeave, 0, max(len(req.Members), 1))
	for _, m := range req.Members {
		members = append(members, api.ClassicLeave{MemberID: m.MemberID, InstanceID: value(m.InstanceID)})
	}
	if c.version < 3 {
		members = []api.ClassicLeave{{MemberID: req.MemberID}}
	}
	outcomes, err := d.services.Groups.LeaveClassic(ctx, req.Group, members)
	resp := kmsg.NewPtrLeaveGroupResponse()
	switch {
	case err != nil:
		resp.ErrorCode = c.ofGroup(asError(err))
	case c.version < 3:
		resp.ErrorCode = c.ofGroup(outcomes[0])
	default:
		for i, m := range req.Members {
			out := kmsg.NewLeaveGroupResponseMember()
			out.MemberID, out.InstanceID, out.ErrorCode = m.MemberID, m.InstanceID, c.ofGroup(outcomes[i])
			resp.Members = append(resp.Members, out)
		}
	}
	return resp, nil
}
