package partition

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// EventKind says what happened. Each kind has a constructor, which documents
// what the shell must know before it feeds the event.
type EventKind int8

// The kinds of events.
const (
	EventAssign EventKind = iota + 1
	EventOpened
	EventAppended
	EventWait
	EventProgress
	EventLogStart
	EventTrim
	EventLogFailed
	EventLogDamaged
	EventHandshake
	EventRefused
	EventAck
	EventSessionGone
	EventProposalResult
	EventTick
	EventSuspend
	EventDrain
	EventBegin
	EventReply
	EventTruncated
	EventPush
	EventStreamGone
)

// Event is flat and passed by value; fields that a kind does not use hold the
// zero value.
type Event struct {
	Kind        EventKind
	Acks        Acks
	Outcome     Outcome
	Matched     bool
	Begin       bool
	On          bool
	Node        int32
	BrokerEpoch int64
	// Epoch is the leader epoch that a message carries.
	Epoch   record.Epoch
	Session uint64

	// LastEpoch and AnswerEpoch are epochs of batches.
	LastEpoch   record.Epoch
	AnswerEpoch record.Epoch
	AnswerEnd   record.Offset
	LocalEpoch  record.Epoch
	LocalEnd    record.Offset

	From     record.Offset
	To       record.Offset
	Written  record.Offset
	Flushed  record.Offset
	HW       record.Offset
	LogStart record.Offset
	// FirstBatch is where the batch begins that holds LogStart, at it or below.
	FirstBatch record.Offset

	PartitionEpoch int32
	Handle         uint64
	Deadline       time.Time

	Log        LogState
	Assignment *Assignment
	Heard      []Heard
}

// LogState is what the shell knows of the replica's log.
type LogState struct {
	Start     record.Offset
	End       record.Offset // LEO
	Flushed   record.Offset // what is durable now
	LastEpoch record.Epoch  // of the last batch; -1: empty
	// HW is the checkpointed high watermark, a lower bound of the real one.
	HW record.Offset
	// MustHave is the flushed offset of the checkpoint: what was durable before
	// the restart. An End below it means lost bytes.
	MustHave record.Offset
	Damage   Damage
}

// Heard is when a follower was last heard on either of its replication streams.
type Heard struct {
	Node int32
	At   time.Time
}

// Assign feeds what the metadata image says of the partition. An assignment
// older than the one in force is ignored; the same one again changes nothing.
// The machine keeps a; the caller must not change it afterwards.
func Assign(a *Assignment) Event { return Event{Kind: EventAssign, Assignment: a} }

// Opened replaces what the machine knows of its log, after [EffectRebuild] was
// carried out.
func Opened(l LogState) Event { return Event{Kind: EventOpened, Log: l} }

// Appended says that the local log now holds [from, to). On a leader, handle
// names the produce request that waits (not used with AcksNone); Admit must have
// allowed it under the same lock.
func Appended(from, to record.Offset, acks Acks, handle uint64, deadline time.Time) Event {
	return Event{Kind: EventAppended, From: from, To: to, Acks: acks, Handle: handle, Deadline: deadline}
}

// AppendedFollower says that the push that [EffectAppend] let through is in the
// local log, which now ends at to.
func AppendedFollower(to record.Offset) Event {
	return Event{Kind: EventAppended, To: to, Acks: AcksNone}
}

// Wait makes a request wait for what is in the log already: a duplicate of an
// idempotent producer, whose last record ends at to.
func Wait(to record.Offset, acks Acks, handle uint64, deadline time.Time) Event {
	return Event{Kind: EventWait, To: to, Acks: acks, Handle: handle, Deadline: deadline}
}

// Progress says how far the local log is written to its file and flushed. The
// shell reads both from the log under the replica's lock: values that travelled
// through a callback may predate a truncation.
func Progress(written, flushed record.Offset) Event {
	return Event{Kind: EventProgress, Written: written, Flushed: flushed}
}

// LogStart says that the local log begins at start, durably: retention, a delete,
// or [EffectLogStart] moved it.
func LogStart(start record.Offset) Event { return Event{Kind: EventLogStart, LogStart: start} }

// Trim makes a request to delete records wait until the log of every in-sync
// replica begins, durably, at or after before. AdmitTrim must have allowed it; the
// shell has moved the start of its own log and fed LogStart.
func Trim(before record.Offset, handle uint64, deadline time.Time) Event {
	return Event{Kind: EventTrim, To: before, Handle: handle, Deadline: deadline}
}

// LogFailed says that the local log refuses work for good (failed flush).
func LogFailed() Event { return Event{Kind: EventLogFailed} }

// LogDamaged says that durable bytes turned out not to be what was written. The log
// still gives what is whole of it, and takes nothing.
func LogDamaged(d Damage) Event { return Event{Kind: EventLogDamaged, Log: LogState{Damage: d}} }

