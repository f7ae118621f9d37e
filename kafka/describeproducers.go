package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

func describeProducers(_ context.Context, d *Door, _ *call, req *kmsg.DescribeProducersRequest) (*kmsg.DescribeProducersResponse, error) {
	resp := kmsg.NewPtrDescribeProducersResponse()
	for _, in := range req.Topics {
		t := kmsg.NewDescribeProducersResponseTopic()
		t.Topic = in.Topic
		for _, number := range in.Partitions {
			p := kmsg.NewDescribeProducersResponseTopicPartition()
			p.Partition = number
			states, e := d.services.Replicas.Producers(api.PartitionRef{Topic: in.Topic, Partition: number})
			p.ErrorCode, p.ErrorMessage = codeOf(e), messageOf(e)
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
