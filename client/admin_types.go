package client

import (
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// TopicSpec describes a topic to create.
type TopicSpec struct {
	Name              string
	Partitions        int32             // 0: 1
	ReplicationFactor int32             // 0: min(3, brokers)
	Configs           map[string]string // Kafka's names, e.g. retention.ms
	ValidateOnly      bool              // check, create nothing
}

// CreatedTopic is what was created.
type CreatedTopic struct {
	ID                [16]byte
	Partitions        int32
	ReplicationFactor int32
}

// Topic describes a topic.
type Topic struct {
	Name              string
	ID                [16]byte
	Internal          bool
	Durability        string // "synced" or "replicated"
	ReplicationFactor int32
	Partitions        []PartitionState
	Configs           []TopicConfig // only from DescribeTopic
}

// PartitionState says where a partition lives.
type PartitionState struct {
	Partition      int32
	Leader         int32 // node id; -1: none
	LeaderEpoch    int32
	PartitionEpoch int32
	Replicas       []int32
	ISR            []int32 // in-sync replicas
	ELR            []int32 // eligible leader replicas (KIP-966)
	// Of a reassignment under way: those of Replicas that it added, and those that go.
	Adding, Removing []int32
	// LastISR is the last set that could hold every acknowledged record, where a
	// member came back without what it had; empty otherwise.
	LastISR []int32
	Lost    bool // every replica that could hold all acknowledged records was given up
}

// TopicConfig is one configuration value in force.
type TopicConfig struct {
	Name          string
	Value         string
	IsDefault     bool
	Type          string
	Documentation string
}

// Broker is a member of the cluster.
type Broker struct {
	NodeID      int32
	Address     string // gRPC
	Rack        string
	Fenced      bool // no longer heard of
	BrokerEpoch int64
	Voter       bool // of the metadata quorum
	Version     string
	RaftAddress string
	PeerAddress string
	// Decommissioning: its replicas move away. Replicas is how many it has.
	Decommissioning bool
	Replicas        int
	// Replaced: its data directory was given up, and none has registered since.
	Replaced bool
	// VotePending: it gets a vote in the metadata quorum as soon as it has caught up.
	VotePending  bool
	FeatureLevel uint32 // of its build
}

// Cluster is the state of a cluster in numbers.
type Cluster struct {
	ID              string
	Controller      int32 // node id; -1: none known
	Brokers         []Broker
	Topics          int
	Partitions      int
	Leaderless      int
	UnderReplicated int
	UnderMinISR     int
	ImageIndex      uint64 // Raft index of the answer
	FeatureLevel    uint32 // that every registered broker knows
	Unconfirmed     bool   // no controller confirmed it: what a broker heard last
	// DamagedLeaders are partitions that take no records, for their leader's log is
	// damaged and nobody could take over yet.
	DamagedLeaders []DamagedReplica
}

// Healthy reports whether every partition has a leader, which is not damaged, and a full
// ISR, there is a controller that confirmed it, and no broker is fenced.
func (c *Cluster) Healthy() bool {
	for _, b := range c.Brokers {
		if b.Fenced {
			return false
		}
	}
	return !c.Unconfirmed && c.Controller >= 0 && c.Leaderless == 0 && c.UnderReplicated == 0 && c.UnderMinISR == 0 &&
		len(c.DamagedLeaders) == 0
}

// FoundOffset is the answer of ListOffsets for one partition.
type FoundOffset struct {
	TopicPartition
	Offset      int64     // -1: no record at or after the time
	Timestamp   time.Time // of the record found; zero otherwise
	LeaderEpoch int32     // -1: unknown
	Err         error
}

// GroupListing is a line of the list of groups.
type GroupListing struct {
	Group   string
	State   string
	Members int
}

// GroupInfo is all that a coordinator knows of a group.
type GroupInfo struct {
	Group       string
	State       string // empty, assigning, reconciling or stable
	Epoch       int32
	Assignor    string
	Coordinator int32 // node id
	Members     []GroupMember
	Offsets     []CommittedOffset
	Lags        []PartitionLag // of every partition with an offset or a member
	Type        string         // consumer, classic, or empty for a group that only has offsets
}

// PartitionLag is how far behind a group is in one partition, as its coordinator
// knows it. -1: not known.
type PartitionLag struct {
	TopicPartition
	Committed     int64 // -1: nothing committed
	LogStart      int64
	HighWatermark int64
	// Lag is the records between the committed offset and the high watermark; from the log
	// start where nothing is committed and a member owns the partition.
	Lag int64
	// Time is for how long the next record to be read has been readable. AtLeast:
	// for longer, the coordinator does not know the time before.
	Time     time.Duration
	AtLeast  bool
	Age      time.Duration // since the partition's leader said so
	MemberID string        // who reads it; empty: nobody
}

// GroupMember is a member of a group.
type GroupMember struct {
	MemberID    string
	InstanceID  string
	ClientID    string
	Host        string
	MemberEpoch int32
	Assigned    []TopicPartition
	Topics      []string
	Pattern     string
	Rack        string
}

// CommittedOffset is a group's offset of one partition.
type CommittedOffset struct {
	TopicPartition
	Offset      int64 // the next to read; -1: nothing committed
	LeaderEpoch int32 // -1: unknown
	Metadata    string
	Committed   time.Time // zero: unknown
	Err         error
}

func brokersFrom(in []*pb.BrokerInfo) []Broker {
	out := make([]Broker, len(in))
	for i, b := range in {
		out[i] = Broker{
			NodeID: b.GetNodeId(), Address: b.GetAddress(), Rack: b.GetRack(), Fenced: b.GetFenced(),
			BrokerEpoch: b.GetBrokerEpoch(), Voter: b.GetVoter(), Version: b.GetVersion(),
			RaftAddress: b.GetRaftAddress(), PeerAddress: b.GetPeerAddress(),
			Decommissioning: b.GetDecommissioning(), Replicas: int(b.GetReplicas()),
			Replaced: b.GetReplaced(), VotePending: b.GetVotePending(), FeatureLevel: b.GetFeatureLevel(),
		}
	}
	return out
}

func topicFrom(in *pb.TopicInfo) Topic {
	out := Topic{
		Name: in.GetName(), Internal: in.GetInternal(), Durability: in.GetDurability(),
		ReplicationFactor: in.GetReplicationFactor(), Partitions: make([]PartitionState, len(in.GetPartitions())),
	}
	copy(out.ID[:], in.GetTopicId())
	for i, p := range in.GetPartitions() {
		out.Partitions[i] = PartitionState{
			Partition: p.GetPartition(), Leader: p.GetLeader(), LeaderEpoch: p.GetLeaderEpoch(),
			PartitionEpoch: p.GetPartitionEpoch(), Replicas: p.GetReplicas(), ISR: p.GetIsr(), ELR: p.GetElr(),
			Adding: p.GetAdding(), Removing: p.GetRemoving(),
			LastISR: p.GetLastIsr(), Lost: p.GetLost(),
		}
	}
	return out
}

func offsetFrom(in *pb.OffsetResult, broker string) CommittedOffset {
	out := CommittedOffset{
		TopicPartition: TopicPartition{in.GetTopic(), in.GetPartition()},
		Offset:         in.GetOffset(), LeaderEpoch: in.GetLeaderEpoch(), Metadata: in.GetMetadata(),
	}
	if ms := in.GetCommitTimeMs(); ms > 0 {
		out.Committed = time.UnixMilli(ms)
	}
	if err := fromPB(in.GetError(), broker); err != nil {
		out.Err = err
	}
	return out
}

func partitionsFrom(in []*pb.TopicPartition) []TopicPartition {
	out := make([]TopicPartition, len(in))
	for i, tp := range in {
		out[i] = TopicPartition{tp.GetTopic(), tp.GetPartition()}
	}
	return out
}

func partitionsOut(in []TopicPartition) []*pb.TopicPartition {
	out := make([]*pb.TopicPartition, len(in))
	for i, tp := range in {
		out[i] = &pb.TopicPartition{Topic: tp.Topic, Partition: tp.Partition}
	}
	return out
}
