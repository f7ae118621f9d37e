package api

import "github.com/penstock/penstock/log/record"

// JoinGroup begins or resumes a member's session.
type JoinGroup struct {
	Group            string
	MemberID         string // empty: the coordinator makes one
	MemberEpoch      int32  // 0: new
	AttachNumber     int64
	InstanceID       string
	ClientID         string
	ClientHost       string
	Rack             string
	Topics           []string
	TopicPattern     string
	SessionTimeout   int64 // ms; 0: 10 s
	RebalanceTimeout int64 // ms; 0: 60 s
	Assignor         string
	Owned            []TopicPartition
}

// GroupHeartbeat keeps a session alive and acknowledges what is owned.
type GroupHeartbeat struct {
	MemberEpoch int32
	HasOwned    bool
	Owned       []TopicPartition
}

// SessionMessage is what a member sends on its session after JoinGroup.
type SessionMessage struct {
	Leave     bool           // true: the member goes for good; the rest is not looked at
	Commit    *SessionCommit // not nil: Heartbeat is not looked at
	Heartbeat GroupHeartbeat
}

// SessionCommit stores offsets of the member whose session it comes on.
type SessionCommit struct {
	ID          uint64 // the sender's
	MemberEpoch int32
	Offsets     []OffsetCommit
}

// SessionCommitted answers a SessionCommit.
type SessionCommitted struct {
	ID     uint64
	Err    *Error            // of the whole commit: nothing was stored
	Failed []CommittedOffset // those that were not stored; their Err is not nil
}

// SessionUpdate goes to a member.
type SessionUpdate struct {
	// Commits are answers to commits; an update that has some has nothing else. They
	// are the sender's again when it has been taken.
	Commits           []SessionCommitted
	MemberID          string
	MemberEpoch       int32
	HeartbeatInterval int64 // ms
	HasAssignment     bool
	Assignment        []TopicPartition
}

// CommitOffsets stores offsets. MemberID empty: administrative, the group must be empty.
type CommitOffsets struct {
	Group       string
	MemberID    string
	InstanceID  string // of a static member of the classic protocol; may be empty
	MemberEpoch int32  // the generation in the classic protocol
	Offsets     []OffsetCommit
}

// OffsetCommit is the next offset to read of one partition.
type OffsetCommit struct {
	TopicPartition
	Offset      record.Offset
	LeaderEpoch record.Epoch
	Metadata    string
}

// FetchOffsets asks for the committed offsets of a group: of the partitions named,
// or of all when there are none.
type FetchOffsets struct {
	Group      string
	Partitions []TopicPartition
	// ByMember: a member asks, and hears of it when it is none any more. Else anybody may.
	ByMember    bool
	MemberID    string
	MemberEpoch int32
}

// CommittedOffset is the outcome of a commit or what is committed. Offset -1: nothing.
type CommittedOffset struct {
	TopicPartition
	Err         *Error
	Offset      record.Offset
	LeaderEpoch record.Epoch
	Metadata    string
	CommitTime  int64 // ms
}

// ResetOffset is the outcome of a reset of one partition.
type ResetOffset struct {
	TopicPartition
	Err           *Error
	Before, After record.Offset // Before -1: nothing was committed
}

// GroupType says which protocol a group's members speak.
type GroupType string

// The types. A group that only has offsets is of neither.
const (
	GroupTypeNone     GroupType = ""
	GroupTypeConsumer GroupType = "consumer" // the coordinator assigns (KIP-848)
	GroupTypeClassic  GroupType = "classic"  // a member assigns
)

// GroupListing is a line of the list of groups.
type GroupListing struct {
	Group        string
	Type         GroupType
	State        string // as in GroupDescription
	ProtocolType string // of a classic group: "consumer" for consumers
	Members      int
}

// GroupDescription is all that the coordinator knows of a group.
type GroupDescription struct {
	Group string
	Type  GroupType
	// State is empty, assigning, reconciling or stable; of a classic group Empty,
	// PreparingRebalance, CompletingRebalance or Stable.
	State           string
	Epoch           int32  // the generation of a classic group
	AssignmentEpoch int32  // the epoch that the target assignment is of
	Assignor        string // the protocol of a classic group
	ProtocolType    string // of a classic group
	Coordinator     int32
	Members         []GroupMember
	Offsets         []CommittedOffset
	Lags            []PartitionLag // of every partition with an offset or a member, ascending
}

// PartitionProgress is how far a partition is, as its leader tells coordinators.
type PartitionProgress struct {
	TopicID       TopicID
	Partition     int32
	LeaderEpoch   record.Epoch
	LogStart      record.Offset
	HighWatermark record.Offset
}

// PartitionLag is how far behind a group is in one partition. -1: not known.
type PartitionLag struct {
	TopicPartition
	Committed     record.Offset
	LogStart      record.Offset
	HighWatermark record.Offset
	// Lag is in records: from the committed offset, or from the log start where nothing is
	// committed and a member owns the partition.
	Lag      int64
	LagTime  int64 // ms for which the next record to be read has been readable
	AtLeast  bool  // LagTime is a lower bound
	Age      int64 // ms since the leader said so
	MemberID string
}

// GroupLag is the lag of one group.
type GroupLag struct {
	Group   string
	State   string
	Members int
	Lags    []PartitionLag
}

// GroupMember is a member of a group.
type GroupMember struct {
	MemberID    string
	InstanceID  string
	ClientID    string
	Host        string
	Rack        string
	MemberEpoch int32
	Assigned    []TopicPartition
	// Target is where the coordinator wants the member to be.
	Target []TopicPartition
	// AssignedIDs and TargetIDs say beside them of which topics these are, whatever has
	// their names now; zero where it is not known. A group of the classic protocol, which
	// knows names alone, has none.
	AssignedIDs, TargetIDs []TopicID

	Topics  []string
	Pattern string
	// Classic: the member speaks the classic protocol; Metadata and Assignment are
	// its bytes.
	Classic    bool
	Metadata   []byte
	Assignment []byte
}
