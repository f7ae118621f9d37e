package consumergroup

import (
	"cmp"
	"strconv"
	"time"
)

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (tp TopicPartition) String() string { return tp.Topic + "-" + strconv.Itoa(int(tp.Partition)) }

// TopicID tells topics apart that have one name, one after the other: a topic that was
// deleted and created again is another. Zero: not known.
type TopicID [16]byte

func comparePartitions(a, b TopicPartition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// EventKind tells events apart.
type EventKind uint8

// The events, with the fields of Event that each uses.
const (
	// EventJoin: Stream wants to speak for MemberID. Epoch, Attach, Owned, Join, Metadata.
	EventJoin EventKind = iota + 1
	// EventHeartbeat came on Stream from MemberID. Epoch, HasOwned, Owned.
	EventHeartbeat
	// EventDetach: Stream of MemberID ended. Grace.
	EventDetach
	// EventLeave: MemberID says on Stream that it goes for good. Final.
	EventLeave
	// EventMetadata: topics grew, came or went. Metadata.
	EventMetadata
	// EventAssign asks for the target assignment that Effects.Assign announced.
	EventAssign
	// EventTimer: Effects.Deadline has come.
	EventTimer
	// EventClassic is a request of the classic protocol to a group that the
	// coordinator assigns. Classic; of a join also Subscription and Metadata.
	EventClassic
)

// Event is one input of the state machine.
type Event struct {
	Kind     EventKind
	MemberID string
	Stream   uint64 // the shell's number of a connection, never 0, never used twice
	Epoch    int32  // the member epoch that the member believes in; 0 in a join: new
	Attach   int64  // counts the streams of the member
	HasOwned bool
	Owned    []TopicPartition // of a join and, if HasOwned, of a heartbeat
	Join     *Member          // of a join; its ID is MemberID
	Metadata *Metadata        // of EventMetadata and of a join
	// Grace is how long a member that lost its stream keeps its place, if that
	// is less than what is left of its session; 0: no less.
	Grace time.Duration
	Final bool // a static member that leaves does not keep its place

	Classic      *ClassicEvent
	Subscription *Subscription // what the first protocol of Classic.Join says
}

// Member is what is persisted of a member: who it is and what it wants.
type Member struct {
	ID               string
	InstanceID       string // empty: dynamic
	ClientID         string
	Host             string
	Rack             string
	Topics           []string // by name
	Pattern          string   // RE2, resolved by the shell; empty: none
	SessionTimeout   time.Duration
	RebalanceTimeout time.Duration
	Assignor         string // a name of package assignor; empty: no wish
	// Classic is not empty of a member that speaks the classic protocol: what it
	// can speak, in the order of its liking.
	Classic []ClassicProtocol
}

// Current is what is persisted of where a member stands.
type Current struct {
	Epoch, Previous int32   // of the member; Previous is the one before
	Assigned        []Given // what it was last told to own, ascending
	Revoking        []Given // what it was told to give up and may own still, ascending
	Waiting         bool    // others have a part of its target
}

// Given is a partition, the member epoch in which it was given, and of which topic.
type Given struct {
	TopicPartition
	Epoch   int32
	TopicID TopicID
}

// Metadata is what the group needs to know of the topics it subscribes to.
// The group keeps it and does not change it.
type Metadata struct {
	Partitions map[string]int32      // of every topic subscribed to that exists, patterns resolved
	IDs        map[string]TopicID    // of the same topics; one that is left out is not known
	Racks      map[string][][]string // of each partition, ascending; only while a member has a rack
	Matches    map[string][]string   // the topics that match each pattern, ascending
}

// EffectKind tells effects apart.
type EffectKind uint8

// The effects, with the fields of Effect that each uses.
const (
	// EffectUpdate sends to Stream: MemberID, Epoch, Assigned, TopicIDs.
	EffectUpdate EffectKind = iota + 1
	// EffectDrop ends Stream with Code and Message. The machine has forgotten
	// the stream already; no EventDetach need follow.
	EffectDrop
	// EffectPersistGroup writes the group epoch: Epoch, Hash.
	EffectPersistGroup
	// EffectPersistMember writes Member.
	EffectPersistMember
	// EffectPersistTarget writes for which group epoch the target is: Epoch.
	EffectPersistTarget
	// EffectPersistTargetOf writes where MemberID is headed: Assigned.
	EffectPersistTargetOf
	// EffectPersistCurrent writes where MemberID stands: Current.
	EffectPersistCurrent
	// EffectForgetMember writes tombstones for all that is written of MemberID.
	EffectForgetMember
	// EffectReply answers a request of the classic protocol: Reply.
	EffectReply
)

// Effect is one thing for the shell to do. Nothing that comes after a persist
// effect may be seen by anybody before that record is committed; if it fails,
// the shell drops the group and loads it again.
type Effect struct {
	Kind     EffectKind
	MemberID string
	Stream   uint64
	Epoch    int32
	Assigned []TopicPartition // ascending; the shell owns it
	TopicIDs []TopicID        // of an update: of which topics Assigned is, beside it
	Code     Code
	Message  string
	Member   *Member // not to be changed
	Hash     int64   // of the topics subscribed to; 0: do not trust what is written of current assignments
	Current  *Current
	Reply    *ClassicEffect
}

// Effects is the output of a Step. The caller owns and reuses it.
type Effects struct {
	List     []Effect
	Expired  []Expired
	Assign   bool      // an EventAssign is wanted, once the events that wait are through
	Deadline time.Time // when EventTimer is wanted, or a little earlier than needed; zero: never
}

// Reset empties e for the next Step.
func (e *Effects) Reset() {
	clear(e.List)
	clear(e.Expired)
	*e = Effects{List: e.List[:0], Expired: e.Expired[:0]}
}

// Expired is a member that was removed against its will, for whoever asks why.
type Expired struct {
	MemberID, InstanceID, ClientID, Host string
	Why                                  string
}

// Code says why a member or a commit was refused.
type Code uint8

// The codes.
const (
	CodeNone Code = iota
	// CodeUnknownMember: never joined, left, or expired.
	CodeUnknownMember
	// CodeFencedEpoch: another stream or process took over, or the member was
	// removed because it broke the protocol.
	CodeFencedEpoch
	// CodeStaleEpoch: the partition is not the member's at that epoch.
	CodeStaleEpoch
	// CodeGone: the partition that the member has is of a topic that was deleted; the
	// one that has the name today is another.
	CodeGone
	// CodeFencedInstance: another member with the same instance id took over.
	CodeFencedInstance
	// CodeAway: the member has not come back to its new coordinator yet; retriable.
	CodeAway
	// CodeInvalid: the request contradicts itself or what is known.
	CodeInvalid
	// CodeIllegalGeneration: the generation is not the group's (classic).
	CodeIllegalGeneration
	// CodeRebalanceInProgress: join again, or wait for those who do (classic).
	CodeRebalanceInProgress
	// CodeInconsistentProtocol: nothing in common with the group (classic).
	CodeInconsistentProtocol
	// CodeMemberIDRequired: join again with the id in the reply (classic).
	CodeMemberIDRequired
)

func (c Code) String() string {
	switch c {
	case CodeNone:
		return "none"
	case CodeUnknownMember:
		return "unknown member"
	case CodeFencedEpoch:
		return "fenced epoch"
	case CodeStaleEpoch:
		return "stale epoch"
	case CodeGone:
		return "gone"
	case CodeFencedInstance:
		return "fenced instance"
	case CodeAway:
		return "away"
	case CodeInvalid:
		return "invalid"
	case CodeIllegalGeneration:
		return "illegal generation"
	case CodeRebalanceInProgress:
		return "rebalance in progress"
	case CodeInconsistentProtocol:
		return "inconsistent protocol"
	case CodeMemberIDRequired:
		return "member id required"
	}
	return "code " + strconv.Itoa(int(c))
}
