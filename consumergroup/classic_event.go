package consumergroup

import "time"

// ClassicKind tells the requests to a Classic group apart.
type ClassicKind uint8

// The events of a Classic group, with the fields of ClassicEvent that each
// uses. All but ClassicTimer are requests: each Call is answered once.
const (
	// ClassicJoin: Join wants to be in the group. NewID, RequireKnownID, ProtocolType.
	ClassicJoin ClassicKind = iota + 1
	// ClassicSync: MemberID asks for its assignment; from the leader it brings
	// everybody's. InstanceID, Generation, ProtocolType, Protocol, Assignments.
	ClassicSync
	// ClassicHeartbeat of MemberID. InstanceID, Generation.
	ClassicHeartbeat
	// ClassicLeave: MemberID, or the member of InstanceID, goes for good.
	ClassicLeave
	// ClassicTimer: ClassicEffects.Deadline has come.
	ClassicTimer
)

// ClassicEvent is one input of a Classic group.
type ClassicEvent struct {
	Kind           ClassicKind
	Call           uint64 // the shell's number of a request, never 0, never used twice
	MemberID       string
	InstanceID     string
	Generation     int32
	ProtocolType   string // empty in a sync of old clients: not checked
	Protocol       string // likewise
	Join           *ClassicMember
	NewID          string // for a member that joins without one: the machine makes no random ids
	RequireKnownID bool   // a new dynamic member is to join again with NewID (KIP-394)
	Assignments    map[string][]byte
}

// ClassicMember is a member of the classic protocol. Of a restored one only the
// protocol that the group had chosen is known.
type ClassicMember struct {
	ID               string // empty in a join: new
	InstanceID       string // empty: dynamic
	ClientID         string
	Host             string
	SessionTimeout   time.Duration
	RebalanceTimeout time.Duration
	Protocols        []ClassicProtocol // in the order of the member's liking
	Assignment       []byte            // in the generation that is stable
}

// ClassicProtocol is a way of assigning that a member knows, and what it tells
// the leader about itself. The coordinator does not look into the bytes.
type ClassicProtocol struct {
	Name     string
	Metadata []byte
}

// ClassicEffectKind tells effects apart.
type ClassicEffectKind uint8

const (
	// ClassicReply answers Call: the whole of ClassicEffect.
	ClassicReply ClassicEffectKind = iota + 1
	// ClassicPersist writes the group: Stored. Nothing after it may be seen by anybody
	// before the record is committed.
	ClassicPersist
)

// ClassicEffect is one thing for the shell to do.
type ClassicEffect struct {
	Kind           ClassicEffectKind
	Call           uint64
	Code           Code
	Message        string
	MemberID       string // of a join: also beside CodeMemberIDRequired
	Generation     int32
	ProtocolType   string
	Protocol       string
	Leader         string
	SkipAssignment bool            // the leader keeps the assignment that there is (KIP-814)
	Members        []ClassicListed // to the leader: everybody
	Assignment     []byte          // of a sync
	// Of a sync to a Group, in place of Assignment: the shell writes it as the
	// consumers' embedded protocol has it, in a version that the member knows.
	Assigned []TopicPartition
	Version  int16
	// Stored is the group as it was when it was to be written: what it did in the same
	// step after that is not for whoever loads it.
	Stored *StoredClassic
}

// ClassicListed is what the leader hears of a member.
type ClassicListed struct {
	ID, InstanceID string
	Metadata       []byte
}

// ClassicEffects is the output of Classic.Step. The caller owns and reuses it.
type ClassicEffects struct {
	List     []ClassicEffect
	Expired  []Expired
	Deadline time.Time // when ClassicTimer is wanted, or a little earlier than needed; zero: never
}

// Reset empties e for the next Step.
func (e *ClassicEffects) Reset() {
	clear(e.List)
	clear(e.Expired)
	*e = ClassicEffects{List: e.List[:0], Expired: e.Expired[:0]}
}
