package coordinator

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// Coordinator runs the groups whose __consumer_offsets partitions this broker leads.
type Coordinator struct{}

// New makes a coordinator that serves no group until Load.
func New(cfg Config) (*Coordinator, error) { return &Coordinator{}, nil }

// Load begins to serve the groups of a partition of __consumer_offsets: the
// broker became its leader in this epoch. It does not wait for the loading. A
// later Load with a newer epoch replaces it; one with an older or the same epoch is ignored.
func (c *Coordinator) Load(partition int32, epoch record.Epoch, log Log) {}

// Unload stops serving the groups of a partition, at once; sessions end with
// CodeNotCoordinator.
func (c *Coordinator) Unload(partition int32) {}

// SetPartitions says how many partitions __consumer_offsets has; 0: it does not exist yet.
func (c *Coordinator) SetPartitions(n int32) {}

// TopicsChanged says that Config.Topics may answer differently from now on. It does not wait.
func (c *Coordinator) TopicsChanged() {}

// PartitionFor returns the partition of __consumer_offsets that a group hashes to.
func PartitionFor(group string, partitions int32) int32 { return 0 }

// ValidateGroupID checks a group's name.
func ValidateGroupID(group string) error { return nil }

// Session runs one member's session on the caller's goroutine until the member
// leaves (nil), in is closed or ctx ends (nil: the member keeps its place for
// its grace), out fails (its error), or the member is fenced or the coordinator
// unloads (*api.Error). out is called from this goroutine alone.
func (c *Coordinator) Session(ctx context.Context, join api.JoinGroup, in <-chan api.SessionMessage, out func(api.SessionUpdate) error) error {
	return nil
}

// CommitOffsets stores offsets and returns once they are committed.
func (c *Coordinator) CommitOffsets(ctx context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error) {
	return nil, nil
}

// FetchOffsets returns what is committed for the partitions, or all that is committed when none is named.
func (c *Coordinator) FetchOffsets(ctx context.Context, group string, partitions []api.TopicPartition) ([]api.CommittedOffset, error) {
	return nil, nil
}

// ListGroups returns the groups coordinated here, ascending by name.
func (c *Coordinator) ListGroups(ctx context.Context) ([]api.GroupListing, error) { return nil, nil }

// DescribeGroup returns all that is known of a group.
func (c *Coordinator) DescribeGroup(ctx context.Context, group string) (*api.GroupDescription, error) {
	return nil, nil
}

// DeleteGroup removes an empty group and its offsets.
func (c *Coordinator) DeleteGroup(ctx context.Context, group string) error { return nil }

// Close unloads everything and waits for the goroutines.
func (c *Coordinator) Close() error { return nil }
