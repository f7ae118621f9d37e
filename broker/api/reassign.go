package api

import "github.com/penstock/penstock/log/record"

// Reassign gives partitions other replicas, each on its own.
type Reassign struct {
	Partitions []ReassignPartition
	// Throttle is the bytes a second for what the new replicas are sent; 0: as the
	// leader is configured.
	Throttle int64
	// KeepFactor refuses a list that has more or fewer replicas than the partition is
	// to have now (KIP-860).
	KeepFactor bool
}

// ReassignPartition is one of them. Cancel goes back to the replicas from before.
type ReassignPartition struct {
	PartitionRef
	Replicas []int32
	Cancel   bool
}

// Reassignment is one under way.
type Reassignment struct {
	PartitionRef
	Leader                     int32 // -1: none
	Replicas, Adding, Removing []int32
	// Target are the replicas that it is to have, the first is the preferred leader.
	Target   []int32
	ISR      []int32
	Throttle int64
	// Progress has each added replica, on the partition's leader alone.
	Progress []CatchUp
}

// CatchUp is how far a replica is behind its leader.
type CatchUp struct {
	NodeID        int32
	Offset        record.Offset // the next that it needs; -1: it has not called
	End           record.Offset // of the leader's log
	BytesBehind   int64         // in proportion to the records
	RecordsBehind int64
	LogBytes      int64
}

// PlannedMove is one partition of a plan.
type PlannedMove struct {
	PartitionRef
	From, To []int32
}

// Decommission moves all replicas off a broker. Cancel takes that back; DryRun only
// plans.
type Decommission struct {
	NodeID   int32
	Cancel   bool
	Throttle int64
	DryRun   bool
}

// Rebalance evens out what the brokers have, of some topics or (empty) of all.
type Rebalance struct {
	Topics   []string
	Throttle int64
	DryRun   bool
}
