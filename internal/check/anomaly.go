package check

// Anomaly names what is wrong with a history.
type Anomaly string

// The anomalies. "Read" without more is read by a poll that ended OK; "acked" is
// a send with acks=all that ended OK; "before" is by the order of the history.
const (
	// Malformed: the history contradicts itself (a completion without an
	// invocation, a value sent twice), so that nothing else can be believed.
	Malformed Anomaly = "malformed-history"

	// InconsistentOffsets: two values at one offset.
	InconsistentOffsets Anomaly = "inconsistent-offsets"
	// Duplicate: one value at two offsets.
	Duplicate Anomaly = "duplicate"
	// DuplicatePlain: the same, where a producer that is not idempotent had
	// reason to send twice. Allowed.
	DuplicatePlain Anomaly = "duplicate-plain"
	// G1a: a value was read whose send failed.
	G1a Anomaly = "G1a"
	// UnwrittenRead: a value was read that nobody sent.
	UnwrittenRead Anomaly = "unwritten-read"
	// LostWrite: an acked value was never read although a later one was. Later is
	// strict where values are at several offsets: the bound is the greatest first
	// offset of a value that was read, and only values whose last offset is at or
	// below it must have been read.
	LostWrite Anomaly = "lost-write"
	// LostWriteWeak: the same of a send with acks=1. Allowed.
	LostWriteWeak Anomaly = "lost-write-weak"
	// Unseen: an acked value, no lost write, was never read: a tail that is gone,
	// or that nobody gets to.
	Unseen Anomaly = "unseen"
	// UnseenWeak: the same of sends with acks=1 and 0. Allowed.
	UnseenWeak Anomaly = "unseen-weak"
	// Vanished: a value was read, but not in the final phase.
	Vanished Anomaly = "vanished"

	// PollSkip: a process reads on beyond its position although the log has
	// records between. The position is after the last record read, or where an
	// assignment began.
	PollSkip Anomaly = "poll-skip"
	// NonmonotonicPoll: a process reads on below its position.
	NonmonotonicPoll Anomaly = "nonmonotonic-poll"
	// IntPollSkip and IntNonmonotonicPoll are the same inside one poll.
	IntPollSkip         Anomaly = "int-poll-skip"
	IntNonmonotonicPoll Anomaly = "int-nonmonotonic-poll"

	// NonmonotonicSend: of two acked sends of a process to a partition the later
	// has the lower offset. Two sends of a producer that is not idempotent count
	// when the first was acked before the second began.
	NonmonotonicSend Anomaly = "nonmonotonic-send"
	// IntNonmonotonicSend is the same inside one op.
	IntNonmonotonicSend Anomaly = "int-nonmonotonic-send"
	// StaleSend: a send was acked at an offset below a watermark that was known
	// before it began. Two leaders take turns.
	StaleSend Anomaly = "stale-send"

	// ReadPastWatermark: an answer held a record at or past its own watermark.
	ReadPastWatermark Anomaly = "read-past-watermark"
	// WatermarkRegress: a leader said that the log ends below what was acked,
	// read or said before; in one leader epoch, if the answer names it.
	WatermarkRegress Anomaly = "watermark-regress"
	// LogStartRegress: a leader said that the log starts below what was said before, in
	// one leader epoch, if the answer names it; or below what a deletion had been
	// acknowledged for, longer than Options.Stale ago, or when its epoch had not been
	// seen yet.
	LogStartRegress Anomaly = "log-start-regress"
	// LogStartRewound: the same of another leader epoch, and no deletion so far had been
	// acknowledged: the leader died before its followers had heard of it. Allowed.
	LogStartRewound Anomaly = "log-start-rewound"
	// LogStartOverrun: somebody said that the log starts beyond everything that was
	// asked to be deleted by then. Of partitions whose deletions are in the history,
	// and that have no retention.
	LogStartOverrun Anomaly = "log-start-overrun"
	// ReadBelowStart: a process that began to read a partition after a deletion had
	// been acknowledged read a record below it. Before the final phase the deletion must
	// be older than Options.Stale.
	ReadBelowStart Anomaly = "read-below-start"

	// OverlappingOwnership: two members of a group were given a partition in one
	// epoch, or one gave it back in good order after another, of a later epoch,
	// had it.
	OverlappingOwnership Anomaly = "overlapping-ownership"
	// ZombieCommit: a commit was accepted that began after another member had
	// been given the partition in a later epoch than the committer.
	ZombieCommit Anomaly = "zombie-commit-accepted"
	// CommittedRegress: a committed offset was found that had been overwritten
	// before, or none where there was one.
	CommittedRegress Anomaly = "committed-regress"
	// CommittedUnwritten: a committed offset was found that nobody committed.
	CommittedUnwritten Anomaly = "committed-unwritten"
)

// Anomalies lists them all, in the order of reports.
func Anomalies() []Anomaly {
	return []Anomaly{
		Malformed, InconsistentOffsets, Duplicate, DuplicatePlain, G1a, UnwrittenRead, LostWrite, LostWriteWeak, Unseen, UnseenWeak, Vanished,
		PollSkip, NonmonotonicPoll, IntPollSkip, IntNonmonotonicPoll, NonmonotonicSend, IntNonmonotonicSend, StaleSend,
		ReadPastWatermark, WatermarkRegress, LogStartRegress, LogStartRewound, LogStartOverrun, ReadBelowStart,
		OverlappingOwnership, ZombieCommit, CommittedRegress, CommittedUnwritten,
	}
}

// allowed reports whether a system that keeps all promises may show a.
func allowed(a Anomaly) bool {
	return a == DuplicatePlain || a == LostWriteWeak || a == UnseenWeak || a == LogStartRewound
}
