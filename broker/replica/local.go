package replica

import (
	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// Key names a partition.
type Key struct {
	Topic     api.TopicID
	Partition int32
}

// Handshake opens a session; see package partition for what it means.
type Handshake struct {
	Epoch     record.Epoch // leader epoch
	Session   uint64
	LastEpoch record.Epoch // of the follower's last batch; -1: empty
	End       record.Offset
	Start     record.Offset
	Flushed   record.Offset
	// RefusedBelow is not 0 when the follower opens no session: it holds committed
	// records up to here that the leader's log lacks. It begins anew once the leader
	// says so, because everything up to End is deleted there.
	RefusedBelow record.Offset
}

// HandshakeReply is the leader's answer. Err is nil or why there is none; a
// retriable code makes the follower try again.
type HandshakeReply struct {
	Err           *api.Error
	Epoch         record.Epoch // leader epoch
	Session       uint64
	AnswerEpoch   record.Epoch
	AnswerEnd     record.Offset
	LogStart      record.Offset
	HighWatermark record.Offset
	Matched       bool
	Begin         bool // begin anew at LogStart
	// Producers is what the leader knew of its idempotent producers at LogStart: it
	// comes with Begin above offset 0, from LeaderPartition.ProducerState.
	Producers []byte
}

// Push says what batches cover: [From, To). From equals To when it carries a
// watermark only.
type Push struct {
	Epoch         record.Epoch
	Session       uint64
	From, To      record.Offset
	HighWatermark record.Offset
	LogStart      record.Offset
	// Cleaned ends the part of the leader's log in which compaction left gaps.
	Cleaned record.Offset
}

// Ack is cumulative.
type Ack struct {
	Epoch    record.Epoch
	Session  uint64
	Appended record.Offset
	Flushed  record.Offset
	LogStart record.Offset
	// Written is local to the follower: byte credit for what lies below it goes
	// back to the leader.
	Written record.Offset
}

// Run is what a leader's log holds from an offset on: whole batches, in order.
// The receiver owns the references.
type Run struct {
	Slices        []record.Slice
	HighWatermark record.Offset
	LogStart      record.Offset
	Cleaned       record.Offset
}

// Leaders finds the partitions that this broker leads.
type Leaders interface {
	Leader(Key) (LeaderPartition, bool)
}

// LeaderPartition is the leader's side of one partition, implemented by package
// broker. All methods may be called at the same time, and none may block on a
// remote party. Package replica holds no lock of its own while it calls them, so
// they may call Session.Wake and Session.End.
type LeaderPartition interface {
	// Handshake answers s's opening. If the reply is matched, pushes begin at
	// h.End and the partition wakes s whenever its LEO or HW moves. answer is
	// false when the handshake is an old one that deserves no answer.
	Handshake(s *Session, h Handshake) (reply HandshakeReply, answer bool)
	// Read appends to dst, which is empty and lends its memory, what the log holds from an offset, up to about maxBytes
	// but at least one batch; nothing when from is its end, or when s is not the current
	// session any more, which is checked after the bytes were read. An error ends
	// the session, and the follower opens another.
	Read(s *Session, dst []record.Slice, from record.Offset, maxBytes int) (Run, error)
	// ProducerState is what the log knew of its producers at an offset that the reply
	// to a handshake told a follower to begin at. It may read the disk. After an error
	// the follower asks anew.
	ProducerState(at record.Offset) ([]byte, error)
	// Ack reports progress of s's follower.
	Ack(s *Session, a Ack)
	// Gone says that s is over; withdrawn, that the follower gave up.
	Gone(s *Session, withdrawn bool)
}

// Verdict is a follower partition's judgement of what the leader sent.
type Verdict int8

// The verdicts.
const (
	// VerdictOK: taken; after a reply, pushes may come.
	VerdictOK Verdict = iota + 1
	// VerdictDrop: not of the current epoch and session, ignored.
	VerdictDrop
	// VerdictAgain: open a new session.
	VerdictAgain
	// VerdictHold: nothing can be done until the metadata changes. A session is
	// tried again after a long pause, or at once on Subscription.Restart.
	VerdictHold
	// VerdictPause: this partition's store takes nothing for now. The leader is told
	// that the replica gave up, so that it need not wait until it counts as lagging,
	// and a session is tried again as with VerdictHold.
	VerdictPause
	// VerdictStop: this partition's store failed; the others go on.
	VerdictStop
)

// FollowerPartition is the follower's side of one partition, implemented by
// package broker. Package replica calls the methods of one partition one at a
// time (Begin, Reply, Push; Gone may overlap) and holds no lock meanwhile.
type FollowerPartition interface {
	// Begin returns the handshake of a new session; false: none can be sent now
	// (as VerdictHold).
	Begin(session uint64) (Handshake, bool)
	// Reply takes the leader's answer. An unmatched one may cut or empty the log and
	// wait for the disk; it is called on a goroutine where that holds up no pushes.
	Reply(HandshakeReply) Verdict
	// Push appends batches. They are borrowed: what is kept needs a reference of
	// its own. It does not wait for the disk.
	Push(p Push, batches []*record.Buf) Verdict
	// Gone says that the stream broke, and the session with it.
	Gone(session uint64)
}
