package metadata

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
)

// The names of the topic configs that code refers to.
const (
	ConfigCleanupPolicy     = "cleanup.policy"
	ConfigDurability        = "durability"
	ConfigMinInSyncReplicas = "min.insync.replicas"
	ConfigRetentionMS       = "retention.ms"
	ConfigRetentionBytes    = "retention.bytes"
	ConfigSegmentBytes      = "segment.bytes"
)

// Durability says what an acknowledgement means on each in-sync replica.
type Durability string

const (
	// Synced means on disk (fdatasync).
	Synced Durability = "synced"
	// Replicated means in memory; flush.ms bounds what a power loss of all replicas
	// can take.
	Replicated Durability = "replicated"
)

// Unlimited stands in TopicSettings for a retention that never ends.
const Unlimited = -1

// TopicSettings is the configuration of a topic, typed, with the defaults of
// TopicConfigs for what was not set.
type TopicSettings struct {
	Durability        Durability
	MinInSyncReplicas int           // before it is capped by the replication factor: Topic.MinISR
	RetentionAge      time.Duration // Unlimited: none
	RetentionBytes    int64         // of one partition; Unlimited: none
	SegmentBytes      int64
	SegmentAge        time.Duration
	FlushInterval     time.Duration // of a Replicated topic
	MaxMessageBytes   int           // of one batch, as sent
	IndexInterval     int           // bytes between entries of the sparse index
	LogAppendTime     bool          // message.timestamp.type
	// Compact and Delete are cleanup.policy: whether the newest record of each key is
	// kept, and whether retention removes segments. One of them holds, or both.
	Compact, Delete  bool
	MinDirtyRatio    float64       // min.cleanable.dirty.ratio, 0 to 1
	DeleteRetention  time.Duration // of tombstones that were compacted
	MinCompactionLag time.Duration
	// How far a record's own timestamp may lie before and after the leader's clock,
	// in ms. Of a LogAppendTime topic neither matters.
	TimestampBefore, TimestampAfter int64
}

// TopicConfig documents one topic config. Name, meaning and default are
// Kafka's where Kafka has it.
type TopicConfig struct {
	Name    string
	Type    string // "string", "int", "long", "boolean"
	Default string
	Range   string // for people: what is accepted
	Doc     string

	set func(s *TopicSettings, value string) error
}

// TopicConfigs returns every topic config there is, by name. It is the one
// table from which values are checked and documentation is printed.
func TopicConfigs() []TopicConfig {
	return []TopicConfig{
		{
			Name: ConfigCleanupPolicy, Type: "list", Default: "delete", Range: "delete, compact, compact,delete",
			Doc: "What happens to old records: delete removes whole segments by age and size, compact keeps the newest record of each key.",
			set: setCleanup,
		},
		only("compression.type", "string", "producer",
			"Codec of the stored batches: the producer's own. Brokers never re-compress.",
			"brokers keep the producer's compression"),
		duration("delete.retention.ms", 24*60*60*1000, 0, maxMillis,
			"Time in milliseconds for which a compacted topic keeps a tombstone once it was compacted.",
			func(s *TopicSettings, d time.Duration) { s.DeleteRetention = d }),
		{
			Name: ConfigDurability, Type: "string", Default: string(Synced), Range: "synced, replicated",
			Doc: "What acks=all means on each in-sync replica: synced is on disk, replicated is in memory.",
			set: oneOf(func(s *TopicSettings, v string) { s.Durability = Durability(v) }, string(Synced), string(Replicated)),
		},
		duration("flush.ms", 1000, 1, int64(time.Hour/time.Millisecond),
			"Longest time in milliseconds that a record of a replicated topic stays unflushed.",
			func(s *TopicSettings, d time.Duration) { s.FlushInterval = d }),
		integer("index.interval.bytes", "int", 4096, 64, 16<<20,
			"Bytes of batches between two entries of the offset index.",
			func(s *TopicSettings, v int64) { s.IndexInterval = int(v) }),
		integer("max.message.bytes", "int", 1_048_588, 1024, 32<<20,
			"Largest batch accepted, in bytes as sent (after compression).",
			func(s *TopicSettings, v int64) { s.MaxMessageBytes = int(v) }),
		integer("message.timestamp.after.max.ms", "long", 60*60*1000, 0, math.MaxInt64,
			"How far in the future, in milliseconds, a record's own timestamp may lie. A record of the year 9999 would keep its segment from retention.ms till then.",
			func(s *TopicSettings, v int64) { s.TimestampAfter = v }),
		integer("message.timestamp.before.max.ms", "long", math.MaxInt64, 0, math.MaxInt64,
			"How far in the past, in milliseconds, a record's own timestamp may lie. Records older than retention.ms are removed with their segment soon.",
			func(s *TopicSettings, v int64) { s.TimestampBefore = v }),
		{
			Name: "message.timestamp.type", Type: "string", Default: "CreateTime", Range: "CreateTime, LogAppendTime",
			Doc: "Whose clock stamps records: the producer's or the leader's.",
			set: oneOf(func(s *TopicSettings, v string) { s.LogAppendTime = v == "LogAppendTime" }, "CreateTime", "LogAppendTime"),
		},
		{
			Name: "min.cleanable.dirty.ratio", Type: "double", Default: "0.5", Range: "0 to 1",
			Doc: "Part of a compacted log that must not have been compacted yet before it is compacted again.",
			set: setRatio(func(s *TopicSettings, v float64) { s.MinDirtyRatio = v }),
		},
		duration("min.compaction.lag.ms", 0, 0, maxMillis,
			"Least age in milliseconds of a record that is compacted.",
			func(s *TopicSettings, d time.Duration) { s.MinCompactionLag = d }),
		integer(ConfigMinInSyncReplicas, "int", 2, 1, 127,
			"In-sync replicas needed to acknowledge with acks=all; never more than the replication factor.",
			func(s *TopicSettings, v int64) { s.MinInSyncReplicas = int(v) }),
		integer(ConfigRetentionBytes, "long", Unlimited, Unlimited, math.MaxInt64,
			"Bytes of a partition above which its oldest segments are removed; -1: no limit.",
			func(s *TopicSettings, v int64) { s.RetentionBytes = v }),
		duration(ConfigRetentionMS, 7*24*60*60*1000, Unlimited, maxMillis,
			"Age in milliseconds at which a segment is removed; -1: never.",
			func(s *TopicSettings, d time.Duration) { s.RetentionAge = d }),
		integer(ConfigSegmentBytes, "int", 1<<30, 4096, math.MaxInt32,
			"Size of a segment file at which a new one begins.",
			func(s *TopicSettings, v int64) { s.SegmentBytes = v }),
		duration("segment.ms", 7*24*60*60*1000, 1, maxMillis,
			"Age in milliseconds of a segment at which a new one begins.",
			func(s *TopicSettings, d time.Duration) { s.SegmentAge = d }),
		only("unclean.leader.election.enable", "boolean", "false",
			"Whether a replica outside the in-sync set may be elected by itself. Never: only an administrator's command does that.",
			"a record once acknowledged is not given up by a setting"),
	}
}

