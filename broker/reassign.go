package broker

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// A reassignment shows up here as an assignment with other replicas. An added one
// is opened and follows like any follower that has to catch up; nothing else is
// known of it. What is particular to reassignments is the end of a replica that
// the image has taken away, and how much of a leader's time goes to those added.

// maxReassigned keeps a command far below its 512 KiB.
const maxReassigned = 4000

// Reassign asks for other replicas, each partition on its own. The errors are in
// the order of the request, nil where the change is under way; it returns once
// this broker has applied it.
func (b *Broker) Reassign(ctx context.Context, req *api.Reassign) ([]*api.Error, error) {
	if len(req.Partitions) > maxReassigned {
		return nil, api.Errorf(api.CodeRequestTooLarge, "%d partitions in one request; at most %d are taken", len(req.Partitions), maxReassigned)
	}
	cmd := &metav1.ReassignPartitions{}
	results := make([]*api.Error, len(req.Partitions))
	var asked []int
	im := b.cfg.Images.Image()
	for i := range req.Partitions {
		p := &req.Partitions[i]
		t := im.Topic(p.Topic)
		if t == nil {
			results[i] = api.Errorf(api.CodeUnknownTopic, "there is no topic %q", p.Topic).At(p.Topic, p.Partition)
			continue
		}
		if results[i] = checkFactor(t, p, req.KeepFactor); results[i] != nil {
			continue
		}
		asked = append(asked, i)
		cmd.Partitions = append(cmd.Partitions, &metav1.PartitionReassignment{
			TopicId: t.ID[:], Partition: p.Partition, Replicas: p.Replicas, Cancel: p.Cancel, Throttle: throttleOf(req, p),
		})
	}
	if len(asked) == 0 {
		return results, nil
	}
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_Reassign{Reassign: cmd}})
	if err != nil {
		return nil, proposalError(err)
	}
	for k, i := range asked {
		if k < len(resp.GetResults()) {
			results[i] = refusal(resp.GetResults()[k], req.Partitions[i].PartitionRef)
		}
	}
	return results, b.settled(ctx, resp.GetIndex())
}

// checkFactor judges by what this broker knows: it is there against mistakes, and two
// who reassign the same partition at once may both be right.
func checkFactor(t *metadata.Topic, r *api.ReassignPartition, keep bool) *api.Error {
	if !keep || r.Cancel || r.Partition < 0 || int(r.Partition) >= len(t.Partitions) {
		return nil
	}
	p := t.Partitions[r.Partition]
	factor := len(p.Replicas)
	if p.Moving() {
		factor = len(p.Target)
	}
	if factor == len(r.Replicas) {
		return nil
	}
	return api.Errorf(api.CodeInvalidReplicationFactor, "the list has %d replicas, the partition %d, and the request is not to change that", len(r.Replicas), factor).At(t.Name, r.Partition)
}

func throttleOf(req *api.Reassign, p *api.ReassignPartition) int64 {
	if p.Cancel {
		return 0
	}
	return req.Throttle
}

// refusal is the error of one change of a proposal; nil: it was made.
func refusal(e *pb.Error, ref api.PartitionRef) *api.Error {
	if e.GetCode() == pb.ErrorCode_ERROR_CODE_UNSPECIFIED {
		return nil
	}
	return (&api.Error{Code: api.Code(e.GetCode()), Message: e.GetMessage()}).At(ref.Topic, ref.Partition)
}

// Reassignments are those under way, of the partitions named or of all, with the
// progress of those that are led here.
func (b *Broker) Reassignments(_ context.Context, named []api.PartitionRef) ([]api.Reassignment, error) {
	im := b.cfg.Images.Image()
	var out []api.Reassignment
	if len(named) > 0 {
		for _, ref := range named {
			t := im.Topic(ref.Topic)
			switch {
			case t == nil:
				return nil, api.Errorf(api.CodeUnknownTopic, "there is no topic %q", ref.Topic).At(ref.Topic, ref.Partition)
			case ref.Partition < 0 || int(ref.Partition) >= len(t.Partitions):
				return nil, api.Errorf(api.CodeUnknownPartition, "the topic has the partitions 0 to %d", len(t.Partitions)-1).At(ref.Topic, ref.Partition)
			}
			out = b.appendReassignment(out, t, int(ref.Partition))
		}
		return out, nil
	}
	for t := range im.Topics() {
		for i := range t.Partitions {
			out = b.appendReassignment(out, t, i)
		}
	}
	return out, nil
}

