package client

import (
	"slices"
	"time"
)

// Offset says where to begin in a partition.
type Offset struct {
	kind  offsetKind
	value int64 // offset, or ms since the Unix epoch
	epoch int32 // of offsetExact: leader epoch of the record before it; -1: unknown
}

type offsetKind int8

const (
	offsetEarliest offsetKind = iota
	offsetLatest
	offsetExact
	offsetTime
	offsetNone
)

// Earliest begins at the first record that is kept.
func Earliest() Offset { return Offset{kind: offsetEarliest} }

// Latest begins after the last record there is now.
func Latest() Offset { return Offset{kind: offsetLatest} }

// At begins at an offset.
func At(offset int64) Offset { return AtEpoch(offset, -1) }

// AtEpoch begins at an offset, and names the leader epoch of the record before it, as
// [Record.LeaderEpoch] had it. Should the log have been truncated below the offset since
// that record was read, and have grown again, the consumer notices (see [ResetPolicy]). -1
// means that the epoch is not known.
func AtEpoch(offset int64, leaderEpoch int32) Offset {
	return Offset{kind: offsetExact, value: offset, epoch: leaderEpoch}
}

// AtTime begins at the first record whose timestamp is t or later, and at the end
// when there is none.
func AtTime(t time.Time) Offset { return Offset{kind: offsetTime, value: t.UnixMilli()} }

// NoStart begins nowhere: a partition of which the group has committed nothing is
// an error of CodeOffsetOutOfRange, which Poll returns. Seek brings it to life.
func NoStart() Offset { return Offset{kind: offsetNone} }

// ResetPolicy says what to do when the offset to read next is not in the log:
// retention removed it, or it is past the end. A broker that says so is believed once a
// majority of the brokers names no newer leader than that one.
//
// Records that were read can vanish where a topic is not synced, or by an unclean
// election. A consumer that comes upon that goes on where the log ceases to be what it
// has read, whether the policy is ResetEarliest or ResetLatest; with ResetError, Poll
// returns a *[LogTruncatedError].
type ResetPolicy int8

// The policies.
const (
	ResetEarliest ResetPolicy = iota // go on at the first record: the default
	ResetLatest                      // go on at the end
	ResetError                       // Poll returns an error of CodeOffsetOutOfRange; Seek goes on
)

// ConsumerOpt configures a Consumer.
type ConsumerOpt interface{ applyConsumer(*consumerConfig) }

type consumerOpt func(*consumerConfig)

func (o consumerOpt) applyConsumer(c *consumerConfig) { o(c) }

type consumerConfig struct {
	topics   []string
	pattern  string
	assigned []TopicPartition
	start    Offset
	reset    ResetPolicy

	group            string
	instanceID       string
	assignor         string
	sessionTimeout   time.Duration
	rebalanceTimeout time.Duration
	autoCommit       time.Duration // 0: manual

	minBytes      int
	maxBytes      int
	maxPartBytes  int
	maxWait       time.Duration
	prefetchBytes int64
	maxPollBytes  int

	onAssigned, onRevoked, onLost func(*Consumer, []TopicPartition)
}

func defaultConsumerConfig() consumerConfig {
	return consumerConfig{
		sessionTimeout:   10 * time.Second,
		rebalanceTimeout: time.Minute,
		autoCommit:       5 * time.Second,
		minBytes:         1,
		maxBytes:         16 << 20,
		maxPartBytes:     1 << 20,
		maxWait:          500 * time.Millisecond,
		prefetchBytes:    64 << 20,
		maxPollBytes:     8 << 20,
	}
}

// WithTopics reads these topics: all their partitions or, in a group, those that
// the coordinator assigns.
func WithTopics(topics ...string) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.topics = append(c.topics, topics...) })
}

// WithTopicPattern subscribes a group to all topics, present and future, whose
// whole name matches the regular expression (RE2, matched by the broker).
func WithTopicPattern(pattern string) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.pattern = pattern })
}

// WithPartitions reads exactly these partitions, without a group's assignment.
// With WithGroup, offsets are committed to the group, which must have no members.
func WithPartitions(parts ...TopicPartition) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.assigned = append(c.assigned, parts...) })
}

// WithGroup joins a consumer group.
func WithGroup(group string) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.group = group })
}

// WithInstanceID makes the consumer a static member: it returns to its partitions
// after a restart within the session timeout, and Close does not leave the group.
func WithInstanceID(id string) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.instanceID = id })
}

// WithAssignor asks for an assignor: uniform (default), range or roundrobin.
func WithAssignor(name string) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.assignor = name })
}

// WithStart sets where to begin in a partition without a committed offset.
// Default Earliest.
func WithStart(o Offset) ConsumerOpt { return consumerOpt(func(c *consumerConfig) { c.start = o }) }

// WithReset sets what to do when the next offset is out of range. Default
// ResetEarliest.
func WithReset(p ResetPolicy) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.reset = p })
}

// WithAutoOffsetReset is auto.offset.reset: what to do where the group has
// committed nothing (as WithStart), and where the next offset is not in the log (as
// WithReset).
func WithAutoOffsetReset(p ResetPolicy) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) {
		c.reset = p
		switch p {
		case ResetLatest:
			c.start = Latest()
		case ResetError:
			c.start = NoStart()
		default:
			c.start = Earliest()
		}
	})
}

