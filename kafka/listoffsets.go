package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// The timestamps that mean something else.
const (
	timestampLatest        = -1
	timestampEarliest      = -2
	timestampNewest        = -3 // the record with the largest timestamp
	timestampEarliestLocal = -4
	timestampLastTiered    = -5
)

// notAvailableList is the first version whose clients know OFFSET_NOT_AVAILABLE (KIP-207).
// Those before it look for the leader, and ask again.
const notAvailableList = 5

func listOffsets(ctx context.Context, d *Door, c *call, req *kmsg.ListOffsetsRequest) (*kmsg.ListOffsetsResponse, error) {
	var queries []api.ListOffset
	var refused []*api.Error
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			q, err := listOffsetsQuery(t.Topic, &t.Partitions[j])
			queries, refused = append(queries, q), append(refused, err)
		}
	}
	results, err := d.services.Fetcher.ListOffsets(ctx, queries)
	if err != nil {
		return nil, err
	}
	resp := kmsg.NewPtrListOffsetsResponse()
	for i := range req.Topics {
		t := kmsg.NewListOffsetsResponseTopic()
		t.Topic = req.Topics[i].Topic
		for j := range req.Topics[i].Partitions {
			in := &req.Topics[i].Partitions[j]
			out := kmsg.NewListOffsetsResponseTopicPartition()
			out.Partition, out.Timestamp, out.Offset, out.LeaderEpoch = in.Partition, -1, -1, -1
			r, refusal := &results[0], refused[0]
			results, refused = results[1:], refused[1:]
			switch {
			case r.Err != nil && r.Err.Code == api.CodeOffsetNotAvailable && c.version < notAvailableList:
				out.ErrorCode = c.fail(kerr.LeaderNotAvailable)
			case r.Err != nil:
				out.ErrorCode = c.code(r.Err)
			case refusal != nil:
				out.ErrorCode = c.code(refusal)
			case in.Timestamp == timestampLastTiered:
			default:
				out.Timestamp, out.Offset, out.LeaderEpoch = r.Timestamp, int64(r.Offset), int32(r.LeaderEpoch)
			}
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

func listOffsetsQuery(topic string, p *kmsg.ListOffsetsRequestTopicPartition) (api.ListOffset, *api.Error) {
	q := api.ListOffset{
		PartitionRef: api.PartitionRef{Topic: topic, Partition: p.Partition},
		Query:        api.QueryTimestamp, Timestamp: p.Timestamp, CurrentEpoch: record.Epoch(p.CurrentLeaderEpoch), Checked: p.CurrentLeaderEpoch >= 0,
	}
	switch p.Timestamp {
	case timestampLatest:
		q.Query = api.QueryLatest
	case timestampEarliest, timestampEarliestLocal, timestampLastTiered:
		// Nothing is tiered: the local log is all of it, and there is no last tiered offset.
		q.Query = api.QueryEarliest
	case timestampNewest:
		q.Query = api.QueryNewest
	default:
		if p.Timestamp < 0 {
			return q, kafkaError(kerr.UnsupportedVersion, "the timestamp %d has no meaning", p.Timestamp)
		}
	}
	return q, nil
}