// Decommission marks a broker, or takes the mark back, and returns the plan.
func (b *Broker) Decommission(ctx context.Context, req *api.Decommission) ([]api.PlannedMove, error) {
	return b.planned(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_Decommission{Decommission: &pb.DecommissionProposal{
		Decommission: &metav1.DecommissionBroker{NodeId: req.NodeID, Cancel: req.Cancel, Throttle: req.Throttle}, DryRun: req.DryRun,
	}}})
}

// Rebalance evens out what the brokers have, and returns the plan.
func (b *Broker) Rebalance(ctx context.Context, req *api.Rebalance) ([]api.PlannedMove, error) {
	ask := &pb.RebalanceProposal{Throttle: req.Throttle, DryRun: req.DryRun}
	im := b.cfg.Images.Image()
	for _, name := range req.Topics {
		t := im.Topic(name)
		if t == nil {
			return nil, api.Errorf(api.CodeUnknownTopic, "there is no topic %q", name).At(name, -1)
		}
		ask.TopicIds = append(ask.TopicIds, t.ID[:])
	}
	return b.planned(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_Rebalance{Rebalance: ask}})
}

func (b *Broker) planned(ctx context.Context, req *pb.ProposeRequest) ([]api.PlannedMove, error) {
	resp, err := b.cfg.Controller.Propose(ctx, req)
	if err != nil {
		return nil, proposalError(err)
	}
	if err := b.settled(ctx, resp.GetIndex()); err != nil {
		return nil, err
	}
	im := b.cfg.Images.Image()
	var out []api.PlannedMove
	for _, m := range resp.GetMoves() {
		ref := api.PartitionRef{TopicID: api.TopicIDFrom(m.GetTopicId()), Partition: m.GetPartition()}
		t := im.TopicByID(metadata.ID(ref.TopicID))
		if t == nil {
			continue // deleted meanwhile
		}
		ref.Topic = t.Name
		out = append(out, api.PlannedMove{PartitionRef: ref, From: m.GetFrom(), To: m.GetTo()})
	}
	return out, nil
}

// ElectPreferred lets the preferred leaders of partitions lead. The errors are in
// the order of the request, nil where it was done.
func (b *Broker) ElectPreferred(ctx context.Context, of []api.PartitionRef) ([]*api.Error, error) {
	if len(of) > maxReassigned {
		return nil, api.Errorf(api.CodeRequestTooLarge, "%d partitions in one request; at most %d are taken", len(of), maxReassigned)
	}
	ask := &pb.ElectPreferredProposal{}
	results := make([]*api.Error, len(of))
	var asked []int
	im := b.cfg.Images.Image()
	for i, ref := range of {
		t := im.Topic(ref.Topic)
		if t == nil {
			results[i] = api.Errorf(api.CodeUnknownTopic, "there is no topic %q", ref.Topic).At(ref.Topic, ref.Partition)
			continue
		}
		asked = append(asked, i)
		ask.Partitions = append(ask.Partitions, &pb.PartitionRef{TopicId: t.ID[:], Partition: ref.Partition})
	}
	if len(asked) == 0 {
		return results, nil
	}
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_ElectPreferred{ElectPreferred: ask}})
	if err != nil {
		return nil, proposalError(err)
	}
	for k, i := range asked {
		if k < len(resp.GetResults()) {
			results[i] = refusal(resp.GetResults()[k], of[i])
		}
	}
	return results, b.settled(ctx, resp.GetIndex())
}

func (b *Broker) appendReassignment(out []api.Reassignment, t *metadata.Topic, i int) []api.Reassignment {
	p := t.Partitions[i]
	if !p.Moving() {
		return out
	}
	r := api.Reassignment{
		PartitionRef: api.PartitionRef{TopicID: api.TopicID(t.ID), Topic: t.Name, Partition: int32(i)}, Leader: p.Leader,
		Replicas: nodes(p), Adding: p.Adding, Removing: p.Removing(), Target: p.Target, ISR: p.ISR, Throttle: p.Throttle,
	}
	if l := b.table.byKey(replica.Key{Topic: r.TopicID, Partition: int32(i)}); l != nil && p.Leader == b.cfg.NodeID {
		r.Progress = l.catchUp(p.Adding)
	}
	return append(out, r)
}