// WithAutoCommit commits at this interval, before partitions are given up, and at
// Close: the records that the application has taken and moved past, by the next
// Poll, Release, or turn of the loop. It is the default in a group, every 5 s.
func WithAutoCommit(interval time.Duration) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.autoCommit = interval })
}

// WithManualCommit leaves commits to the application.
func WithManualCommit() ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.autoCommit = 0 })
}

// WithSessionTimeout sets after how long a silence the coordinator gives the
// member's partitions to others. Default 10 s.
func WithSessionTimeout(d time.Duration) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.sessionTimeout = d })
}

// WithRebalanceTimeout sets how long the application may keep a partition that is
// being taken away. Default 1 min.
func WithRebalanceTimeout(d time.Duration) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.rebalanceTimeout = d })
}

// WithFetchMinBytes lets the broker wait for this much. Default 1.
func WithFetchMinBytes(n int) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.minBytes = n })
}

// WithFetchMaxBytes bounds one answer of a broker. Default 16 MiB.
func WithFetchMaxBytes(n int) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.maxBytes = n })
}

// WithFetchMaxPartitionBytes bounds what one answer holds of one partition; the
// first batch comes whatever its size. Default 1 MiB.
func WithFetchMaxPartitionBytes(n int) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.maxPartBytes = n })
}

// WithFetchMaxWait bounds how long the broker waits for records. Default 500 ms.
func WithFetchMaxWait(d time.Duration) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.maxWait = d })
}

// WithPrefetchBytes bounds what is fetched ahead of the application, in bytes on
// the wire. Answers under way may exceed it once. Default 64 MiB.
func WithPrefetchBytes(n int64) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.prefetchBytes = n })
}

// WithMaxPollBytes bounds what one Poll returns, in bytes on the wire, but for its
// first piece. Default 8 MiB.
func WithMaxPollBytes(n int) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.maxPollBytes = n })
}

// OnAssigned is called with partitions that were added, before their first record
// is delivered. Callbacks of a consumer run one at a time, on a goroutine of the
// consumer; they may call Seek, Pause, Commit and the like, but neither Poll nor Close.
func OnAssigned(f func(c *Consumer, added []TopicPartition)) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.onAssigned = f })
}

// OnRevoked is called with partitions that go to another member: after the
// application moved past what it took of them, and before the group hears of it,
// so that a commit in the callback is in time.
func OnRevoked(f func(c *Consumer, revoked []TopicPartition)) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.onRevoked = f })
}

// OnLost is called with partitions that others may own already: the session
// ended. Commits for them fail.
func OnLost(f func(c *Consumer, lost []TopicPartition)) ConsumerOpt {
	return consumerOpt(func(c *consumerConfig) { c.onLost = f })
}

// member reports whether the consumer joins the group, rather than only keeping
// its offsets there.
func (c *consumerConfig) member() bool { return c.group != "" && len(c.assigned) == 0 }

func (c *consumerConfig) validate() error {
	var f faults
	ways := 0
	for _, used := range []bool{len(c.topics) > 0, c.pattern != "", len(c.assigned) > 0} {
		if used {
			ways++
		}
	}
	f.check(ways == 1, "exactly one of topics, topic pattern and partitions is needed, %d were given", ways)
	f.check(c.pattern == "" || c.group != "", "a topic pattern needs a group")
	f.check(c.instanceID == "" || c.member(), "an instance id needs a group that assigns")
	f.check(!slices.Contains(c.topics, ""), "a topic name is empty")
	for _, tp := range c.assigned {
		f.check(tp.Topic != "" && tp.Partition >= 0, "partition %q is not valid", tp.String())
	}
	f.check(c.assignor == "" || slices.Contains([]string{"uniform", "range", "roundrobin"}, c.assignor),
		"assignor %q is none of uniform, range, roundrobin", c.assignor)
	f.check(c.start.kind != offsetExact || c.start.value >= 0, "start offset %d is negative", c.start.value)
	f.check(c.start.kind != offsetNone || c.group != "", "a consumer without a group has to start somewhere")
	f.check(c.reset >= ResetEarliest && c.reset <= ResetError, "reset policy %d is unknown", c.reset)
	f.check(c.autoCommit >= 0, "auto commit interval %s is negative", c.autoCommit)
	f.positive("session timeout", c.sessionTimeout)
	f.positive("rebalance timeout", c.rebalanceTimeout)
	f.positive("fetch max wait", c.maxWait)
	f.check(c.minBytes >= 1, "fetch min bytes %d is below 1", c.minBytes)
	f.check(c.maxPartBytes >= 1 && c.maxBytes >= c.maxPartBytes, "fetch max bytes %d and per partition %d are not in order", c.maxBytes, c.maxPartBytes)
	f.check(c.prefetchBytes >= 1, "prefetch bytes %d is below 1", c.prefetchBytes)
	f.check(c.maxPollBytes >= 1, "max poll bytes %d is below 1", c.maxPollBytes)
	return f.err()
}
