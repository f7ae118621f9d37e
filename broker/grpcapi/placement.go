package grpcapi

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Placement decides where replicas are.
type Placement interface {
	// Reassign has the errors of partitions in the order of the request; an error ends
	// the call.
	Reassign(ctx context.Context, req *api.Reassign) ([]*api.Error, error)
	Reassignments(ctx context.Context, of []api.PartitionRef) ([]api.Reassignment, error)
	Decommission(ctx context.Context, req *api.Decommission) ([]api.PlannedMove, error)
	Rebalance(ctx context.Context, req *api.Rebalance) ([]api.PlannedMove, error)
	// ElectPreferred has its errors like Reassign.
	ElectPreferred(ctx context.Context, of []api.PartitionRef) ([]*api.Error, error)
}

func (s *adminService) AlterPartitionReassignments(ctx context.Context, in *pb.AlterPartitionReassignmentsRequest) (*pb.AlterPartitionReassignmentsResponse, error) {
	req := &api.Reassign{Throttle: in.GetThrottle(), Partitions: make([]api.ReassignPartition, len(in.GetPartitions()))}
	refs := make([]api.PartitionRef, len(in.GetPartitions()))
	for i, p := range in.GetPartitions() {
		refs[i] = api.PartitionRef{Topic: p.GetTopic(), Partition: p.GetPartition()}
		req.Partitions[i] = api.ReassignPartition{PartitionRef: refs[i], Replicas: p.GetReplicas(), Cancel: p.GetCancel()}
	}
	results, err := s.door.services.Placement.Reassign(ctx, req)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.AlterPartitionReassignmentsResponse{Results: s.results(ctx, refs, results)}, nil
}

// results are the outcomes of changes of partitions, in the order of the request.
func (s *adminService) results(ctx context.Context, refs []api.PartitionRef, errs []*api.Error) []*pb.PartitionResult {
	out := make([]*pb.PartitionResult, len(refs))
	for i, ref := range refs {
		out[i] = &pb.PartitionResult{Topic: ref.Topic, Partition: ref.Partition}
		if i < len(errs) {
			out[i].Error = errorOut(ctx, errs[i], s.door.services.Cluster)
		}
	}
	return out
}

func (s *adminService) ListPartitionReassignments(ctx context.Context, in *pb.ListPartitionReassignmentsRequest) (*pb.ListPartitionReassignmentsResponse, error) {
	list, err := s.door.services.Placement.Reassignments(ctx, partitionRefs(in.GetPartitions()))
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.ListPartitionReassignmentsResponse{Reassignments: make([]*pb.PartitionReassignmentState, len(list))}
	for i := range list {
		r := &list[i]
		state := &pb.PartitionReassignmentState{
			Topic: r.Topic, Partition: r.Partition, Leader: r.Leader, Replicas: r.Replicas, Adding: r.Adding,
			Removing: r.Removing, Target: r.Target, Isr: r.ISR, Throttle: r.Throttle,
		}
		for _, c := range r.Progress {
			state.Progress = append(state.Progress, &pb.CatchUp{
				NodeId: c.NodeID, Offset: int64(c.Offset), LogEndOffset: int64(c.End),
				BytesBehind: c.BytesBehind, RecordsBehind: c.RecordsBehind, LogBytes: c.LogBytes,
			})
		}
		out.Reassignments[i] = state
	}
	return out, nil
}

func partitionRefs(in []*pb.TopicPartition) []api.PartitionRef {
	out := make([]api.PartitionRef, len(in))
	for i, tp := range in {
		out[i] = api.PartitionRef{Topic: tp.GetTopic(), Partition: tp.GetPartition()}
	}
	return out
}

func (s *adminService) DecommissionBroker(ctx context.Context, in *pb.DecommissionBrokerRequest) (*pb.DecommissionBrokerResponse, error) {
	moves, err := s.door.services.Placement.Decommission(ctx, &api.Decommission{
		NodeID: in.GetNodeId(), Cancel: in.GetCancel(), Throttle: in.GetThrottle(), DryRun: in.GetDryRun(),
	})
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.DecommissionBrokerResponse{Moves: movesOut(moves)}, nil
}

func (s *adminService) Rebalance(ctx context.Context, in *pb.RebalanceRequest) (*pb.RebalanceResponse, error) {
	moves, err := s.door.services.Placement.Rebalance(ctx, &api.Rebalance{Topics: in.GetTopics(), Throttle: in.GetThrottle(), DryRun: in.GetDryRun()})
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.RebalanceResponse{Moves: movesOut(moves)}, nil
}

func movesOut(moves []api.PlannedMove) []*pb.PlannedReassignment {
	out := make([]*pb.PlannedReassignment, len(moves))
	for i, m := range moves {
		out[i] = &pb.PlannedReassignment{Topic: m.Topic, Partition: m.Partition, From: m.From, To: m.To}
	}
	return out
}

func (s *adminService) ElectLeaders(ctx context.Context, in *pb.ElectLeadersRequest) (*pb.ElectLeadersResponse, error) {
	refs := partitionRefs(in.GetPartitions())
	results, err := s.door.services.Placement.ElectPreferred(ctx, refs)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.ElectLeadersResponse{Results: s.results(ctx, refs, results)}, nil
}
