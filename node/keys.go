package node

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// Key is one line of the table of configuration keys.
type Key struct {
	Name          string // as in the file
	Type          string
	Default       string // empty: none
	Documentation string

	set func(c *Config, value string) error
}

// Env is the environment variable of the key.
func (k Key) Env() string { return envName(k.Name) }

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Keys is the one table of configuration keys, in the order of the user guide.
func Keys() []Key {
	return []Key{
		{"node.id", "int", "", "Names this broker; different on every node, never changed.", func(c *Config, v string) error { return setPositive(&c.NodeID, v, math.MaxInt32) }},
		{"data.dir", "path", "", "Holds the partitions of this node.", func(c *Config, v string) error { return setText(&c.DataDir, v) }},
		{"raft.dir", "path", "data.dir/raft", "Holds the metadata log.", func(c *Config, v string) error { return setText(&c.RaftDir, v) }},
		{"voters", "node.id@host:port,...", "", "Raft addresses of the nodes that found the cluster; the same on every node. Later who votes is changed by command.", setVoters},
		{"listen.grpc", "[name=]host:port,...", "0.0.0.0:7070", "Public API.", func(c *Config, v string) error { return setEndpoints(&c.ListenGRPC, v) }},
		{"listen.raft", "host:port", "0.0.0.0:7071", "Metadata quorum.", func(c *Config, v string) error { return setAddress(&c.ListenRaft, v) }},
		{"listen.http", "host:port", "0.0.0.0:7072", "Metrics and health; empty: none.", setHTTP},
		{"listen.peer", "host:port", "0.0.0.0:7073", "Replication and heartbeats between brokers.", func(c *Config, v string) error { return setAddress(&c.ListenPeer, v) }},
		{"listen.kafka", "[name=]host:port,...", "", "Kafka clients; left out: none. Kafka's own port is 9092.", func(c *Config, v string) error { return setEndpoints(&c.ListenKafka, v) }},
		{"advertise.grpc", "[name=]host:port,...", "listen.grpc", "Where clients reach this node.", func(c *Config, v string) error { return setEndpoints(&c.AdvertiseGRPC, v) }},
		{"advertise.raft", "host:port", "voters or listen.raft", "Where the quorum reaches a node that is not a voter.", func(c *Config, v string) error { return setAddress(&c.AdvertiseRaft, v) }},
		{"advertise.peer", "host:port", "listen.peer", "Where brokers reach this node.", func(c *Config, v string) error { return setAddress(&c.AdvertisePeer, v) }},
		{"advertise.kafka", "[name=]host:port,...", "listen.kafka", "Where Kafka clients reach this node, for each listener.", func(c *Config, v string) error { return setEndpoints(&c.AdvertiseKafka, v) }},
		{"rack", "string", "", "Replicas of a partition are spread over racks.", func(c *Config, v string) error { return setText(&c.Rack, v) }},
		{"tail.memory", "size", "64MiB", "Memory for batches: recent ones, what producers and other brokers send, what consumers have not taken; docs/ARCHITECTURE.md says who may hold how much.", func(c *Config, v string) error { return setSize(&c.TailMemory, v, 4<<20) }},
		{"disk.reserve", "size", "larger of 2GiB and 5%", "Free space below which produce is refused; copies of other brokers' records stop at a half of it, internal topics at a quarter.", func(c *Config, v string) error { return setSize(&c.DiskReserve, v, 1) }},
		{"page.cache.bytes", "size", "1GiB", "How much of the segments stays in the kernel's page cache, over all partitions; who lags by more reads the disk.", func(c *Config, v string) error { return setSize(&c.PageCache, v, 1<<20) }},
		{"log.open.files", "int", "half of the process's limit, 64 to 16384", "How many segment files are kept open.", func(c *Config, v string) error { return setPositive(&c.OpenFiles, v, 1<<20) }},
		{"broker.session.timeout", "duration", "3s", "Silence after which the controller fences a broker.", func(c *Config, v string) error {
			return setDuration(&c.SessionTimeout, v, 100*time.Millisecond, 10*time.Minute)
		}},
		{"broker.heartbeat.interval", "duration", "250ms", "How often a broker tells the controller that it lives.", func(c *Config, v string) error {
			return setDuration(&c.HeartbeatInterval, v, 10*time.Millisecond, time.Minute)
		}},
		{"raft.election.timeout", "duration", "500ms", "Silence of the controller after which a voter stands for election.", func(c *Config, v string) error {
			return setDuration(&c.RaftElection, v, 50*time.Millisecond, time.Minute)
		}},
		{"replica.lag.time.max.ms", "duration", "10s", "How long a follower may lag before it leaves the in-sync set; a bare number is milliseconds.", func(c *Config, v string) error {
			return setDuration(&c.ReplicaLagMax, v, 100*time.Millisecond, time.Hour)
		}},
		{"flush.stall.ms", "duration", "5s", "A flush that takes longer makes the broker hand its leaderships over; a bare number is milliseconds.", func(c *Config, v string) error {
			return setDuration(&c.FlushStall, v, 100*time.Millisecond, time.Hour)
		}},
		{"fetch.stall.ms", "duration", "10s", "A consumer that takes nothing of its answer for so long while others wait for the memory loses its connection; a bare number is milliseconds.", func(c *Config, v string) error {
			return setDuration(&c.FetchStall, v, 100*time.Millisecond, time.Hour)
		}},
		{"log.retention.check.interval", "duration", "30s", "How often old segments are looked for.", func(c *Config, v string) error {
			return setDuration(&c.RetentionInterval, v, 10*time.Millisecond, 24*time.Hour)
		}},
		{"log.scrub.interval", "duration", "168h", "How often everything on disk is read and checked, so that damage is found while other replicas are intact; 0: never, else at least 1m.", func(c *Config, v string) error {
			return setScrubInterval(&c.ScrubInterval, v)
		}},
		{"log.scrub.io.max.bytes.per.second", "size", "8MiB", "How much that reads a second, over all partitions.", func(c *Config, v string) error { return setSize(&c.ScrubRate, v, 4<<10) }},
		{"log.cleaner.backoff.ms", "duration", "15s", "How often logs to compact are looked for; a bare number is milliseconds.", func(c *Config, v string) error {
			return setDuration(&c.CleanerBackoff, v, 10*time.Millisecond, 24*time.Hour)
		}},
		{"log.cleaner.dedupe.buffer.size", "size", "16MiB", "Memory for the keys of the log that is being compacted; it takes 30 bytes a key, and a log with more dirty keys is compacted in several passes.", func(c *Config, v string) error { return setSize(&c.CleanerMemory, v, 64<<10) }},
		{"log.cleaner.io.max.bytes.per.second", "size", "64MiB", "How much compaction reads and writes a second, over all partitions.", func(c *Config, v string) error { return setSize(&c.CleanerRate, v, 4<<10) }},
		{"reassignment.throttle.bytes", "size", "0", "How much this node sends a second, as a leader, to replicas that reassignments have added, until they are in sync; 0: no bound. A reassignment may ask for another rate.", func(c *Config, v string) error { return setSize(&c.ReassignmentThrottle, v, 0) }},
		{"shutdown.timeout", "duration", "10s", "How long a stop may take to hand leaderships over.", func(c *Config, v string) error {
			return setDuration(&c.ShutdownTimeout, v, 0, time.Hour)
		}},
		{"offsets.topic.replication.factor", "int", "3", "Replicas of __consumer_offsets; never lowered silently.", func(c *Config, v string) error { return setPositive(&c.OffsetsReplicas, v, 100) }},
		{"offsets.retention.minutes", "minutes", "10080", "How long the offsets of a group without members are kept, from its last member or their commit on.", func(c *Config, v string) error { return setMinutes(&c.OffsetsRetention, v) }},
		{"session.grace", "duration", "the member's session timeout", "How long a member of a consumer group that lost its stream keeps its partitions.", func(c *Config, v string) error {
			return setDuration(&c.SessionGrace, v, time.Millisecond, time.Hour)
		}},
		{"group.initial.rebalance.delay.ms", "duration", "500ms", "How long the first rebalance of an empty group of the classic protocol waits for more members; a bare number is milliseconds.", func(c *Config, v string) error {
			return setDuration(&c.InitialRebalance, v, time.Millisecond, 5*time.Minute)
		}},
		{"group.consumer.migration.policy", "bidirectional|upgrade|downgrade|disabled", "bidirectional", "Whether a consumer group with members may go from the classic protocol to the new one (upgrade) and back (downgrade) while its members roll.", setMigration},
		{"offsets.topic.num.partitions", "int", "50", "Partitions of __consumer_offsets when it is created.", func(c *Config, v string) error { return setPositive(&c.OffsetsPartitions, v, 10000) }},
		{"auto.create.topics.enable", "bool", "false", "A topic that a Kafka client asks for or writes to is created.", func(c *Config, v string) error { return setBool(&c.AutoCreateTopics, v) }},
		{"num.partitions", "int", "1", "Partitions of topics that Kafka clients create without a number.", func(c *Config, v string) error { return setPositive(&c.NumPartitions, v, 10000) }},
		{"default.replication.factor", "int", "3, or the number of brokers where that is less", "Replicas of topics that Kafka clients create without a number.", func(c *Config, v string) error { return setPositive(&c.DefaultReplicas, v, 100) }},
		{"max.connections", "int", "20000", "Connections of Kafka clients; more are refused.", func(c *Config, v string) error { return setPositive(&c.MaxConnections, v, 1<<20) }},
		{"connections.max.idle.ms", "duration", "10m", "A connection of a Kafka client that is idle for so long is closed; a bare number is milliseconds.", func(c *Config, v string) error {
			return setDuration(&c.ConnectionIdle, v, time.Second, 30*24*time.Hour)
		}},
		{"http.pprof", "bool", "false", "Serve /debug/pprof on listen.http.", func(c *Config, v string) error { return setBool(&c.Pprof, v) }},
		{"log.level", "debug|info|warn|error", "info", "Least level that is logged.", func(c *Config, v string) error { return setLevel(&c.LogLevel, v) }},
		{"log.format", "text|json", "text", "Form of the log on standard error.", setLogFormat},
	}
}

