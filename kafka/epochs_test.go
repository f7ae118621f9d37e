package kafka

import (
	"context"
	"encoding/hex"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// epochs is a broker that knows where one epoch ends.
type epochs struct {
	stub

	asked []api.EpochQuery
}

func (e *epochs) EpochEnds(_ context.Context, queries []api.EpochQuery) ([]api.EpochEnd, error) {
	e.asked = append(e.asked, queries...)
	return []api.EpochEnd{{Epoch: 4, End: 700}, {Epoch: -1, End: -1, Err: api.Errorf(api.CodeNotLeader, "moved")}}, nil
}

// OffsetForLeaderEpoch is the same in each version: 4, which most clients ask for, and 2,
// which is all that librdkafka knows. What librdkafka is sent is given byte for byte.
func TestOffsetForLeaderEpochInEachVersion(t *testing.T) {
	for version := int16(2); version <= 4; version++ {
		e := &epochs{}
		s := stubServices(stub{})
		s.Fetcher = e
		d := New(Options{Arena: record.NewArena(1 << 20), Logger: slog.New(slog.DiscardHandler)}, s)
		t.Cleanup(d.Close)
		client, _ := observed(t, d)
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.SetVersion(version)
		req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{
			{Partition: 1, CurrentLeaderEpoch: 9, LeaderEpoch: 4}, {Partition: 2, CurrentLeaderEpoch: -1, LeaderEpoch: 3},
		}}}
		resp, ok := ask(t, client, req).(*kmsg.OffsetForLeaderEpochResponse)
		require.True(t, ok)
		require.Equal(t, []api.EpochQuery{
			{PartitionRef: api.PartitionRef{Topic: "t", Partition: 1}, Epoch: 4, LeaderEpoch: 9},
			{PartitionRef: api.PartitionRef{Topic: "t", Partition: 2}, Epoch: 3, LeaderEpoch: -1},
		}, e.asked, "version %d", version)
		p := resp.Topics[0].Partitions
		require.Len(t, p, 2, "version %d", version)
		require.Equal(t, []int64{0, 1, 4, 700}, []int64{int64(p[0].ErrorCode), int64(p[0].Partition), int64(p[0].LeaderEpoch), p[0].EndOffset})
		require.Equal(t, []int64{int64(kerr.NotLeaderForPartition.Code), 2, -1, -1}, []int64{int64(p[1].ErrorCode), int64(p[1].Partition), int64(p[1].LeaderEpoch), p[1].EndOffset})
		if version == 2 {
			_, err := client.Write(frame(req, 7))
			require.NoError(t, err)
			require.Equal(t, "00000007"+"00000000"+ // correlation, throttle
				"00000001"+"000174"+"00000002"+ // a topic, its name, two partitions
				"0000"+"00000001"+"00000004"+"00000000000002bc"+
				"0006"+"00000002"+"ffffffff"+"ffffffffffffffff", hex.EncodeToString(readFrame(t, client)))
		}
	}
}
