package kafka

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/penstock/penstock/broker/api"
)

// kafkaError makes an error of the door itself: one that Kafka has a code for and
// the broker has not.
func kafkaError(code *kerr.Error, format string, args ...any) *api.Error {
	e := api.Errorf(api.CodeInvalidArgument, format, args...)
	e.Err = code
	return e
}

// codeOf is Kafka's code for an error; 0 for none.
func codeOf(e *api.Error) int16 {
	if e == nil {
		return 0
	}
	if own, ok := e.Err.(*kerr.Error); ok { //nolint:errorlint // kafkaError puts it there bare.
		return own.Code
	}
	return kafkaCode(e.Code).Code
}

// asError makes the broker's error of any.
func asError(err error) *api.Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return api.Errorf(api.CodeRequestTimedOut, "it took too long; it may still happen: %w", err)
	}
	return api.Errorf(api.CodeUnknown, "%w", err)
}

// kafkaCode maps the broker's codes to those that Kafka's brokers answer with in
// the same case. Clients act by the code: whether they ask again, whom, and
// whether they look the leader up first.
func kafkaCode(c api.Code) *kerr.Error {
	switch c {
	case api.CodeUnknownTopic, api.CodeUnknownPartition:
		return kerr.UnknownTopicOrPartition
	case api.CodeInvalidTopic:
		return kerr.InvalidTopicException
	case api.CodeTopicExists:
		return kerr.TopicAlreadyExists
	case api.CodeInvalidPartitions:
		return kerr.InvalidPartitions
	case api.CodeInvalidReplicationFactor:
		return kerr.InvalidReplicationFactor
	case api.CodeInvalidConfig:
		return kerr.InvalidConfig
	case api.CodeInvalidArgument, api.CodeIdentityConflict:
		return kerr.InvalidRequest
	case api.CodeCorruptBatch:
		return kerr.CorruptMessage
	case api.CodeRecordTooLarge, api.CodeRequestTooLarge:
		return kerr.MessageTooLarge
	case api.CodeUnsupportedCodec:
		return kerr.UnsupportedCompressionType
	case api.CodeInvalidTimestamp:
		return kerr.InvalidTimestamp
	case api.CodeOffsetOutOfRange:
		return kerr.OffsetOutOfRange
	case api.CodeOffsetNotAvailable:
		return kerr.OffsetNotAvailable
	case api.CodeNotLeader, api.CodeLeaderNotAvailable:
		// LEADER_NOT_AVAILABLE is a word of Metadata alone.
		return kerr.NotLeaderForPartition
	case api.CodeFencedLeaderEpoch:
		return kerr.FencedLeaderEpoch
	case api.CodeUnknownLeaderEpoch:
		return kerr.UnknownLeaderEpoch
	case api.CodeNotEnoughReplicas:
		return kerr.NotEnoughReplicas
	case api.CodeOverloaded:
		// Kafka has no word for it. This one says that nothing was appended, and every
		// client sends again after a pause.
		return kerr.NotEnoughReplicas
	case api.CodeNotEnoughReplicasAfterAppend:
		return kerr.NotEnoughReplicasAfterAppend
	case api.CodeRequestTimedOut:
		return kerr.RequestTimedOut
	case api.CodeStorageFailed, api.CodeDiskFull:
		return kerr.KafkaStorageError
	case api.CodeNotController:
		return kerr.NotController
	case api.CodeStaleBrokerEpoch:
		return kerr.StaleBrokerEpoch
	case api.CodeInvalidUpdateVersion:
		return kerr.InvalidUpdateVersion
	case api.CodeInvalidReplicaAssignment:
		return kerr.InvalidReplicaAssignment
	case api.CodeNoReassignmentInProgress:
		return kerr.NoReassignmentInProgress
	case api.CodeElectionNotNeeded:
		return kerr.ElectionNotNeeded
	case api.CodePreferredLeaderNotAvailable:
		return kerr.PreferredLeaderNotAvailable
	default:
		return groupCode(c)
	}
}

