package api

import "github.com/penstock/penstock/log/record"

// DamagedReplica is a replica of a broker whose log is damaged, with what is still whole
// of it, or a folder of a damaged one that was kept.
type DamagedReplica struct {
	TopicPartition
	// Kept is the folder of a copy that is no replica any more; empty: it is one.
	Kept string
	// Of a replica: whether it leads, what is wrong, from where on, and its log's end.
	Leads   bool
	Damage  string
	WholeTo record.Offset
	End     record.Offset
	// GivesUp: an operator can give up what is behind the damage (GiveUpDamaged). The
	// broker leads, and nobody can take over or copy what is there.
	GivesUp bool
}

// ElectUnclean orders a leader that may lack acknowledged records.
type ElectUnclean struct {
	PartitionRef
	Leader int32
	// PartitionEpoch is the one at which the order is meant; -1: whichever it is.
	PartitionEpoch int32
}

// AddPartitions asks for a topic to have Total partitions, more than now.
type AddPartitions struct {
	Name         string
	Total        int32
	ValidateOnly bool
}
