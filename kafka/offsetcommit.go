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
	results, e := d.commitOffsets(ctx, commit)
	resp := kmsg.NewPtrOffsetCommitResponse()
	for i := range req.Topics {
		t := kmsg.NewOffsetCommitResponseTopic()
		t.Topic = req.Topics[i].Topic
		for j := range req.Topics[i].Partitions {
			out := kmsg.NewOffsetCommitResponseTopicPartition()
			out.Partition, out.ErrorCode = req.Topics[i].Partitions[j].Partition, c.counted(commitCode(e, c.version))
			if e == nil {
				out.ErrorCode = c.counted(commitCode(results[0].Err, c.version))
				results = results[1:]
			}
			t.Partitions = append(t.Partitions, out)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

// commitOffsets is for members and, with the generation -1, for everybody else.
func (d *Door) commitOffsets(ctx context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, *api.Error) {
	if req.MemberID == "" && req.MemberEpoch >= 0 {
		return nil, api.Errorf(api.CodeUnknownMember, "a commit in generation %d names no member", req.MemberEpoch)
	}
	results, err := d.services.Offsets.CommitOffsets(ctx, req)
	return results, asError(err)
}

// commitCode is codeOf for commits, where Kafka has words of its own.
func commitCode(e *api.Error, version int16) int16 {
	if e == nil {
		return 0
	}
	switch e.Code {
	case api.CodeOverloaded:
		return kerr.CoordinatorLoadInProgress.Code // clients wait and commit again
	case api.CodeRequestTimedOut:
		return kerr.CoordinatorNotAvailable.Code // as stats.ofGroup
	case api.CodeGroupNotEmpty:
		return kerr.UnknownMemberID.Code // who commits from outside is no member
	case api.CodeStaleMemberEpoch, api.CodeFencedMemberEpoch:
		if version < 9 {
			return kerr.UnsupportedVersion.Code // member epochs came with version 9
		}
		return kerr.StaleMemberEpoch.Code
	default:
		return codeOf(e)
	}
}
