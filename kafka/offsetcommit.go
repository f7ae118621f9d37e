package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func offsetCommit(ctx context.Context, d *Door, c *call, req *kmsg.OffsetCommitRequest) (*kmsg.OffsetCommitResponse, error) {
	commit := &api.CommitOffsets{Group: req.Group, MemberID: req.MemberID, InstanceID: value(req.InstanceID), MemberEpoch: req.Generation}
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			o := api.OffsetCommit{
				TopicPartition: api.TopicPartition{Topic: t.Topic, Partition: p.Partition},
				Offset:         record.Offset(p.Offset), LeaderEpoch: record.UnknownEpoch,
			}
			if c.version >= 6 {
				o.LeaderEpoch = record.Epoch(p.LeaderEpoch)
			}
			if p.Metadata != nil {
				o.Metadata = *p.Metadata
			}
			commit.Offsets = append(commit.Offsets, o)
		}
	}
	results, err := d.services.Offsets.CommitOffsets(ctx, commit)
	e := asError(err)
	resp := kmsg.NewPtrOffsetCommitResponse()
	for i := range req.Topics {
		t := kmsg.NewOffsetCommitResponseTopic()
		t.Topic = req.Topics[i].Topic
		for j := range req.Topics[i].Partitions {
			out := kmsg.NewOffsetCommitResponseTopicPartition()
			out.Partition, out.ErrorCode = req.Topics[i].Partitions[j].Partition, c.counted(commitCode(e))
			if e == nil {
				out.ErrorCode = c.counted(commitCode(results[0].Err))
				results = results[1:]
			}
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

// commitCode is codeOf for commits: clients wait and commit again at one of the words
// of groups alone.
func commitCode(e *api.Error) int16 {
	if e != nil && e.Code == api.CodeOverloaded {
		return kerr.CoordinatorLoadInProgress.Code
	}
	return codeOf(e)
}
