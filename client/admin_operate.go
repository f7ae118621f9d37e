package client

import (
	"context"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// AddVoter gives a broker a vote in the metadata quorum and returns the voters
// then. The broker must be alive and have caught up. Asking for what is so already
// changes nothing, so the call may be repeated when its outcome is not known.
func (a *Admin) AddVoter(ctx context.Context, node int32) ([]int32, error) {
	return a.changeVoter(ctx, node, true)
}

// RemoveVoter takes a broker's vote in the metadata quorum; it stays a broker. It
// is refused when most of the remaining voters are not alive. It may be repeated
// like AddVoter.
func (a *Admin) RemoveVoter(ctx context.Context, node int32) ([]int32, error) {
	return a.changeVoter(ctx, node, false)
}

func (a *Admin) changeVoter(ctx context.Context, node int32, vote bool) (voters []int32, err error) {
	err = a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		resp, err := s.ChangeVoter(ctx, &pb.ChangeVoterRequest{NodeId: node, Vote: vote})
		voters = resp.GetVoters()
		return err
	})
	return voters, err
}

// ReplaceBroker gives up the data directory of a broker that is down, for good:
// whatever comes with it is refused from then on, and the node may come back once
// with an empty one, which catches up. With acceptLoss also where no other replica
// surely holds every acknowledged record. It tells whether the broker had a vote
// in the metadata quorum, which it gets back when it has caught up.
func (a *Admin) ReplaceBroker(ctx context.Context, node int32, acceptLoss bool) (vote bool, err error) {
	err = a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		resp, err := s.ReplaceBroker(ctx, &pb.ReplaceBrokerRequest{NodeId: node, AcceptLoss: acceptLoss})
		vote = resp.GetVote()
		return err
	})
	return vote, err
}

// RemoveBroker forgets a broker that is down and holds no replica. Its data
// directory does not come back.
func (a *Admin) RemoveBroker(ctx context.Context, node int32) error {
	return a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		_, err := s.RemoveBroker(ctx, &pb.RemoveBrokerRequest{NodeId: node})
		return err
	})
}

// AddPartitions makes a topic have total partitions, more than it has. Records
// that are there stay where they are, so a key's next records may go to another
// partition than its earlier ones. validateOnly checks and changes nothing.
func (a *Admin) AddPartitions(ctx context.Context, topic string, total int32, validateOnly bool) error {
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		_, err := s.AddPartitions(ctx, &pb.AddPartitionsRequest{Name: topic, Total: total, ValidateOnly: validateOnly})
		return err
	})
	if err == nil && !validateOnly {
		a.c.meta.refresh()
	}
	return err
}

// ElectUnclean makes a replica lead a partition that has no leader, although it
// may lack acknowledged records; what the other replicas have and it has not is
// lost. It is refused while somebody can lead without loss. partitionEpoch is the
// state of the partition for which it is meant, from DescribeTopic; -1: whichever.
func (a *Admin) ElectUnclean(ctx context.Context, tp TopicPartition, leader, partitionEpoch int32) error {
	req := &pb.ElectUncleanRequest{Topic: tp.Topic, Partition: tp.Partition, Leader: leader}
	if partitionEpoch >= 0 {
		req.PartitionEpoch = &partitionEpoch
	}
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		_, err := s.ElectUnclean(ctx, req)
		return err
	})
	if err == nil {
		a.c.meta.refresh()
	}
	return err
}
