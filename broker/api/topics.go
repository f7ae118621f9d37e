package api

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// CreateTopic asks for a new topic. The controller places its replicas.
type CreateTopic struct {
	Name              string
	Partitions        int32 // 0: 1
	ReplicationFactor int32 // 0: min(3, brokers)
	Configs           map[string]string
	ValidateOnly      bool
}

// CreatedTopic is the outcome.
type CreatedTopic struct {
	ID                TopicID
	Partitions        int32
	ReplicationFactor int32
}

// AlterTopic changes a topic's configuration.
type AlterTopic struct {
	Name  string
	Set   map[string]string
	Unset []string
}

// Broker is a member of the cluster as clients see it.
type Broker struct {
	NodeID      int32
	Address     string // gRPC
	Rack        string
	Fenced      bool
	BrokerEpoch int64
	Voter       bool
	Version     string
	RaftAddress string
	PeerAddress string
	// Decommissioning: its replicas move away. Replicas is how many it has.
	Decommissioning bool
	Replicas        int
	// Replaced: its data directory was given up, and none has registered since.
	Replaced bool
	// VotePending: it gets a vote as soon as it has caught up.
	VotePending  bool
	FeatureLevel uint32
}

// Topic describes a topic.
type Topic struct {
	Name              string
	ID                TopicID
	Internal          bool
	Durability        string // "synced" or "replicated"
	ReplicationFactor int32
	Partitions        []Partition
	Configs           []TopicConfig // only when described
}

// Partition describes a partition. Leader -1: none.
type Partition struct {
	Partition      int32
	Leader         int32
	LeaderEpoch    int32
	PartitionEpoch int32
	Replicas       []int32
	ISR            []int32
	ELR            []int32
	// Of a reassignment under way: those of Replicas that it added, and those that go.
	Adding, Removing []int32
	LastISR          []int32
	Lost             bool // whoever could hold every acknowledged record was given up
}

// TopicConfig is one configuration value in force.
type TopicConfig struct {
	Name, Value   string
	IsDefault     bool
	Type          string
	Documentation string
}

// Metadata is the cluster at one index of the metadata log.
type Metadata struct {
	ClusterID  string
	Controller int32 // -1: none known
	Brokers    []Broker
	Topics     []Topic
	ImageIndex uint64
}

// ClusterHealth counts what is amiss.
type ClusterHealth struct {
	Metadata
	TopicCount      int
	PartitionCount  int
	Leaderless      int
	UnderReplicated int
	UnderMinISR     int
	FeatureLevel    uint32 // that every registered broker knows
	Unconfirmed     bool   // asked to, no controller confirmed it in time
}

// DeleteRecords lets partitions begin at a later offset.
type DeleteRecords struct {
	Timeout    time.Duration // how long to wait for replicas; 0: 30 s
	Partitions []DeletePartition
}

// DeletePartition asks one partition to keep nothing below an offset.
type DeletePartition struct {
	PartitionRef
	Before record.Offset // -1: the high watermark
}

// DeletedRecords is the outcome for one partition.
type DeletedRecords struct {
	PartitionRef
	Err *Error
	// LowWatermark: no replica that may lead keeps anything below it; -1: unknown.
	LowWatermark record.Offset
}
