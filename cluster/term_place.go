package cluster

import (
	"context"
	"slices"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// maxMovesACommand keeps a command of reassignments far below MaxCommandBytes.
const maxMovesACommand = 4000

// placing takes the turn in which replicas are placed: each plan sees the one
// before.
func (t *term) placing(ctx context.Context) (done func(), err error) {
	select {
	case t.creating <- struct{}{}:
		return func() { <-t.creating }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// decommission marks a broker and answers with the plan by which its replicas will
// move, as far as it can be told now: the moves themselves are decided one after
// the other, for as long as the mark is there.
func (t *term) decommission(ctx context.Context, req *pb.ProposeRequest, cmd *metav1.Command) (*pb.ProposeResponse, error) {
	ask := req.GetDecommission()
	cmd.Kind = &metav1.Command_DecommissionBroker{DecommissionBroker: ask.GetDecommission()}
	done, err := t.placing(ctx)
	if err != nil {
		return nil, err
	}
	im := t.node.Image()
	cmd.Version = metadata.CommandLevel(cmd)
	then, result, err := metadata.Apply(im, im.Index()+1, cmd)
	if err == nil && !ask.GetDryRun() {
		result, err = t.apply(ctx, cmd)
	}
	done()
	if err != nil {
		return nil, err
	}
	resp := t.respond(req, result)
	if !ask.GetDecommission().GetCancel() {
		resp.Moves = plannedMoves(controller.Evacuate(then, then.PartitionCount(), nil))
	}
	if !ask.GetDryRun() {
		t.appliedEverywhere(ctx, result.Index)
	} else {
		resp.Index = im.Index()
	}
	return resp, nil
}

// rebalance plans and, unless only the plan was asked for, begins all of its moves.
func (t *term) rebalance(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	ask := req.GetRebalance()
	if ask.GetThrottle() < 0 {
		return nil, newError(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "a throttle of %d bytes a second: must be 0 or greater", ask.GetThrottle())
	}
	done, err := t.placing(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	im := t.node.Image()
	want, err := topicFilter(im, ask.GetTopicIds())
	if err != nil {
		return nil, err
	}
	moves := controller.Rebalance(im, want)
	resp := &pb.ProposeResponse{Index: im.Index(), FirstProducerId: -1, Moves: plannedMoves(moves)}
	if ask.GetDryRun() {
		return resp, nil
	}
	for part := range slices.Chunk(moves, maxMovesACommand) {
		c := &metav1.ReassignPartitions{}
		for _, m := range part {
			c.Partitions = append(c.Partitions, m.Reassignment(ask.GetThrottle()))
		}
		// Not remembered by id: another try makes another plan, of what is left.
		result, err := t.apply(ctx, &metav1.Command{Kind: &metav1.Command_ReassignPartitions{ReassignPartitions: c}})
		if err != nil {
			return nil, err
		}
		resp.Index = result.Index
	}
	t.appliedEverywhere(ctx, resp.GetIndex())
	return resp, nil
}

func topicFilter(im *metadata.Image, ids [][]byte) (func(*metadata.Topic) bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	wanted := make(map[metadata.ID]bool, len(ids))
	for _, raw := range ids {
		id, _ := metadata.ParseID(raw)
		if im.TopicByID(id) == nil {
			return nil, newError(pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, "there is no topic with id %.16x", raw)
		}
		wanted[id] = true
	}
	return func(t *metadata.Topic) bool { return wanted[t.ID] }, nil
}

func plannedMoves(moves []controller.Move) []*pb.PlannedMove {
	out := make([]*pb.PlannedMove, len(moves))
	for i, m := range moves {
		out[i] = &pb.PlannedMove{TopicId: m.Topic.ID[:], Partition: m.Partition, From: m.From, To: m.To}
	}
	return out
}

// electPreferred gives the leadership of partitions to their preferred leaders. What
// stands against it is answered for each partition.
func (t *term) electPreferred(ctx context.Context, req *pb.ProposeRequest, cmd *metav1.Command) (*pb.ProposeResponse, error) {
	im := t.node.Image()
	asked := req.GetElectPreferred().GetPartitions()
	refused := make([]*metadata.Error, len(asked))
	c := &metav1.ElectLeaders{}
	var places []int // of the changes of c in asked
	for i, ref := range asked {
		change, err := controller.PreferredLeader(im, ref.GetTopicId(), ref.GetPartition())
		if err != nil {
			refused[i] = err
			continue
		}
		c.Changes = append(c.Changes, change)
		places = append(places, i)
	}
	result := metadata.Result{Index: im.Index(), FirstProducerID: -1}
	if len(places) > 0 {
		// Not remembered by id: the epochs in it make a repetition harmless, and its
		// changes are not all that were asked for.
		cmd.Id, cmd.Kind = nil, &metav1.Command_ElectLeaders{ElectLeaders: c}
		var err error
		if result, err = t.apply(ctx, cmd); err != nil {
			return nil, err
		}
		for k, err := range result.Refused {
			refused[places[k]] = err
		}
	}
	result.Refused = refused
	t.appliedEverywhere(ctx, result.Index)
	return t.respond(req, result), nil
}

// votesIn tells which brokers of an image vote in the metadata quorum.
func (n *Node) votesIn(im *metadata.Image) func(node int32) bool {
	return func(node int32) bool {
		b := im.Broker(node)
		return b != nil && isVoter(n.configuration(), b.StorageID)
	}
}
