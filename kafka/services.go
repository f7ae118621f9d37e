package kafka

import (
	"context"

	"github.com/penstock/penstock/broker/api"
)

// Producer appends records.
type Producer interface {
	// Produce appends what it accepts before it returns; it takes over the
	// references to the batches and keeps nothing else of the request. Refusals are
	// in the results. It may wait for memory, and then ctx ends the wait.
	Produce(ctx context.Context, req *api.ProduceRequest) *api.Pending
	InitProducer(ctx context.Context) (id int64, epoch int16, err error)
}

// Fetcher reads records.
type Fetcher interface {
	// Fetch waits for records as the request says. Errors of partitions are in
	// the results; an error ends the call.
	Fetch(ctx context.Context, req *api.FetchRequest) ([]api.FetchResult, error)
	ListOffsets(ctx context.Context, queries []api.ListOffset) ([]api.ListOffsetResult, error)
	// EpochEnds says where leader epochs end.
	EpochEnds(ctx context.Context, queries []api.EpochQuery) ([]api.EpochEnd, error)
	// MemoryShort says that fetches wait for what other readers hold.
	MemoryShort() bool
}

// Topics changes and shows topics.
type Topics interface {
	CreateTopic(ctx context.Context, req *api.CreateTopic) (api.CreatedTopic, error)
	DeleteTopic(ctx context.Context, name string) error
	AlterTopic(ctx context.Context, req *api.AlterTopic) error
	DescribeTopic(ctx context.Context, name string) (*api.Topic, error)
	// DeleteRecords has the errors of partitions in the results; an error ends the call.
	DeleteRecords(ctx context.Context, req *api.DeleteRecords) ([]api.DeletedRecords, error)
}

// Cluster shows the cluster as it is known here.
type Cluster interface {
	// Metadata returns the brokers and topics: those named that exist, or all.
	Metadata(ctx context.Context, topics []string, includeInternal bool, listener string) (*api.Metadata, error)
	// AwaitLeaders waits, some seconds at most, while Metadata would name a leader of the
	// topics (none: of all) that is probably dead.
	AwaitLeaders(ctx context.Context, topics []string)
	// KafkaAddress is where clients of a listener reach a broker; empty when it has
	// no Kafka door or is not known.
	KafkaAddress(nodeID int32, listener string) string
	// TopicName finds the topic that has an id.
	TopicName(id api.TopicID) (name string, ok bool)
	// NodeID names the broker that answers.
	NodeID() int32
}

// Replicas shows what this broker holds.
type Replicas interface {
	// Logs lists the partitions that lie on this broker, whatever their role.
	Logs() []api.LogInfo
	// Producers lists the idempotent producers that the replica of a partition on this
	// broker remembers, whatever its role.
	Producers(ref api.PartitionRef) ([]api.ProducerState, *api.Error)
	// Volume is the size of the file system on which they lie, and what is free of it.
	Volume() (total, free int64, err error)
}

// Growth adds partitions to topics.
type Growth interface {
	AddPartitions(ctx context.Context, req *api.AddPartitions) (int32, error)
}

// Placement decides where replicas are and who leads.
type Placement interface {
	// Reassign has the errors of partitions in the order of the request; an error ends
	// the call.
	Reassign(ctx context.Context, req *api.Reassign) ([]*api.Error, error)
	Reassignments(ctx context.Context, of []api.PartitionRef) ([]api.Reassignment, error)
	// ElectPreferred has its errors like Reassign.
	ElectPreferred(ctx context.Context, of []api.PartitionRef) ([]*api.Error, error)
}

// Offsets are committed offsets and who keeps them.
type Offsets interface {
	FindCoordinator(ctx context.Context, group string) (nodeID int32, err error)
	CommitOffsets(ctx context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error)
	FetchOffsets(ctx context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error)
}

// Groups serves members of consumer groups, of the classic protocol and of KIP-848.
type Groups interface {
	JoinClassic(ctx context.Context, req *api.ClassicJoin) (*api.ClassicJoined, error)
	SyncClassic(ctx context.Context, req *api.ClassicSync) (*api.ClassicSynced, error)
	HeartbeatClassic(ctx context.Context, req *api.ClassicHeartbeat) error
	// LeaveClassic removes members; the errors are theirs, in order.
	LeaveClassic(ctx context.Context, group string, members []api.ClassicLeave) ([]*api.Error, error)
	ConsumerHeartbeat(ctx context.Context, req *api.ConsumerHeartbeat) (*api.ConsumerHeartbeatResult, error)
}

// GroupAdmin shows and removes consumer groups and their offsets.
type GroupAdmin interface {
	ListGroups(ctx context.Context) ([]api.GroupListing, error)
	DescribeGroup(ctx context.Context, group string) (*api.GroupDescription, error)
	DeleteGroup(ctx context.Context, group string) error
	// DeleteOffsets has the errors of partitions in the order of the request;
	// CodeGroupNotEmpty there means that members subscribe to the topic. An error ends
	// the call.
	DeleteOffsets(ctx context.Context, group string, partitions []api.TopicPartition) ([]*api.Error, error)
}

// Services are what the door calls.
type Services struct {
	Producer   Producer
	Fetcher    Fetcher
	Topics     Topics
	Cluster    Cluster
	Replicas   Replicas
	Offsets    Offsets
	Groups     Groups
	GroupAdmin GroupAdmin
	Placement  Placement
	Growth     Growth
}
