package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/cluster/metadata"
)

// Voter is a member of the metadata quorum as the configuration lists it.
type Voter struct {
	NodeID  int32
	Address string // Raft address, host:port
}

// Config of a Node. The zero value of a duration or count means its default.
type Config struct {
	// NodeID names the broker; at least 1 and the same for the life of Dir.
	NodeID int32
	// Dir is the directory of the Raft log, the snapshots and the identity. It
	// is created when it does not exist.
	Dir string
	// Voters are the nodes that found the metadata quorum, the same list on every
	// node: 1, 3 or 5. A node that is not in it joins as a non-voter. Once the
	// quorum is founded the list only says where to ask; who votes is changed by
	// command.
	Voters []Voter
	// Listener receives Raft connections. The node owns it once Start is
	// called, also when Start fails.
	Listener net.Listener
	// AdvertiseRaft is where other nodes reach Listener, host:port; default: the
	// listener's own address. In the quorum it must be the address in Voters.
	AdvertiseRaft string
	// AdvertisePeer is where other brokers reach this one's ClusterService.
	AdvertisePeer string
	// DialOptions for connections to ClusterService: credentials and codec.
	DialOptions []grpc.DialOption
	// Dial opens TCP connections to Raft and peer addresses; default: a net.Dialer.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Logger receives what people should know. Required.
	Logger *slog.Logger

	// SessionTimeout is the silence after which a broker is fenced, and after
	// which a broker without a controller stops leading. Default 3 s.
	SessionTimeout time.Duration
	// HeartbeatInterval between a broker and the controller. Default 250 ms.
	HeartbeatInterval time.Duration
	// ResetGrace is how long a broker whose stream was reset may take to come
	// back, when dialling it is refused. Default 100 ms.
	ResetGrace time.Duration
	// ElectionTimeout of Raft: a follower that hears no leader for one to two
	// times as long starts an election. It is the leader's lease too. Default 500 ms.
	ElectionTimeout time.Duration
	// CommitTimeout of Raft: an idle leader tells its followers what is committed
	// after one to two times as long. Default 20 ms; changes of metadata do not
	// wait for it, see docs/decisions/0003-raft.md.
	CommitTimeout time.Duration
	// AppliedWait bounds how long the answer to a changed topic waits for all
	// brokers to have applied it. Default 500 ms.
	AppliedWait time.Duration
	// SnapshotThreshold is the number of log entries between snapshots. Default 4096.
	SnapshotThreshold uint64
	// TrailingLogs stay in the log after a snapshot, so that a follower that was
	// away for a while does not need the snapshot. Default 10240.
	TrailingLogs uint64
	// StoreStall is how long a write of the Raft log may take before the node
	// leaves its Raft role: a leader with a stuck disk otherwise keeps its
	// place. Default 10 s.
	StoreStall time.Duration

	// featureLevel lets tests be an older build; metadata.Version otherwise.
	featureLevel uint32
	// wrapStore lets tests make the Raft log fail; nil otherwise.
	wrapStore func(raftStore) raftStore
}

func (c *Config) ensureDefaults() {
	if c.AdvertiseRaft == "" && c.Listener != nil {
		c.AdvertiseRaft = c.Listener.Addr().String()
	}
	if c.Dial == nil {
		var d net.Dialer
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.SessionTimeout, 3 * time.Second},
		{&c.HeartbeatInterval, 250 * time.Millisecond},
		{&c.ResetGrace, 100 * time.Millisecond},
		{&c.ElectionTimeout, 500 * time.Millisecond},
		{&c.CommitTimeout, 20 * time.Millisecond},
		{&c.AppliedWait, 500 * time.Millisecond},
		{&c.StoreStall, 10 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.featureLevel == 0 {
		c.featureLevel = metadata.Version
	}
	if c.SnapshotThreshold == 0 {
		c.SnapshotThreshold = 4096
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = 10240
	}
}

func (c *Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.NodeID < 1 {
		fault("node id %d: must be at least 1", c.NodeID)
	}
	if c.Dir == "" {
		fault("raft directory: is required")
	}
	if c.Listener == nil {
		fault("raft listener: is required")
	}
	if c.Logger == nil {
		fault("logger: is required")
	}
	if c.AdvertisePeer == "" {
		fault("peer address: is required")
	}
	if n := len(c.Voters); n != 1 && n != 3 && n != 5 {
		fault("%d voters: a metadata quorum has 1, 3 or 5", n)
	}
	seen := make(map[int32]bool)
	addresses := make(map[string]int32)
	for _, v := range c.Voters {
		if v.NodeID < 1 || v.Address == "" {
			fault("voter %d@%s: needs a node id of at least 1 and an address", v.NodeID, v.Address)
		}
		if seen[v.NodeID] {
			fault("voter %d is listed twice", v.NodeID)
		}
		if other, ok := addresses[v.Address]; ok {
			fault("voters %d and %d have the same address %s", other, v.NodeID, v.Address)
		}
		seen[v.NodeID], addresses[v.Address] = true, v.NodeID
	}
	if c.HeartbeatInterval*2 > c.SessionTimeout {
		fault("heartbeat interval %v: at most half the session timeout %v", c.HeartbeatInterval, c.SessionTimeout)
	}
	return errors.Join(faults...)
}

// voter returns the entry of a node in the quorum.
func (c *Config) voter(nodeID int32) (Voter, bool) {
	i := slices.IndexFunc(c.Voters, func(v Voter) bool { return v.NodeID == nodeID })
	if i < 0 {
		return Voter{}, false
	}
	return c.Voters[i], true
}
