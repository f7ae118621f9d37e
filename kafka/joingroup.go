package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// joinGroup waits until the rebalance is through its joining.
func joinGroup(ctx context.Context, d *Door, c *call, req *kmsg.JoinGroupRequest) (*kmsg.JoinGroupResponse, error) {
	join := &api.ClassicJoin{
		Group: req.Group, MemberID: req.MemberID, InstanceID: value(req.InstanceID), ClientID: c.clientID, ClientHost: c.host,
		ProtocolType: req.ProtocolType, SessionTimeout: int64(req.SessionTimeoutMillis), RequireKnownID: c.version >= 4,
	}
	if c.version >= 1 {
		join.RebalanceTimeout = int64(req.RebalanceTimeoutMillis)
	}
	for _, p := range req.Protocols {
		join.Protocols = append(join.Protocols, api.ClassicProtocol{Name: p.Name, Metadata: p.Metadata})
	}
	joined, err := d.services.Groups.JoinClassic(ctx, join)
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.ErrorCode, resp.Generation, resp.MemberID = c.ofGroup(asError(err)), -1, req.MemberID
	if joined == nil {
		resp.Protocol = new("")
		return resp, nil
	}
	resp.Generation, resp.MemberID, resp.LeaderID = joined.Generation, joined.MemberID, joined.Leader
	resp.ProtocolType, resp.Protocol, resp.SkipAssignment = &joined.ProtocolType, &joined.Protocol, joined.SkipAssignment
	if joined.SkipAssignment && c.version < 9 {
		resp.LeaderID = "" // It would assign anew what it is not asked for.
	}
	for i := range joined.Members {
		m := &joined.Members[i]
		out := kmsg.NewJoinGroupResponseMember()
		out.MemberID, out.InstanceID, out.ProtocolMetadata = m.MemberID, optional(m.InstanceID), m.Metadata
		resp.Members = append(resp.Members, out)
	}
	return resp, nil
}

// value reads an optional string, in which null and empty are the same.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
