package broker

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ChangeVoter gives a broker a vote in the metadata quorum, or takes it, and
// returns the voters then. Asking for what is so already changes nothing.
func (b *Broker) ChangeVoter(ctx context.Context, node int32, vote bool) ([]int32, error) {
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_Voter{
		Voter: &pb.VoterProposal{NodeId: node, Vote: vote},
	}})
	if err != nil {
		return nil, proposalError(err)
	}
	return resp.GetVoters(), nil
}

// ReplaceBroker gives up the data directory of a broker that is down, and tells
// whether it had a vote, which the next directory gets.
func (b *Broker) ReplaceBroker(ctx context.Context, node int32, acceptLoss bool) (vote bool, err error) {
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_ReplaceBroker{
		ReplaceBroker: &pb.ReplaceBrokerProposal{NodeId: node, AcceptLoss: acceptLoss},
	}})
	if err != nil {
		return false, proposalError(err)
	}
	return resp.GetVote(), proposalError(b.settled(ctx, resp.GetIndex()))
}

// RemoveBroker forgets a broker that is down and holds no replica.
func (b *Broker) RemoveBroker(ctx context.Context, node int32) error {
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_RemoveBroker{
		RemoveBroker: &pb.RemoveBrokerProposal{NodeId: node},
	}})
	if err != nil {
		return proposalError(err)
	}
	return proposalError(b.settled(ctx, resp.GetIndex()))
}

// AddPartitions gives a topic more partitions and returns how many it has then.
func (b *Broker) AddPartitions(ctx context.Context, req *api.AddPartitions) (int32, error) {
	if err := b.changeable(req.Name); err != nil {
		return 0, err
	}
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_AddPartitions{
		AddPartitions: &pb.AddPartitionsProposal{Name: req.Name, Total: req.Total, ValidateOnly: req.ValidateOnly},
	}})
	if err != nil {
		return 0, topicError(req.Name, err)
	}
	if req.ValidateOnly {
		return req.Total, nil
	}
	return resp.GetPartitions(), topicError(req.Name, b.settled(ctx, resp.GetIndex()))
}

// ElectUnclean makes a replica lead that may lack acknowledged records.
func (b *Broker) ElectUnclean(ctx context.Context, req *api.ElectUnclean) error {
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_ElectUnclean{
		ElectUnclean: &pb.ElectUncleanProposal{
			Topic: req.Topic, Partition: req.Partition, Leader: req.Leader, PartitionEpoch: req.PartitionEpoch,
		},
	}})
	if err != nil {
		return topicError(req.Topic, err)
	}
	return topicError(req.Topic, b.settled(ctx, resp.GetIndex()))
}
