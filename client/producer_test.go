package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func tp(topic string, partition int32) TopicPartition { return TopicPartition{topic, partition} }

func TestProduceSyncSetsPartitionAndOffset(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 4)
	p := newTestProducer(t, newTestClient(t, c))
	keyed := &Record{Topic: "t", Key: []byte("21"), Value: []byte("a"), Headers: []Header{{Key: "h", Value: []byte("x")}}}
	again := &Record{Topic: "t", Key: []byte("21"), Value: []byte("b")}
	require.NoError(t, p.ProduceSync(t.Context(), keyed))
	require.NoError(t, p.ProduceSync(t.Context(), again))
	want := int32(record.Murmur2([]byte("21"))&0x7fffffff) % 4
	require.Equal(t, want, keyed.Partition)
	require.EqualValues(t, 0, keyed.Offset)
	require.EqualValues(t, 1, again.Offset)
	require.True(t, p.Idempotent())
	require.Equal(t, []string{"a", "b"}, c.values(tp("t", want)))
}

func TestTheCallersBytesAreFreeAfterProduce(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	p := newTestProducer(t, newTestClient(t, c))
	r := &Record{Topic: "t", Value: []byte("x-0")}
	for i := range 10 {
		r.Value[2] = byte('0' + i)
		p.Produce(t.Context(), r, nil)
	}
	require.NoError(t, p.Flush(t.Context()))
	require.Equal(t, numbers("x", 10), c.values(tp("t", 0)))
}

// produceNumbered gives n records to one partition and fails the test unless each
// is acknowledged exactly once.
func produceNumbered(t *testing.T, p *Producer, topic string, n int, each func(i int)) {
	t.Helper()
	calls := make([]atomic.Int32, n)
	for i := range n {
		if each != nil {
			each(i)
		}
		p.Produce(t.Context(), &Record{Topic: topic, Key: []byte("k"), Value: fmt.Appendf(nil, "v-%d", i)}, func(_ *Record, err error) {
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
			calls[i].Add(1)
		})
	}
	require.NoError(t, p.Flush(t.Context()))
	for i := range calls {
		require.EqualValues(t, 1, calls[i].Load(), "promise of record %d", i)
	}
}

func TestLeaderChangeMidStreamKeepsOrderWithoutDuplicates(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(0))
	const n = 5000
	produceNumbered(t, p, "t", n, func(i int) {
		if i > 0 && i%1000 == 0 {
			c.move(tp("t", 0), int32(i/1000)%3)
		}
	})
	require.Equal(t, numbers("v", n), c.values(tp("t", 0)))
}

func TestLostConnectionsMidFlight(t *testing.T) {
	for _, appended := range []bool{false, true} {
		t.Run(fmt.Sprintf("appended=%v", appended), func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			count := 0
			c.onProduce = func(*fakeBroker, *fakePartition, record.BatchInfo) (*pb.Error, bool) {
				if count++; count%7 == 3 {
					return cutStream(), appended
				}
				return nil, false
			}
			p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(0))
			const n = 3000
			produceNumbered(t, p, "t", n, nil)
			require.Equal(t, numbers("v", n), c.values(tp("t", 0)))
		})
	}
}

func TestBrokerDiesAndAnotherLeads(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 1)
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(0))
	const n = 3000
	produceNumbered(t, p, "t", n, func(i int) {
		switch i {
		case 1000:
			c.kill(0)
		case 1500:
			c.move(tp("t", 0), 1)
		}
	})
	require.Equal(t, numbers("v", n), c.values(tp("t", 0)))
	c.restart(0) // for the cleanup
}

func TestSilentBrokerIsLeftOnceAnotherLeads(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 1)
	// Whoever waits for the answer, which never comes, is late for the delivery.
	p := newTestProducer(t, newTestClient(t, c, WithRequestTimeout(time.Hour)), WithLinger(0), WithDeliveryTimeout(time.Minute))
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Key: []byte("k"), Value: []byte("v-0")}))
	c.brokers[0].freeze()
	done := make(chan error, 1)
	p.Produce(t.Context(), &Record{Topic: "t", Key: []byte("k"), Value: []byte("v-1")}, func(_ *Record, err error) { done <- err })
	c.move(tp("t", 0), 1)
	require.NoError(t, <-done)
	require.Equal(t, numbers("v", 2), c.values(tp("t", 0)))
}

func TestRetriableRefusalsKeepOrder(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	codes := []pb.ErrorCode{
		pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS, pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
		pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, pb.ErrorCode_ERROR_CODE_OVERLOADED, pb.ErrorCode_ERROR_CODE_DISK_FULL,
	}
	count := 0
	c.onProduce = func(*fakeBroker, *fakePartition, record.BatchInfo) (*pb.Error, bool) {
		count++
		if count%3 == 0 {
			code := codes[count/3%len(codes)]
			appended := code == pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND || code == pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT
			return fakeError(code, true, appended), appended
		}
		return nil, false
	}
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(0))
	const n = 1000
	produceNumbered(t, p, "t", n, nil)
	require.Equal(t, numbers("v", n), c.values(tp("t", 0)))
}

