package api

// The requests of Kafka's own group protocols, for the Kafka front door. Field
// by field they are what the messages of the same names carry; times are in ms.

// ClassicJoin is a JoinGroup request. Its answer comes when the rebalance does.
type ClassicJoin struct {
	Group            string
	MemberID         string // empty: new
	InstanceID       string // empty: dynamic
	ClientID         string
	ClientHost       string
	ProtocolType     string
	Protocols        []ClassicProtocol
	SessionTimeout   int64
	RebalanceTimeout int64 // 0 or less, as in version 0: the session timeout
	// RequireKnownID: versions from 4 on; a new dynamic member gets an id and
	// CodeMemberIDRequired first.
	RequireKnownID bool
}

// ClassicProtocol is one protocol of a ClassicJoin.
type ClassicProtocol struct {
	Name     string
	Metadata []byte
}

// ClassicJoined answers a ClassicJoin. Beside CodeMemberIDRequired it carries
// the MemberID to join with.
type ClassicJoined struct {
	MemberID       string
	Generation     int32
	ProtocolType   string
	Protocol       string
	Leader         string
	SkipAssignment bool            // for versions from 9 on; for older ones name another leader
	Members        []ClassicListed // only to the leader
}

// ClassicListed is a member as the leader hears of it.
type ClassicListed struct {
	MemberID   string
	InstanceID string
	Metadata   []byte
}

// ClassicSync is a SyncGroup request. Its answer comes when the leader's has.
type ClassicSync struct {
	Group        string
	MemberID     string
	InstanceID   string
	Generation   int32
	ProtocolType string            // empty: not checked
	Protocol     string            // likewise
	Assignments  map[string][]byte // from the leader, by member id
}

// ClassicSynced answers a ClassicSync.
type ClassicSynced struct {
	ProtocolType string
	Protocol     string
	Assignment   []byte
}

// ClassicHeartbeat is a Heartbeat request.
type ClassicHeartbeat struct {
	Group      string
	MemberID   string
	InstanceID string
	Generation int32
}

// ClassicLeave is one member of a LeaveGroup request. With an instance id and no
// member id it removes whoever has that instance id.
type ClassicLeave struct {
	MemberID   string
	InstanceID string
}

// Epochs of a ConsumerHeartbeat that are no epochs.
const (
	EpochJoin        = 0
	EpochLeave       = -1
	EpochLeaveStatic = -2 // the member keeps its place for its session timeout
)

// ConsumerHeartbeat is a ConsumerGroupHeartbeat request (KIP-848). What did not
// change since the last one may be left out; after an error all is sent again.
type ConsumerHeartbeat struct {
	Group            string
	MemberID         string
	MemberEpoch      int32
	InstanceID       string
	Rack             string
	ClientID         string
	ClientHost       string
	RebalanceTimeout int64 // -1: not changed
	HasTopics        bool
	Topics           []string
	HasPattern       bool
	Pattern          string
	Assignor         string // empty: no wish, or not changed
	HasOwned         bool
	Owned            []OwnedPartition
}

// OwnedPartition is a partition of a topic that is told by its id: the topics that had
// one name, one after the other, are not the same. The name is empty of an id that no
// topic has now.
type OwnedPartition struct {
	TopicPartition

	TopicID TopicID
}

// ConsumerHeartbeatResult answers a ConsumerHeartbeat.
type ConsumerHeartbeatResult struct {
	MemberID          string
	MemberEpoch       int32
	HeartbeatInterval int64
	HasAssignment     bool // false: as before
	Assignment        []OwnedPartition
}
