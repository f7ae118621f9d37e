package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
)

// Config is the configuration of one node: the flat file of the user guide,
// typed. Get one from DefaultConfig or Load; Start completes what may be left
// out and checks the whole.
type Config struct {
	// NodeID names the broker in the cluster; it stays with the data directory.
	NodeID int32
	// DataDir holds the partitions; RaftDir the metadata log (default: DataDir/raft).
	DataDir, RaftDir string
	// Voters are the members of the metadata quorum, the same on every node. A
	// node that is not among them joins as a non-voter.
	Voters []Voter

	// ListenGRPC are the listeners of the public API.
	ListenGRPC []Endpoint
	// ListenKafka are the listeners for Kafka clients; none: there is no such door.
	ListenKafka []Endpoint
	// ListenRaft, ListenHTTP and ListenPeer are host:port.
	ListenRaft, ListenHTTP, ListenPeer string
	// Advertised addresses, where others reach this node. Left out: what is
	// listened on, an unspecified host (0.0.0.0) replaced by this node's host in Voters.
	AdvertiseGRPC, AdvertiseKafka []Endpoint
	AdvertiseRaft, AdvertisePeer  string
	// Rack spreads replicas.
	Rack string

	// TailMemory is the memory for batches, in bytes: recent data that is
	// served without a system call, what is in flight, and what consumers have not
	// taken.
	TailMemory int64
	// DiskReserve is the free space in bytes below which produce is refused; 0:
	// the larger of 2 GiB and 5 % of the disk.
	DiskReserve int64
	// PageCache is how many bytes of the segments stay in the kernel's page cache.
	PageCache int64
	// OpenFiles is how many segment files are kept open; 0: half of what the
	// process may open.
	OpenFiles int32

	SessionTimeout    time.Duration // broker.session.timeout
	HeartbeatInterval time.Duration // broker.heartbeat.interval
	RaftElection      time.Duration // raft.election.timeout
	ReplicaLagMax     time.Duration // replica.lag.time.max.ms
	FlushStall        time.Duration // flush.stall.ms
	FetchStall        time.Duration // fetch.stall.ms
	RetentionInterval time.Duration // log.retention.check.interval
	ScrubInterval     time.Duration // log.scrub.interval
	ScrubRate         int64         // log.scrub.io.max.bytes.per.second
	CleanerBackoff    time.Duration // log.cleaner.backoff.ms
	CleanerMemory     int64         // log.cleaner.dedupe.buffer.size
	CleanerRate       int64         // log.cleaner.io.max.bytes.per.second
	ShutdownTimeout   time.Duration // how long a stop may take to hand leaderships over

	// ReassignmentThrottle is the bytes a second to replicas that reassignments
	// added; 0: no bound.
	ReassignmentThrottle int64
	// OffsetsReplicas is the replication factor of __consumer_offsets;
	// OffsetsPartitions how many partitions it is created with.
	OffsetsReplicas, OffsetsPartitions int32
	// Of consumer groups; zero: the defaults of the table of keys.
	OffsetsRetention time.Duration // offsets.retention.minutes
	SessionGrace     time.Duration // session.grace
	InitialRebalance time.Duration // group.initial.rebalance.delay.ms
	GroupMigration   string        // group.consumer.migration.policy

	// NumPartitions and DefaultReplicas are those of topics that Kafka clients create
	// without saying so; DefaultReplicas 0: min(3, brokers).
	NumPartitions, DefaultReplicas int32
	// AutoCreateTopics: a topic that a Kafka client asks for is made.
	AutoCreateTopics bool
	// MaxConnections bounds those of Kafka clients, and ConnectionIdle how long one
	// may be idle.
	MaxConnections int32
	ConnectionIdle time.Duration

	// Pprof serves /debug/pprof on the admin listener.
	Pprof bool
	// LogLevel is the least level that is logged; LogJSON is log.format=json.
	LogLevel slog.Level
	LogJSON  bool

	// dial opens connections to other nodes in place of a net.Dialer: tests cut them.
	dial func(ctx context.Context, address string) (net.Conn, error)
	// fs is what the partitions are on in place of the machine's: tests have it fail.
	fs vfs.FS
}