// maxMillis is the longest time that fits a time.Duration: 292 years.
const maxMillis = math.MaxInt64 / int64(time.Millisecond)

// ParseSettings checks configs and fills in the defaults. The error is an
// *Error with CodeInvalidConfig that names the key, the value and what is
// accepted; of several faults the first by name.
func ParseSettings(configs map[string]string) (TopicSettings, error) {
	s, err := parseSettings(configs)
	if err != nil {
		return TopicSettings{}, err
	}
	return s, nil
}

func parseSettings(configs map[string]string) (TopicSettings, *Error) {
	var s TopicSettings
	table := TopicConfigs()
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		if err := checkKnown(table, name); err != nil {
			return TopicSettings{}, err
		}
	}
	for _, c := range table {
		value, ok := configs[c.Name]
		if !ok {
			value = c.Default
		}
		if err := c.set(&s, value); err != nil {
			return TopicSettings{}, Errorf(CodeInvalidConfig, "%s=%q: %v", c.Name, clip(value), err)
		}
	}
	return s, nil
}

// checkKnown refuses a name that is not in the table and names the nearest one.
func checkKnown(table []TopicConfig, name string) *Error {
	nearest, distance := "", math.MaxInt
	for _, c := range table {
		if c.Name == name {
			return nil
		}
		if d := levenshtein.ComputeDistance(clip(name), c.Name); d < distance {
			nearest, distance = c.Name, d
		}
	}
	return Errorf(CodeInvalidConfig, "%q is not a topic config; the nearest one is %q", clip(name), nearest)
}

func only(name, typ, value, doc, why string) TopicConfig {
	return TopicConfig{
		Name: name, Type: typ, Default: value, Range: value, Doc: doc,
		set: func(_ *TopicSettings, v string) error {
			if v != value {
				return fmt.Errorf("only %s is accepted: %s", value, why)
			}
			return nil
		},
	}
}

// setCleanup reads cleanup.policy, in either order.
func setCleanup(s *TopicSettings, v string) error {
	s.Compact, s.Delete = false, false
	for policy := range strings.SplitSeq(v, ",") {
		switch policy = strings.TrimSpace(policy); {
		case policy == "compact" && !s.Compact:
			s.Compact = true
		case policy == "delete" && !s.Delete:
			s.Delete = true
		default:
			return errors.New("must be delete, compact, or both with a comma between")
		}
	}
	return nil
}

func setRatio(set func(*TopicSettings, float64)) func(*TopicSettings, string) error {
	return func(s *TopicSettings, value string) error {
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || !(v >= 0 && v <= 1) {
			return errors.New("must be a number from 0 to 1")
		}
		set(s, v)
		return nil
	}
}

func oneOf(set func(*TopicSettings, string), accepted ...string) func(*TopicSettings, string) error {
	return func(s *TopicSettings, v string) error {
		if !slices.Contains(accepted, v) {
			return fmt.Errorf("must be one of %q", accepted)
		}
		set(s, v)
		return nil
	}
}

func integer(name, typ string, def, lo, hi int64, doc string, set func(*TopicSettings, int64)) TopicConfig {
	return TopicConfig{
		Name: name, Type: typ, Default: strconv.FormatInt(def, 10), Range: fmt.Sprintf("%d to %d", lo, hi), Doc: doc,
		set: func(s *TopicSettings, value string) error {
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil || v < lo || v > hi {
				return fmt.Errorf("must be a whole number from %d to %d", lo, hi)
			}
			set(s, v)
			return nil
		},
	}
}

// duration is an integer of milliseconds; Unlimited stays Unlimited.
func duration(name string, def, lo, hi int64, doc string, set func(*TopicSettings, time.Duration)) TopicConfig {
	return integer(name, "long", def, lo, hi, doc, func(s *TopicSettings, ms int64) {
		if ms == Unlimited {
			set(s, Unlimited)
			return
		}
		set(s, time.Duration(ms)*time.Millisecond)
	})
}
