package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ErrClosed is what calls on a client, producer or consumer return once Close
// began, and what the records that Close did not wait for end with.
var ErrClosed = errors.New("client: closed")

// ErrNoGroup is returned by calls about committed offsets on a consumer that is
// not in a group.
var ErrNoGroup = errors.New("client: the consumer is not in a group")

// ErrNotAssigned is returned by calls about a partition that the consumer does
// not own.
var ErrNotAssigned = errors.New("client: the partition is not assigned to this consumer")

// Code says what went wrong, for programs. The numbers are those of
// penstock.v1.ErrorCode, where the meanings are documented.
type Code int32

// The codes.
const (
	CodeNone                         = Code(pb.ErrorCode_ERROR_CODE_UNSPECIFIED)
	CodeUnknown                      = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN)
	CodeUnknownTopic                 = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC)
	CodeUnknownPartition             = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_PARTITION)
	CodeInvalidTopic                 = Code(pb.ErrorCode_ERROR_CODE_INVALID_TOPIC)
	CodeTopicExists                  = Code(pb.ErrorCode_ERROR_CODE_TOPIC_EXISTS)
	CodeInvalidPartitions            = Code(pb.ErrorCode_ERROR_CODE_INVALID_PARTITIONS)
	CodeInvalidReplicationFactor     = Code(pb.ErrorCode_ERROR_CODE_INVALID_REPLICATION_FACTOR)
	CodeInvalidConfig                = Code(pb.ErrorCode_ERROR_CODE_INVALID_CONFIG)
	CodeInvalidArgument              = Code(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT)
	CodeCorruptBatch                 = Code(pb.ErrorCode_ERROR_CODE_CORRUPT_BATCH)
	CodeRecordTooLarge               = Code(pb.ErrorCode_ERROR_CODE_RECORD_TOO_LARGE)
	CodeUnsupportedCodec             = Code(pb.ErrorCode_ERROR_CODE_UNSUPPORTED_CODEC)
	CodeInvalidTimestamp             = Code(pb.ErrorCode_ERROR_CODE_INVALID_TIMESTAMP)
	CodeOffsetOutOfRange             = Code(pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE)
	CodeOffsetNotAvailable           = Code(pb.ErrorCode_ERROR_CODE_OFFSET_NOT_AVAILABLE)
	CodeNotLeader                    = Code(pb.ErrorCode_ERROR_CODE_NOT_LEADER)
	CodeLeaderNotAvailable           = Code(pb.ErrorCode_ERROR_CODE_LEADER_NOT_AVAILABLE)
	CodeFencedLeaderEpoch            = Code(pb.ErrorCode_ERROR_CODE_FENCED_LEADER_EPOCH)
	CodeUnknownLeaderEpoch           = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_LEADER_EPOCH)
	CodeNotEnoughReplicas            = Code(pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS)
	CodeNotEnoughReplicasAfterAppend = Code(pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND)
	CodeRequestTimedOut              = Code(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT)
	CodeStorageFailed                = Code(pb.ErrorCode_ERROR_CODE_STORAGE_FAILED)
	CodeDiskFull                     = Code(pb.ErrorCode_ERROR_CODE_DISK_FULL)
	CodeNotController                = Code(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER)
	CodeStaleBrokerEpoch             = Code(pb.ErrorCode_ERROR_CODE_STALE_BROKER_EPOCH)
	CodeInvalidUpdateVersion         = Code(pb.ErrorCode_ERROR_CODE_INVALID_UPDATE_VERSION)
	CodeCoordinatorNotAvailable      = Code(pb.ErrorCode_ERROR_CODE_COORDINATOR_NOT_AVAILABLE)
	CodeCoordinatorLoading           = Code(pb.ErrorCode_ERROR_CODE_COORDINATOR_LOADING)
	CodeNotCoordinator               = Code(pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR)
	CodeInvalidGroupID               = Code(pb.ErrorCode_ERROR_CODE_INVALID_GROUP_ID)
	CodeUnknownMember                = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_MEMBER)
	CodeFencedMemberEpoch            = Code(pb.ErrorCode_ERROR_CODE_FENCED_MEMBER_EPOCH)
	CodeStaleMemberEpoch             = Code(pb.ErrorCode_ERROR_CODE_STALE_MEMBER_EPOCH)
	CodeGroupNotEmpty                = Code(pb.ErrorCode_ERROR_CODE_GROUP_NOT_EMPTY)
	CodeUnknownGroup                 = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_GROUP)
	CodeOutOfOrderSequence           = Code(pb.ErrorCode_ERROR_CODE_OUT_OF_ORDER_SEQUENCE)
	CodeInvalidProducerEpoch         = Code(pb.ErrorCode_ERROR_CODE_INVALID_PRODUCER_EPOCH)
	CodeUnknownProducerID            = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_PRODUCER_ID)
	CodeRequestTooLarge              = Code(pb.ErrorCode_ERROR_CODE_REQUEST_TOO_LARGE)
	CodeShuttingDown                 = Code(pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN)
	CodeInvalidCommitOffset          = Code(pb.ErrorCode_ERROR_CODE_INVALID_COMMIT_OFFSET)
	CodeIdentityConflict             = Code(pb.ErrorCode_ERROR_CODE_IDENTITY_CONFLICT)
	CodeFencedInstanceID             = Code(pb.ErrorCode_ERROR_CODE_FENCED_INSTANCE_ID)
	CodeUnsupported                  = Code(pb.ErrorCode_ERROR_CODE_UNSUPPORTED)
	CodeOverloaded                   = Code(pb.ErrorCode_ERROR_CODE_OVERLOADED)
	CodeInvalidRecord                = Code(pb.ErrorCode_ERROR_CODE_INVALID_RECORD)
	CodePolicyViolation              = Code(pb.ErrorCode_ERROR_CODE_POLICY_VIOLATION)
	CodeIllegalGeneration            = Code(pb.ErrorCode_ERROR_CODE_ILLEGAL_GENERATION)
	CodeRebalanceInProgress          = Code(pb.ErrorCode_ERROR_CODE_REBALANCE_IN_PROGRESS)
	CodeInconsistentProtocol         = Code(pb.ErrorCode_ERROR_CODE_INCONSISTENT_PROTOCOL)
	CodeMemberIDRequired             = Code(pb.ErrorCode_ERROR_CODE_MEMBER_ID_REQUIRED)
	CodeInvalidSessionTimeout        = Code(pb.ErrorCode_ERROR_CODE_INVALID_SESSION_TIMEOUT)
	CodeInvalidPattern               = Code(pb.ErrorCode_ERROR_CODE_INVALID_PATTERN)
	CodeTooManySubscriptions         = Code(pb.ErrorCode_ERROR_CODE_TOO_MANY_SUBSCRIPTIONS)
	CodeUnknownAssignor              = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_ASSIGNOR)
	CodeGroupFull                    = Code(pb.ErrorCode_ERROR_CODE_GROUP_FULL)
	CodeInvalidReplicaAssignment     = Code(pb.ErrorCode_ERROR_CODE_INVALID_REPLICA_ASSIGNMENT)
	CodeNoReassignmentInProgress     = Code(pb.ErrorCode_ERROR_CODE_NO_REASSIGNMENT_IN_PROGRESS)
	CodeElectionNotNeeded            = Code(pb.ErrorCode_ERROR_CODE_ELECTION_NOT_NEEDED)
	CodePreferredLeaderNotAvailable  = Code(pb.ErrorCode_ERROR_CODE_PREFERRED_LEADER_NOT_AVAILABLE)
	CodeUnknownBroker                = Code(pb.ErrorCode_ERROR_CODE_UNKNOWN_BROKER)
	CodeInvalidState                 = Code(pb.ErrorCode_ERROR_CODE_INVALID_STATE)
	CodeOffsetMetadataTooLarge       = Code(pb.ErrorCode_ERROR_CODE_OFFSET_METADATA_TOO_LARGE)
)

