package metadata

import (
	"fmt"
	"strconv"
)

// Code says why a command was refused, for programs. The numbers are those of
// penstock.v1.ErrorCode, of which this package uses a part.
type Code int32

// The codes that commands are refused with.
const (
	CodeNone                     Code = 0
	CodeUnknownTopic             Code = 2
	CodeUnknownPartition         Code = 3
	CodeInvalidTopic             Code = 4
	CodeTopicExists              Code = 5
	CodeInvalidPartitions        Code = 6
	CodeInvalidReplicationFactor Code = 7
	CodeInvalidConfig            Code = 8
	CodeInvalidArgument          Code = 9
	CodeNotLeader                Code = 16
	// CodeLeaderNotAvailable: an election named a replica that may not lead.
	CodeLeaderNotAvailable Code = 17
	// CodeFencedLeaderEpoch: the change names an older leader epoch.
	CodeFencedLeaderEpoch Code = 18
	// CodeUnknownLeaderEpoch: the change names a newer leader epoch.
	CodeUnknownLeaderEpoch Code = 19
	// CodeStaleBrokerEpoch: the epoch is not the one of the broker's present
	// session, or the broker is fenced.
	CodeStaleBrokerEpoch Code = 26
	// CodeInvalidUpdateVersion: the change names another partition epoch.
	CodeInvalidUpdateVersion Code = 27
	CodeRequestTooLarge      Code = 40
	// CodeIdentityConflict: a node id or storage id belongs to another pair, or
	// the cluster has another id.
	CodeIdentityConflict Code = 43
	// CodeInvalidState: the state of the cluster does not allow it; the message says
	// what would have to change first.
	CodeInvalidState Code = 63
	// CodeUnsupported: a command of a kind or version this build does not know.
	CodeUnsupported Code = 45
	// CodeInvalidReplicaAssignment: the replicas asked for cannot be.
	CodeInvalidReplicaAssignment Code = 58
	CodeNoReassignmentInProgress Code = 59
	// CodeElectionNotNeeded: the preferred leader leads already.
	CodeElectionNotNeeded           Code = 60
	CodePreferredLeaderNotAvailable Code = 61
	// CodeUnknownBroker: no broker with that node id ever registered.
	CodeUnknownBroker Code = 62
)

func (c Code) String() string {
	switch c {
	case CodeNone:
		return "none"
	case CodeUnknownTopic:
		return "unknown topic"
	case CodeUnknownPartition:
		return "unknown partition"
	case CodeInvalidTopic:
		return "invalid topic"
	case CodeTopicExists:
		return "topic exists"
	case CodeInvalidPartitions:
		return "invalid partitions"
	case CodeInvalidReplicationFactor:
		return "invalid replication factor"
	case CodeInvalidConfig:
		return "invalid config"
	case CodeInvalidArgument:
		return "invalid argument"
	case CodeNotLeader:
		return "not leader"
	case CodeLeaderNotAvailable:
		return "leader not available"
	case CodeFencedLeaderEpoch:
		return "fenced leader epoch"
	case CodeUnknownLeaderEpoch:
		return "unknown leader epoch"
	case CodeStaleBrokerEpoch:
		return "stale broker epoch"
	case CodeInvalidUpdateVersion:
		return "invalid update version"
	case CodeRequestTooLarge:
		return "request too large"
	case CodeIdentityConflict:
		return "identity conflict"
	case CodeInvalidState:
		return "invalid state"
	case CodeUnsupported:
		return "unsupported"
	case CodeInvalidReplicaAssignment:
		return "invalid replica assignment"
	case CodeNoReassignmentInProgress:
		return "no reassignment in progress"
	case CodeElectionNotNeeded:
		return "election not needed"
	case CodePreferredLeaderNotAvailable:
		return "preferred leader not available"
	case CodeUnknownBroker:
		return "unknown broker"
	default:
		return "code " + strconv.Itoa(int(c))
	}
}

// Error is why a command, or one change of it, was refused. It is part of the
// image (a retry gets it again), so it holds nothing but a code and a text.
type Error struct {
	Code Code
	// Message says what was wrong, which value, and what would be right.
	Message string
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Message }

// Is makes errors.Is(err, &Error{Code: c}) true for every Error with that code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Code == e.Code
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// clip shortens what a caller sent, so that a refusal, which images remember,
// stays small.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