// Voter is a member of the metadata quorum.
type Voter struct {
	NodeID  int32
	Address string // Raft address, host:port
}

// Endpoint is an address of a named listener. The name is empty when there is
// only one.
type Endpoint struct {
	Listener, Address string
}

// DefaultConfig returns the configuration that an empty file means, without
// node.id and data.dir, which have no default.
func DefaultConfig() Config {
	return Config{
		ListenGRPC:        []Endpoint{{Address: "0.0.0.0:7070"}},
		ListenRaft:        "0.0.0.0:7071",
		ListenHTTP:        "0.0.0.0:7072",
		ListenPeer:        "0.0.0.0:7073",
		TailMemory:        64 << 20,
		PageCache:         commitlog.DefaultPageCacheBytes,
		SessionTimeout:    3 * time.Second,
		HeartbeatInterval: 250 * time.Millisecond,
		RaftElection:      500 * time.Millisecond,
		ReplicaLagMax:     10 * time.Second,
		FlushStall:        5 * time.Second,
		FetchStall:        10 * time.Second,
		RetentionInterval: 30 * time.Second,
		ScrubInterval:     7 * 24 * time.Hour,
		ScrubRate:         commitlog.DefaultScrubRate,
		CleanerBackoff:    15 * time.Second,
		CleanerMemory:     commitlog.DefaultCleanerMemory,
		CleanerRate:       commitlog.DefaultCleanerRate,
		ShutdownTimeout:   10 * time.Second,
		OffsetsReplicas:   3,
		OffsetsPartitions: 50,
		OffsetsRetention:  7 * 24 * time.Hour,
		InitialRebalance:  500 * time.Millisecond,
		GroupMigration:    "bidirectional",
		NumPartitions:     1,
		MaxConnections:    20_000,
		ConnectionIdle:    10 * time.Minute,
	}
}

// ConfigError is a fault in a configuration: which key, what was there, what
// would be right.
type ConfigError struct {
	Key, Value, Message string
}

func (e *ConfigError) Error() string {
	if e.Value == "" {
		return "config: " + e.Key + ": " + e.Message
	}
	return fmt.Sprintf("config: %s: %q: %s", e.Key, e.Value, e.Message)
}

// complete fills in what depends on other keys.
func (c *Config) complete() {
	if c.RaftDir == "" && c.DataDir != "" {
		c.RaftDir = filepath.Join(c.DataDir, "raft")
	}
	host := ""
	for _, v := range c.Voters {
		if v.NodeID == c.NodeID {
			host, _, _ = net.SplitHostPort(v.Address)
			c.AdvertiseRaft = v.Address
		}
	}
	if len(c.AdvertiseGRPC) == 0 {
		for _, e := range c.ListenGRPC {
			c.AdvertiseGRPC = append(c.AdvertiseGRPC, Endpoint{e.Listener, reachable(e.Address, host)})
		}
	}
	if len(c.AdvertiseKafka) == 0 {
		for _, e := range c.ListenKafka {
			c.AdvertiseKafka = append(c.AdvertiseKafka, Endpoint{e.Listener, reachable(e.Address, host)})
		}
	}
	if c.AdvertisePeer == "" {
		c.AdvertisePeer = reachable(c.ListenPeer, host)
	}
	if c.AdvertiseRaft == "" {
		c.AdvertiseRaft = reachable(c.ListenRaft, host)
	}
}

// reachable replaces an unspecified host, which nobody can dial, by the host
// under which the other voters know this node.
func reachable(address, host string) string {
	h, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return address
	}
	if ip := net.ParseIP(h); h == "" || ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort(host, port)
	}
	return address
}

