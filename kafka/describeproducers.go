package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

func describeProducers(_ context.Context, d *Door, c *call, req *kmsg.DescribeProducersRequest) (*kmsg.DescribeProducersResponse, error) {
	resp := kmsg.NewPtrDescribeProducersResponse()
	for _, in := range distinct(req.Topics, func(t *kmsg.DescribeProducersRequestTopic) string { return t.Topic }) {
		t := kmsg.NewDescribeProducersResponseTopic()
		t.Topic = in.Topic
		for _, number := range distinct(in.Partitions, itself) {
			p := kmsg.NewDescribeProducersResponseTopicPartition()
			p.Partition = number
			states, e := d.services.Replicas.Producers(api.PartitionRef{Topic: in.Topic, Partition: number})
			p.ErrorCode, p.ErrorMessage = c.code(e), messageOf(e)
			for _, s := range states {
				a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
				a.ProducerID, a.ProducerEpoch, a.LastSequence, a.LastTimestamp = s.ID, int32(s.Epoch), s.LastSequence, s.LastUsed
				a.CoordinatorEpoch, a.CurrentTxnStartOffset = -1, -1
				p.ActiveProducers = append(p.ActiveProducers, a)
			}
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}