func setText(dst *string, v string) error {
	if v == "" {
		return errors.New("is empty")
	}
	*dst = v
	return nil
}

// setPositive reads a whole number from 1.
func setPositive(dst *int32, v string, most int32) error {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 1 || n > int64(most) {
		return fmt.Errorf("must be a whole number from 1 to %d", most)
	}
	*dst = int32(n)
	return nil
}

// setDuration reads Go's notation; a bare number is milliseconds, as in
// Kafka's keys that end in .ms.
func setDuration(dst *time.Duration, v string, least, most time.Duration) error {
	d, err := time.ParseDuration(v)
	if ms, msErr := strconv.ParseInt(v, 10, 64); msErr == nil && ms <= math.MaxInt64/int64(time.Millisecond) {
		d, err = time.Duration(ms)*time.Millisecond, nil
	}
	if err != nil || d < least || d > most {
		return fmt.Errorf("must be a duration from %s to %s, such as 500ms, 3s or 2m", least, most)
	}
	*dst = d
	return nil
}

// setScrubInterval reads an interval that is not so short that a node does nothing else.
func setScrubInterval(dst *time.Duration, v string) error {
	var d time.Duration
	if err := setDuration(&d, v, 0, 366*24*time.Hour); err != nil || d > 0 && d < time.Minute {
		return fmt.Errorf("must be 0 (never) or a duration from %s to %s, such as 24h", time.Minute, 366*24*time.Hour)
	}
	*dst = d
	return nil
}

