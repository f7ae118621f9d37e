package kafka

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// committing answers every commit with err, or each offset with each.
type committing struct {
	failing
	err, each *api.Error
}

func (c committing) CommitOffsets(_ context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error) {
	if c.err != nil {
		return nil, c.err
	}
	results := make([]api.CommittedOffset, len(req.Offsets))
	for i := range results {
		results[i].TopicPartition, results[i].Err = req.Offsets[i].TopicPartition, c.each
	}
	return results, nil
}

// A commit that may be sent again is answered with a word that clients of Kafka wait
// for, and not with one that they give up at.
func TestCommitThatMayBeSentAgain(t *testing.T) {
	busy := api.Errorf(api.CodeOverloaded, "too many wait")
	req := kmsg.NewPtrOffsetCommitRequest()
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic, topic.Partitions = "t", []kmsg.OffsetCommitRequestTopicPartition{kmsg.NewOffsetCommitRequestTopicPartition()}
	req.Topics = append(req.Topics, topic)
	for name, c := range map[string]struct {
		offsets committing
		want    int16
	}{
		"stored":            {committing{}, 0},
		"busy":              {committing{err: busy}, kerr.CoordinatorLoadInProgress.Code},
		"busy of one":       {committing{each: busy}, kerr.CoordinatorLoadInProgress.Code},
		"another's, of one": {committing{each: api.Errorf(api.CodeStaleMemberEpoch, "")}, kerr.StaleMemberEpoch.Code},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := offsetCommit(t.Context(), &Door{services: Services{Offsets: c.offsets}}, &call{stats: &stats{}, version: 8}, req)
			require.NoError(t, err)
			require.Equal(t, c.want, resp.Topics[0].Partitions[0].ErrorCode)
		})
	}
}
