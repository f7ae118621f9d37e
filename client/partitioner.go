package client

import (
	"math/rand/v2"

	"github.com/penstock/penstock/log/record"
)

// Partitioner chooses the partition of a record.
type Partitioner interface {
	// Partition returns a number in [0, n), or AnyPartition to leave the choice to
	// the producer. Anything else fails the record. It is called from the
	// goroutines that call Produce, several at a time.
	Partition(r *Record, n int32) int32
}

// AnyPartition lets the producer choose: it stays with one partition until the
// batch there is full or left, then begins one of another, preferring those with less waiting (KIP-480,
// KIP-794). Batches get larger than by turns record by record.
const AnyPartition int32 = -1

type defaultPartitioner struct{}

// DefaultPartitioner sends records with equal keys to one partition, by Kafka's
// hash, so that Kafka's clients agree; records without a key go anywhere.
func DefaultPartitioner() Partitioner { return defaultPartitioner{} }

// Partition implements Partitioner.
func (defaultPartitioner) Partition(r *Record, n int32) int32 {
	if r.Key == nil {
		return AnyPartition
	}
	return int32(record.Murmur2(r.Key)&0x7fffffff) % n
}

type manualPartitioner struct{}

// ManualPartitioner takes the partition from the record.
func ManualPartitioner() Partitioner { return manualPartitioner{} }

// Partition implements Partitioner.
func (manualPartitioner) Partition(r *Record, _ int32) int32 {
	if r.Partition < 0 {
		return -2 // not AnyPartition: the application was to choose
	}
	return r.Partition
}

// pick chooses a partition for records that may go anywhere: of two drawn by
// chance the one with less waiting, which keeps all busy and lets a slow one rest.
// Partitions without a leader are avoided where others have one.
func pick(parts []*partition, current int32) int32 {
	if len(parts) == 1 {
		return 0
	}
	draw := func() *partition {
		p := parts[rand.IntN(len(parts))]
		for range 2 * len(parts) {
			if p.index != current && p.led.Load() {
				return p
			}
			p = parts[rand.IntN(len(parts))]
		}
		return p
	}
	a, b := draw(), draw()
	if b.waiting.Load() < a.waiting.Load() {
		a = b
	}
	return a.index
}
