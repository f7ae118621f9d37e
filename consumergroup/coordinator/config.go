package coordinator

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// Log is one partition of __consumer_offsets that this broker leads, in one
// leader epoch. The broker implements it; its methods are called from the
// goroutines of one shard.
type Log interface {
	// Append puts one batch at the end of the log, behind that of the call before,
	// and returns without waiting for any disk or replica. The callee owns the
	// reference to buf whatever the outcome.
	Append(buf *record.Buf) Appending
	// Bounds waits until the high watermark has reached what was the log end at
	// the call, and returns the log start and the high watermark. The end at the
	// election (DESIGN section 5) is not enough: after an append of unknown
	// outcome the load must see whether that batch is in. A log of which that can
	// never be seen, because it failed, is an error, not a wait.
	Bounds(ctx context.Context) (start, end record.Offset, err error)
	// Read returns whole batches from the one that holds from up to end, about
	// maxBytes of them but at least one. The caller releases the slices.
	Read(ctx context.Context, from, end record.Offset, maxBytes int) ([]record.Slice, error)
}

// Appending is a batch on its way into the log, with acks=all.
type Appending interface {
	// Wait returns nil once the high watermark passed the batch in the leader epoch
	// of the Log. Any error means that the batch may or may not be in the log,
	// unless it is an *api.Error whose code is not Indefinite. It is called once,
	// and returns soon after ctx ends.
	Wait(ctx context.Context) error
}

// Topics is the broker's newest view of the topics that groups may subscribe
// to: internal ones are left out.
type Topics interface {
	// Topic returns a topic's id and number of partitions; 0: no such topic.
	Topic(topic string) (id api.TopicID, partitions int32)
	// Racks returns, for each partition, the racks that its replicas are in, each
	// once, ascending; nil when no broker has one.
	Racks(topic string) [][]string
	// Version goes up whenever the view changes.
	Version() uint64
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
	// OffsetsRetention is how long the offsets of a group without members are
	// kept, from its last member or their commit on, whichever is later; 7 days.
	// Every OffsetsRetentionCheck (10 min) those beyond it go.
	OffsetsRetention, OffsetsRetentionCheck time.Duration
	// InitialRebalanceDelay is how long the first rebalance of an empty group of
	// the classic protocol waits for more members; below 0: not at all. 500 ms.
	InitialRebalanceDelay time.Duration
	// Migration says which way groups with members may change the protocol; both.
	Migration Migration
	// LoadGrace is the least time that members have to come back after a load,
	// whatever their session timeout: longer than a broker that is cut off from
	// the controller goes on as a coordinator. 5 s.
	LoadGrace time.Duration

	MaxMembers       int // in one group; 10,000
	MaxSubscriptions int // topic names of one member; 1,000
	MaxMetadataBytes int // of one committed offset; 4,096
	QueueLength      int // requests waiting for one shard; 4,096
	// MaxCommitBytes bounds the memory of the commits that wait for their records,
	// of all groups together; 64 MiB. Beyond it they are refused with CodeOverloaded.
	MaxCommitBytes int
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() (Config, error) {
	if c.Topics == nil || c.Logger == nil {
		return c, errors.New("coordinator: Topics and Logger are required")
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&c.SessionTimeout, 10 * time.Second},
		{&c.MinSessionTimeout, 100 * time.Millisecond},
		{&c.MaxSessionTimeout, 30 * time.Minute},
		{&c.RebalanceTimeout, time.Minute},
		{&c.LoadGrace, 5 * time.Second},
		{&c.OffsetsRetention, 7 * 24 * time.Hour},
		{&c.OffsetsRetentionCheck, 10 * time.Minute},
		{&c.InitialRebalanceDelay, 500 * time.Millisecond},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	for _, n := range []struct {
		value *int
		def   int
	}{
		{&c.MaxMembers, 10_000},
		{&c.MaxSubscriptions, 1000},
		{&c.MaxMetadataBytes, 4096},
		{&c.QueueLength, 4096},
		{&c.MaxCommitBytes, 64 << 20},
	} {
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	if c.Migration == "" {
		c.Migration = MigrateBoth
	}
	if !c.Migration.known() {
		return c, fmt.Errorf("coordinator: Migration %q is none of bidirectional, upgrade, downgrade, disabled", c.Migration)
	}
	if c.MaxMetadataBytes > math.MaxInt16 {
		return c, fmt.Errorf("coordinator: MaxMetadataBytes %d is above %d", c.MaxMetadataBytes, math.MaxInt16)
	}
	if c.MinSessionTimeout > c.MaxSessionTimeout {
		return c, fmt.Errorf("coordinator: MinSessionTimeout %s is above MaxSessionTimeout %s", c.MinSessionTimeout, c.MaxSessionTimeout)
	}
	return c, nil
}