// Handshake is a follower's, to a leader. answerEpoch and answerEnd are what the
// local log answers for lastEpoch: its largest epoch at or below, and the end of
// that; (-1, log start) when there is none. logStart is where the local log begins, durably,
// and firstBatch where the batch begins that holds it: at it, or below when records inside of
// a batch were deleted. The shell looks all of them up in one log: when that began elsewhere
// after the first look, it looks again.
func Handshake(node int32, brokerEpoch int64, epoch record.Epoch, session uint64, lastEpoch record.Epoch,
	end, flushed record.Offset, answerEpoch record.Epoch, answerEnd, logStart, firstBatch record.Offset,
) Event {
	return Event{
		Kind: EventHandshake, Node: node, BrokerEpoch: brokerEpoch, Epoch: epoch, Session: session,
		LastEpoch: lastEpoch, To: end, Flushed: flushed, AnswerEpoch: answerEpoch, AnswerEnd: answerEnd,
		LogStart: logStart, FirstBatch: firstBatch,
	}
}

// Refused is a follower's whose log ends at end, that holds committed records up to
// committed and would have to cut its log below for this leader, whose log answers
// answerEnd for the epoch of the follower's last batch: as far as the two can agree.
// firstBatch is as with Handshake.
func Refused(node int32, brokerEpoch int64, epoch record.Epoch, session uint64, committed, end, answerEnd, firstBatch record.Offset) Event {
	return Event{
		Kind: EventRefused, Node: node, BrokerEpoch: brokerEpoch, Epoch: epoch, Session: session,
		HW: committed, To: end, AnswerEnd: answerEnd, FirstBatch: firstBatch,
	}
}

// Ack is a follower's, cumulative: its log ends at appended, everything below
// flushed is durable there, and it begins, durably, at logStart.
func Ack(node int32, epoch record.Epoch, session uint64, appended, flushed, logStart record.Offset) Event {
	return Event{Kind: EventAck, Node: node, Epoch: epoch, Session: session, To: appended, Flushed: flushed, LogStart: logStart}
}

// SessionGone says that a follower's session ended: its stream broke or, if
// withdrawn, the follower said that it will not go on (its log failed, it shuts
// down), which proposes it out at once.
func SessionGone(node int32, session uint64, withdrawn bool) Event {
	return Event{Kind: EventSessionGone, Node: node, Session: session, On: withdrawn}
}

// ProposalResult answers [EffectProposeISR]. outcome is OutcomeOK (committed; the
// image that shows it may come later), OutcomeRefused only when the controller
// refused for another reason than a stale partition or leader epoch, and
// OutcomeUnknown for all else.
func ProposalResult(partitionEpoch int32, outcome Outcome) Event {
	return Event{Kind: EventProposalResult, PartitionEpoch: partitionEpoch, Outcome: outcome}
}

// Tick lets time pass: lag, silence, timeouts, repeated proposals. Due every
// 100 to 500 ms on leaders and where RefusesLead; followers need none. heard is shared by all
// partitions of the broker and only read.
func Tick(heard []Heard) Event { return Event{Kind: EventTick, Heard: heard} }

// Suspend (on) says that this broker has had no controller for its session: it
// stops acting as leader until resumed. Waiters fail, HW stands still.
func Suspend(on bool) Event { return Event{Kind: EventSuspend, On: on} }

// Drain (on) begins a controlled hand-over: new produce is refused, what was
// appended is committed, and [EffectDrained] says when that is done.
func Drain(on bool) Event { return Event{Kind: EventDrain, On: on} }

// Begin asks a follower for the handshake of a new session. session is greater
// than every earlier one of this broker process; lastEpoch is the log's.
func Begin(session uint64, lastEpoch record.Epoch) Event {
	return Event{Kind: EventBegin, Session: session, LastEpoch: lastEpoch}
}

// Reply is the leader's answer to a handshake. localEpoch and localEnd are what
// the follower's own log answers for answerEpoch.
func Reply(epoch record.Epoch, session uint64, outcome Outcome, matched, begin bool,
	answerEpoch record.Epoch, answerEnd record.Offset, logStart, hw record.Offset,
	localEpoch record.Epoch, localEnd record.Offset,
) Event {
	return Event{
		Kind: EventReply, Epoch: epoch, Session: session, Outcome: outcome, Matched: matched, Begin: begin,
		AnswerEpoch: answerEpoch, AnswerEnd: answerEnd, LogStart: logStart, HW: hw,
		LocalEpoch: localEpoch, LocalEnd: localEnd,
	}
}

// Truncated says that [EffectTruncate] or [EffectReset] was carried out and
// synced; l is the log as it is now (HW, MustHave and Damage are not read).
func Truncated(l LogState) Event { return Event{Kind: EventTruncated, Log: l} }

// Push is the leader's: batches that cover [from, to), or only a watermark when
// from equals to.
func Push(epoch record.Epoch, session uint64, from, to, hw, logStart record.Offset) Event {
	return Event{Kind: EventPush, Epoch: epoch, Session: session, From: from, To: to, HW: hw, LogStart: logStart}
}

// StreamGone says that the follower's stream to its leader broke: the session is over.
func StreamGone(session uint64) Event { return Event{Kind: EventStreamGone, Session: session} }
