package client

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// TestLingerEndsWithTheLastAnswer: a batch waits for the answers to others of its
// producer, of other brokers too, and leaves with the last of them.
func TestLingerEndsWithTheLastAnswer(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 2)
	p := newTestProducer(t, newTestClient(t, c), WithPartitioner(ManualPartitioner()), WithLinger(time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range int32(2) {
		require.NoError(t, p.ProduceSync(ctx, &Record{Topic: "t", Partition: i, Value: []byte("first")}))
	}
	slow := c.leaderOf(tp("t", 0))
	require.NotEqual(t, slow, c.leaderOf(tp("t", 1)))
	for round := range 200 {
		if round == 0 {
			c.brokers[slow].freeze() // later the last answer and the look at it may meet
			t.Cleanup(c.brokers[slow].thaw)
		}
		var done sync.WaitGroup
		done.Add(2)
		promise := func(_ *Record, err error) {
			if err != nil {
				t.Error(err)
			}
			done.Done()
		}
		p.Produce(ctx, &Record{Topic: "t", Partition: 0, Value: []byte("under way")}, promise)
		if round == 0 {
			require.Eventually(t, func() bool { return p.away.Load() == 1 }, 10*time.Second, time.Millisecond)
		}
		p.Produce(ctx, &Record{Topic: "t", Partition: 1, Value: []byte("lingers")}, promise)
		if round == 0 {
			require.Eventually(t, func() bool { return lingering(p) == 1 }, 10*time.Second, time.Millisecond)
			require.Equal(t, []string{"first"}, c.values(tp("t", 1)))
			c.brokers[slow].thaw()
		}
		arrived := make(chan struct{})
		go func() { done.Wait(); close(arrived) }()
		select {
		case <-arrived:
		case <-ctx.Done():
			t.Fatalf("round %d: a batch lingers with nothing under way", round)
		}
	}
}

func lingering(p *Producer) (n int) {
	for _, s := range p.allSinks() {
		if s.lingers.Load() {
			n++
		}
	}
	return n
}

// TestNoPartitionKeepsASingleRecord: records without keys leave in batches that are full,
// or half full where they can leave at once, while others are under way, none of them left
// behind when the producer goes to another partition.
func TestNoPartitionKeepsASingleRecord(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 4)
	var batches []int // guarded by c.mu, as onProduce is called with it
	c.onProduce = func(_ *fakeBroker, _ *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		batches = append(batches, int(info.Count))
		return nil, false
	}
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(time.Minute))
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("first")}))
	c.brokers[0].freeze()
	t.Cleanup(c.brokers[0].thaw)
	value := make([]byte, 100)
	for range 120 {
		p.Produce(t.Context(), &Record{Topic: "t", Value: value}, nil)
	}
	c.brokers[0].thaw()
	require.NoError(t, p.Flush(t.Context()))
	c.mu.Lock()
	defer c.mu.Unlock()
	small := 0
	for _, n := range batches {
		if n < 4 {
			small++
		}
	}
	// The first, the one that found nothing under way, and the last.
	require.LessOrEqual(t, small, 3, "records of each batch: %v", batches)
}

// TestBatchesGrowWhereTheyWait: a batch leaves half full while the window of its partition
// has room, and is filled where it has to wait anyway.
func TestBatchesGrowWhereTheyWait(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 2)
	var sizes []int // guarded by c.mu, as onProduce is called with it
	c.onProduce = func(_ *fakeBroker, part *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		if part.tp.Partition == 0 {
			sizes = append(sizes, info.Size)
		}
		return nil, false
	}
	const batchBytes = 4 << 10
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(batchBytes), WithLinger(time.Minute), WithPartitioner(ManualPartitioner()))
	value := make([]byte, 100)
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Partition: 1, Value: value}))
	c.brokers[0].freeze()
	t.Cleanup(c.brokers[0].thaw)
	p.Produce(t.Context(), &Record{Topic: "t", Partition: 1, Value: value}, nil)
	require.Eventually(t, func() bool { return p.away.Load() == 1 }, 10*time.Second, time.Millisecond)
	for range 8 * batchBytes / 100 {
		p.Produce(t.Context(), &Record{Topic: "t", Value: value}, nil)
	}
	c.brokers[0].thaw()
	require.NoError(t, p.Flush(t.Context()))
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Greater(t, len(sizes), 7, "%v", sizes)
	for i, size := range sizes[:len(sizes)-1] { // the last one holds what was left
		want := batchBytes
		if i < 5 {
			want /= 2
		}
		require.InDelta(t, want, size, 120, "batch %d of %v", i, sizes)
	}
}
