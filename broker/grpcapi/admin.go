package grpcapi

import (
	"context"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Topics changes and shows topics.
type Topics interface {
	CreateTopic(ctx context.Context, req *api.CreateTopic) (api.CreatedTopic, error)
	DeleteTopic(ctx context.Context, name string) error
	AlterTopic(ctx context.Context, req *api.AlterTopic) error
	DescribeTopic(ctx context.Context, name string) (*api.Topic, error)
	// DeleteRecords has the errors of partitions in the results; an error ends the call.
	DeleteRecords(ctx context.Context, req *api.DeleteRecords) ([]api.DeletedRecords, error)
}

// Cluster shows the cluster. The listener picks the brokers' addresses.
type Cluster interface {
	Addresses

	Metadata(ctx context.Context, topics []string, includeInternal bool, listener string) (*api.Metadata, error)
	Health(ctx context.Context, listener string, confirm bool) (*api.ClusterHealth, error)
}

type adminService struct {
	pb.UnimplementedAdminServiceServer

	door *PublicDoor
}

func (s *adminService) CreateTopic(ctx context.Context, req *pb.CreateTopicRequest) (*pb.CreateTopicResponse, error) {
	created, err := s.door.services.Topics.CreateTopic(ctx, &api.CreateTopic{
		Name:              req.GetName(),
		Partitions:        req.GetPartitions(),
		ReplicationFactor: req.GetReplicationFactor(),
		Configs:           req.GetConfigs(),
		ValidateOnly:      req.GetValidateOnly(),
	})
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.CreateTopicResponse{Partitions: created.Partitions, ReplicationFactor: created.ReplicationFactor}
	if !created.ID.IsZero() {
		out.TopicId = created.ID[:]
	}
	return out, nil
}

func (s *adminService) DeleteTopic(ctx context.Context, req *pb.DeleteTopicRequest) (*pb.DeleteTopicResponse, error) {
	if err := s.door.services.Topics.DeleteTopic(ctx, req.GetName()); err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.DeleteTopicResponse{}, nil
}

func (s *adminService) AlterTopic(ctx context.Context, req *pb.AlterTopicRequest) (*pb.AlterTopicResponse, error) {
	err := s.door.services.Topics.AlterTopic(ctx, &api.AlterTopic{Name: req.GetName(), Set: req.GetSet(), Unset: req.GetUnset()})
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.AlterTopicResponse{}, nil
}

func (s *adminService) DescribeTopic(ctx context.Context, req *pb.DescribeTopicRequest) (*pb.DescribeTopicResponse, error) {
	topic, err := s.door.services.Topics.DescribeTopic(ctx, req.GetName())
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.DescribeTopicResponse{Topic: topicOut(topic)}
	for _, c := range topic.Configs {
		out.Configs = append(out.Configs, &pb.TopicConfig{
			Name: c.Name, Value: c.Value, IsDefault: c.IsDefault, Type: c.Type, Documentation: c.Documentation,
		})
	}
	return out, nil
}

func (s *adminService) DeleteRecords(ctx context.Context, in *pb.DeleteRecordsRequest) (*pb.DeleteRecordsResponse, error) {
	req := &api.DeleteRecords{
		Timeout:    min(time.Duration(in.GetTimeoutMs())*time.Millisecond, maxProduceTimeout),
		Partitions: make([]api.DeletePartition, len(in.GetPartitions())),
	}
	for i, p := range in.GetPartitions() {
		req.Partitions[i] = api.DeletePartition{
			PartitionRef: api.PartitionRef{Topic: p.GetTopic(), Partition: p.GetPartition()}, Before: record.Offset(p.GetBeforeOffset()),
		}
	}
	results, err := s.door.services.Topics.DeleteRecords(ctx, req)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.DeleteRecordsResponse{Results: make([]*pb.DeleteRecordsResult, len(results))}
	for i := range results {
		r := &results[i]
		out.Results[i] = &pb.DeleteRecordsResult{
			Topic: r.Topic, Partition: r.Partition, LowWatermark: int64(r.LowWatermark),
			Error: errorOut(ctx, r.Err, s.door.services.Cluster),
		}
	}
	return out, nil
}

func (s *adminService) Metadata(ctx context.Context, req *pb.MetadataRequest) (*pb.MetadataResponse, error) {
	md, err := s.door.services.Cluster.Metadata(ctx, req.GetTopics(), req.GetIncludeInternal(), listenerOf(ctx))
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.MetadataResponse{
		ClusterId: md.ClusterID, Controller: md.Controller, ImageIndex: md.ImageIndex,
		Brokers: brokersOut(md.Brokers), Topics: make([]*pb.TopicInfo, len(md.Topics)),
	}
	for i := range md.Topics {
		out.Topics[i] = topicOut(&md.Topics[i])
	}
	return out, nil
}

func (s *adminService) DescribeCluster(ctx context.Context, req *pb.DescribeClusterRequest) (*pb.DescribeClusterResponse, error) {
	h, err := s.door.services.Cluster.Health(ctx, listenerOf(ctx), req.GetConfirm())
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.DescribeClusterResponse{
		ClusterId: h.ClusterID, Controller: h.Controller, Brokers: brokersOut(h.Brokers), ImageIndex: h.ImageIndex,
		Topics: int32(h.TopicCount), Partitions: int32(h.PartitionCount), LeaderlessPartitions: int32(h.Leaderless),
		UnderReplicatedPartitions: int32(h.UnderReplicated), UnderMinIsrPartitions: int32(h.UnderMinISR),
		FeatureLevel: h.FeatureLevel, Unconfirmed: h.Unconfirmed,
	}, nil
}

func brokersOut(brokers []api.Broker) []*pb.BrokerInfo {
	out := make([]*pb.BrokerInfo, len(brokers))
	for i := range brokers {
		b := &brokers[i]
		out[i] = &pb.BrokerInfo{
			NodeId: b.NodeID, Address: b.Address, Rack: b.Rack, Fenced: b.Fenced, BrokerEpoch: b.BrokerEpoch,
			Voter: b.Voter, Version: b.Version, RaftAddress: b.RaftAddress, PeerAddress: b.PeerAddress,
			Decommissioning: b.Decommissioning, Replicas: int32(b.Replicas),
			Replaced: b.Replaced, VotePending: b.VotePending, FeatureLevel: b.FeatureLevel,
		}
	}
	return out
}

func topicOut(t *api.Topic) *pb.TopicInfo {
	out := &pb.TopicInfo{
		Name: t.Name, TopicId: t.ID[:], Internal: t.Internal, Durability: t.Durability,
		ReplicationFactor: t.ReplicationFactor, Partitions: make([]*pb.PartitionInfo, len(t.Partitions)),
	}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		out.Partitions[i] = &pb.PartitionInfo{
			Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
			Replicas: p.Replicas, Isr: p.ISR, Elr: p.ELR, Adding: p.Adding, Removing: p.Removing,
			LastIsr: p.LastISR, Lost: p.Lost,
		}
	}
	return out
}
