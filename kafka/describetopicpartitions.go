package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// maxDescribed is how many partitions one answer holds, unless the client wants fewer.
const maxDescribed = 2000

// describeTopicPartitions shows topics a page at a time (KIP-966), by name.
func describeTopicPartitions(ctx context.Context, d *Door, c *call, req *kmsg.DescribeTopicPartitionsRequest) (*kmsg.DescribeTopicPartitionsResponse, error) {
	names := make([]string, 0, len(req.Topics))
	for _, t := range req.Topics {
		names = append(names, t.Topic)
	}
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	if cur := req.Cursor; cur != nil && (cur.Partition < 0 || len(names) > 0 && !slices.Contains(names, cur.Topic)) {
		for _, name := range names {
			out := kmsg.NewDescribeTopicPartitionsResponseTopic()
			out.Topic, out.AuthorizedOperations, out.ErrorCode = &name, noOperations, c.fail(kerr.InvalidRequest)
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil
	}
	md, err := d.services.Cluster.Metadata(ctx, names, true, c.listener)
	if err != nil {
		return nil, err
	}
	found := make(map[string]*api.Topic, len(md.Topics))
	for i := range md.Topics {
		t := &md.Topics[i]
		if found[t.Name] = t; len(req.Topics) == 0 {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	left := maxDescribed
	if n := int(req.ResponsePartitionLimit); n > 0 && n < left {
		left = n
	}
	first := int32(0)
	if req.Cursor != nil {
		i, here := slices.BinarySearch(names, req.Cursor.Topic)
		if names = names[i:]; here {
			first = req.Cursor.Partition
		}
	}
	for _, name := range names {
		if left == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: first}
			break
		}
		out := kmsg.NewDescribeTopicPartitionsResponseTopic()
		out.Topic, out.AuthorizedOperations = &name, noOperations
		t := found[name]
		if t == nil {
			missing := kerr.UnknownTopicOrPartition
			if !validName(name) {
				missing = kerr.InvalidTopicException
			}
			out.ErrorCode = c.fail(missing)
			resp.Topics = append(resp.Topics, out)
			continue
		}
		from := min(int(first), len(t.Partitions))
		to := min(len(t.Partitions), from+left)
		out.TopicID, out.IsInternal = t.ID, t.Internal
		for i := from; i < to; i++ {
			out.Partitions = append(out.Partitions, describedPartition(c, &t.Partitions[i], md))
		}
		resp.Topics = append(resp.Topics, out)
		left -= to - from
		if to < len(t.Partitions) {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: int32(to)}
			break
		}
		first = 0
	}
	return resp, nil
}

func describedPartition(c *call, p *api.Partition, md *api.Metadata) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	out := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
	out.Partition, out.LeaderID, out.LeaderEpoch = p.Partition, p.Leader, p.LeaderEpoch
	out.Replicas, out.ISR, out.OfflineReplicas = p.Replicas, p.ISR, offline(p.Replicas, md)
	out.EligibleLeaderReplicas, out.LastKnownELR = append([]int32{}, p.ELR...), []int32{}
	if p.Leader < 0 {
		out.ErrorCode = c.fail(kerr.LeaderNotAvailable)
	}
	return out
}
