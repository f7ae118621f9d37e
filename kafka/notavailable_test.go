package kafka

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// unsureFetcher is a broker that does not know.
type unsureFetcher struct{ Fetcher }

func (unsureFetcher) ListOffsets(_ context.Context, queries []api.ListOffset) ([]api.ListOffsetResult, error) {
	results := make([]api.ListOffsetResult, len(queries))
	for i := range results {
		results[i].Err = api.Errorf(api.CodeOffsetNotAvailable, "not yet")
	}
	return results, nil
}

// Clients of before OFFSET_NOT_AVAILABLE are told what they look for the leader after, and
// ask again; some of them end at a code that they do not know.
func TestOffsetNotAvailableInOlderWords(t *testing.T) {
	for version, want := range map[int16]*kerr.Error{1: kerr.LeaderNotAvailable, 4: kerr.LeaderNotAvailable, 5: kerr.OffsetNotAvailable, 9: kerr.OffsetNotAvailable} {
		req := kmsg.NewPtrListOffsetsRequest()
		topic := kmsg.NewListOffsetsRequestTopic()
		topic.Partitions = append(topic.Partitions, kmsg.NewListOffsetsRequestTopicPartition())
		req.Topics = append(req.Topics, topic)
		resp, err := listOffsets(t.Context(), &Door{services: Services{Fetcher: unsureFetcher{}}}, &call{stats: &stats{}, version: version}, req)
		require.NoError(t, err)
		require.Equal(t, want.Code, resp.Topics[0].Partitions[0].ErrorCode, "ListOffsets version %d", version)
	}
	for version, want := range map[int16]*kerr.Error{4: kerr.NotLeaderForPartition, 10: kerr.NotLeaderForPartition, 11: kerr.OffsetNotAvailable, 16: kerr.OffsetNotAvailable} {
		a := &fetchAnswer{header: header{version: version}, results: []api.FetchResult{
			{}, {Err: api.Errorf(api.CodeOffsetNotAvailable, "not yet")}, {Err: api.Errorf(api.CodeOffsetOutOfRange, "gone")},
		}}
		a.sayOlder()
		require.Nil(t, a.results[0].Err)
		require.Equal(t, want.Code, codeOf(a.results[1].Err), "Fetch version %d", version)
		require.Equal(t, kerr.OffsetOutOfRange.Code, codeOf(a.results[2].Err))
	}
}