// The first batch is appended without an answer and refused each time it comes
// again, while what follows is taken: it must not be forgotten by the broker, which
// knows the newest five of a producer.
func TestARefusedBatchIsNotOvertakenByMoreThanTheBrokerRemembers(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	first := 0
	c.onProduce = func(_ *fakeBroker, _ *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		if info.BaseSequence != 0 {
			return nil, false
		}
		switch first++; {
		case first == 1:
			return fakeError(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, true, true), true
		case first < 10:
			return fakeError(pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS, true, false), false
		}
		return nil, false
	}
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(0))
	const n = 3000
	produceNumbered(t, p, "t", n, nil)
	require.Equal(t, numbers("v", n), c.values(tp("t", 0)))
	require.Equal(t, 10, first)
}

// A batch that fails for good leaves a gap in the sequences; what follows it goes
// on under a new producer id, in order, and once.
func TestPartialFailure(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 2)
	count := 0
	c.onProduce = func(_ *fakeBroker, p *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		if p.tp.Partition != 0 {
			return nil, false
		}
		if count++; count == 5 {
			return fakeError(pb.ErrorCode_ERROR_CODE_INVALID_RECORD, false, false), false
		}
		return nil, false
	}
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(0), WithPartitioner(ManualPartitioner()))
	const n = 2000
	var mu sync.Mutex
	failed := map[string]bool{}
	for i := range n {
		for part := range int32(2) {
			p.Produce(t.Context(), &Record{Topic: "t", Partition: part, Value: fmt.Appendf(nil, "v-%d", i)}, func(r *Record, err error) {
				if err == nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if CodeOf(err) != CodeInvalidRecord || r.Partition != 0 || r.Offset != -1 || IsIndefinite(err) {
					t.Errorf("%s: %v", r.Value, err)
				}
				failed[string(r.Value)] = true
			})
		}
	}
	require.NoError(t, p.Flush(t.Context()))
	require.NotEmpty(t, failed)
	var want []string
	for _, v := range numbers("v", n) {
		if !failed[v] {
			want = append(want, v)
		}
	}
	require.Equal(t, want, c.values(tp("t", 0)))
	require.Equal(t, numbers("v", n), c.values(tp("t", 1)))
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Len(t, c.topics["t"][0].producer, 2, "partition 0 moved to a new producer id")
	require.Len(t, c.topics["t"][1].producer, 1, "partition 1 kept its own")
}

// A broker that lost the producer's state refuses the oldest batch, which fails
// once; nothing is sent twice.
func TestBrokerForgotTheSequences(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	p := newTestProducer(t, newTestClient(t, c))
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("a")}))
	c.mu.Lock()
	c.topics["t"][0].producer = map[int64]*producerState{}
	c.mu.Unlock()
	err := p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("b")})
	require.Equal(t, CodeOutOfOrderSequence, CodeOf(err))
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("c")}))
	require.Equal(t, []string{"a", "c"}, c.values(tp("t", 0)))
}

func TestUnknownProducerIDIsCuredByANewOne(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	expired := false
	c.onProduce = func(_ *fakeBroker, _ *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		if expired && info.BaseSequence != 0 {
			return fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_PRODUCER_ID, false, false), false
		}
		return nil, false
	}
	p := newTestProducer(t, newTestClient(t, c))
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("a")}))
	c.mu.Lock()
	expired = true
	c.mu.Unlock()
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("b")}))
	require.Equal(t, []string{"a", "b"}, c.values(tp("t", 0)))
}

func TestWithoutProducerIDsOneBatchIsUnderWay(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.noProducers = true
	count := 0
	c.onProduce = func(_ *fakeBroker, _ *fakePartition, info record.BatchInfo) (*pb.Error, bool) {
		require.EqualValues(t, -1, info.ProducerID)
		if count++; count%4 == 1 {
			return fakeError(pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS, true, false), false
		}
		return nil, false
	}
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithLinger(0))
	const n = 500
	produceNumbered(t, p, "t", n, nil)
	require.False(t, p.Idempotent())
	require.Equal(t, numbers("v", n), c.values(tp("t", 0)))
}

