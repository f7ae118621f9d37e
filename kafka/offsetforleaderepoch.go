package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func offsetForLeaderEpoch(ctx context.Context, d *Door, c *call, req *kmsg.OffsetForLeaderEpochRequest) (*kmsg.OffsetForLeaderEpochResponse, error) {
	var queries []api.EpochQuery
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			queries = append(queries, api.EpochQuery{
				PartitionRef: api.PartitionRef{Topic: t.Topic, Partition: p.Partition},
				Epoch:        record.Epoch(p.LeaderEpoch), LeaderEpoch: record.Epoch(p.CurrentLeaderEpoch),
			})
		}
	}
	ends, err := d.services.Fetcher.EpochEnds(ctx, queries)
	if err != nil {
		return nil, err
	}
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for i := range req.Topics {
		t := kmsg.NewOffsetForLeaderEpochResponseTopic()
		t.Topic = req.Topics[i].Topic
		for j := range req.Topics[i].Partitions {
			end := &ends[0]
			ends = ends[1:]
			out := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			out.Partition, out.ErrorCode = req.Topics[i].Partitions[j].Partition, c.code(end.Err)
			out.LeaderEpoch, out.EndOffset = int32(end.Epoch), int64(end.End)
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}
