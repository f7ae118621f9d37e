package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// refuseAbove has brokers refuse batches larger than limit; it returns how many were.
func refuseAbove(c *fakeCluster, limit int) *int {
	refused := new(int) // guarded by c.mu, as onProduce is called with it
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onProduce = func(_ *fakeBroker, _ *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		if info.Size <= limit {
			return nil, false
		}
		*refused++
		return fakeError(pb.ErrorCode_ERROR_CODE_RECORD_TOO_LARGE, false, false), false
	}
	return refused
}

// TestBatchesTooLargeForTheTopicAreSplit: every record arrives once and in order, with
// its own offset, and the producer learns what the topic takes.
func TestBatchesTooLargeForTheTopicAreSplit(t *testing.T) {
	for name, opts := range map[string][]ProducerOpt{
		"idempotent":     nil,
		"not idempotent": {WithoutIdempotence()},
		"one in flight":  {WithMaxInFlight(1)},
		"compressed":     {WithCompression("zstd")},
	} {
		t.Run(name, func(t *testing.T) {
			const limit, n = 1500, 5000
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			refused := refuseAbove(c, limit)
			p := newTestProducer(t, newTestClient(t, c), append([]ProducerOpt{WithBatchBytes(64 << 10)}, opts...)...)
			random := rand.New(rand.NewPCG(1, 2))
			var (
				mu      sync.Mutex // guards offsets
				offsets = map[int][]int64{}
				want    []string
			)
			for i := range n {
				value := fmt.Sprintf("%d %x", i, random.Uint64())
				want = append(want, value)
				r := &Record{Topic: "t", Value: []byte(value), Headers: []Header{{Key: "h", Value: []byte("x")}}}
				if i%3 == 0 {
					p.Produce(t.Context(), r, nil)
					continue
				}
				p.Produce(t.Context(), r, func(r *Record, err error) {
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Errorf("record %d: %v", i, err)
					}
					offsets[i] = append(offsets[i], r.Offset)
				})
			}
			require.NoError(t, p.Flush(t.Context()))
			require.Equal(t, want, c.values(tp("t", 0)))
			mu.Lock()
			defer mu.Unlock()
			for i := range n {
				if i%3 != 0 {
					require.Equal(t, []int64{int64(i)}, offsets[i], "offsets that the promise of record %d was called with", i)
				}
			}
			require.Zero(t, p.buffered.Load())
			require.Zero(t, (*p.topics["t"].parts.Load())[0].waiting.Load())

			// It knows now.
			c.mu.Lock()
			known := *refused
			c.mu.Unlock()
			require.Positive(t, known)
			require.LessOrEqual(t, known, 60, "refusals until the limit was known")
			for i := range n {
				p.Produce(t.Context(), &Record{Topic: "t", Value: fmt.Appendf(nil, "%d %x", i, random.Uint64())}, nil)
			}
			require.NoError(t, p.Flush(t.Context()))
			c.mu.Lock()
			defer c.mu.Unlock()
			if name != "compressed" { // where the same bytes are more or less on the wire
				require.Equal(t, known, *refused)
			}
			require.LessOrEqual(t, *refused, 60)
		})
	}
}

// TestARecordTooLargeForTheTopicFailsAlone: those in the same batch are delivered.
func TestARecordTooLargeForTheTopicFailsAlone(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	refuseAbove(c, 1000)
	p := newTestProducer(t, newTestClient(t, c))
	var large error
	var want []string
	for i := range 50 {
		value := fmt.Sprintf("v-%d", i)
		if i == 30 {
			p.Produce(t.Context(), &Record{Topic: "t", Value: []byte(strings.Repeat("y", 1000))}, nil)
			continue
		}
		if i == 20 {
			p.Produce(t.Context(), &Record{Topic: "t", Value: []byte(strings.Repeat("x", 1000))}, func(_ *Record, err error) { large = err })
			continue
		}
		want = append(want, value)
		p.Produce(t.Context(), &Record{Topic: "t", Value: []byte(value)}, nil)
	}
	require.Equal(t, CodeRecordTooLarge, CodeOf(p.Flush(t.Context())), "of the one without a promise")
	require.Equal(t, CodeRecordTooLarge, CodeOf(large))
	require.False(t, IsIndefinite(large))
	require.Equal(t, want, c.values(tp("t", 0)))
}

