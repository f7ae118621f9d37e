package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Images is the metadata as this node has applied it.
type Images interface {
	Image() *metadata.Image
	// Changed is closed once the image's index is beyond after.
	Changed(after uint64) <-chan struct{}
	WaitApplied(ctx context.Context, index uint64) error
	// ReadBarrier returns once Image holds all that was committed anywhere when it was
	// called; cluster.ErrCannotAsk: the controller's release does not tell.
	ReadBarrier(ctx context.Context) error
}

// Controller is the way to the controller, wherever it runs.
type Controller interface {
	Propose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error)
	// Controller is the node that is believed to be the controller.
	Controller() (nodeID int32, ok bool)
	// Voters are the node ids of the metadata quorum, as far as they are known.
	Voters() []int32
}

// Membership is this node's session with the cluster.
type Membership interface {
	// Register begins the broker's session and returns its broker epoch once the
	// registration is applied here.
	Register(ctx context.Context, req *metav1.RegisterBroker) (brokerEpoch int64, err error)
	// SessionValid is false when no controller was heard for a session: the
	// broker must not act as leader or coordinator.
	SessionValid(now time.Time) bool
	SetFlushStalled(stalled bool)
	// SetReconciled tells up to which image the replicas are in line with the
	// metadata, and nothing is kept of topics that were deleted.
	SetReconciled(index uint64)
	// RequestShutdown asks for the leaderships to be handed over and returns when
	// the broker may stop.
	RequestShutdown(ctx context.Context) error
}

// Dialer connects to the peer listeners of other brokers.
type Dialer interface {
	Conn(ctx context.Context, nodeID int32) (*grpc.ClientConn, error)
	// Dial opens a connection for one framed stream; nil: that broker takes streams
	// by gRPC only.
	Dial(ctx context.Context, nodeID int32) (net.Conn, error)
}

// Config of a Broker. Durations and counts that are zero take the default that
// stands beside them.
type Config struct {
	NodeID    int32
	ClusterID string
	// Dir holds the partitions. The broker closes it.
	Dir   *commitlog.Dir
	Arena *record.Arena

	Images     Images
	Controller Controller
	Membership Membership
	Dialer     Dialer

	// GRPC and Kafka are the advertised addresses of the public listeners.
	GRPC     []metadata.Endpoint
	Kafka    []metadata.Endpoint
	Rack     string
	Version  string
	Logger   *slog.Logger
	Registry prometheus.Registerer
	Now      func() time.Time // time.Now

	SessionTimeout    time.Duration // 3 s
	LagTimeMax        time.Duration // replica.lag.time.max.ms; 10 s
	FlushStall        time.Duration // flush.stall.ms; 5 s
	RetentionInterval time.Duration // 30 s
	// Cleaner bounds what compaction costs, and CleanerBackoff is how long it rests
	// when nothing is dirty enough.
	Cleaner        commitlog.CleanerOptions
	CleanerBackoff time.Duration // 15 s
	// Scrub bounds what reading everything costs, and ScrubInterval is how often it is
	// read; 0: never.
	Scrub             commitlog.ScrubberOptions
	ScrubInterval     time.Duration
	OffsetsReplicas   int32 // of __consumer_offsets; 3
	OffsetsPartitions int32 // 50
	// ReassignmentThrottle is the bytes a second that this broker, as a leader, sends
	// to replicas that reassignments added; 0: no bound.
	ReassignmentThrottle int64
	// Of consumer groups; zero takes the coordinator's default.
	SessionGrace, OffsetsRetention, InitialRebalance time.Duration
	GroupMigration                                   string // a coordinator.Migration
	// MaxInFlight bounds the bytes of batches that are not in a file of this broker
	// yet; more produce requests wait at the door, as they do while the arena is full.
	// Half the arena.
	MaxInFlight int64
}

func (c *Config) ensureDefaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.SessionTimeout, 3 * time.Second},
		{&c.LagTimeMax, 10 * time.Second},
		{&c.FlushStall, 5 * time.Second},
		{&c.RetentionInterval, 30 * time.Second},
		{&c.CleanerBackoff, 15 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.OffsetsReplicas == 0 {
		c.OffsetsReplicas = 3
	}
	if c.OffsetsPartitions == 0 {
		c.OffsetsPartitions = 50
	}
	if c.MaxInFlight == 0 && c.Arena != nil {
		c.MaxInFlight = c.Arena.Limit() / 2
	}
}

func (c *Config) validate() error {
	missing := func(name string) error { return errors.New("broker: config: " + name + " is required") }
	switch {
	case c.NodeID < 1:
		return missing("NodeID")
	case c.Dir == nil:
		return missing("Dir")
	case c.Arena == nil:
		return missing("Arena")
	case c.Images == nil || c.Controller == nil || c.Membership == nil || c.Dialer == nil:
		return missing("every interface to the cluster")
	case c.Logger == nil || c.Registry == nil:
		return missing("Logger and Registry")
	default:
		return nil
	}
}
