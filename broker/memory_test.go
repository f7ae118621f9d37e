package broker

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/log/record"
)

// alone is an assignment of one replica.
func alone() *partition.Assignment {
	return &partition.Assignment{
		Leader: 1, LeaderEpoch: 1, PartitionEpoch: 1, MinISR: 1, Synced: true,
		Replicas: []partition.Assigned{{Node: 1, BrokerEpoch: 1, ISR: true}},
	}
}

// newReadable is a broker with one partition of some large batches, committed.
func newReadable(t *testing.T, batches int) *Broker {
	t.Helper()
	l := newLocal(t, testSettings(t))
	b := l.b
	b.cfg.MaxInFlight = 1 << 20
	b.shareMemory()
	b.metrics = newMetrics(b)
	l.finish(l.assign(alone(), nil))
	batch := inArena(t, l)
	for range batches {
		p := b.Produce(t.Context(), &api.ProduceRequest{Acks: api.AcksAll, Partitions: []api.ProducePartition{{
			PartitionRef: api.PartitionRef{Topic: "t"}, Batches: []*record.Buf{batch(0, 0)},
		}}})
		results, err := p.Wait(t.Context())
		require.NoError(t, err)
		require.Nil(t, results[0].Err)
	}
	return b
}

func fetchOf(from record.Offset, wait time.Duration, minBytes int) *api.FetchRequest {
	return &api.FetchRequest{MaxWait: wait, MinBytes: minBytes, MaxBytes: 1 << 20, Partitions: []api.FetchPartition{{
		PartitionRef: api.PartitionRef{Topic: "t"}, Offset: from, MaxBytes: 1 << 20, LeaderEpoch: -1,
	}}}
}

// A fetch that finds no memory for readers waits until somebody goes on, and is
// empty, not refused, when nobody does. While it waits it holds nothing.
func TestFetchWaitsForMemory(t *testing.T) {
	b := newReadable(t, 10)
	arena := b.cfg.Arena
	all := arena.ReadLimit()
	require.True(t, arena.TryReserve(all, math.MaxInt64))
	results, err := b.Fetch(t.Context(), fetchOf(0, time.Millisecond, 1))
	require.NoError(t, err)
	require.Nil(t, results[0].Err)
	require.Empty(t, results[0].Batches)
	require.EqualValues(t, 100, results[0].HighWatermark)

	const waiting = 20
	var wg sync.WaitGroup
	got := make(chan int, waiting)
	for range waiting {
		wg.Go(func() {
			results, err := b.Fetch(t.Context(), fetchOf(0, time.Minute, 1))
			if err != nil {
				t.Error(err)
				return
			}
			got <- results[0].Bytes()
			results[0].Release()
		})
	}
	until(t, "all wait", func() bool { return b.short.waiting.Load() == waiting })
	require.True(t, b.MemoryShort())
	require.Equal(t, all, arena.Pinned(), "they hold nothing meanwhile")
	arena.Unreserve(all)
	wg.Wait()
	for range waiting {
		require.NotZero(t, <-got)
	}
	require.False(t, b.MemoryShort())
	require.Zero(t, arena.Pinned())
}

// A fetch that waits for more than there is keeps none of what there is from
// giving way.
func TestAWaitingFetchPinsNothing(t *testing.T) {
	b := newReadable(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.Fetch(ctx, fetchOf(0, time.Minute, 1<<20))
		done <- err
	}()
	l := b.table.get(api.PartitionRef{Topic: "t"})
	until(t, "it waits", func() bool { return l.readers.waiting.Load() == 1 && b.cfg.Arena.Pinned() == 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	results, err := b.Fetch(t.Context(), fetchOf(0, time.Millisecond, 1<<20))
	require.NoError(t, err)
	require.NotZero(t, results[0].Bytes(), "what there is when the time is over")
	results[0].Release()
}
