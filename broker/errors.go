package broker

import (
	"context"
	"errors"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
)

// outcomeError maps how a request ended in the state machine; nil for success.
func outcomeError(o partition.Outcome) *api.Error {
	switch o {
	case partition.OutcomeOK:
		return nil
	case partition.OutcomeNotLeader:
		return api.Errorf(api.CodeNotLeader, "this broker does not lead the partition")
	case partition.OutcomeNotEnoughReplicas:
		return api.Errorf(api.CodeNotEnoughReplicas, "fewer replicas are in sync than min.insync.replicas asks for; nothing was appended")
	case partition.OutcomeNotEnoughReplicasAfterAppend:
		return api.Errorf(api.CodeNotEnoughReplicasAfterAppend, "appended, but the in-sync set shrank below min.insync.replicas before the acknowledgement")
	case partition.OutcomeTimedOut:
		return api.Errorf(api.CodeRequestTimedOut, "the in-sync replicas did not acknowledge in time; the records may still be committed")
	case partition.OutcomeStorageFailed:
		return api.Errorf(api.CodeStorageFailed, "the replica is out of service: its log failed")
	case partition.OutcomeFencedEpoch:
		return api.Errorf(api.CodeFencedLeaderEpoch, "the leader epoch is an old one")
	case partition.OutcomeUnknownEpoch:
		return api.Errorf(api.CodeUnknownLeaderEpoch, "the leader epoch is ahead of this broker's metadata")
	case partition.OutcomeStaleBroker:
		return api.Errorf(api.CodeStaleBrokerEpoch, "the broker epoch is an old one")
	case partition.OutcomeNotReplica:
		return api.Errorf(api.CodeUnknownPartition, "the asking broker holds no replica of the partition")
	case partition.OutcomeDamaged:
		return api.Errorf(api.CodeStorageFailed, "the follower lost acknowledged records and must leave the in-sync set first")
	case partition.OutcomeCountedOn:
		return api.Errorf(api.CodeStorageFailed, "the follower has to begin anew, below the end of its log, and must leave the in-sync set first")
	case partition.OutcomeOffsetNotAvailable:
		return api.Errorf(api.CodeOffsetNotAvailable, "the new leader does not know yet how far the log is committed")
	case partition.OutcomeOffsetOutOfRange:
		return api.Errorf(api.CodeOffsetOutOfRange, "the offset is past the high watermark")
	case partition.OutcomeRefused, partition.OutcomeUnknown:
		fallthrough
	default:
		return api.Errorf(api.CodeUnknown, "the outcome is not known (%s)", o)
	}
}

// batchError maps why a batch was refused at the door. Only CodeCorruptBatch says that
// the same batch, sent again, may arrive better: Kafka clients do so until their
// delivery times out.
func batchError(err error) *api.Error {
	code := api.CodeCorruptBatch
	switch {
	case errors.Is(err, record.ErrTooLarge):
		code = api.CodeRecordTooLarge
	case errors.Is(err, record.ErrUnsupportedCodec):
		code = api.CodeUnsupportedCodec
	case errors.Is(err, record.ErrInvalidTimestamp):
		code = api.CodeInvalidTimestamp
	case errors.Is(err, record.ErrMalformed), errors.Is(err, record.ErrNotAllowed), errors.Is(err, record.ErrNoKey):
		code = api.CodeInvalidRecord
	}
	if code == api.CodeRecordTooLarge {
		return api.Errorf(code, "the batch is above the topic's max.message.bytes: %w", err)
	}
	return api.Errorf(code, "%w", err)
}

// proposalError maps the error of a proposal to the controller.
func proposalError(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*metadata.Error](err); ok {
		return &api.Error{Code: api.Code(e.Code), Message: e.Message, Partition: -1, Err: err}
	}
	switch {
	case errors.Is(err, cluster.ErrOutcomeUnknown):
		return api.Errorf(api.CodeRequestTimedOut, "the controller did not answer in time; the change may still be applied: %w", err)
	case errors.Is(err, cluster.ErrNoController):
		return api.Errorf(api.CodeNotController, "no controller can be reached: most of the voters may be down: %w", err)
	case errors.Is(err, cluster.ErrClosed):
		return api.Errorf(api.CodeShuttingDown, "this broker is stopping: %w", err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeRequestTimedOut, "the controller did not answer in time; the change may still be applied: %w", err)
	default:
		return api.Errorf(api.CodeUnknown, "%w", err)
	}
}
