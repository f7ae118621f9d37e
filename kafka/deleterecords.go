package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func deleteRecords(ctx context.Context, d *Door, c *call, req *kmsg.DeleteRecordsRequest) (*kmsg.DeleteRecordsResponse, error) {
	ask := &api.DeleteRecords{Timeout: min(max(time.Duration(req.TimeoutMillis)*time.Millisecond, time.Millisecond), maxProduceTimeout)}
	for i := range req.Topics {
		t := &req.Topics[i]
		for _, p := range t.Partitions {
			ask.Partitions = append(ask.Partitions, api.DeletePartition{
				PartitionRef: api.PartitionRef{Topic: t.Topic, Partition: p.Partition}, Before: record.Offset(p.Offset),
			})
		}
	}
	results, err := d.services.Topics.DeleteRecords(ctx, ask)
	if err != nil {
		return nil, err
	}
	resp := kmsg.NewPtrDeleteRecordsResponse()
	for i := range req.Topics {
		t := kmsg.NewDeleteRecordsResponseTopic()
		t.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			r := &results[0]
			results = results[1:]
			out := kmsg.NewDeleteRecordsResponseTopicPartition()
			out.Partition, out.LowWatermark, out.ErrorCode = p.Partition, int64(r.LowWatermark), c.code(r.Err)
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}