// catchUp is how far followers are behind; nil while this replica does not lead.
func (l *localReplica) catchUp(of []int32) []api.CatchUp {
	if len(of) == 0 {
		return nil
	}
	l.mu.Lock()
	var followers []partition.FollowerState
	if l.role() == partition.RoleLeader {
		followers = l.state.Followers(nil)
	}
	l.mu.Unlock()
	start, end, size := l.log.Start(), l.logEnd(), l.log.Size()
	var out []api.CatchUp
	for _, node := range of {
		for _, f := range followers {
			if f.Node != node {
				continue
			}
			c := api.CatchUp{NodeID: node, Offset: f.Appended, End: end, LogBytes: size}
			at := max(f.Appended, start)
			if c.RecordsBehind = int64(end - at); end > start {
				c.BytesBehind = int64(float64(size) * float64(end-at) / float64(end-start))
			}
			out = append(out, c)
		}
	}
	return out
}

func nodes(p *metadata.Partition) []int32 {
	out := make([]int32, len(p.Replicas))
	for i := range p.Replicas {
		out[i] = p.Replicas[i].NodeID
	}
	return out
}

// Fate is what becomes of a local replica with a new image.
type Fate int

const (
	// FateStay says: it is placed here, or stays until the partition is well elsewhere.
	FateStay Fate = iota
	// FateDelete says: its topic was deleted.
	FateDelete
	// FateMoved says: a reassignment took it away, and the partition is well elsewhere.
	FateMoved
	// FateSetAside says: the image does not account for its data, which is kept.
	FateSetAside
)

// FateOf judges the replica that node keeps of a partition, whose log ends in lastEpoch,
// by an image. The image of a deleted topic lacks it; that of a reassigned partition has a newer partition epoch and other
// replicas. Then the data goes once the partition is led elsewhere with its minimum
// in sync: every acknowledged record is there. A log that is ahead of the image in
// its epochs is none that this image can have moved away.
//
// first says that it is the first image by which this process judges. It is at or after
// the broker's own registration, and it is the topic's id that counts: a stale image
// deletes nothing, nor does a new topic of the same name. A topic that such an image does
// not mention was deleted only if the metadata remembers that.
func FateOf(im *metadata.Image, key replica.Key, node int32, lastEpoch record.Epoch, first bool) Fate {
	t := im.TopicByID(metadata.ID(key.Topic))
	if t == nil {
		if _, deleted := im.Deletion(metadata.ID(key.Topic)); first && !deleted {
			return FateSetAside
		}
		return FateDelete
	}
	if int(key.Partition) >= len(t.Partitions) {
		return FateStay
	}
	p := t.Partitions[key.Partition]
	switch {
	case p.Replica(node) != nil:
		return FateStay
	case lastEpoch > record.Epoch(p.LeaderEpoch):
		return FateSetAside
	case p.Leader == metadata.NoNode || len(p.ISR) < t.MinISR(p):
		return FateStay
	default:
		return FateMoved
	}
}

// removeData deletes what a reassignment took away; but not what may be the only copy of
// records that an election lost.
func (r *reconciler) removeData(l *localReplica, im *metadata.Image) {
	if l.loaded != record.UnknownEpoch {
		r.b.coordinator.Unload(l.partition)
	}
	lossy := record.Epoch(0)
	if t := im.TopicByID(metadata.ID(l.key.Topic)); t != nil && int(l.partition) < len(t.Partitions) {
		lossy = record.Epoch(t.Partitions[l.partition].LossyEpoch)
	}
	if l.log.Damage() != commitlog.DamageNone && l.mayHoldLost(lossy) {
		r.b.setAside(l)
		return
	}
	if err := r.b.cfg.Dir.RemoveMoved(l.log, lossy); err != nil {
		l.logger.Error("the data of a replica that was moved away could not be removed", "error", err)
		return
	}
	l.logger.Info("removed the data of a replica that was moved away")
}

// noteThrottle takes in what a topic's reassignments ask for.
func (r *reconciler) noteThrottle(t *metadata.Topic) {
	lowest := int64(0)
	for _, p := range t.Partitions {
		if p.Throttle > 0 && p.Leader == r.b.cfg.NodeID && (lowest == 0 || p.Throttle < lowest) {
			lowest = p.Throttle
		}
	}
	switch {
	case lowest == 0:
		delete(r.throttles, t.ID)
	case r.throttles == nil:
		r.throttles = map[metadata.ID]int64{t.ID: lowest}
	default:
		r.throttles[t.ID] = lowest
	}
}

// throttleMoves tells the leaders' side of replication the lowest rate among the
// reassignments that are led here; without one, the configured rate.
func (r *reconciler) throttleMoves() {
	rate := int64(0)
	for _, asked := range r.throttles {
		if rate == 0 || asked < rate {
			rate = asked
		}
	}
	if rate == 0 {
		rate = r.b.cfg.ReassignmentThrottle
	}
	r.b.server.SetMoveRate(rate)
}
