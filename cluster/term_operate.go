package cluster

import (
	"context"
	"hash/fnv"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// prepareOperate fills in what a proposal of an operator leaves to the
// controller. A nil command says that the proposal is none of those.
func (t *term) prepareOperate(req *pb.ProposeRequest) (*metav1.Command, error) {
	im := t.node.Image()
	switch k := req.GetKind().(type) {
	case *pb.ProposeRequest_ReplaceBroker:
		c := &metav1.ReplaceBroker{NodeId: k.ReplaceBroker.GetNodeId(), AcceptLoss: k.ReplaceBroker.GetAcceptLoss()}
		if b := im.Broker(c.GetNodeId()); b != nil && !b.Replaced() {
			c.StorageId, c.Vote = b.StorageID[:], isVoter(t.node.configuration(), b.StorageID)
		}
		return &metav1.Command{Kind: &metav1.Command_ReplaceBroker{ReplaceBroker: c}}, nil
	case *pb.ProposeRequest_RemoveBroker:
		c := &metav1.RemoveBroker{NodeId: k.RemoveBroker.GetNodeId()}
		if b := im.Broker(c.GetNodeId()); b != nil && !b.Replaced() {
			c.StorageId = b.StorageID[:]
		}
		return &metav1.Command{Kind: &metav1.Command_RemoveBroker{RemoveBroker: c}}, nil
	case *pb.ProposeRequest_ElectUnclean:
		c, err := electUnclean(im, k.ElectUnclean)
		return &metav1.Command{Kind: &metav1.Command_ElectUnclean{ElectUnclean: c}}, err
	default:
		return nil, nil
	}
}

func electUnclean(im *metadata.Image, ask *pb.ElectUncleanProposal) (*metav1.ElectUnclean, error) {
	topic := im.Topic(ask.GetTopic())
	if topic == nil {
		return nil, newError(pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, "there is no topic %q", ask.GetTopic())
	}
	if n := len(topic.Partitions); ask.GetPartition() < 0 || int(ask.GetPartition()) >= n {
		return nil, newError(pb.ErrorCode_ERROR_CODE_UNKNOWN_PARTITION, "topic %s has partitions 0 to %d, not %d", topic.Name, n-1, ask.GetPartition())
	}
	c := &metav1.ElectUnclean{TopicId: topic.ID[:], Partition: ask.GetPartition(), Leader: ask.GetLeader(), PartitionEpoch: ask.GetPartitionEpoch()}
	if c.GetPartitionEpoch() < 0 {
		c.PartitionEpoch = topic.Partitions[ask.GetPartition()].PartitionEpoch
	}
	return c, nil
}

// afterOperate does what belongs to an applied proposal beside the command. It
// runs after a retry that found the command applied, too.
func (t *term) afterOperate(ctx context.Context, req *pb.ProposeRequest, resp *pb.ProposeResponse) error {
	switch k := req.GetKind().(type) {
	case *pb.ProposeRequest_ReplaceBroker:
		b := t.node.Image().Broker(k.ReplaceBroker.GetNodeId())
		resp.Vote = b != nil && b.VotePending
		if err := t.retireServers(ctx); err != nil {
			return err
		}
	case *pb.ProposeRequest_RemoveBroker:
		if err := t.retireServers(ctx); err != nil {
			return err
		}
	case *pb.ProposeRequest_AddPartitions:
		if topic := t.node.Image().Topic(k.AddPartitions.GetName()); topic != nil && !k.AddPartitions.GetValidateOnly() {
			resp.Partitions = int32(len(topic.Partitions))
		}
	case *pb.ProposeRequest_Reassign, *pb.ProposeRequest_CreateTopic, *pb.ProposeRequest_ElectUnclean, *pb.ProposeRequest_DeleteTopic, *pb.ProposeRequest_AlterTopic:
	default:
		return nil
	}
	t.appliedEverywhere(ctx, resp.GetIndex())
	return nil
}

// tellOperate notes what an operator ordered and its cost.
func (t *term) tellOperate(cmd *metav1.Command) {
	logger := t.node.logger
	switch k := cmd.GetKind().(type) {
	case *metav1.Command_ReplaceBroker:
		logger.Warn("a broker's disk was given up by an operator's order", "broker", k.ReplaceBroker.GetNodeId(),
			"storage_id", serverIDOf(k.ReplaceBroker.GetStorageId()), "accept_loss", k.ReplaceBroker.GetAcceptLoss())
	case *metav1.Command_RemoveBroker:
		logger.Warn("a broker was removed by an operator's order", "broker", k.RemoveBroker.GetNodeId(),
			"storage_id", serverIDOf(k.RemoveBroker.GetStorageId()))
	case *metav1.Command_ElectUnclean:
		t.node.possibleLoss.Add(1)
		topic := ""
		if id, ok := metadata.ParseID(k.ElectUnclean.GetTopicId()); ok {
			if tp := t.node.Image().TopicByID(id); tp != nil {
				topic = tp.Name
			}
		}
		logger.Warn("a leader was elected by an operator's order that may lack acknowledged records",
			"topic", topic, "partition", k.ElectUnclean.GetPartition(), "leader", k.ElectUnclean.GetLeader())
	}
}

func serverIDOf(storageID []byte) string {
	id, _ := metadata.ParseID(storageID)
	return id.String()
}

// addPartitions places the partitions that a topic gets and proposes them.
func (t *term) addPartitions(im *metadata.Image, ask *pb.AddPartitionsProposal) (*metav1.AddPartitions, error) {
	topic := im.Topic(ask.GetName())
	if topic == nil {
		return nil, newError(pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, "there is no topic %q", ask.GetName())
	}
	have, total := len(topic.Partitions), int(ask.GetTotal())
	switch {
	case total < have:
		return nil, newError(pb.ErrorCode_ERROR_CODE_INVALID_PARTITIONS,
			"topic %s has %d partitions: their number may grow, it cannot become %d", topic.Name, have, total)
	case total == have:
		return nil, newError(pb.ErrorCode_ERROR_CODE_INVALID_PARTITIONS, "topic %s has %d partitions already", topic.Name, have)
	}
	seed := fnv.New64a()
	_, _ = seed.Write(append(topic.ID[:], byte(have), byte(have>>8))) // a hash's Write never fails
	assignments, err := controller.PlaceMore(im, topic, total-have, seed.Sum64())
	if err != nil {
		return nil, err
	}
	return &metav1.AddPartitions{Name: topic.Name, TopicId: topic.ID[:], From: int32(have), Partitions: assignments}, nil
}
