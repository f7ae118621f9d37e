package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ListGroups returns the groups of all coordinators by name. When some broker
// does not answer, or cannot read the log of some of its groups, the other groups are
// returned beside the error.
func (a *Admin) ListGroups(ctx context.Context) ([]GroupListing, error) {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	cluster, err := a.describeCluster(ctx)
	if err != nil {
		return nil, err
	}
	var (
		out  []GroupListing
		errs []error
	)
	for _, b := range cluster.Brokers {
		if b.Fenced {
			continue
		}
		err := a.c.retry(ctx, notReady, func(ctx context.Context) error {
			return a.c.call(ctx, b.Address, func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := pb.NewGroupServiceClient(conn).ListGroups(ctx, &pb.ListGroupsRequest{})
				for _, g := range resp.GetGroups() {
					out = append(out, GroupListing{g.GetGroup(), g.GetState(), int(g.GetMembers())})
				}
				if e := fromPB(resp.GetError(), b.Address); e != nil {
					errs = append(errs, e)
				}
				return err
			})
		})
		errs = append(errs, err)
	}
	slices.SortFunc(out, func(x, y GroupListing) int { return cmp.Compare(x.Group, y.Group) })
	return out, errors.Join(errs...)
}

// DescribeGroup returns a group's members and offsets.
func (a *Admin) DescribeGroup(ctx context.Context, group string) (*GroupInfo, error) {
	var out *GroupInfo
	err := a.c.atCoordinator(ctx, group, func(ctx context.Context, s pb.GroupServiceClient) error {
		resp, err := s.DescribeGroup(ctx, &pb.DescribeGroupRequest{Group: group})
		if err != nil {
			return err
		}
		out = &GroupInfo{
			Group: resp.GetGroup(), State: resp.GetState(), Epoch: resp.GetGroupEpoch(),
			Assignor: resp.GetAssignor(), Coordinator: resp.GetCoordinator(), Type: resp.GetType(),
		}
		for _, m := range resp.GetMembers() {
			out.Members = append(out.Members, GroupMember{
				MemberID: m.GetMemberId(), InstanceID: m.GetInstanceId(), ClientID: m.GetClientId(), Host: m.GetHost(),
				MemberEpoch: m.GetMemberEpoch(), Assigned: partitionsFrom(m.GetAssigned()), Topics: m.GetTopics(),
				Pattern: m.GetTopicPattern(), Rack: m.GetRack(),
			})
		}
		for _, o := range resp.GetOffsets() {
			out.Offsets = append(out.Offsets, offsetFrom(o, ""))
		}
		for _, l := range resp.GetLags() {
			out.Lags = append(out.Lags, lagFrom(l))
		}
		return nil
	})
	return out, err
}

func lagFrom(l *pb.PartitionLag) PartitionLag {
	out := PartitionLag{
		TopicPartition: TopicPartition{l.GetTopic(), l.GetPartition()}, Committed: l.GetCommitted(), LogStart: l.GetLogStart(),
		HighWatermark: l.GetHighWatermark(), Lag: l.GetLag(), Time: -1, AtLeast: l.GetLagMsAtLeast(), Age: -1, MemberID: l.GetMemberId(),
	}
	if ms := l.GetLagMs(); ms >= 0 {
		out.Time = time.Duration(ms) * time.Millisecond
	}
	if ms := l.GetAgeMs(); ms >= 0 {
		out.Age = time.Duration(ms) * time.Millisecond
	}
	return out
}

// DeleteGroup deletes a group without members, and its offsets.
func (a *Admin) DeleteGroup(ctx context.Context, group string) error {
	return a.c.atCoordinator(ctx, group, func(ctx context.Context, s pb.GroupServiceClient) error {
		_, err := s.DeleteGroup(ctx, &pb.DeleteGroupRequest{Group: group})
		return err
	})
}

// CommittedOffsets returns what a group has committed: of parts, or everything
// when none is named.
func (a *Admin) CommittedOffsets(ctx context.Context, group string, parts ...TopicPartition) ([]CommittedOffset, error) {
	return a.c.fetchOffsets(ctx, group, parts)
}

// fetchOffsets reads committed offsets, waiting for a coordinator that loads.
func (c *Client) fetchOffsets(ctx context.Context, group string, parts []TopicPartition) ([]CommittedOffset, error) {
	var out []CommittedOffset
	err := c.atCoordinator(ctx, group, func(ctx context.Context, s pb.GroupServiceClient) error {
		resp, err := s.FetchOffsets(ctx, &pb.FetchOffsetsRequest{Group: group, Partitions: partitionsOut(parts)})
		if err != nil {
			return err
		}
		out = out[:0]
		for _, r := range resp.GetResults() {
			o := offsetFrom(r, "")
			if o.Err != nil && coordinatorMoved(o.Err) {
				return rewrap(r.GetError())
			}
			out = append(out, o)
		}
		return nil
	})
	return out, err
}

// commitOffsets commits by a call, and joins the errors of partitions.
func (c *Client) commitOffsets(ctx context.Context, group, member string, epoch int32, offsets []CommittedOffset) error {
	req := &pb.CommitOffsetsRequest{Group: group, MemberId: member, MemberEpoch: epoch, Offsets: commitsOut(offsets)}
	var failed error
	err := c.atCoordinator(ctx, group, func(ctx context.Context, s pb.GroupServiceClient) error {
		resp, err := s.CommitOffsets(ctx, req)
		if err != nil {
			return err
		}
		var moved *pb.Error
		if moved, failed = commitErrors(resp.GetResults(), ""); moved != nil {
			return rewrap(moved)
		}
		return nil
	})
	return errors.Join(failed, err)
}
