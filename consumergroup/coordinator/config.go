package coordinator

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/penstock/penstock/log/record"
)

// Log is one partition of __consumer_offsets that this broker leads, in one
// leader epoch. The broker implements it; its methods are called from the
// goroutines of one shard.
type Log interface {
	// Append appends one batch with acks=all and returns its base offset once
	// the high watermark passed it in this leader epoch. The callee owns the
	// reference to buf whatever the outcome. Any error means that the batch may
	// or may not be in the log: the coordinator then loads again.
	Append(ctx context.Context, buf *record.Buf) (record.Offset, error)
	// Bounds waits until the high watermark has reached the log end at the
	// election (DESIGN section 5) and returns the log start and the high watermark.
	Bounds(ctx context.Context) (start, end record.Offset, err error)
	// Read returns whole batches from the one that holds from up to end, about
	// maxBytes of them but at least one. The caller releases the slices.
	Read(ctx context.Context, from, end record.Offset, maxBytes int) ([]record.Slice, error)
}

// Topics is the broker's newest view of the topics that groups may subscribe
// to: internal ones are left out.
type Topics interface {
	// Partitions returns the number of partitions of a topic; 0: no such topic.
	Partitions(topic string) int32
	// All yields every topic and its number of partitions, ascending by name.
	All() iter.Seq2[string, int32]
}

// Config is what a Coordinator needs. Zero durations and counts take the
// default that stands beside them.
type Config struct {
	NodeID int32
	Topics Topics       // required
	Logger *slog.Logger // required

	SessionTimeout    time.Duration // of members that ask for none; 10 s
	MinSessionTimeout time.Duration // shorter ones are refused; 100 ms
	MaxSessionTimeout time.Duration // longer ones are refused; 30 min
	RebalanceTimeout  time.Duration // of members that ask for none; 60 s
	// SessionGrace is how long a member that lost its stream keeps its
	// partitions; 0: its session timeout.
	SessionGrace time.Duration

	MaxMembers       int // in one group; 10,000
	MaxSubscriptions int // topic names of one member; 10,000
	MaxMetadataBytes int // of one committed offset; 4,096
	QueueLength      int // requests waiting for one shard; 4,096
}