// groupCode is kafkaCode for groups, producers and the rest.
func groupCode(c api.Code) *kerr.Error {
	switch c {
	case api.CodeCoordinatorNotAvailable:
		return kerr.CoordinatorNotAvailable
	case api.CodeCoordinatorLoading:
		return kerr.CoordinatorLoadInProgress
	case api.CodeNotCoordinator, api.CodeShuttingDown:
		return kerr.NotCoordinator
	case api.CodeInvalidGroupID:
		return kerr.InvalidGroupID
	case api.CodeUnknownMember:
		return kerr.UnknownMemberID
	case api.CodeFencedMemberEpoch:
		return kerr.FencedMemberEpoch
	case api.CodeStaleMemberEpoch:
		return kerr.StaleMemberEpoch
	case api.CodeFencedInstanceID:
		return kerr.FencedInstanceID
	case api.CodeIllegalGeneration:
		return kerr.IllegalGeneration
	case api.CodeRebalanceInProgress:
		return kerr.RebalanceInProgress
	case api.CodeInconsistentProtocol:
		return kerr.InconsistentGroupProtocol
	case api.CodeMemberIDRequired:
		return kerr.MemberIDRequired
	case api.CodeInvalidSessionTimeout:
		return kerr.InvalidSessionTimeout
	case api.CodeInvalidPattern:
		return kerr.InvalidRegularExpression
	case api.CodeTooManySubscriptions:
		return kerr.InvalidRequest
	case api.CodeUnknownAssignor:
		return kerr.UnsupportedAssignor
	case api.CodeGroupFull:
		return kerr.GroupMaxSizeReached
	case api.CodeGroupNotEmpty:
		return kerr.NonEmptyGroup
	case api.CodeUnknownGroup:
		return kerr.GroupIDNotFound
	case api.CodeInvalidCommitOffset:
		return kerr.InvalidCommitOffsetSize
	case api.CodeOffsetMetadataTooLarge:
		return kerr.OffsetMetadataTooLarge
	case api.CodeOutOfOrderSequence:
		return kerr.OutOfOrderSequenceNumber
	case api.CodeInvalidProducerEpoch:
		return kerr.InvalidProducerEpoch
	case api.CodeUnknownProducerID:
		return kerr.UnknownProducerID
	case api.CodeUnsupported:
		return kerr.UnsupportedVersion
	case api.CodeInvalidRecord:
		return kerr.InvalidRecord
	case api.CodePolicyViolation:
		return kerr.PolicyViolation
	default:
		return kerr.UnknownServerError
	}
}

// messageOf is what a person may read; nil for no error.
func messageOf(e *api.Error) *string {
	if e == nil {
		return nil
	}
	text := e.Message
	if text == "" {
		text = e.Code.String()
	}
	return &text
}

// leaders collects the leaders that an answer points to (KIP-951).
type leaders struct{ ids []int32 }

// note returns the leader that err names, -1 and -1 for none.
func (l *leaders) note(err *api.Error) (id, epoch int32) {
	if err == nil || err.Leader == nil || err.Leader.NodeID < 0 {
		return -1, -1
	}
	if !slices.Contains(l.ids, err.Leader.NodeID) {
		l.ids = append(l.ids, err.Leader.NodeID)
	}
	return err.Leader.NodeID, err.Leader.LeaderEpoch
}

// endpoint is a broker as clients of a listener reach it.
type endpoint struct {
	id   int32
	host string
	port int32
}

// endpoints finds brokers; those that have no Kafka door are left out.
func (d *Door) endpoints(ids []int32, listener string) []endpoint {
	var out []endpoint
	for _, id := range ids {
		if host, port, ok := hostPort(d.services.Cluster.KafkaAddress(id, listener)); ok {
			out = append(out, endpoint{id: id, host: host, port: port})
		}
	}
	return out
}