func TestManyPartitionsShareRequests(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 20)
	p := newTestProducer(t, newTestClient(t, c), WithPartitioner(ManualPartitioner()), WithLinger(time.Second))
	// The first round opens metadata and stream; in the second all are ready at once.
	for round := range 2 {
		for i := range int32(20) {
			p.Produce(t.Context(), &Record{Topic: "t", Partition: i, Value: fmt.Appendf(nil, "v-%d", round)}, nil)
		}
		require.NoError(t, p.Flush(t.Context()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	most := 0
	for _, r := range c.requests {
		most = max(most, len(r))
	}
	require.Greater(t, most, 3)
}

func TestDeliveryTimeout(t *testing.T) {
	cases := []struct {
		name       string
		frozen     bool
		indefinite bool
	}{
		{"no leader", false, false},
		{"no answer", true, true},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			p := newTestProducer(t, newTestClient(t, c), WithDeliveryTimeout(400*time.Millisecond))
			require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("a")}))
			if tc.frozen {
				c.brokers[0].freeze()
			} else {
				c.move(tp("t", 0), -1)
			}
			err := p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("b")})
			d, ok := errors.AsType[*DeliveryError](err)
			require.True(t, ok, "%v", err)
			require.GreaterOrEqual(t, d.Waited, 400*time.Millisecond)
			// Without a leader the broker answered NOT_LEADER, which is indefinite.
			require.Equal(t, tc.indefinite || d.Attempts > 0, IsIndefinite(err))
		})
	}
}

func TestBackpressure(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10), WithMaxBufferedBytes(4<<10))
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("a")}))
	c.brokers[0].freeze()
	value := make([]byte, 512)
	for range 8 {
		p.Produce(t.Context(), &Record{Topic: "t", Value: value}, nil)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var got error
	p.Produce(ctx, &Record{Topic: "t", Value: value}, func(_ *Record, err error) { got = err })
	require.ErrorIs(t, got, context.DeadlineExceeded)
	c.brokers[0].thaw()
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: value}))
	require.NoError(t, p.Flush(t.Context()))
	require.Zero(t, p.buffered.Load())
}

// The totals lag behind what is buffered by less than a step a partition, and not
// at all in what is sealed.
func TestCounting(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 3)
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(100<<10), WithPartitioner(ManualPartitioner()))
	for i := range int32(3) {
		require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Partition: i, Value: []byte("a")}))
	}
	c.brokers[0].freeze()
	defer c.brokers[0].thaw() // Close waits for it when the test fails
	const step = 4 << 10
	most := 0
	for i := range 3000 {
		p.Produce(t.Context(), &Record{Topic: "t", Partition: int32(i % 3), Value: make([]byte, i%190)}, nil)
		parts := p.partitions()
		for _, part := range parts {
			part.mu.Lock()
		}
		var sizes, counted, sealed []int // by partition
		for _, part := range parts {
			closed := 0
			for _, b := range part.queue {
				closed += b.size
			}
			all := closed
			if part.open != nil {
				all += part.open.size
			}
			sizes, counted, sealed = append(sizes, all), append(counted, int(part.waiting.Load())), append(sealed, closed)
		}
		buffered, total := p.buffered.Load(), 0
		for _, part := range parts {
			part.mu.Unlock()
		}
		for i := range parts {
			total += counted[i]
			lag := sizes[i] - counted[i]
			require.GreaterOrEqual(t, lag, 0)
			require.Less(t, lag, step)
			require.GreaterOrEqual(t, counted[i], sealed[i])
			most = max(most, lag)
		}
		require.EqualValues(t, total, buffered)
	}
	require.Greater(t, most, step/2)
	c.brokers[0].thaw()
	require.NoError(t, p.Flush(t.Context()))
	require.Zero(t, p.buffered.Load())
	for _, part := range p.partitions() {
		require.Zero(t, part.waiting.Load())
	}
}

func TestCloseFailsWhatItDoesNotWaitFor(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	p := newTestProducer(t, newTestClient(t, c))
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("a")}))
	c.brokers[0].freeze()
	var got error
	p.Produce(t.Context(), &Record{Topic: "t", Value: []byte("b")}, func(_ *Record, err error) { got = err })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Close(ctx), context.DeadlineExceeded)
	require.ErrorIs(t, got, ErrClosed)
	require.True(t, IsIndefinite(got))
	require.ErrorIs(t, p.ProduceSync(t.Context(), &Record{Topic: "t"}), ErrClosed)
}

func TestProduceErrors(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 2)
	cl := newTestClient(t, c)
	manual := newTestProducer(t, cl, WithPartitioner(ManualPartitioner()))
	cases := []struct {
		name string
		rec  *Record
		code Code
	}{
		{"unknown topic", &Record{Topic: "nope"}, CodeUnknownTopic},
		{"partition too great", &Record{Topic: "t", Partition: 2}, CodeUnknownPartition},
		{"partition negative", &Record{Topic: "t", Partition: -1}, CodeUnknownPartition},
		{"timestamp before 1970", &Record{Topic: "t", Timestamp: time.UnixMilli(-5)}, CodeInvalidTimestamp},
		{"too large for any batch", &Record{Topic: "t", Value: make([]byte, maxRequestBytes)}, CodeRecordTooLarge},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			require.Equal(t, tc.code, CodeOf(manual.ProduceSync(t.Context(), tc.rec)))
		})
	}
	// Records larger than a batch travel alone.
	big := &Record{Topic: "t", Value: []byte(strings.Repeat("x", 1<<20))}
	require.NoError(t, manual.ProduceSync(t.Context(), big))
	// Silent failures come up in Flush, once.
	manual.Produce(t.Context(), &Record{Topic: "nope"}, nil)
	require.Equal(t, CodeUnknownTopic, CodeOf(manual.Flush(t.Context())))
	require.NoError(t, manual.Flush(t.Context()))
}

