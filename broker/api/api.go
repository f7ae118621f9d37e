package api

import (
	"encoding/hex"
	"net"
	"time"

	"github.com/penstock/penstock/log/record"
)

// TopicID names a topic for good: a topic that is deleted and created again
// under its old name gets a new one.
type TopicID [16]byte

// IsZero reports whether the id is unset.
func (id TopicID) IsZero() bool { return id == TopicID{} }

func (id TopicID) String() string { return hex.EncodeToString(id[:]) }

// TopicIDFrom reads an id from its 16 bytes; anything else is the zero id.
func TopicIDFrom(b []byte) (id TopicID) {
	if len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// TopicPartition names a partition by its topic's name.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// PartitionRef names a partition in a request: by topic id or, when that is
// zero, by name.
type PartitionRef struct {
	TopicID   TopicID
	Topic     string
	Partition int32
}

// Acks says when a produce request is answered.
type Acks int8

// The values are Kafka's.
const (
	AcksAll    Acks = -1
	AcksNone   Acks = 0
	AcksLeader Acks = 1
)

// ProduceRequest appends batches to partitions.
type ProduceRequest struct {
	Acks       Acks
	Timeout    time.Duration // how long to wait for replicas; 0: 30 s
	Partitions []ProducePartition
}

// ProducePartition holds the batches for one partition. The broker owns a
// reference to each from the call on.
type ProducePartition struct {
	PartitionRef
	Batches []*record.Buf
}

// ProduceResult is the outcome for one partition.
type ProduceResult struct {
	PartitionRef
	Err            *Error        // nil: success
	BaseOffset     record.Offset // of the first record; -1: unknown
	LogAppendTime  int64         // ms; -1 unless the topic stamps append time
	LogStartOffset record.Offset
}

// FetchRequest reads batches.
type FetchRequest struct {
	MaxWait  time.Duration
	MinBytes int // at least 1
	MaxBytes int // whole answer; the first batch comes whatever its size
	// Ended ends the wait once it is closed: the answer is what there is by then. nil:
	// nothing but MaxWait does.
	Ended <-chan struct{}
	// Files: the answer goes over TCP as it is, so ranges of files are welcome in it.
	Files      bool
	Partitions []FetchPartition
}

// FileRange is a run of whole batches that lies in a file, for the kernel to send.
type FileRange interface {
	// Len is its size in bytes.
	Len() int
	// SendTo sends n bytes from the place at on, and says how many it has sent: fewer
	// only with an error, after which the rest cannot be had.
	SendTo(c *net.TCPConn, at, n int) (int, error)
	Release()
}

// FetchPartition asks for one partition from an offset.
type FetchPartition struct {
	PartitionRef
	Offset      record.Offset
	MaxBytes    int
	LeaderEpoch record.Epoch // -1: not checked
	// LastEpoch, when KnowsLast, is the epoch of the batch before Offset as the client
	// has read it.
	LastEpoch record.Epoch
	KnowsLast bool
}

// FetchResult is what one partition holds: either File, or Batches. The caller owns
// the references in them and calls Release.
type FetchResult struct {
	PartitionRef
	Err            *Error
	HighWatermark  record.Offset // -1: unknown
	LogStartOffset record.Offset
	Batches        []record.Slice
	File           FileRange // nil unless FetchRequest.Files
	// Diverging is set beside CodeOffsetOutOfRange when the log was truncated below what
	// the client has read: where the log ceases to be what the client knows. nil: it was not.
	Diverging *Divergence
}

// Divergence is the largest epoch of a log at or below the one that was asked about
// (-1: none), and where it ends.
type Divergence struct {
	Epoch record.Epoch
	End   record.Offset
}

// Bytes is the size of the batches.
func (r *FetchResult) Bytes() int {
	n := 0
	if r.File != nil {
		n = r.File.Len()
	}
	for i := range r.Batches {
		n += len(r.Batches[i].Bytes)
	}
	return n
}

// Release gives the references back. The bytes must not be used afterwards; the
// memory of Batches may be.
func (r *FetchResult) Release() {
	if r.File != nil {
		r.File.Release()
		r.File = nil
	}
	for i := range r.Batches {
		r.Batches[i].Release()
	}
	r.Batches = r.Batches[:0]
}

// OffsetQuery says which offset ListOffsets looks for.
type OffsetQuery int8

// The queries.
const (
	QueryEarliest OffsetQuery = iota + 1
	QueryLatest
	QueryTimestamp
	// QueryNewest is the record with the greatest timestamp.
	QueryNewest
)

// ListOffset asks for one offset of one partition.
type ListOffset struct {
	PartitionRef
	Query     OffsetQuery
	Timestamp int64 // ms, for QueryTimestamp
	// CurrentEpoch is the leader epoch that the client believes in, when Checked.
	CurrentEpoch record.Epoch
	Checked      bool
}

// ListOffsetResult answers it.
type ListOffsetResult struct {
	PartitionRef
	Err         *Error
	Offset      record.Offset // -1: no record at or after the timestamp
	Timestamp   int64         // of the record found; -1 otherwise
	LeaderEpoch record.Epoch
}

// EpochQuery asks where a leader epoch of a partition ends.
type EpochQuery struct {
	PartitionRef
	Epoch       record.Epoch
	LeaderEpoch record.Epoch // that the client believes in; -1: not checked
}

// EpochEnd answers it: the largest epoch at or below the one asked for, and the
// offset after its last record. Both are -1 when there is none.
type EpochEnd struct {
	PartitionRef
	Err   *Error
	Epoch record.Epoch
	End   record.Offset
}

// LogInfo describes the log of one replica.
type LogInfo struct {
	TopicPartition
	Bytes int64
	// Lag is how far it is behind the high watermark that is known here.
	Lag int64
}

// ProducerState is what a partition remembers of an idempotent producer.
type ProducerState struct {
	ID           int64
	Epoch        int16
	LastSequence int32
	LastUsed     int64 // ms
}
