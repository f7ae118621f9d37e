package grpcapi

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/broker/api"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Addresses names the address of a broker as clients of a listener see it.
type Addresses interface {
	// Address is empty when the broker or its listener is not known.
	Address(nodeID int32, listener string) string
}

// errorOut converts an error to its message, nil to nil.
func errorOut(ctx context.Context, e *api.Error, addresses Addresses) *pb.Error {
	if e == nil {
		return nil
	}
	out := &pb.Error{
		Code:       pb.ErrorCode(e.Code),
		Message:    e.Message,
		Topic:      e.Topic,
		Partition:  e.Partition,
		Retriable:  e.Code.Retriable(),
		Indefinite: e.Code.Indefinite(),
	}
	if out.Message == "" {
		out.Message = e.Code.String()
	}
	if e.Leader != nil {
		address := e.Leader.Address
		if address == "" && e.Leader.NodeID >= 0 && addresses != nil {
			address = addresses.Address(e.Leader.NodeID, listenerOf(ctx))
		}
		out.Leader = &pb.LeaderHint{NodeId: e.Leader.NodeID, LeaderEpoch: e.Leader.LeaderEpoch, Address: address}
	}
	return out
}

// statusError converts err to the status error of a whole call. Errors that
// carry a status, and those of a context, keep theirs.
func statusError(ctx context.Context, err error, addresses Addresses) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		st := status.New(grpcCode(e.Code), e.Error())
		if detailed, detailErr := st.WithDetails(errorOut(ctx, e, addresses)); detailErr == nil {
			st = detailed
		}
		return st.Err()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return statusError(ctx, &api.Error{Code: api.CodeUnknown, Message: err.Error(), Partition: -1}, addresses)
}

// grpcCode is the status code for tools that know nothing of penstock.v1.Error.
func grpcCode(c api.Code) codes.Code {
	switch c {
	case api.CodeNone:
		return codes.OK
	case api.CodeUnknownTopic, api.CodeUnknownPartition, api.CodeUnknownGroup, api.CodeUnknownBroker:
		return codes.NotFound
	case api.CodeTopicExists:
		return codes.AlreadyExists
	case api.CodeInvalidTopic, api.CodeInvalidPartitions, api.CodeInvalidReplicationFactor, api.CodeInvalidConfig,
		api.CodeInvalidArgument, api.CodeCorruptBatch, api.CodeRecordTooLarge, api.CodeUnsupportedCodec,
		api.CodeInvalidTimestamp, api.CodeInvalidGroupID, api.CodeInvalidCommitOffset, api.CodeOffsetMetadataTooLarge,
		api.CodeInvalidRecord, api.CodePolicyViolation, api.CodeInvalidSessionTimeout, api.CodeInvalidPattern,
		api.CodeTooManySubscriptions, api.CodeUnknownAssignor, api.CodeInconsistentProtocol, api.CodeInvalidReplicaAssignment:
		return codes.InvalidArgument
	case api.CodeOffsetOutOfRange:
		return codes.OutOfRange
	case api.CodeRequestTimedOut:
		return codes.DeadlineExceeded
	case api.CodeDiskFull, api.CodeOverloaded, api.CodeRequestTooLarge, api.CodeGroupFull:
		return codes.ResourceExhausted
	case api.CodeUnsupported:
		return codes.Unimplemented
	case api.CodeOffsetNotAvailable, api.CodeNotLeader, api.CodeLeaderNotAvailable, api.CodeNotEnoughReplicas,
		api.CodeNotEnoughReplicasAfterAppend, api.CodeNotController, api.CodeCoordinatorNotAvailable,
		api.CodeCoordinatorLoading, api.CodeNotCoordinator, api.CodeShuttingDown, api.CodeRebalanceInProgress:
		return codes.Unavailable
	case api.CodeFencedLeaderEpoch, api.CodeUnknownLeaderEpoch, api.CodeStaleBrokerEpoch, api.CodeInvalidUpdateVersion,
		api.CodeUnknownMember, api.CodeFencedMemberEpoch, api.CodeStaleMemberEpoch, api.CodeGroupNotEmpty,
		api.CodeOutOfOrderSequence, api.CodeInvalidProducerEpoch, api.CodeUnknownProducerID, api.CodeIdentityConflict,
		api.CodeFencedInstanceID, api.CodeIllegalGeneration, api.CodeMemberIDRequired,
		api.CodeNoReassignmentInProgress, api.CodeElectionNotNeeded, api.CodePreferredLeaderNotAvailable:
		return codes.FailedPrecondition
	case api.CodeStorageFailed:
		return codes.Internal
	case api.CodeUnknown:
		return codes.Unknown
	default:
		return codes.Unknown
	}
}
