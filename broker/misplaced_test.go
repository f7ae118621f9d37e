package broker

import (
	"testing"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/log/record"
)

// A fetch that names the leader epoch of what was read before is told where the log
// ceases to be that, although its offset is in range, and an older leader cannot say.
func TestFetchAfterATruncation(t *testing.T) {
	l := newLocal(t, testSettings(t))
	for _, b := range []struct {
		epoch record.Epoch
		n     int
	}{{1, 10}, {3, 10}} {
		end := l.log.End()
		buf := batchAt(t, end, b.epoch, b.n)
		if err := l.log.AppendFollower(end, end+record.Offset(b.n), 0, []*record.Buf{buf}); err != nil {
			t.Fatal(err)
		}
		buf.Release()
	}
	alone := &partition.Assignment{
		Leader: 1, LeaderEpoch: 4, PartitionEpoch: 1, MinISR: 1, Synced: true,
		Replicas: []partition.Assigned{{Node: 1, BrokerEpoch: 1, ISR: true}},
	}
	l.finish(l.assign(alone, nil))
	if l.role() != partition.RoleLeader {
		t.Fatal("it does not lead")
	}
	for name, c := range map[string]struct {
		offset record.Offset
		last   record.Epoch
		code   api.Code
		at     *api.Divergence
	}{
		"read from this log":             {10, 1, api.CodeNone, nil},
		"read to its end":                {20, 3, api.CodeNone, nil},
		"by the epoch of a look-up":      {20, 4, api.CodeNone, nil},
		"in an epoch without records":    {10, 2, api.CodeNone, nil},
		"in range, but of other records": {15, 1, api.CodeOffsetOutOfRange, &api.Divergence{Epoch: 1, End: 10}},
		"an epoch that is gone":          {15, 2, api.CodeOffsetOutOfRange, &api.Divergence{Epoch: 1, End: 10}},
		"of a log that began anew":       {5, 0, api.CodeOffsetOutOfRange, &api.Divergence{Epoch: -1, End: 0}},
		"beyond the end":                 {25, 3, api.CodeOffsetOutOfRange, &api.Divergence{Epoch: 3, End: 20}},
		"from a newer leader":            {15, 5, api.CodeUnknownLeaderEpoch, nil},
	} {
		fp := &api.FetchPartition{Offset: c.offset, LastEpoch: c.last, KnowsLast: true}
		err, at := l.b.misplaced(l, fp, l.log.Start())
		if api.CodeOf(asError(err)) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if (at == nil) != (c.at == nil) || at != nil && *at != *c.at {
			t.Errorf("%s: diverges at %+v, want %+v", name, at, c.at)
		}
		if fp.KnowsLast = false; c.offset <= 20 {
			if err, at := l.b.misplaced(l, fp, l.log.Start()); err != nil || at != nil {
				t.Errorf("%s, not asked for: %v", name, err)
			}
		}
	}

	// What has lost its leadership and a part of its log meanwhile has no say.
	fp := &api.FetchPartition{Offset: 25}
	l.finish(l.assign(led(2, 5), nil))
	if err, _ := l.b.misplaced(l, fp, 0); api.CodeOf(asError(err)) != api.CodeNotLeader {
		t.Errorf("a follower: %v", err)
	}
}
