package grpcapi

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Groups serves members of consumer groups.
type Groups interface {
	FindCoordinator(ctx context.Context, group string) (nodeID int32, err error)
	// Session runs on the caller's goroutine until the member leaves or in is
	// closed (nil), out fails (its error) or the member is fenced (*api.Error).
	Session(ctx context.Context, join api.JoinGroup, in <-chan api.SessionMessage, out func(api.SessionUpdate) error) error
	CommitOffsets(ctx context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error)
	FetchOffsets(ctx context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error)
}

// GroupAdmin shows and removes consumer groups.
type GroupAdmin interface {
	ListGroups(ctx context.Context) ([]api.GroupListing, error)
	DescribeGroup(ctx context.Context, group string) (*api.GroupDescription, error)
	DeleteGroup(ctx context.Context, group string) error
	// ResetOffsets moves committed offsets of a group without members.
	ResetOffsets(ctx context.Context, group string, offsets []api.OffsetCommit, dryRun bool) ([]api.ResetOffset, error)
}

// sessionAhead is how many messages of one session are read ahead of it, so that
// a run of commits does not wake a goroutine for each.
const sessionAhead = 16

type groupService struct {
	pb.UnimplementedGroupServiceServer

	door *PublicDoor
}

func (s *groupService) FindCoordinator(ctx context.Context, in *pb.FindCoordinatorRequest) (*pb.FindCoordinatorResponse, error) {
	node, err := s.door.services.Groups.FindCoordinator(ctx, in.GetGroup())
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.FindCoordinatorResponse{NodeId: node, Address: s.door.services.Cluster.Address(node, listenerOf(ctx))}, nil
}

