package broker

import (
	"context"
	"errors"
	"slices"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/log/record"
)

// The calls about groups go to the coordinator, which refuses the groups of partitions
// that are not led here. What it says once its records are committed counts in any case.
// What it says out of its memory may be old: the group may have another coordinator, and
// newer offsets. There are two ways to deal with that.
//
// What members hear of their membership (heartbeats, joins, assignments) counts while this
// broker has its session, and no longer: a process that stood still would answer what has
// arrived meanwhile from what it knew before. For the rest of a session that is old news
// at worst, which the fencing of commits takes the harm out of, and a question for each
// heartbeat would make the controller a part of all that groups do.
//
// What is told of a group's state to whoever asks for it (offsets, descriptions, that there
// is no such group) counts when the metadata, as it was after the question came, names this
// broker as the coordinator. A consumer that is told an older offset, or none, reads
// again what was read, and takes the newer one back when it commits; an operator acts by
// what he is shown.

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

// Session runs a member's session. Answers to commits are committed; what the member is
// told beside them may be out of memory, such as that it has what it had, when it comes back.
func (b *Broker) Session(ctx context.Context, join api.JoinGroup, in <-chan api.SessionMessage, out func(api.SessionUpdate) error) error {
	err := b.coordinator.Session(ctx, join, in, func(u api.SessionUpdate) error {
		if len(u.Commits) == 0 && b.lapsed() {
			return errLapsed()
		}
		return out(u)
	})
	_, err = stored(b, struct{}{}, err)
	return err
}

// CommitOffsets stores offsets of a group.
func (b *Broker) CommitOffsets(ctx context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error) {
	results, err := b.coordinator.CommitOffsets(ctx, req)
	return stored(b, results, err)
}

// confirm returns once the controller has said, after confirm was called, that this broker
// coordinates a group as the leader of that epoch. While there is no controller it waits:
// a moment later there is one, and until then nobody else has the group either.
func (b *Broker) confirm(ctx context.Context, group string, epoch record.Epoch) error {
	asked := b.askMetadata(ctx, judgeWaitMost)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !asked:
		return api.Errorf(api.CodeNotCoordinator,
			"the broker may have been replaced as the coordinator: the controller has not confirmed it since the request came")
	case !b.coordinates(group, epoch):
		return api.Errorf(api.CodeNotCoordinator, "group %q has another coordinator by now", group)
	}
	return nil
}

// confirmed is an answer out of the coordinator's memory to one who asked for it, when the
// group was coordinated here in an epoch.
func confirmed[T any](ctx context.Context, b *Broker, group string, epoch record.Epoch, answer T, err error) (T, error) {
	var none T
	if b.lapsed() {
		return none, errLapsed()
	}
	if err != nil && !aboutGroup(err, epoch) {
		return none, err
	}
	if unsure := b.confirm(ctx, group, epoch); unsure != nil {
		return none, unsure
	}
	return answer, err
}

// confirmedRefusal is the error of an operator's call. A refusal is about what the coordinator has in
// its memory, and confirmed like an answer from there.
func confirmedRefusal(ctx context.Context, b *Broker, group string, epoch record.Epoch, err error) error {
	if err == nil || api.CodeOf(err).Indefinite() {
		return err
	}
	_, err = confirmed(ctx, b, group, epoch, struct{}{}, err)
	return err
}

// aboutGroup reports whether an error says something of a group that is coordinated here,
// and not that the request is wrong, or should be sent again.
func aboutGroup(err error, epoch record.Epoch) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && epoch != record.UnknownEpoch && !e.Code.Retriable()
}

// FetchOffsets returns the committed offsets of a group.
func (b *Broker) FetchOffsets(ctx context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error) {
	epoch := b.coordinator.Epoch(req.Group)
	results, err := b.coordinator.FetchOffsets(ctx, req)
	return confirmed(ctx, b, req.Group, epoch, results, err)
}

// coordinates reports whether the image says that this broker coordinates a group, as the
// leader of that epoch.
func (b *Broker) coordinates(group string, epoch record.Epoch) bool {
	return b.leadsAs(groupPartition(b.cfg.Images.Image(), group), epoch)
}

func (b *Broker) leadsAs(p *metadata.Partition, epoch record.Epoch) bool {
	return p != nil && p.Leader == b.cfg.NodeID && record.Epoch(p.LeaderEpoch) == epoch
}

// coordinatedAs returns what tells of groups whether the image says that this broker
// coordinates them, as the leader of the epoch that it had of their partition.
func (b *Broker) coordinatedAs(epochs map[int32]record.Epoch) func(group string) bool {
	t := b.cfg.Images.Image().Topic(offsetsTopic)
	return func(group string) bool {
		if t == nil {
			return false
		}
		at := coordinator.PartitionFor(group, int32(len(t.Partitions)))
		epoch, had := epochs[at]
		return had && b.leadsAs(t.Partitions[at], epoch)
	}
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

// ListGroups returns the groups coordinated here, and not those that have another
// coordinator by now, which lists them.
func (b *Broker) ListGroups(ctx context.Context) ([]api.GroupListing, error) {
	epochs := b.coordinator.Epochs()
	groups, err := b.coordinator.ListGroups(ctx)
	if b.lapsed() || !b.askMetadata(ctx, judgeWaitMost) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Not NOT_COORDINATOR: this is about no group.
		return nil, api.Errorf(api.CodeCoordinatorNotAvailable, "this broker has no controller and does not know which groups it coordinates")
	}
	mine := b.coordinatedAs(epochs)
	return slices.DeleteFunc(groups, func(g api.GroupListing) bool { return !mine(g.Group) }), err
}

// DescribeGroup returns all that is known of a group.
func (b *Broker) DescribeGroup(ctx context.Context, group string) (*api.GroupDescription, error) {
	epoch := b.coordinator.Epoch(group)
	g, err := b.coordinator.DescribeGroup(ctx, group)
	return confirmed(ctx, b, group, epoch, g, err)
}

// DeleteGroup removes an empty group and its offsets.
func (b *Broker) DeleteGroup(ctx context.Context, group string) error {
	epoch := b.coordinator.Epoch(group)
	return confirmedRefusal(ctx, b, group, epoch, b.coordinator.DeleteGroup(ctx, group))
}

// DeleteOffsets removes committed offsets; the errors are of the partitions, in order.
func (b *Broker) DeleteOffsets(ctx context.Context, group string, partitions []api.TopicPartition) ([]*api.Error, error) {
	epoch := b.coordinator.Epoch(group)
	errs, err := b.coordinator.DeleteOffsets(ctx, group, partitions)
	return errs, confirmedRefusal(ctx, b, group, epoch, err)
}

// ResetOffsets moves committed offsets of a group without members.
func (b *Broker) ResetOffsets(ctx context.Context, group string, offsets []api.OffsetCommit, dryRun bool) ([]api.ResetOffset, error) {
	epoch := b.coordinator.Epoch(group)
	moved, err := b.coordinator.ResetOffsets(ctx, group, offsets, dryRun)
	if dryRun {
		return confirmed(ctx, b, group, epoch, moved, err)
	}
	return moved, confirmedRefusal(ctx, b, group, epoch, err)
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
