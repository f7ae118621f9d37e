package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// laneBench is a consumer whose lanes are moved by hand.
type laneBench struct {
	t   *testing.T
	k   *Consumer
	src *source
}

func newLaneBench(t *testing.T, partitions int) *laneBench {
	t.Helper()
	k := &Consumer{
		c: &Client{}, cfg: defaultConsumerConfig(), life: t.Context(), arrived: make(chan struct{}, 1),
		parts: map[TopicPartition]*subscription{}, inHand: map[*subscription]int{}, sources: map[string]*source{},
	}
	k.polled.k = k
	src := newSource(k, "b")
	k.sources["b"] = src
	for i := range partitions {
		s := newSubscription(tp("t", int32(i)), At(0), false)
		s.active, s.leader = true, "b"
		s.begin(0, -1)
		k.parts[s.tp] = s
	}
	return &laneBench{t, k, src}
}

// asks has a lane look for what to fetch, and returns the partitions that it asks for.
func (b *laneBench) asks(lane int) []asked {
	_, parts := b.src.lanes[lane].prepare()
	return parts
}

// answers delivers one record of every partition that a lane asked for.
func (b *laneBench) answers(lane int, parts []asked) {
	b.t.Helper()
	resp := &wire.Fetched{FetchResponse: &pb.FetchResponse{}}
	for _, a := range parts {
		builder := record.NewBuilder(record.BuilderOptions{})
		require.NoError(b.t, builder.Append(&record.Record{Value: []byte("v")}))
		raw, err := builder.Build(nil)
		require.NoError(b.t, err)
		record.Patch(raw, record.Offset(a.from), 1)
		resp.Batches = append(resp.Batches, record.SliceOf(record.NewBuf(raw), 0, len(raw)))
		resp.Results = append(resp.Results, &pb.FetchPartitionResult{BatchCount: 1})
	}
	b.k.deliver(b.src.lanes[lane], parts, resp, time.Millisecond)
}

// woken takes the wakes that lanes were given.
func (b *laneBench) woken() (lanes []int) {
	for i, l := range b.src.lanes {
		select {
		case <-l.wake:
			lanes = append(lanes, i)
		default:
		}
	}
	return lanes
}

// settle has every lane look once, which all but the main one do for nothing.
func (b *laneBench) settle() []asked {
	b.t.Helper()
	parts := b.asks(0)
	require.NotEmpty(b.t, parts)
	require.Empty(b.t, b.asks(1))
	require.Empty(b.t, b.asks(2))
	return parts
}

// TestRecordsWakeNoIdleLane: with a consumer at the end of its partitions each record wakes
// the lane that fetched it, and whoever polls.
func TestRecordsWakeNoIdleLane(t *testing.T) {
	b := newLaneBench(t, 2)
	parts := b.settle()
	for range 10 {
		b.answers(0, parts)
		require.Empty(t, b.woken())
		require.True(t, b.k.take(&b.k.polled))
		require.Empty(t, b.woken())
		parts = b.asks(0)
		require.Len(t, parts, 2)
		b.k.polled.Release()
	}
}

// TestRoomWakesOneLane: what could not be fetched for want of room is, once there is, by
// the main lane, or by one of the others while that has a request under way.
func TestRoomWakesOneLane(t *testing.T) {
	t.Run("nothing else under way", func(t *testing.T) {
		b := newLaneBench(t, 1)
		parts := b.settle()
		for range maxChunks - 1 {
			b.answers(0, parts)
			parts = b.asks(0)
		}
		b.answers(0, parts)
		require.Empty(t, b.asks(0))
		require.Empty(t, b.woken())
		require.True(t, b.k.take(&b.k.polled))
		require.Equal(t, []int{0}, b.woken())
		require.Len(t, b.asks(0), 1)
	})
	t.Run("others under way", func(t *testing.T) {
		b := newLaneBench(t, 2)
		parts := b.settle()
		full := b.k.parts[tp("t", 0)]
		full.chunks = maxChunks
		b.answers(0, parts) // one more for each
		require.Len(t, b.asks(0), 1, "the one with room")
		full.chunks = 1 // the one of the answer
		require.Empty(t, b.woken())
		full.chunks = maxChunks
		require.True(t, b.k.take(&b.k.polled))
		require.Equal(t, []int{1}, b.woken())
		parts = b.asks(1)
		require.Len(t, parts, 1)
		require.Same(t, full, parts[0].sub)

		full.chunks = maxChunks // of what it asks for
		b.answers(1, parts)
		require.Empty(t, b.asks(1))
		require.Empty(t, b.woken())
	})
	t.Run("bytes", func(t *testing.T) {
		b := newLaneBench(t, 1)
		b.k.cfg.prefetchBytes = 1
		b.answers(0, b.settle())
		require.Empty(t, b.asks(0))
		require.Empty(t, b.woken())
		require.True(t, b.k.take(&b.k.polled))
		require.Equal(t, []int{0}, b.woken())
	})
}

// TestTheMainLaneHearsOfTheOthers: what comes back on another lane while the main one
// has nothing under way is the main lane's to fetch.
func TestTheMainLaneHearsOfTheOthers(t *testing.T) {
	b := newLaneBench(t, 2)
	first, second := b.k.parts[tp("t", 0)], b.k.parts[tp("t", 1)]
	second.chunks = maxChunks
	parts := b.settle()
	require.Len(t, parts, 1)
	second.chunks = 0
	b.k.wakeSources()
	require.Equal(t, []int{1}, b.woken())
	b.k.wakeSources()
	require.Equal(t, []int{}, append([]int{}, b.woken()...), "one is on its way")
	others := b.asks(1)
	require.Len(t, others, 1)

	first.chunks = maxChunks
	b.answers(0, parts)
	require.Empty(t, b.asks(0))
	b.answers(1, others)
	require.Equal(t, []int{0}, b.woken())
	require.Empty(t, b.asks(1))
	parts = b.asks(0)
	require.Len(t, parts, 1)
	require.Same(t, second, parts[0].sub)
}

// TestAPartitionThatGoesBackIsFetched although nothing else happens at its broker.
func TestAPartitionThatGoesBackIsFetched(t *testing.T) {
	b := newLaneBench(t, 1)
	b.answers(0, b.settle())
	s := b.k.parts[tp("t", 0)]
	s.chunks = maxChunks
	require.Empty(t, b.asks(0))
	require.True(t, b.k.take(&b.k.polled))
	_ = b.woken()
	require.Empty(t, b.k.queue)
	s.chunks = maxChunks
	require.Empty(t, b.asks(0))
	s.chunks = 0
	b.k.back(s, 0)
	require.Equal(t, []int{0}, b.woken())
	require.Len(t, b.asks(0), 1)
}
