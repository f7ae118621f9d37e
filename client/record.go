package client

import (
	"strconv"
	"time"

	"github.com/penstock/penstock/log/record"
)

// Record is one record, to be produced or consumed.
type Record struct {
	Topic string
	// Partition is set by the client, but for a producer with ManualPartitioner,
	// which takes it from here.
	Partition int32
	// LeaderEpoch of the batch, set on consumed records; -1: unknown.
	LeaderEpoch int32
	// Offset is set when the record was acknowledged, and on consumed records; -1:
	// unknown.
	Offset int64
	// Timestamp has millisecond precision. Zero in a record to produce: now.
	Timestamp time.Time
	Key       []byte // nil: no key
	Value     []byte // nil: no value, a tombstone in a compacted topic
	Headers   []Header
}

// Header is an application's annotation of a record: Key, and Value, which may be
// absent (nil).
type Header = record.Header

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// String is "topic-partition".
func (tp TopicPartition) String() string {
	return tp.Topic + "-" + strconv.Itoa(int(tp.Partition))
}