func TestCompression(t *testing.T) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			p := newTestProducer(t, newTestClient(t, c), WithCompression(codec), WithBatchBytes(4<<10))
			const n = 1000
			produceNumbered(t, p, "t", n, nil)
			require.Equal(t, numbers("v", n), c.values(tp("t", 0)))
			c.mu.Lock()
			defer c.mu.Unlock()
			require.Equal(t, codec, c.topics["t"][0].batches[0].info.Attributes.Codec().String())
		})
	}
}

func TestAcksNoneIsNotRetried(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.onProduce = func(*fakeBroker, *fakePartition, record.BatchInfo) (*pb.Error, bool) { return cutStream(), true }
	p := newTestProducer(t, newTestClient(t, c), WithAcks(AcksNone))
	err := p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("v-0")})
	require.True(t, IsIndefinite(err))
	require.False(t, p.Idempotent())
	require.Equal(t, numbers("v", 1), c.values(tp("t", 0)))
}

func TestStickyPartitionerUsesAllPartitions(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 4)
	p := newTestProducer(t, newTestClient(t, c), WithBatchBytes(1<<10))
	for range 5000 {
		p.Produce(t.Context(), &Record{Topic: "t", Value: []byte("a value of some length")}, nil)
	}
	require.NoError(t, p.Flush(t.Context()))
	total, batches := 0, 0
	for i := range int32(4) {
		n := len(c.values(tp("t", i)))
		require.NotZero(t, n, "partition %d", i)
		total += n
		batches += len(c.topics["t"][i].batches)
	}
	require.Equal(t, 5000, total)
	require.Less(t, batches, 1000, "records without a key fill batches")
}

type batchHook struct {
	mu      sync.Mutex
	records int
	errs    int
}

func (h *batchHook) OnBatch(b BatchInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records += b.Records
	if b.Err != nil {
		h.errs++
	}
	if b.Began.IsZero() || b.Done.Before(b.Began) || b.Bytes <= 0 {
		h.errs++
	}
}

func TestHooksSeeEveryBatch(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	h := &batchHook{}
	p := newTestProducer(t, newTestClient(t, c, WithHooks(h)), WithBatchBytes(1<<10))
	produceNumbered(t, p, "t", 700, nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, 700, h.records)
	require.Zero(t, h.errs)
}

// A batch whose outcome is known is not settled before the application has heard of it.
func TestFlushWaitsForPromises(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	p := newTestProducer(t, newTestClient(t, c))
	called, hear := make(chan struct{}), make(chan struct{})
	heard := sync.OnceFunc(func() { close(hear) })
	t.Cleanup(heard) // before the client's own cleanup, also when the test has failed
	p.Produce(t.Context(), &Record{Topic: "t", Value: []byte("v")}, func(*Record, error) {
		close(called)
		<-hear
	})
	<-called
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Flush(ctx), context.DeadlineExceeded)
	heard()
	require.NoError(t, p.Flush(t.Context()))
}

// BenchmarkProduce is the application's side: partitioning and encoding.
func BenchmarkProduce(b *testing.B) {
	value := make([]byte, 100)
	cl, err := New([]string{"127.0.0.1:1"})
	require.NoError(b, err)
	defer func() { _ = cl.Close() }()
	p, err := cl.NewProducer(WithMaxBufferedBytes(1 << 40))
	require.NoError(b, err)
	meta := &topicMeta{id: [16]byte{1}, parts: make([]partMeta, 6)}
	t := p.addTopic("t", meta)
	p.last.Store(t)
	rec := &Record{Topic: "t", Value: value, Timestamp: time.Now()}
	b.SetBytes(100)
	b.ReportAllocs()
	for b.Loop() {
		p.Produce(b.Context(), rec, nil)
		if p.buffered.Load() > 32<<20 {
			b.StopTimer()
			for _, part := range p.partitions() {
				part.mu.Lock()
				part.seal()
				for _, x := range part.queue {
					p.buffered.Add(-int64(x.size))
					p.recycle(x)
				}
				part.queue = nil
				part.mu.Unlock()
			}
			b.StartTimer()
		}
	}
}