// TestATopicCreatedAgainMayTakeMore: what was learned of the former one is forgotten.
func TestATopicCreatedAgainMayTakeMore(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	refuseAbove(c, 500)
	cl := newTestClient(t, c)
	p := newTestProducer(t, cl)
	produce := func() {
		for range 100 {
			p.Produce(t.Context(), &Record{Topic: "t", Value: []byte("twenty bytes of value")}, nil)
		}
		require.NoError(t, p.Flush(t.Context()))
	}
	produce()
	learned := p.topics["t"].limit.Load()
	require.LessOrEqual(t, learned, int64(2000))
	refuseAbove(c, 1<<20)
	produce()
	require.Equal(t, learned, p.topics["t"].limit.Load())
	c.recreate("t", 1, 1)
	cl.meta.refresh()
	require.Eventually(t, func() bool { return p.topics["t"].limit.Load() == DefaultBatchBytes }, 10*time.Second, time.Millisecond)
}

// pairs is a producer to three partitions of one broker, whose batches have two records
// while the broker is held back; the topic takes one at a time.
type pairs struct {
	t       *testing.T
	c       *fakeCluster
	p       *Producer
	verdict map[int32][]verdict // of the next batches of a partition; guarded by c.mu
	given   map[int32]int

	mu     sync.Mutex // guards what follows
	failed map[string]error
}

// verdict is what a broker says of a batch, whether it appends it, and whether it answers
// this one and is held back again.
type verdict struct {
	err      *pb.Error
	appended bool
	thenHold bool
}

const (
	pairsPlug  = 2 // the partition of the record that the others wait for
	pairsLimit = 600
)

var tooLargeVerdict = verdict{err: fakeError(pb.ErrorCode_ERROR_CODE_RECORD_TOO_LARGE, false, false)}

func newPairs(t *testing.T) *pairs {
	t.Helper()
	c := newFakeCluster(t, 1)
	c.create("t", 3)
	x := &pairs{t: t, c: c, verdict: map[int32][]verdict{}, given: map[int32]int{}, failed: map[string]error{}}
	c.onProduce = func(_ *fakeBroker, part *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		if v := x.verdict[part.tp.Partition]; len(v) > 0 {
			x.verdict[part.tp.Partition] = v[1:]
			if v[0].thenHold {
				x.c.brokers[0].freeze()
			}
			return v[0].err, v[0].appended
		}
		if info.Size > pairsLimit {
			return tooLargeVerdict.err, false
		}
		return nil, false
	}
	x.p = newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(time.Minute), WithPartitioner(ManualPartitioner()))
	t.Cleanup(c.brokers[0].thaw)
	require.NoError(t, x.p.ProduceSync(t.Context(), &Record{Topic: "t", Partition: pairsPlug, Value: []byte("opens the stream")}))
	return x
}

// hold has the broker answer nothing, and owe something.
func (x *pairs) hold() {
	x.c.brokers[0].freeze()
	x.p.Produce(x.t.Context(), &Record{Topic: "t", Partition: pairsPlug, Value: []byte("plug")}, nil)
	require.Eventually(x.t, func() bool { return x.p.away.Load() == 1 }, 10*time.Second, time.Millisecond)
}

// give has the producer send a pair, which is more than half a batch and one of them less, and begin another one, which is to follow it.
func (x *pairs) give(partition int32, verdicts ...verdict) {
	x.c.mu.Lock()
	x.verdict[partition] = append(x.verdict[partition], verdicts...)
	x.c.mu.Unlock()
	away := x.p.away.Load()
	n := 3
	if x.given[partition] > 0 {
		n = 2 // one was begun
	}
	for range n {
		value := fmt.Sprintf("%d-%d", partition, x.given[partition])
		x.given[partition]++
		x.p.Produce(x.t.Context(), &Record{Topic: "t", Partition: partition, Value: []byte(value + strings.Repeat(" ", 430-len(value)))},
			func(_ *Record, err error) {
				if err != nil {
					x.mu.Lock()
					defer x.mu.Unlock()
					x.failed[value] = err
				}
			})
	}
	require.Eventually(x.t, func() bool { return x.p.away.Load() > away }, 10*time.Second, time.Millisecond)
}

