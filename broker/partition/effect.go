package partition

import "github.com/penstock/penstock/log/record"

// EffectKind says what the shell has to do.
type EffectKind int8

// The kinds of effects, with the fields of [Effect] that they fill.
const (
	// EffectRole: the replica's role changed. Role, Node (the leader; -1: none),
	// Epoch (leader epoch). A follower (re)starts its session with Node; a new
	// leader begins to serve; all else stops following and serving.
	EffectRole EffectKind = iota + 1
	// EffectComplete: answer the request Handle (produce, or delete records) with
	// Outcome.
	EffectComplete
	// EffectWatermark: HW moved to HW. Wake consumers and idle sessions, hand it
	// to the log's lazy checkpoint.
	EffectWatermark
	// EffectPushable: a leader's log grew. Wake the sessions of its followers.
	EffectPushable
	// EffectHandshakeReply: send the follower Node its answer: Session, Epoch,
	// Outcome, Matched, Begin, AnswerEpoch, Offset (end of it), LogStart, HW. If
	// Matched, pushes follow from the follower's LEO. If Begin, LogStart is where the
	// first batch begins.
	EffectHandshakeReply
	// EffectEndSession: the session Session of follower Node is over: push no more.
	EffectEndSession
	// EffectProposeISR: ask the controller for the ISR in Effects.Members, given
	// Epoch (leader epoch) and PartitionEpoch. At most one a step; every one is
	// answered with ProposalResult. A set without this broker is its resignation, an
	// empty one that in favour of an eligible leader (ELR). Effects.Damaged and
	// Effects.Failed say more of who leaves.
	EffectProposeISR
	// EffectFollowerDamaged: in-sync follower Node came back with a log that ends
	// at Offset, below HW: it lost acknowledged bytes, and is being proposed out.
	EffectFollowerDamaged
	// EffectFollowerLeaves: follower Node, which the metadata counts on, has to begin anew
	// at Offset, below the end of its log. It is being proposed out, and begins when
	// nobody counts on it.
	EffectFollowerLeaves
	// EffectLostCommitted: an in-sync or eligible follower (Node) holds committed records up to HW
	// that this leader's log, the same only up to Offset, has lost. Report it. It
	// resigns.
	EffectLostCommitted
	// EffectDrained: everything appended is committed; the hand-over may go on.
	EffectDrained
	// EffectRefusedLead: the replica was asked to lead but holds less (Offset)
	// than it acknowledged (End), or is damaged (Damage). Report it. It resigns.
	EffectRefusedLead
	// EffectOffline: the log failed, or a follower's is damaged (Damage). Report it;
	// nothing more is acknowledged.
	EffectOffline

	// EffectHandshake: the follower's opening: Epoch, Session, AnswerEpoch (of its
	// last batch), Offset (LEO), LogStart, Flushed. HW is not 0 when it only tells a
	// leader of committed records that it lacks (Refused).
	EffectHandshake
	// EffectTruncate: truncate the log to Offset, sync, answer Truncated. Until
	// then the machine defers assignments and drops everything else.
	EffectTruncate
	// EffectReset: empty the log, begin it at Offset, sync, answer Truncated. Above 0
	// it begins with the producer state that the leader sent for that offset.
	EffectReset
	// EffectRefusedTruncation: truncation to Offset, below HW, would lose
	// committed records and the election was a clean one. The replica stays as it
	// is until the next leader epoch. Report it.
	EffectRefusedTruncation
	// EffectFollowing: the logs match; pushes of Session follow.
	EffectFollowing
	// EffectAppend: append the batches of the push that cover [Offset, End), then
	// feed AppendedFollower.
	EffectAppend
	// EffectAck: tell the leader: Epoch, Session, Offset (appended), Flushed,
	// LogStart (the durable one). Written is for returning byte credit.
	EffectAck
	// EffectLogStart: advance the log's start to Offset, persist it, feed LogStart.
	EffectLogStart
	// EffectDrop: the message was not of the current (leader epoch, session).
	EffectDrop
	// EffectAgain: open a new session (after a short pause if this repeats).
	EffectAgain
	// EffectHold: no handshake may be sent now: no leader is known, or the replica
	// is damaged and the image still counts on it.
	EffectHold
	// EffectRebuild: the damaged log (Damage) may be set aside now, for the image
	// shows the replica outside ISR, ELR and LastISR, and another leads: begin an
	// empty one and feed Opened.
	EffectRebuild
)

// Effect is flat and passed by value; see the kinds for the fields in use.
type Effect struct {
	Kind           EffectKind
	Role           Role
	Outcome        Outcome
	Damage         Damage
	Matched        bool
	Begin          bool
	Node           int32
	PartitionEpoch int32
	Epoch          record.Epoch
	AnswerEpoch    record.Epoch
	Session        uint64
	Handle         uint64
	Offset         record.Offset
	End            record.Offset
	Written        record.Offset
	Flushed        record.Offset
	HW             record.Offset
	LogStart       record.Offset
}

// Effects collects what a step asks for. The caller owns and reuses it.
type Effects struct {
	List []Effect
	// Members is the set of the EffectProposeISR in List, in ascending node id.
	Members []Member
	// Damaged are those who leave with it and must not become eligible leaders
	// (IsrChange.damaged): they lost acknowledged bytes, or are about to begin anew.
	Damaged []int32
	// Failed are those who leave because their logs refuse work, and who hold all that
	// they acknowledged (IsrChange.failed): they stay eligible.
	Failed []int32
}

// Reset empties e and keeps its memory.
func (e *Effects) Reset() {
	e.List = e.List[:0]
	e.Members = e.Members[:0]
	e.Damaged = e.Damaged[:0]
	e.Failed = e.Failed[:0]
}

func (e *Effects) add(ef Effect) { e.List = append(e.List, ef) }