// Validate lists every fault, joined. It does not touch disk or network.
func (c *Config) Validate() error {
	var faults []error
	fault := func(key, value, format string, args ...any) {
		faults = append(faults, &ConfigError{key, value, fmt.Sprintf(format, args...)})
	}
	if c.NodeID < 1 {
		fault("node.id", "", "is required: a number from 1, different on every node")
	}
	if c.DataDir == "" {
		fault("data.dir", "", "is required: a directory of this node's own")
	}
	if len(c.Voters) == 0 {
		fault("voters", "", "is required: the metadata quorum as node.id@host:port,..., the same on every node")
	}
	if n := len(c.Voters); n != 0 && n != 1 && n != 3 && n != 5 {
		fault("voters", formatVoters(c.Voters), "are %d; a quorum has 1, 3 or 5, further nodes join without a vote", n)
	}
	for name, v := range map[string]string{"listen.raft": c.ListenRaft, "listen.http": c.ListenHTTP, "listen.peer": c.ListenPeer} {
		if v == "" && name != "listen.http" {
			fault(name, "", "is required")
		}
	}
	if len(c.ListenGRPC) == 0 {
		fault("listen.grpc", "", "is required")
	}
	faults = append(faults, matching("grpc", c.ListenGRPC, c.AdvertiseGRPC), matching("kafka", c.ListenKafka, c.AdvertiseKafka))
	if c.HeartbeatInterval*2 > c.SessionTimeout {
		fault("broker.heartbeat.interval", c.HeartbeatInterval.String(), "must be at most half of broker.session.timeout (%s)", c.SessionTimeout)
	}
	return errors.Join(faults...)
}

// matching checks that what is listened on and what is advertised have the same
// names.
func matching(kind string, listen, advertise []Endpoint) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, &ConfigError{"advertise." + kind, formatEndpoints(advertise), fmt.Sprintf(format, args...)})
	}
	for _, e := range listen {
		if !hasListener(advertise, e.Listener) && len(advertise) > 0 {
			fault("has no address for the listener %q of listen.%s", e.Listener, kind)
		}
	}
	for _, e := range advertise {
		if !hasListener(listen, e.Listener) {
			fault("names the listener %q, which listen.%s does not have", e.Listener, kind)
		}
	}
	return errors.Join(faults...)
}

// validateAdvertised refuses addresses that nobody else can dial. It runs after
// complete, which replaces them where it can.
func (c *Config) validateAdvertised() error {
	var faults []error
	check := func(key, address string) {
		host, port, err := net.SplitHostPort(address)
		ip := net.ParseIP(host)
		if err != nil || port == "0" || host == "" || ip != nil && ip.IsUnspecified() {
			faults = append(faults, &ConfigError{key, address, "cannot be dialled by others; set " + key + " to a host and port that reach this node"})
		}
	}
	for _, e := range c.AdvertiseGRPC {
		check("advertise.grpc", e.Address)
	}
	for _, e := range c.AdvertiseKafka {
		check("advertise.kafka", e.Address)
	}
	check("advertise.peer", c.AdvertisePeer)
	check("advertise.raft", c.AdvertiseRaft)
	return errors.Join(faults...)
}

func hasListener(list []Endpoint, name string) bool {
	for _, e := range list {
		if e.Listener == name {
			return true
		}
	}
	return false
}

func formatVoters(voters []Voter) string {
	var parts []string
	for _, v := range voters {
		parts = append(parts, strconv.Itoa(int(v.NodeID))+"@"+v.Address)
	}
	return strings.Join(parts, ",")
}

func formatEndpoints(list []Endpoint) string {
	var parts []string
	for _, e := range list {
		if e.Listener == "" {
			parts = append(parts, e.Address)
		} else {
			parts = append(parts, e.Listener+"="+e.Address)
		}
	}
	return strings.Join(parts, ",")
}
