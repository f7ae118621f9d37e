package partition

import (
	"strconv"

	"github.com/penstock/penstock/log/record"
)

// Role is what a replica does.
type Role int8

// The roles. A follower without a known leader is a follower.
const (
	RoleNone Role = iota
	RoleLeader
	RoleFollower
)

func (r Role) String() string {
	switch r {
	case RoleLeader:
		return "leader"
	case RoleFollower:
		return "follower"
	default:
		return "none"
	}
}

// Acks says when a produce request is answered; the values are Kafka's.
type Acks int8

// The values.
const (
	AcksAll    Acks = -1
	AcksNone   Acks = 0
	AcksLeader Acks = 1
)

// Outcome is how a request ended. The shell maps it to its own error codes.
type Outcome int8

// The outcomes. After an append, all but OutcomeOK are indefinite.
const (
	OutcomeOK Outcome = iota
	// OutcomeNotLeader: refused before the append, or leadership was lost after it.
	OutcomeNotLeader
	// OutcomeNotEnoughReplicas: refused before the append.
	OutcomeNotEnoughReplicas
	// OutcomeNotEnoughReplicasAfterAppend: the ISR fell below the minimum meanwhile.
	OutcomeNotEnoughReplicasAfterAppend
	// OutcomeTimedOut: the deadline passed.
	OutcomeTimedOut
	// OutcomeStorageFailed: the local log failed.
	OutcomeStorageFailed
	// OutcomeFencedEpoch: the message's leader epoch is an old one.
	OutcomeFencedEpoch
	// OutcomeUnknownEpoch: the message is ahead of this broker's image: try again.
	OutcomeUnknownEpoch
	// OutcomeStaleBroker: the message's broker epoch is an old one.
	OutcomeStaleBroker
	// OutcomeNotReplica: the sender holds no replica of the partition.
	OutcomeNotReplica
	// OutcomeDamaged: the follower lost acknowledged bytes and must leave the ISR first.
	OutcomeDamaged
	// OutcomeCountedOn: the follower has to begin anew below the end of its log, and must
	// leave the ISR and the ELR first.
	OutcomeCountedOn
	// OutcomeRefused: the controller refused a proposal for good.
	OutcomeRefused
	// OutcomeUnknown: a proposal may or may not be committed.
	OutcomeUnknown
	// OutcomeOffsetOutOfRange: records past HW cannot be deleted.
	OutcomeOffsetOutOfRange
	// OutcomeOffsetNotAvailable: a new leader does not know yet how far its
	// predecessor had committed.
	OutcomeOffsetNotAvailable
)

// outcomeNames is indexed by Outcome.
func outcomeNames() [16]string {
	return [...]string{
		"ok", "not leader", "not enough replicas", "not enough replicas after append", "timed out", "storage failed",
		"fenced epoch", "unknown epoch", "stale broker epoch", "not a replica", "damaged", "counted on", "refused",
		"unknown", "offset out of range", "offset not available",
	}
}

func (o Outcome) String() string {
	if names := outcomeNames(); o >= 0 && int(o) < len(names) {
		return names[o]
	}
	return "outcome " + strconv.Itoa(int(o))
}

// Damage is what is wrong with a replica's log.
type Damage int8

// The kinds of damage; the first four are those of the metadata log.
const (
	DamageNone Damage = iota
	DamageMissing
	DamageCorrupt
	DamageLostBytes
	// DamageFailed: the log refused work at run time.
	DamageFailed
)

// Member is a replica in a proposed ISR.
type Member struct {
	Node        int32
	BrokerEpoch int64
}

// Assigned is one replica of an assignment.
type Assigned struct {
	Node        int32
	BrokerEpoch int64 // of the broker's newest registration
	Fenced      bool
	ISR         bool
	ELR         bool
	// LastISR: in the last set that could hold every acknowledged record, kept
	// while nobody is known to hold the partition.
	LastISR bool
	// Failed: its log refuses work until it is opened anew.
	Failed bool
}

// Assignment is what a metadata image says of one partition.
type Assignment struct {
	Leader         int32 // -1: none
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	Replicas       []Assigned
	MinISR         int  // min.insync.replicas
	Synced         bool // durability=synced: flushed offsets are counted
	// MayTruncate: the leader was elected uncleanly, from lastISR, or is a damaged
	// last holder, so that followers may truncate below their HW.
	MayTruncate bool
	// LossyEpoch is the last leader epoch whose election may have lost records; 0:
	// none. A replica whose log ends in an older epoch may truncate below its HW: it
	// was away then, and holds what is lost.
	LossyEpoch record.Epoch
	// KeepsFailed: a leader whose log failed may say so (Effects.Failed).
	KeepsFailed bool
	// MayLeadDamaged: the election was an explicit order to lead with what there is.
	MayLeadDamaged bool
}
