package api

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