// String returns the code's name in words, "not leader".
func (c Code) String() string {
	name, ok := pb.ErrorCode_name[int32(c)]
	if !ok {
		return "code " + strconv.Itoa(int(c))
	}
	if c == CodeNone {
		return "none"
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "ERROR_CODE_")), "_", " ")
}

// Error is what a broker answered, or what became of the call to it. Transport
// failures have CodeUnknown, are Retriable, and wrap the gRPC error.
type Error struct {
	Code      Code
	Message   string // what was wrong, which value, what would be right
	Topic     string // empty: not about one topic
	Partition int32  // -1: not about one partition
	Broker    string // address that answered or was asked; empty: unknown
	// Retriable: the same call may succeed later, unchanged.
	Retriable bool
	// Indefinite: the operation may or may not have happened.
	Indefinite bool
	Err        error // cause, may be nil

	leader *pb.LeaderHint
}

// Error names the place, the code and the broker's own words.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("penstock: ")
	if e.Topic != "" {
		b.WriteString(e.Topic)
		if e.Partition >= 0 {
			fmt.Fprintf(&b, "-%d", e.Partition)
		}
		b.WriteString(": ")
	}
	switch {
	case e.Code == CodeUnknown && e.Message != "":
		b.WriteString(e.Message)
	case e.Message == "" || e.Message == e.Code.String():
		b.WriteString(e.Code.String())
	default:
		b.WriteString(e.Code.String() + ": " + strings.TrimPrefix(e.Message, e.Code.String()+": "))
	}
	if e.Broker != "" {
		b.WriteString(" (broker " + e.Broker + ")")
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// LogTruncatedError means that records which a consumer has read are no longer in the
// log, and that others may have taken their offsets: the partition was truncated, which
// happens where it is not synced, or by an unclean election. Consumers with ResetError
// get it from Poll; Seek goes on.
type LogTruncatedError struct {
	TopicPartition
	Position    int64 // the next offset to read
	LeaderEpoch int32 // of the record before it
	// TruncatedTo is where the log ceases to be what was read.
	TruncatedTo int64
	Err         *Error // what the broker answered, of CodeOffsetOutOfRange
}

// Error names the partition and the range that is gone.
func (e *LogTruncatedError) Error() string {
	return fmt.Sprintf("penstock: %s: the log was truncated: what was read from offset %d up to %d, of leader epochs up to %d, is gone",
		e.TopicPartition, e.TruncatedTo, e.Position, e.LeaderEpoch)
}

// Unwrap returns the broker's answer.
func (e *LogTruncatedError) Unwrap() error { return e.Err }

// DeliveryError ends a record whose delivery timeout passed before its
// acknowledgement came.
type DeliveryError struct {
	Topic     string
	Partition int32
	Waited    time.Duration // since the record's batch began
	Attempts  int           // sends of the batch
	// Indefinite: a send had no answer, so the record may be in the log.
	Indefinite bool
	Err        error // the last failure, nil when nothing failed but time
}

// Error says how long and how often delivery was tried.
func (e *DeliveryError) Error() string {
	outcome := "the record was not appended"
	if e.Indefinite {
		outcome = "the record may or may not have been appended"
	}
	msg := fmt.Sprintf("penstock: %s-%d: delivery timed out after %s and %d attempts; %s",
		e.Topic, e.Partition, e.Waited.Round(time.Millisecond), e.Attempts, outcome)
	if e.Err != nil {
		msg += "; last failure: " + e.Err.Error()
	}
	return msg
}

// Unwrap returns the last failure.
func (e *DeliveryError) Unwrap() error { return e.Err }

// BootstrapError means that none of the brokers answered.
type BootstrapError struct {
	Failures []BrokerFailure // in the order of asking
}

// BrokerFailure is one address and why it did not answer.
type BrokerFailure struct {
	Address string
	Err     error
}

// Error names every address and its failure.
func (e *BootstrapError) Error() string {
	var b strings.Builder
	b.WriteString("penstock: no broker answered")
	for i, f := range e.Failures {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s: %s", sep, f.Address, reason(f.Err))
	}
	return b.String()
}

// Unwrap returns the failures, for errors.Is and errors.As.
func (e *BootstrapError) Unwrap() []error {
	out := make([]error, len(e.Failures))
	for i, f := range e.Failures {
		out[i] = f.Err
	}
	return out
}

// reason is a failure in the fewest words: gRPC's own prefix left out.
func reason(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Message != "" {
		return e.Message
	}
	return err.Error()
}

// ConfigError lists every fault of the options that were given.
type ConfigError struct{ Faults []string }

// Error joins the faults.
func (e *ConfigError) Error() string {
	return "client: invalid options: " + strings.Join(e.Faults, "; ")
}

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

// IsRetriable reports whether the operation that ended with err may succeed
// later, unchanged.
func IsRetriable(err error) bool {
	if _, ok := errors.AsType[*BootstrapError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Retriable
	}
	return false
}

// IsIndefinite reports whether the operation that ended with err may
// nevertheless have happened.
func IsIndefinite(err error) bool {
	if e, ok := errors.AsType[*DeliveryError](err); ok {
		return e.Indefinite
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Indefinite
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// fromPB converts the error in a result; nil to nil.
func fromPB(e *pb.Error, broker string) *Error {
	if e == nil || e.GetCode() == pb.ErrorCode_ERROR_CODE_UNSPECIFIED {
		return nil
	}
	return &Error{
		Code: Code(e.GetCode()), Message: e.GetMessage(), Topic: e.GetTopic(), Partition: e.GetPartition(),
		Broker: broker, Retriable: e.GetRetriable(), Indefinite: e.GetIndefinite(), leader: e.GetLeader(),
	}
}

// fromRPC converts the error of a whole call: the typed detail where there is
// one, and the transport's own otherwise. The caller's context error is kept for
// errors.Is.
func fromRPC(err error, broker string) *Error {
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if e, ok := d.(*pb.Error); ok {
			out := fromPB(e, broker)
			if out != nil {
				out.Err = err
				return out
			}
		}
	}
	out := &Error{Code: CodeUnknown, Message: plainly(st.Message()), Partition: -1, Broker: broker, Err: err}
	switch st.Code() {
	case codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.OK:
		out.Retriable, out.Indefinite = true, true
	case codes.DeadlineExceeded:
		out.Retriable, out.Indefinite = true, true
		out.Message, out.Err = "no answer in time", errors.Join(context.DeadlineExceeded, err)
	case codes.Canceled:
		out.Indefinite = true
		out.Err = errors.Join(context.Canceled, err)
	case codes.Unimplemented:
		out.Code = CodeUnsupported
	default:
	}
	return out
}

// plainly says what a transport failed with without gRPC's wrapping, and where the words
// are those of a connection to something else, that it is no broker.
func plainly(message string) string {
	for _, other := range []string{"error reading server preface", "unexpected HTTP status code", "malformed header"} {
		if strings.Contains(message, other) {
			return "what listens there does not speak gRPC: want the address that a broker has as listen.grpc (" + other + ")"
		}
	}
	if inner, ok := strings.CutPrefix(message, "connection error: desc = "); ok {
		if text, err := strconv.Unquote(inner); err == nil {
			message = text
		}
	}
	return strings.TrimPrefix(message, "transport: Error while dialing: ")
}

// rewrap gives the error of one result the form of a failed call's, so that the
// whole call is tried again.
func rewrap(e *pb.Error) error {
	st, err := status.New(codes.Unavailable, e.GetMessage()).WithDetails(e)
	if err != nil {
		return status.Error(codes.Unavailable, e.GetMessage())
	}
	return st.Err()
}