// setMinutes reads a whole number of minutes, as in Kafka's offsets.retention.minutes.
func setMinutes(dst *time.Duration, v string) error {
	const most = 100 * 365 * 24 * 60
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 || n > most {
		return fmt.Errorf("must be a whole number of minutes from 1 to %d", most)
	}
	*dst = time.Duration(n) * time.Minute
	return nil
}

// setSize reads bytes: a number, with KiB, MiB, GiB or TiB after it.
func setSize(dst *int64, v string, least int64) error {
	n, err := ParseSize(v)
	if err != nil || n < least {
		return fmt.Errorf("must be a size of at least %d bytes, such as 67108864, 64MiB or 2GiB", least)
	}
	*dst = n
	return nil
}

// ParseSize reads a number of bytes, which may have a unit.
func ParseSize(v string) (int64, error) {
	number, factor := v, int64(1)
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if rest, ok := strings.CutSuffix(v, unit); ok {
			number, factor = strings.TrimSpace(rest), 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, errors.New("must be a size such as 67108864, 64MiB or 2GiB")
	}
	return n * factor, nil
}

func setAddress(dst *string, v string) error {
	if err := checkAddress(v); err != nil {
		return err
	}
	*dst = v
	return nil
}

func checkAddress(v string) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return errors.New("must be host:port, such as 0.0.0.0:7070 or [::1]:7070")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the port %q must be a number from 0 to 65535", port)
	}
	return nil
}

