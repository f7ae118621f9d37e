package grpcapi

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Operator does what an operator orders.
type Operator interface {
	ChangeVoter(ctx context.Context, node int32, vote bool) (voters []int32, err error)
	ReplaceBroker(ctx context.Context, node int32, acceptLoss bool) (vote bool, err error)
	RemoveBroker(ctx context.Context, node int32) error
	AddPartitions(ctx context.Context, req *api.AddPartitions) (partitions int32, err error)
	ElectUnclean(ctx context.Context, req *api.ElectUnclean) error
}

// Mender shows what is damaged, and gives up what an operator has it give up.
type Mender interface {
	DamagedReplicas(ctx context.Context) []api.DamagedReplica
	GiveUpDamaged(ctx context.Context, ref api.PartitionRef, partitionEpoch int32) error
}

func (s *adminService) ChangeVoter(ctx context.Context, req *pb.ChangeVoterRequest) (*pb.ChangeVoterResponse, error) {
	voters, err := s.door.services.Operator.ChangeVoter(ctx, req.GetNodeId(), req.GetVote())
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.ChangeVoterResponse{Voters: voters}, nil
}

func (s *adminService) ReplaceBroker(ctx context.Context, req *pb.ReplaceBrokerRequest) (*pb.ReplaceBrokerResponse, error) {
	vote, err := s.door.services.Operator.ReplaceBroker(ctx, req.GetNodeId(), req.GetAcceptLoss())
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.ReplaceBrokerResponse{Vote: vote}, nil
}

func (s *adminService) RemoveBroker(ctx context.Context, req *pb.RemoveBrokerRequest) (*pb.RemoveBrokerResponse, error) {
	if err := s.door.services.Operator.RemoveBroker(ctx, req.GetNodeId()); err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.RemoveBrokerResponse{}, nil
}

func (s *adminService) AddPartitions(ctx context.Context, req *pb.AddPartitionsRequest) (*pb.AddPartitionsResponse, error) {
	n, err := s.door.services.Operator.AddPartitions(ctx, &api.AddPartitions{
		Name: req.GetName(), Total: req.GetTotal(), ValidateOnly: req.GetValidateOnly(),
	})
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.AddPartitionsResponse{Partitions: n}, nil
}

func (s *adminService) ElectUnclean(ctx context.Context, req *pb.ElectUncleanRequest) (*pb.ElectUncleanResponse, error) {
	order := &api.ElectUnclean{
		PartitionRef: api.PartitionRef{Topic: req.GetTopic(), Partition: req.GetPartition()}, Leader: req.GetLeader(), PartitionEpoch: -1,
	}
	if req.PartitionEpoch != nil {
		order.PartitionEpoch = req.GetPartitionEpoch()
	}
	if err := s.door.services.Operator.ElectUnclean(ctx, order); err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.ElectUncleanResponse{}, nil
}

func (s *adminService) ListDamaged(ctx context.Context, _ *pb.ListDamagedRequest) (*pb.ListDamagedResponse, error) {
	all := s.door.services.Mender.DamagedReplicas(ctx)
	out := &pb.ListDamagedResponse{Replicas: make([]*pb.DamagedReplica, len(all))}
	for i := range all {
		r := &all[i]
		out.Replicas[i] = &pb.DamagedReplica{
			Topic: r.Topic, Partition: r.Partition, Kept: r.Kept, Leads: r.Leads, Damage: r.Damage,
			WholeTo: int64(r.WholeTo), LogEndOffset: int64(r.End), CanGiveUp: r.GivesUp,
		}
	}
	return out, nil
}

func (s *adminService) GiveUpDamaged(ctx context.Context, req *pb.GiveUpDamagedRequest) (*pb.GiveUpDamagedResponse, error) {
	ref, epoch := api.PartitionRef{Topic: req.GetTopic(), Partition: req.GetPartition()}, int32(-1)
	if req.PartitionEpoch != nil {
		epoch = req.GetPartitionEpoch()
	}
	if err := s.door.services.Mender.GiveUpDamaged(ctx, ref, epoch); err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.GiveUpDamagedResponse{}, nil
}
