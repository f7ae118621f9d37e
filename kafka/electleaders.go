package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// electPreferred is the type of election without loss. The other kind is an order
// that names the replica (penstock topic elect --unclean).
const electPreferred = 0

// electLeaders lets preferred leaders lead. When all partitions are meant, those
// that are led so already are left out of the answer.
func electLeaders(ctx context.Context, d *Door, c *call, req *kmsg.ElectLeadersRequest) (*kmsg.ElectLeadersResponse, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrElectLeadersResponse()
	if req.ElectionType != electPreferred {
		refuseElection(c, resp, req)
		return resp, nil
	}
	refs, err := d.electable(ctx, req)
	if err == nil && len(refs) > 0 {
		var errs []*api.Error
		if errs, err = d.services.Placement.ElectPreferred(ctx, refs); err == nil {
			addElected(c, resp, refs, errs, req.Topics == nil)
		}
	}
	if err != nil {
		resp.ErrorCode = c.code(asError(err))
	}
	return resp, nil
}

// refuseElection refuses a type of election. Only partitions have a message that says why.
func refuseElection(c *call, resp *kmsg.ElectLeadersResponse, req *kmsg.ElectLeadersRequest) {
	e := kafkaError(kerr.InvalidRequest, "election type %d: 0, preferred, is served; an unclean one names the replica, by penstock topic elect --unclean", req.ElectionType)
	for i := range req.Topics {
		t := kmsg.NewElectLeadersResponseTopic()
		t.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			out := kmsg.NewElectLeadersResponseTopicPartition()
			out.Partition, out.ErrorCode, out.ErrorMessage = p, c.code(e), messageOf(e)
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	if len(req.Topics) == 0 {
		resp.ErrorCode = c.code(e)
	}
}

// electable are the partitions that are meant.
func (d *Door) electable(ctx context.Context, req *kmsg.ElectLeadersRequest) ([]api.PartitionRef, error) {
	var refs []api.PartitionRef
	if req.Topics != nil {
		for i := range req.Topics {
			for _, p := range req.Topics[i].Partitions {
				refs = append(refs, api.PartitionRef{Topic: req.Topics[i].Topic, Partition: p})
			}
		}
		return refs, nil
	}
	md, err := d.services.Cluster.Metadata(ctx, nil, true, "")
	if err != nil {
		return nil, err
	}
	for i := range md.Topics {
		for _, p := range md.Topics[i].Partitions {
			if p.Leader != p.Replicas[0] {
				refs = append(refs, api.PartitionRef{Topic: md.Topics[i].Name, Partition: p.Partition})
			}
		}
	}
	return refs, nil
}

func addElected(c *call, resp *kmsg.ElectLeadersResponse, refs []api.PartitionRef, errs []*api.Error, all bool) {
	for i, ref := range refs {
		if all && errs[i] != nil && errs[i].Code == api.CodeElectionNotNeeded {
			continue
		}
		out := kmsg.NewElectLeadersResponseTopicPartition()
		out.Partition, out.ErrorCode, out.ErrorMessage = ref.Partition, c.code(errs[i]), messageOf(errs[i])
		if n := len(resp.Topics); n == 0 || resp.Topics[n-1].Topic != ref.Topic {
			t := kmsg.NewElectLeadersResponseTopic()
			t.Topic = ref.Topic
			resp.Topics = append(resp.Topics, t)
		}
		t := &resp.Topics[len(resp.Topics)-1]
		t.Partitions = append(t.Partitions, out)
	}
}