func setEndpoints(dst *[]Endpoint, v string) error {
	var list []Endpoint
	for part := range strings.SplitSeq(v, ",") {
		name, address, named := strings.Cut(strings.TrimSpace(part), "=")
		if !named {
			name, address = "", name
		}
		if named && name == "" {
			return fmt.Errorf("the listener in %q has an empty name", part)
		}
		if err := checkAddress(address); err != nil {
			return fmt.Errorf("%q: %w", address, err)
		}
		if hasListener(list, name) {
			return fmt.Errorf("the listener %q is there twice; give each its own name as name=host:port", name)
		}
		list = append(list, Endpoint{name, address})
	}
	*dst = list
	return nil
}

func setVoters(c *Config, v string) error {
	var voters []Voter
	for part := range strings.SplitSeq(v, ",") {
		id, address, ok := strings.Cut(strings.TrimSpace(part), "@")
		var voter Voter
		if !ok {
			return fmt.Errorf("%q must be node.id@host:port", part)
		}
		if err := setPositive(&voter.NodeID, id, math.MaxInt32); err != nil {
			return fmt.Errorf("the node.id %q %w", id, err)
		}
		if err := setAddress(&voter.Address, address); err != nil {
			return fmt.Errorf("%q: %w", address, err)
		}
		for _, other := range voters {
			if other.NodeID == voter.NodeID || other.Address == voter.Address {
				return fmt.Errorf("%q repeats the id or the address of %d@%s", part, other.NodeID, other.Address)
			}
		}
		voters = append(voters, voter)
	}
	c.Voters = voters
	return nil
}

func setHTTP(c *Config, v string) error {
	if v == "" {
		c.ListenHTTP = ""
		return nil
	}
	return setAddress(&c.ListenHTTP, v)
}

func setBool(dst *bool, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return errors.New("must be true or false")
	}
	*dst = b
	return nil
}

func setLevel(dst *slog.Level, v string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(v)); err != nil {
		return errors.New("must be debug, info, warn or error")
	}
	*dst = level
	return nil
}

func setMigration(c *Config, v string) error {
	switch v {
	case "bidirectional", "upgrade", "downgrade", "disabled":
		c.GroupMigration = v
		return nil
	}
	return errors.New("must be bidirectional, upgrade, downgrade or disabled")
}

func setLogFormat(c *Config, v string) error {
	if v != "text" && v != "json" {
		return errors.New("must be text or json")
	}
	c.LogJSON = v == "json"
	return nil
}
