package broker

import (
	"context"
	"errors"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/log/record"
)

// The calls about groups go to the coordinator, which refuses the groups of partitions
// that are not led here. What it says out of its memory counts while this broker has its
// session, and no longer: a process that stood still would answer what has arrived
// meanwhile from what it knew before, though the group may have another coordinator, and
// newer offsets. What it says once its records are committed counts in any case.

func errLapsed() error {
	return api.Errorf(api.CodeNotCoordinator, "this broker has lost its controller and does not act as a coordinator")
}

// remembered is an answer out of the coordinator's memory.
func remembered[T any](b *Broker, answer T, err error) (T, error) {
	if b.lapsed() {
		var none T
		return none, errLapsed()
	}
	return answer, err
}

// stored is an answer that was committed, unless it is a refusal: that comes out of the
// coordinator's memory.
func stored[T any](b *Broker, answer T, err error) (T, error) {
	if e, ok := errors.AsType[*api.Error](err); ok && !e.Code.Indefinite() && b.lapsed() {
		return answer, errLapsed()
	}
	return answer, err
}

// Session runs a member's session.
func (b *Broker) Session(ctx context.Context, join api.JoinGroup, in <-chan api.SessionMessage, out func(api.SessionUpdate) error) error {
	return b.coordinator.Session(ctx, join, in, out)
}

// CommitOffsets stores offsets of a group.
func (b *Broker) CommitOffsets(ctx context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error) {
	results, err := b.coordinator.CommitOffsets(ctx, req)
	return stored(b, results, err)
}

// FetchOffsets returns the committed offsets of a group. It does only when the metadata,
// as it was after the question came, names this broker as the coordinator: another may have
// taken over while this one has its session, and a consumer that is told an older offset, or
// none, reads again what was read, and takes the newer one back when it commits.
func (b *Broker) FetchOffsets(ctx context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error) {
	epoch := b.coordinator.Epoch(req.Group)
	results, err := b.coordinator.FetchOffsets(ctx, req)
	if results, err = remembered(b, results, err); err != nil {
		return nil, err
	}
	asked := b.askMetadata(ctx, 0)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !asked:
		return nil, api.Errorf(api.CodeNotCoordinator,
			"the broker may have been replaced as the coordinator: the controller has not confirmed it since the request came")
	case !b.coordinates(req.Group, epoch):
		return nil, api.Errorf(api.CodeNotCoordinator, "group %q has another coordinator by now", req.Group)
	}
	return results, nil
}

// coordinates reports whether the image says that this broker coordinates a group, as the
// leader of that epoch.
func (b *Broker) coordinates(group string, epoch record.Epoch) bool {
	p := groupPartition(b.cfg.Images.Image(), group)
	return p != nil && p.Leader == b.cfg.NodeID && record.Epoch(p.LeaderEpoch) == epoch
}

// groupPartition is the partition of __consumer_offsets that a group is in; nil: there is
// none yet.
func groupPartition(im *metadata.Image, group string) *metadata.Partition {
	t := im.Topic(offsetsTopic)
	if t == nil {
		return nil
	}
	return t.Partitions[coordinator.PartitionFor(group, int32(len(t.Partitions)))]
}

// ListGroups returns the groups coordinated here.
func (b *Broker) ListGroups(ctx context.Context) ([]api.GroupListing, error) {
	groups, err := b.coordinator.ListGroups(ctx)
	if b.lapsed() { // not NOT_COORDINATOR: this is about no group
		return nil, api.Errorf(api.CodeCoordinatorNotAvailable, "this broker has lost its controller and does not know which groups it coordinates")
	}
	return groups, err
}

// DescribeGroup returns all that is known of a group.
func (b *Broker) DescribeGroup(ctx context.Context, group string) (*api.GroupDescription, error) {
	g, err := b.coordinator.DescribeGroup(ctx, group)
	return remembered(b, g, err)
}

// DeleteGroup removes an empty group and its offsets.
func (b *Broker) DeleteGroup(ctx context.Context, group string) error {
	_, err := stored(b, struct{}{}, b.coordinator.DeleteGroup(ctx, group))
	return err
}

// DeleteOffsets removes committed offsets; the errors are of the partitions, in order.
func (b *Broker) DeleteOffsets(ctx context.Context, group string, partitions []api.TopicPartition) ([]*api.Error, error) {
	errs, err := b.coordinator.DeleteOffsets(ctx, group, partitions)
	return stored(b, errs, err)
}

// ResetOffsets moves committed offsets of a group without members.
func (b *Broker) ResetOffsets(ctx context.Context, group string, offsets []api.OffsetCommit, dryRun bool) ([]api.ResetOffset, error) {
	moved, err := b.coordinator.ResetOffsets(ctx, group, offsets, dryRun)
	if dryRun {
		return remembered(b, moved, err)
	}
	return stored(b, moved, err)
}

// JoinClassic and the rest of the classic protocol, and ConsumerHeartbeat, are
// what the Kafka front door serves groups with.

// JoinClassic joins a group of the classic protocol.
func (b *Broker) JoinClassic(ctx context.Context, req *api.ClassicJoin) (*api.ClassicJoined, error) {
	joined, err := b.coordinator.JoinClassic(ctx, req)
	return remembered(b, joined, err)
}

// SyncClassic fetches a member's assignment, and brings everybody's.
func (b *Broker) SyncClassic(ctx context.Context, req *api.ClassicSync) (*api.ClassicSynced, error) {
	synced, err := b.coordinator.SyncClassic(ctx, req)
	return remembered(b, synced, err)
}

// HeartbeatClassic keeps a member's session.
func (b *Broker) HeartbeatClassic(ctx context.Context, req *api.ClassicHeartbeat) error {
	_, err := remembered(b, struct{}{}, b.coordinator.HeartbeatClassic(ctx, req))
	return err
}

// LeaveClassic removes members; the errors are theirs, in order.
func (b *Broker) LeaveClassic(ctx context.Context, group string, members []api.ClassicLeave) ([]*api.Error, error) {
	errs, err := b.coordinator.LeaveClassic(ctx, group, members)
	return stored(b, errs, err)
}

// ConsumerHeartbeat is one heartbeat of a member that keeps no stream (KIP-848).
func (b *Broker) ConsumerHeartbeat(ctx context.Context, req *api.ConsumerHeartbeat) (*api.ConsumerHeartbeatResult, error) {
	result, err := b.coordinator.ConsumerHeartbeat(ctx, req)
	return remembered(b, result, err)
}