// Session reads on a goroutine of its own, which ends with the stream, and runs
// the session on the handler's.
func (s *groupService) Session(stream grpc.BidiStreamingServer[pb.SessionRequest, pb.SessionResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	join := first.GetJoin()
	if join == nil {
		return statusError(ctx, api.Errorf(api.CodeInvalidArgument, "a session begins with join"), s.door.services.Cluster)
	}
	in := make(chan api.SessionMessage, sessionAhead)
	failed := make(chan error, 1)
	go func() {
		defer close(in)
		failed <- readSession(ctx, stream, in)
	}()
	err = s.door.services.Groups.Session(ctx, joinIn(ctx, join), in, func(u api.SessionUpdate) error {
		return stream.Send(s.updateOut(ctx, &u))
	})
	if err == nil {
		select {
		case err = <-failed:
		default: // The member left; its stream is still open.
		}
	}
	return statusError(ctx, err, s.door.services.Cluster)
}

// readSession hands messages over until the stream ends or the session is done.
// Its goroutine is not waited for by the handler, because Recv returns only
// once the handler has; it touches nothing but the stream.
func readSession(ctx context.Context, stream grpc.BidiStreamingServer[pb.SessionRequest, pb.SessionResponse], in chan<- api.SessionMessage) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		msg, err := messageIn(req)
		if err != nil {
			return err
		}
		select {
		case in <- msg:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *groupService) CommitOffsets(ctx context.Context, in *pb.CommitOffsetsRequest) (*pb.CommitOffsetsResponse, error) {
	req := &api.CommitOffsets{
		Group: in.GetGroup(), MemberID: in.GetMemberId(), MemberEpoch: in.GetMemberEpoch(), Offsets: commitsIn(in.GetOffsets()),
	}
	results, err := s.door.services.Groups.CommitOffsets(ctx, req)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.CommitOffsetsResponse{Results: s.offsetsOut(ctx, results)}, nil
}

func (s *groupService) FetchOffsets(ctx context.Context, in *pb.FetchOffsetsRequest) (*pb.FetchOffsetsResponse, error) {
	results, err := s.door.services.Groups.FetchOffsets(ctx, &api.FetchOffsets{Group: in.GetGroup(), Partitions: partitionsIn(in.GetPartitions())})
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.FetchOffsetsResponse{Results: s.offsetsOut(ctx, results)}, nil
}

func (s *groupService) ListGroups(ctx context.Context, _ *pb.ListGroupsRequest) (*pb.ListGroupsResponse, error) {
	groups, err := s.door.services.GroupAdmin.ListGroups(ctx)
	missing, some := errors.AsType[*api.Error](err)
	if some = some && missing.Code == api.CodeCoordinatorNotAvailable; err != nil && !some {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.ListGroupsResponse{Groups: make([]*pb.GroupListing, len(groups))}
	if some {
		out.Error = errorOut(ctx, missing, s.door.services.Cluster)
	}
	for i, g := range groups {
		out.Groups[i] = &pb.GroupListing{Group: g.Group, State: g.State, Members: int32(g.Members)}
	}
	return out, nil
}

func (s *groupService) DescribeGroup(ctx context.Context, in *pb.DescribeGroupRequest) (*pb.DescribeGroupResponse, error) {
	d, err := s.door.services.GroupAdmin.DescribeGroup(ctx, in.GetGroup())
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.DescribeGroupResponse{
		Group: d.Group, State: d.State, GroupEpoch: d.Epoch, Assignor: d.Assignor, Coordinator: d.Coordinator,
		Members: make([]*pb.GroupMember, len(d.Members)), Offsets: s.offsetsOut(ctx, d.Offsets),
		Lags: lagsOut(d.Lags), Type: string(d.Type),
	}
	for i := range d.Members {
		m := &d.Members[i]
		out.Members[i] = &pb.GroupMember{
			MemberId: m.MemberID, InstanceId: m.InstanceID, ClientId: m.ClientID, Host: m.Host,
			MemberEpoch: m.MemberEpoch, Assigned: partitionsOut(m.Assigned), Topics: m.Topics,
			TopicPattern: m.Pattern, Rack: m.Rack,
		}
	}
	return out, nil
}

func (s *groupService) DeleteGroup(ctx context.Context, in *pb.DeleteGroupRequest) (*pb.DeleteGroupResponse, error) {
	if err := s.door.services.GroupAdmin.DeleteGroup(ctx, in.GetGroup()); err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.DeleteGroupResponse{}, nil
}

func (s *groupService) ResetOffsets(ctx context.Context, in *pb.ResetOffsetsRequest) (*pb.ResetOffsetsResponse, error) {
	results, err := s.door.services.GroupAdmin.ResetOffsets(ctx, in.GetGroup(), commitsIn(in.GetOffsets()), in.GetDryRun())
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.ResetOffsetsResponse{Results: make([]*pb.ResetResult, len(results))}
	for i := range results {
		r := &results[i]
		out.Results[i] = &pb.ResetResult{
			Topic: r.Topic, Partition: r.Partition, Error: errorOut(ctx, r.Err, s.door.services.Cluster), Before: int64(r.Before), After: int64(r.After),
		}
	}
	return out, nil
}

func commitsIn(in []*pb.OffsetCommit) []api.OffsetCommit {
	out := make([]api.OffsetCommit, len(in))
	for i, o := range in {
		out[i] = api.OffsetCommit{
			TopicPartition: api.TopicPartition{Topic: o.GetTopic(), Partition: o.GetPartition()},
			Offset:         record.Offset(o.GetOffset()), LeaderEpoch: record.Epoch(o.GetLeaderEpoch()), Metadata: o.GetMetadata(),
		}
	}
	return out
}

func (s *groupService) offsetsOut(ctx context.Context, offsets []api.CommittedOffset) []*pb.OffsetResult {
	out := make([]*pb.OffsetResult, len(offsets))
	for i := range offsets {
		o := &offsets[i]
		out[i] = &pb.OffsetResult{
			Topic: o.Topic, Partition: o.Partition, Error: errorOut(ctx, o.Err, s.door.services.Cluster), Offset: int64(o.Offset),
			LeaderEpoch: int32(o.LeaderEpoch), Metadata: o.Metadata, CommitTimeMs: o.CommitTime,
		}
	}
	return out
}

func lagsOut(lags []api.PartitionLag) []*pb.PartitionLag {
	out := make([]*pb.PartitionLag, len(lags))
	for i := range lags {
		l := &lags[i]
		out[i] = &pb.PartitionLag{
			Topic: l.Topic, Partition: l.Partition, Committed: int64(l.Committed), LogStart: int64(l.LogStart), HighWatermark: int64(l.HighWatermark),
			Lag: l.Lag, LagMs: l.LagTime, LagMsAtLeast: l.AtLeast, AgeMs: l.Age, MemberId: l.MemberID,
		}
	}
	return out
}

func joinIn(ctx context.Context, j *pb.JoinGroup) api.JoinGroup {
	return api.JoinGroup{
		Group: j.GetGroup(), MemberID: j.GetMemberId(), MemberEpoch: j.GetMemberEpoch(), AttachNumber: j.GetAttachNumber(),
		InstanceID: j.GetInstanceId(), ClientID: j.GetClientId(), ClientHost: clientHost(ctx), Rack: j.GetRack(),
		Topics: j.GetTopics(), TopicPattern: j.GetTopicPattern(),
		SessionTimeout: int64(j.GetSessionTimeoutMs()), RebalanceTimeout: int64(j.GetRebalanceTimeoutMs()),
		Assignor: j.GetAssignor(), Owned: partitionsIn(j.GetOwned()),
	}
}

func (s *groupService) updateOut(ctx context.Context, u *api.SessionUpdate) *pb.SessionResponse {
	if len(u.Commits) > 0 {
		return &pb.SessionResponse{Commits: s.committedOut(ctx, u.Commits)}
	}
	out := &pb.SessionResponse{
		MemberId: u.MemberID, MemberEpoch: u.MemberEpoch, HeartbeatIntervalMs: uint32(u.HeartbeatInterval), TakesCommits: true,
	}
	if u.HasAssignment {
		out.Assignment = &pb.Assignment{Partitions: partitionsOut(u.Assignment)}
	}
	return out
}

func (s *groupService) committedOut(ctx context.Context, commits []api.SessionCommitted) []*pb.SessionCommitResult {
	out := make([]*pb.SessionCommitResult, len(commits))
	all := make([]pb.SessionCommitResult, len(commits))
	for i := range commits {
		c := &commits[i]
		all[i].Id, all[i].Error = c.ID, errorOut(ctx, c.Err, s.door.services.Cluster)
		if len(c.Failed) > 0 {
			all[i].Failed = s.offsetsOut(ctx, c.Failed)
		}
		out[i] = &all[i]
	}
	return out
}

func partitionsIn(list []*pb.TopicPartition) []api.TopicPartition {
	out := make([]api.TopicPartition, len(list))
	for i, p := range list {
		out[i] = api.TopicPartition{Topic: p.GetTopic(), Partition: p.GetPartition()}
	}
	return out
}

func partitionsOut(list []api.TopicPartition) []*pb.TopicPartition {
	out := make([]*pb.TopicPartition, len(list))
	for i, p := range list {
		out[i] = &pb.TopicPartition{Topic: p.Topic, Partition: p.Partition}
	}
	return out
}

// messageIn maps what a member sends after it joined.
func messageIn(req *pb.SessionRequest) (api.SessionMessage, error) {
	switch kind := req.GetKind().(type) {
	case *pb.SessionRequest_Heartbeat:
		h := kind.Heartbeat
		return api.SessionMessage{Heartbeat: api.GroupHeartbeat{
			MemberEpoch: h.GetMemberEpoch(), HasOwned: h.GetHasOwned(), Owned: partitionsIn(h.GetOwned()),
		}}, nil
	case *pb.SessionRequest_Commit:
		c := kind.Commit
		return api.SessionMessage{Commit: &api.SessionCommit{
			ID: c.GetId(), MemberEpoch: c.GetMemberEpoch(), Offsets: commitsIn(c.GetOffsets()),
		}}, nil
	case *pb.SessionRequest_Leave:
		return api.SessionMessage{Leave: true}, nil
	case *pb.SessionRequest_Join:
		return api.SessionMessage{}, api.Errorf(api.CodeInvalidArgument, "a session has one join, its first message")
	default:
		return api.SessionMessage{}, api.Errorf(api.CodeInvalidArgument, "the message is neither heartbeat, commit nor leave")
	}
}
