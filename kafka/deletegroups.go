package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func deleteGroups(ctx context.Context, d *Door, c *call, req *kmsg.DeleteGroupsRequest) (*kmsg.DeleteGroupsResponse, error) {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	for _, name := range req.Groups {
		e := asError(d.services.GroupAdmin.DeleteGroup(ctx, name))
		out := kmsg.NewDeleteGroupsResponseGroup()
		out.Group, out.ErrorCode, out.ErrorMessage = name, c.ofGroup(e), messageOf(e)
		resp.Groups = append(resp.Groups, out)
	}
	return resp, nil
}
