package api

import (
	"errors"
	"fmt"
	"strconv"
)

// Code says what went wrong, for programs. The values are those of
// penstock.v1.ErrorCode; a test of package grpcapi holds the two together.
type Code int32

// The codes. Their meanings stand in proto/penstock/v1/common.proto.
const (
	CodeNone Code = iota
	CodeUnknown
	CodeUnknownTopic
	CodeUnknownPartition
	CodeInvalidTopic
	CodeTopicExists
	CodeInvalidPartitions
	CodeInvalidReplicationFactor
	CodeInvalidConfig
	CodeInvalidArgument
	CodeCorruptBatch
	CodeRecordTooLarge
	CodeUnsupportedCodec
	CodeInvalidTimestamp
	CodeOffsetOutOfRange
	CodeOffsetNotAvailable
	CodeNotLeader
	CodeLeaderNotAvailable
	CodeFencedLeaderEpoch
	CodeUnknownLeaderEpoch
	CodeNotEnoughReplicas
	CodeNotEnoughReplicasAfterAppend
	CodeRequestTimedOut
	CodeStorageFailed
	CodeDiskFull
	CodeNotController
	CodeStaleBrokerEpoch
	CodeInvalidUpdateVersion
	CodeCoordinatorNotAvailable
	CodeCoordinatorLoading
	CodeNotCoordinator
	CodeInvalidGroupID
	CodeUnknownMember
	CodeFencedMemberEpoch
	CodeStaleMemberEpoch
	CodeGroupNotEmpty
	CodeUnknownGroup
	CodeOutOfOrderSequence
	CodeInvalidProducerEpoch
	CodeUnknownProducerID
	CodeRequestTooLarge
	CodeShuttingDown
	CodeInvalidCommitOffset
	CodeIdentityConflict
	CodeFencedInstanceID
	CodeUnsupported
	CodeOverloaded
	CodeInvalidRecord
	CodePolicyViolation
	CodeIllegalGeneration
	CodeRebalanceInProgress
	CodeInconsistentProtocol
	CodeMemberIDRequired
	CodeInvalidSessionTimeout
	CodeInvalidPattern
	CodeTooManySubscriptions
	CodeUnknownAssignor
	CodeGroupFull
	CodeInvalidReplicaAssignment
	CodeNoReassignmentInProgress
	CodeElectionNotNeeded
	CodePreferredLeaderNotAvailable
	CodeUnknownBroker
	// CodeInvalidState says that the state of the cluster does not allow it; the
	// message says what would have to change first.
	CodeInvalidState
	CodeOffsetMetadataTooLarge
)

func (c Code) String() string {
	names := [...]string{
		"none", "unknown", "unknown topic", "unknown partition", "invalid topic", "topic exists",
		"invalid partitions", "invalid replication factor", "invalid config", "invalid argument",
		"corrupt batch", "record too large", "unsupported codec", "invalid timestamp",
		"offset out of range", "offset not available", "not leader", "leader not available",
		"fenced leader epoch", "unknown leader epoch", "not enough replicas",
		"not enough replicas after append", "request timed out", "storage failed", "disk full",
		"not controller", "stale broker epoch", "invalid update version", "coordinator not available",
		"coordinator loading", "not coordinator", "invalid group id", "unknown member",
		"fenced member epoch", "stale member epoch", "group not empty", "unknown group",
		"out of order sequence", "invalid producer epoch", "unknown producer id", "request too large",
		"shutting down", "invalid commit offset", "identity conflict", "fenced instance id",
		"unsupported", "overloaded", "invalid record", "policy violation",
		"illegal generation", "rebalance in progress", "inconsistent protocol", "member id required",
		"invalid session timeout", "invalid pattern", "too many subscriptions", "unknown assignor", "group full",
		"invalid replica assignment", "no reassignment in progress", "election not needed",
		"preferred leader not available", "unknown broker", "invalid state", "offset metadata too large",
	}
	if c >= 0 && int(c) < len(names) {
		return names[c]
	}
	return "code " + strconv.Itoa(int(c))
}

// Retriable reports whether the same request may succeed later, unchanged.
func (c Code) Retriable() bool {
	switch c {
	case CodeOffsetNotAvailable, CodeNotLeader, CodeLeaderNotAvailable, CodeFencedLeaderEpoch,
		CodeUnknownLeaderEpoch, CodeNotEnoughReplicas, CodeNotEnoughReplicasAfterAppend,
		CodeRequestTimedOut, CodeDiskFull, CodeStorageFailed, CodeNotController, CodeCoordinatorNotAvailable,
		CodeCoordinatorLoading, CodeNotCoordinator, CodeShuttingDown, CodeOverloaded,
		CodeUnknownTopic, CodeUnknownPartition, CodeInvalidUpdateVersion,
		CodeRebalanceInProgress:
		return true
	default:
		return false
	}
}

// Indefinite reports whether the operation may or may not have happened.
// NotLeader is among them: a leader may lose its place between append and ack.
func (c Code) Indefinite() bool {
	switch c {
	case CodeUnknown, CodeNotEnoughReplicasAfterAppend, CodeRequestTimedOut, CodeNotLeader, CodeStorageFailed, CodeShuttingDown:
		return true
	default:
		return false
	}
}

// LeaderHint names the leader that the answering broker knows. NodeID -1: none.
type LeaderHint struct {
	NodeID      int32
	LeaderEpoch int32
	Address     string // gRPC address, empty when unknown
}

// Error is the typed error of every operation of the broker.
type Error struct {
	Code      Code
	Message   string // what was wrong, which value, what would be right
	Topic     string
	Partition int32 // -1: not about one partition
	Leader    *LeaderHint
	Err       error // cause, may be nil
}

// Errorf makes an Error that is not about one partition.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Partition: -1, Err: errors.Unwrap(err)}
}

// At returns a copy of e that names a partition.
func (e *Error) At(topic string, partition int32) *Error {
	c := *e
	c.Topic, c.Partition = topic, partition
	return &c
}

func (e *Error) Error() string {
	where := ""
	if e.Topic != "" {
		where = e.Topic
		if e.Partition >= 0 {
			where += "-" + strconv.Itoa(int(e.Partition))
		}
		where += ": "
	}
	if e.Message == "" {
		return where + e.Code.String()
	}
	return where + e.Code.String() + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of err: CodeNone for nil, CodeUnknown for an error
// that has none.
func CodeOf(err error) Code {
	if err == nil {
		return CodeNone
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeUnknown
}
