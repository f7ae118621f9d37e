package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// DeleteRecords moves the start; onDelete may answer for the broker.
func (b *fakeBroker) DeleteRecords(_ context.Context, req *pb.DeleteRecordsRequest) (*pb.DeleteRecordsResponse, error) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	resp := &pb.DeleteRecordsResponse{}
	for _, q := range req.GetPartitions() {
		r := &pb.DeleteRecordsResult{Topic: q.GetTopic(), Partition: q.GetPartition(), LowWatermark: -1}
		resp.Results = append(resp.Results, r)
		p := b.c.topics[q.GetTopic()][q.GetPartition()]
		if b.c.onDelete != nil {
			r.Error = b.c.onDelete(p)
		}
		switch {
		case r.GetError() != nil:
		case p.leader != b.id:
			r.Error = fakeError(pb.ErrorCode_ERROR_CODE_NOT_LEADER, true, true)
		case q.GetBeforeOffset() > p.next:
			r.Error = fakeError(pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, false, false)
		default:
			p.start = max(p.start, q.GetBeforeOffset())
			r.LowWatermark = p.start
		}
	}
	return resp, nil
}

func TestDeleteRecords(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 2)
	c.fill(tp("t", 0), "a", 10, 5)
	c.fill(tp("t", 1), "a", 20, 5)
	admin := newTestClient(t, c).Admin()
	both := []TopicPartition{tp("t", 1), tp("t", 0)}
	del := func(before Offset) (low []int64, err error) {
		t.Helper()
		deleted, err := admin.DeleteRecords(t.Context(), before, both...)
		require.NoError(t, err)
		for i, d := range deleted {
			require.Equal(t, both[i], d.TopicPartition)
			low, err = append(low, d.LowWatermark), errors.Join(err, d.Err)
		}
		return low, err
	}
	low, err := del(At(3))
	require.NoError(t, err)
	require.Equal(t, []int64{3, 3}, low)
	// Each partition has its own answer.
	low, err = del(At(15))
	require.Equal(t, []int64{15, -1}, low)
	require.Equal(t, CodeOffsetOutOfRange, CodeOf(err))
	// The metadata is behind, and the first answer too late: both are tried again,
	// and what came meanwhile is not deleted.
	c.move(tp("t", 0), 1)
	tries := 0
	c.mu.Lock()
	c.onDelete = func(p *fakePartition) *pb.Error {
		if tries++; tries > 2 {
			return nil
		}
		p.next++
		return fakeError(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, true, true)
	}
	c.mu.Unlock()
	low, err = del(Latest())
	require.NoError(t, err)
	require.Equal(t, []int64{20, 10}, low)
	// Nothing is as young: everything goes.
	c.mu.Lock()
	c.onDelete = nil
	c.mu.Unlock()
	low, err = del(AtTime(time.UnixMilli(1 << 50)))
	require.NoError(t, err)
	require.Len(t, low, 2)
	require.GreaterOrEqual(t, low[0]+low[1], int64(32))

	_, err = admin.DeleteRecords(t.Context(), Earliest(), both...)
	require.ErrorContains(t, err, "before the earliest record there is nothing")
	_, err = admin.DeleteRecords(t.Context(), At(1), tp("t", 2))
	require.Equal(t, CodeUnknownPartition, CodeOf(err))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	c.move(tp("t", 0), -1)
	deleted, err := admin.DeleteRecords(ctx, At(1), tp("t", 0))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, int64(-1), deleted[0].LowWatermark)
	require.Error(t, deleted[0].Err)
}
