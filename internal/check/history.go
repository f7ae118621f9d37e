package check

import (
	"strconv"
	"time"
)

// Key names a partition.
type Key struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"part"`
}

// String is "topic-partition".
func (k Key) String() string { return k.Topic + "-" + strconv.Itoa(int(k.Partition)) }

// Value stands for the content of one record. Nobody sends the same value to a
// partition twice: that is what lets a reader's record be traced to its writer.
type Value uint64

// Type says where in its life an operation is. An operation is invoked once and
// completed at most once, but for sends (see FSend).
type Type string

// The types.
const (
	Invoke Type = "invoke" // it is about to be tried
	OK     Type = "ok"     // it took place
	Info   Type = "info"   // nobody knows: it may have taken place, or may still
	Fail   Type = "fail"   // it has not taken place and never will
)

// F says what an operation does.
type F string

// The functions, and the fields of Op that each uses.
const (
	// FSend sends Sends, with Acks and Plain. Each send stands alone: several
	// completions may each settle some of one invocation's, and a process may
	// invoke more before the first are settled. OK without an offset (-1) is what
	// acks=0 gives. A completion has Retried.
	FSend F = "send"
	// FPoll read Parts. Completed as Info or Fail it may list what it saw; the
	// position stays where it was.
	FPoll F = "poll"
	// FAssign takes Keys, and no others, by the process's own choice. A key whose
	// Offset is not -1 is read from there on; one with -1 that was assigned before
	// goes on where it was. Final begins the process's part of the final phase.
	FAssign F = "assign"
	// FSubscribe leaves it to a group who reads what. Topics is for people.
	FSubscribe F = "subscribe"
	// FCrash replaces the process's client by a new one that knows nothing.
	FCrash F = "crash"
	// FAssigned is an event: Member of Group was given Keys at Epoch, and begins
	// each at the offset that the group has committed; -1: none, or not known.
	FAssigned F = "assigned"
	// FRevoked is an event: the coordinator asked for Keys back, and Member has not
	// yet answered that they are free.
	FRevoked F = "revoked"
	// FLost is an event: Keys are the member's no more by any other way, a session
	// that ended or a consumer that closes.
	FLost F = "lost"
	// FCommit stores Keys for Group, by Member in Epoch; no member: by a tool.
	// All commits of a group are recorded, or none.
	FCommit F = "commit"
	// FCommitted asks what Group has committed: Keys; Offset -1: nothing.
	FCommitted F = "committed"
	// FOffsets asks for the Bounds of Parts.
	FOffsets F = "offsets"
	// FTrim deletes the records of Keys below their Offsets. Invoked it names what is
	// asked; OK has the Offsets below which no replica that may lead keeps anything.
	// All deletions of a partition are recorded, or none; those of retention are not.
	FTrim F = "trim"
)

// Acks says what a producer waited for. The zero value is the one that promises most.
type Acks string

// The levels.
const (
	AcksAll    Acks = ""
	AcksLeader Acks = "1"
	AcksNone   Acks = "0"
)

// Op is one line of a history: the beginning of an operation, its end, or an event.
type Op struct {
	// Index is the place in the history, from 1; it only rises. An invocation
	// comes before the call that it announces, a completion after its answer:
	// what ends at a lower index than something else begins at came before it.
	Index int64 `json:"-"`
	// Process is who does it: one client, which does one thing of a kind at a time.
	Process int32         `json:"p"`
	Time    time.Duration `json:"t"` // since the history began; for the lag alone
	Type    Type          `json:"type"`
	F       F             `json:"f"`
	Error   string        `json:"error,omitempty"` // for people

	Sends   []Send `json:"sends,omitempty"`
	Acks    Acks   `json:"acks,omitempty"`
	Plain   bool   `json:"plain,omitempty"`   // the producer is not idempotent
	Retried bool   `json:"retried,omitempty"` // some attempt had no clear answer, or the client cannot tell

	Parts []Part `json:"parts,omitempty"`

	Keys   []Position `json:"keys,omitempty"`
	Topics []string   `json:"topics,omitempty"`
	Final  bool       `json:"final,omitempty"`

	Group  string `json:"group,omitempty"`
	Member string `json:"member,omitempty"`
	Epoch  int32  `json:"epoch,omitempty"` // -1: not known
}

// Send is one record sent.
type Send struct {
	Key
	Value  Value `json:"v"`
	Offset int64 `json:"o"` // -1: not known
}

// Read is one record read.
type Read struct {
	Offset int64 `json:"o"`
	Value  Value `json:"v"`
}

// Part is what one answer said of one partition.
type Part struct {
	Key
	Reads []Read `json:"reads,omitempty"`
	// Bounds came in the same answer as Reads; nil: not known. In a poll they may
	// be older than the invocation, because clients fetch ahead.
	Bounds *Bounds `json:"bounds,omitempty"`
}

// Bounds are what a leader says of its log; -1 is not known.
type Bounds struct {
	LogStart      int64 `json:"start"`
	HighWatermark int64 `json:"high"`
	// LeaderEpoch is the leader's, where the watermark is its raw one, which may
	// begin lower in the next epoch. It is -1 where the leader answered what the
	// latest offset is, which never goes back.
	LeaderEpoch int32 `json:"epoch"`
}

// Position is an offset in a partition.
type Position struct {
	Key
	Offset int64 `json:"o"` // -1: none, or not known
}

// History is a history in memory. Longer ones go through a Checker op by op.
type History []Op