// settle lets the broker go on, and expects all records once, in order.
func (x *pairs) settle() map[string]error {
	x.c.brokers[0].thaw()
	require.NoError(x.t, x.p.Flush(x.t.Context()))
	for partition, n := range x.given {
		var got []string
		for _, value := range x.c.values(tp("t", partition)) {
			got = append(got, strings.TrimSpace(value))
		}
		require.Equal(x.t, numbers(fmt.Sprint(partition), n), got)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed
}

// TestABatchThatMayBeInTheLogIsNotSplit: the limit was lowered after it was appended,
// and before its answer came. To send its records again would duplicate them.
func TestABatchThatMayBeInTheLogIsNotSplit(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("another was split before: %v", before), func(t *testing.T) {
			x := newPairs(t)
			if before {
				x.hold()
				x.give(0)
				require.Empty(t, x.settle())
				x.p.topics["t"].limit.Store(1 << 10) // as if it had not learned
			}
			x.hold()
			x.give(0, verdict{err: cutStream(), appended: true})
			failed := x.settle()
			require.Len(t, failed, 2)
			for _, err := range failed {
				require.Equal(t, CodeRecordTooLarge, CodeOf(err))
				require.True(t, IsIndefinite(err))
			}
		})
	}
}

// TestWhatFollowsARefusedBatchIsSplitToo: an answer that got lost leaves no doubt about
// it, as the one before it is missing.
func TestWhatFollowsARefusedBatchIsSplitToo(t *testing.T) {
	x := newPairs(t)
	x.hold()
	x.give(0, verdict{err: tooLargeVerdict.err, thenHold: true}, verdict{err: cutStream()})
	x.give(0)
	x.c.brokers[0].thaw()
	part := (*x.p.topics["t"].parts.Load())[0]
	require.Eventually(t, func() bool {
		part.mu.Lock()
		defer part.mu.Unlock()
		return part.renew
	}, 10*time.Second, time.Millisecond)
	// No part leaves before the answer to what follows: it could not be told apart then
	// from one of which nothing is known.
	b, _ := part.take(part.sink, time.Now())
	require.Nil(t, b)
	require.EqualValues(t, 1, x.p.away.Load())
	require.Empty(t, x.settle())
}

// TestOlderBatchesDecideBeforeASplit: one that is appended and not acknowledged keeps its
// sequence, by which it is recognised.
func TestOlderBatchesDecideBeforeASplit(t *testing.T) {
	x := newPairs(t)
	x.hold()
	afterAppend := fakeError(pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND, true, true)
	x.give(0, verdict{err: afterAppend, appended: true}, tooLargeVerdict, verdict{}, verdict{})
	x.give(0)
	require.Empty(t, x.settle())
}

// TestABatchWithASequenceIsNotSplit: another partition has learned the limit meanwhile.
func TestABatchWithASequenceIsNotSplit(t *testing.T) {
	x := newPairs(t)
	x.hold()
	x.give(1, verdict{err: fakeError(pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS, true, false)}, verdict{})
	x.give(0)
	require.Empty(t, x.settle())
}

// TestSplitsAmongLostAnswersKeepOrder: parts, and what follows them, are recognised
// when they come again.
func TestSplitsAmongLostAnswersKeepOrder(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			const n = 2000
			c := newFakeCluster(t, 1)
			c.create("t", 2)
			random := rand.New(rand.NewPCG(seed, 0))
			limit := 20 << 10
			lowered := false
			c.onProduce = func(_ *fakeBroker, _ *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
				switch {
				case info.Size > limit:
					return fakeError(pb.ErrorCode_ERROR_CODE_RECORD_TOO_LARGE, false, false), false
				case random.IntN(10) == 0:
					return cutStream(), random.IntN(2) == 0
				case random.IntN(10) == 0:
					return fakeError(pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND, true, true), true
				case !lowered && random.IntN(10) == 0:
					// What is in the log and has no answer is refused when it comes again.
					lowered, limit = true, 600
				}
				return nil, false
			}
			p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(8<<10), WithLinger(0))
			var (
				mu   sync.Mutex // guards what follows
				lost = map[string]bool{}
			)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for i := range n {
				value := fmt.Sprintf("v-%d", i)
				p.Produce(ctx, &Record{Topic: "t", Key: []byte("k"), Value: []byte(value)}, func(_ *Record, err error) {
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						return
					}
					if CodeOf(err) != CodeRecordTooLarge || !IsIndefinite(err) {
						t.Errorf("%s: %v", value, err)
					}
					lost[value] = true
				})
			}
			require.NoError(t, p.Flush(ctx))
			mu.Lock()
			defer mu.Unlock()
			at := 0
			got := append(c.values(tp("t", 0)), c.values(tp("t", 1))...)
			for _, value := range numbers("v", n) {
				switch {
				case at < len(got) && got[at] == value:
					at++
				case !lost[value]:
					t.Fatalf("record %s is acknowledged and not where it should be: %d of %d records", value, at, len(got))
				}
			}
			require.Len(t, got, at, "records twice or out of order")
		})
	}
}
