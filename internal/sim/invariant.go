package sim

// Invariant names a promise: those of RELIABILITY's list that concern replication
// under its numbers, and what the metadata promises of itself.
type Invariant string

// The invariants.
const (
	// Acked: a record that was acknowledged with acks=all is in the log of every
	// replica that may lead, and in the end in all.
	Acked Invariant = "1 acknowledged records survive"
	// Visible: nothing is shown at or past the watermark, which falls in no epoch and
	// moves in no in-sync set below its minimum, and what was shown stays.
	Visible Invariant = "2 what was readable stays readable"
	// StrongISR: below the watermark of anyone who believes to lead, the logs of
	// all who may lead are the same, as safe as the topic asks.
	StrongISR Invariant = "3 logs that may lead agree below the watermark"
	// ByEpoch: logs are cut by epoch, never below what is committed, and then agree.
	ByEpoch Invariant = "4 truncation by epoch"
	// Deposed: an epoch has one leader; one that has heard of a newer epoch or has had
	// no controller for its session acknowledges nothing, and nothing that is of an
	// older epoch or session changes an in-sync set.
	Deposed Invariant = "5 a deposed leader does nothing"
	// Unclean: who may have lost records leaves the sets from which leaders come, and
	// no leader resumes its epoch.
	Unclean Invariant = "6 unclean restart"
	// Immutable: an offset holds one record for ever, and logs have no holes.
	Immutable Invariant = "7 offsets are not reused"
	// Once: a record of an idempotent producer is in the log once, and none is refused
	// that the log lacks nothing for.
	Once Invariant = "8 a retry makes no duplicate"
	// Indefinite: once appended, a request ends in success or an indefinite error.
	Indefinite Invariant = "12 errors after the append are indefinite"
	// Gone: a deleted topic leaves every disk in the end, that of brokers that were away,
	// too, and nothing else goes with it; its leaders acknowledge nothing once they know;
	// a topic of the same name begins empty.
	Gone Invariant = "a deleted topic is gone, and no other"
	// Image: metadata.Image.Check holds, and a command takes effect once.
	Image Invariant = "image"
	// Live: a healed cluster becomes whole.
	Live Invariant = "liveness"
)
