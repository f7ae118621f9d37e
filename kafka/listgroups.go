package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// listGroups lists the groups coordinated by this broker; clients ask all of them. Those
// whose log cannot be read are left out, as Kafka's brokers do: at an error clients
// drop the others.
func listGroups(ctx context.Context, d *Door, c *call, req *kmsg.ListGroupsRequest) (*kmsg.ListGroupsResponse, error) {
	resp := kmsg.NewPtrListGroupsResponse()
	groups, err := d.services.GroupAdmin.ListGroups(ctx)
	if e := asError(err); e != nil && e.Code != api.CodeCoordinatorNotAvailable {
		resp.ErrorCode = c.ofGroup(e)
		return resp, nil
	}
	for _, g := range groups {
		out := kmsg.NewListGroupsResponseGroup()
		out.Group, out.ProtocolType, out.GroupState, out.GroupType = g.Group, g.ProtocolType, groupState(g.State), string(api.GroupTypeClassic)
		if g.Type == api.GroupTypeConsumer {
			out.GroupType, out.ProtocolType = string(g.Type), consumerProtocol
		}
		if among(req.StatesFilter, out.GroupState) && among(req.TypesFilter, out.GroupType) {
			resp.Groups = append(resp.Groups, out)
		}
	}
	return resp, nil
}

// consumerProtocol is the protocol type of groups of consumers.
const consumerProtocol = "consumer"

// among applies a filter; an empty one lets everything through.
func among(filter []string, s string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, s) })
}

// groupState is Kafka's word for a state.
func groupState(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
