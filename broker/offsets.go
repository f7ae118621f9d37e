package broker

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// ListOffsets looks offsets up, each query for itself.
func (b *Broker) ListOffsets(_ context.Context, queries []api.ListOffset) ([]api.ListOffsetResult, error) {
	results := make([]api.ListOffsetResult, len(queries))
	for i := range queries {
		results[i] = b.listOne(&queries[i])
	}
	return results, nil
}

func (b *Broker) listOne(q *api.ListOffset) api.ListOffsetResult {
	r := api.ListOffsetResult{PartitionRef: q.PartitionRef, Offset: record.UnknownOffset, Timestamp: -1, LeaderEpoch: record.UnknownEpoch}
	l, err := b.serving(&r.PartitionRef)
	if err == nil {
		epoch := record.UnknownEpoch
		if q.Checked {
			epoch = q.CurrentEpoch
		}
		err = b.mayRead(l, &api.FetchPartition{LeaderEpoch: epoch})
	}
	if err != nil {
		r.Err = err
		return r
	}
	l.mu.Lock()
	hw, known := l.state.Latest()
	r.LeaderEpoch = l.state.Epoch()
	l.mu.Unlock()
	if q.Query == api.QueryEarliest {
		r.Offset = l.log.Start()
		return r
	}
	// A new leader may not know yet how far its predecessor had committed: the
	// answer could lie below what a consumer has already read (KIP-207).
	if !known {
		r.Err = api.Errorf(api.CodeOffsetNotAvailable, "the new leader does not know yet how far the log is committed").At(l.topic, l.partition)
		return r
	}
	if q.Query == api.QueryLatest {
		r.Offset = hw
		return r
	}
	var offset record.Offset
	var timestamp int64
	var found bool
	var readErr error
	if q.Query == api.QueryNewest {
		offset, timestamp, found, readErr = l.log.NewestTime(hw)
	} else {
		offset, timestamp, found, readErr = l.log.OffsetForTime(q.Timestamp, hw)
	}
	switch {
	case readErr != nil:
		r.Err = l.readError(readErr)
	case found:
		r.Offset, r.Timestamp = offset, timestamp
	}
	return r
}
