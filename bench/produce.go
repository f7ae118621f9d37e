package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/punctual"
)

const (
	// block is how many records a producing goroutine takes at a time; one record
	// of each is timed.
	block = 256
	// maxBuffered is what all producers together may hold without an acknowledgement.
	maxBuffered = 64 << 20
	// settleTimeout bounds the wait for what is under way when a run is cut short.
	settleTimeout = 10 * time.Second
)

// Produce measures throughput: records/s from the first send to the last
// acknowledgement. Latencies are sampled, one record in 256, from the call of
// Produce or, with a rate, from the moment the record was due.
func Produce(ctx context.Context, o Options) (*Report, error) {
	if err := o.fill("produce"); err != nil {
		return nil, err
	}
	run, err := newProduceRun(ctx, &o)
	if err != nil {
		return nil, err
	}
	report, err := run.measure(ctx, "produce", run.feed)
	return report, errors.Join(err, run.close())
}

// produceRun is a run that produces.
type produceRun struct {
	o         *Options
	m         *meter
	t         *target
	producers []*client.Producer
	pool      [][]byte
	left      atomic.Int64 // records to send in this phase; negative: none
	sent      atomic.Int64
	stamp     func(value []byte, due time.Time) []byte // of values that are timed; nil: as they are
}

func newProduceRun(ctx context.Context, o *Options) (*produceRun, error) {
	m := newMeter()
	t, err := o.openTarget(ctx, m, true)
	if err != nil {
		return nil, err
	}
	r := &produceRun{o: o, m: m, t: t, pool: o.pool()}
	acks, err := client.ParseAcks(o.Acks)
	for range o.Producers {
		var p *client.Producer
		if err == nil {
			opts := []client.ProducerOpt{
				client.WithAcks(acks), client.WithCompression(o.Compression), client.WithBatchBytes(o.BatchSize), client.WithLinger(o.Linger),
				client.WithMaxBufferedBytes(max(maxBuffered/int64(o.Producers), 4*int64(o.BatchSize))),
			}
			if o.Spread {
				opts = append(opts, client.WithPartitioner(&spreader{}))
			}
			p, err = t.c.NewProducer(opts...)
		}
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.producers = append(r.producers, p)
	}
	return r, nil
}

// spreader sends each record to the next partition.
type spreader struct{ next atomic.Uint32 }

// Partition implements client.Partitioner.
func (s *spreader) Partition(_ *client.Record, n int32) int32 {
	return int32(s.next.Add(1) % uint32(n)) //nolint:gosec // below n
}

func (r *produceRun) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	var errs []error
	for _, p := range r.producers {
		errs = append(errs, p.Close(ctx))
	}
	return errors.Join(append(errs, r.t.c.Close())...)
}

// feeder produces with one producer until its phase ends.
type feeder func(ctx context.Context, p *client.Producer, index int, began time.Time) error

// measure warms up, then runs the measured phase and checks that what was
// acknowledged is in the log.
func (r *produceRun) measure(ctx context.Context, workload string, feed feeder) (*Report, error) {
	if r.o.Warmup > 0 {
		if err := r.phase(ctx, "warm-up", r.o.Warmup, 0, feed); err != nil {
			return nil, err
		}
	}
	before, err := r.t.ends(ctx, client.Latest())
	if err != nil {
		return nil, err
	}
	disk := diskBytes(r.o.DataDir)
	cpu, err := r.o.cpuNow(ctx)
	if err != nil {
		return nil, err
	}
	read, err := r.o.diskReads()
	if err != nil {
		return nil, err
	}
	r.m.begin()
	began := time.Now()
	if err := r.phase(ctx, workload, r.o.Duration, r.o.Records, feed); err != nil {
		return nil, err
	}
	elapsed := time.Unix(0, r.m.lastAck.Load()).Sub(began)
	cpuAfter, err := r.o.cpuNow(ctx)
	if err != nil {
		return nil, err
	}
	readAfter, err := r.o.diskReads()
	if err != nil {
		return nil, err
	}
	report := r.t.report(r.o, workload)
	if len(r.o.BrokerPids) > 0 {
		report.BrokerDiskReads = new(readAfter - read)
	}
	acked := r.m.acked.Load()
	report.rates(acked, acked*int64(r.o.RecordSize), max(elapsed, 0))
	report.Errors = r.m.failed.Load()
	report.CPUSecondsPerGB = r.o.perGB(cpu, cpuAfter, report.Bytes)
	report.LatencyMS = latency(r.m.hist)
	report.MeanBatchBytes = r.m.meanBatch()
	report.DiskBytes = max(diskBytes(r.o.DataDir)-disk, 0)
	report.TargetPerSec = r.o.Rate
	if r.o.Rate > 0 {
		report.GeneratorLateP99 = float64(r.m.late.ValueAtQuantile(99)) / 1000
	}
	return report, r.check(ctx, before, acked, report.Errors)
}

// check compares end offsets with what was acknowledged. With acks 0 there is
// nothing to compare; after errors more may be there than was acknowledged.
func (r *produceRun) check(ctx context.Context, before map[client.TopicPartition]int64, acked, failed int64) error {
	if r.o.Acks == "0" {
		return nil
	}
	after, err := r.t.ends(ctx, client.Latest())
	if err != nil {
		return err
	}
	grew := sum(after) - sum(before)
	if grew < acked || grew > acked && failed == 0 {
		return fmt.Errorf("bench: %d records were acknowledged, but topic %q grew by %d (does anybody else produce to it?)",
			acked, r.o.Topic, grew)
	}
	return nil
}

// phase lets all producers feed for a time or a number of records, 0: no limit,
// and waits until everything is settled.
func (r *produceRun) phase(ctx context.Context, what string, d time.Duration, records int64, feed feeder) error {
	r.left.Store(records)
	r.sent.Store(0)
	if records == 0 {
		r.left.Store(1 << 62)
	}
	feedCtx, cancel := ctx, context.CancelFunc(func() {})
	if d > 0 {
		feedCtx, cancel = context.WithTimeout(ctx, d)
	}
	defer cancel()
	stop := showProgress(r.o.Progress, what, r.m.acked.Load)
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, len(r.producers))
	began := time.Now()
	for i, p := range r.producers {
		wg.Go(func() {
			errs[i] = feed(feedCtx, p, i, began)
			err := p.Flush(ctx)
			phaseOver := feedCtx.Err() != nil && errors.Is(err, feedCtx.Err()) && ctx.Err() == nil
			if err != nil && !phaseOver && errs[i] == nil && r.m.failed.Load() == 0 {
				errs[i] = err // refused before it was in any batch
			}
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), ctx.Err())
}

// take reserves up to n records of the phase; 0: it is over.
func (r *produceRun) take(n int64) int64 {
	before := r.left.Add(-n) + n
	return max(min(n, before), 0)
}

// feed produces as fast as the client takes records, or at a rate. All but the
// timed records are one and the same Record: without a promise it is free for use
// again when Produce returns.
func (r *produceRun) feed(ctx context.Context, p *client.Producer, index int, began time.Time) error {
	rec := client.Record{Topic: r.o.Topic}
	next := index * len(r.pool) / len(r.producers)
	done := ctx.Done()
	for {
		n := r.take(block)
		if n == 0 {
			return nil
		}
		due := r.pace(ctx, began, n)
		select {
		case <-done:
			return nil
		default:
		}
		if err := r.m.firstError(); err != nil && !client.IsRetriable(err) {
			return nil // every further record would fail alike; the report counts errors
		}
		r.timed(p, due, r.pool[next%len(r.pool)])
		next++
		rec.Timestamp = time.Now()
		for range n - 1 {
			if next >= len(r.pool) {
				next -= len(r.pool)
			}
			rec.Value = r.pool[next]
			next++
			p.Produce(ctx, &rec, nil)
		}
	}
}

// pace waits until the next n records are due, with a rate; it returns when they were.
func (r *produceRun) pace(ctx context.Context, began time.Time, n int64) time.Time {
	if r.o.Rate == 0 {
		return time.Now()
	}
	at := r.sent.Add(n) - n
	due := began.Add(time.Duration(float64(at) / float64(r.o.Rate) * float64(time.Second)))
	punctual.Wait(ctx, due)
	r.m.observeLate(time.Since(due))
	return due
}

// timed produces one record and observes the time from due to its acknowledgement.
func (r *produceRun) timed(p *client.Producer, due time.Time, value []byte) {
	if r.stamp != nil {
		value = r.stamp(value, due)
	}
	// Its delivery must outlive the phase: the context is not the phase's.
	p.Produce(context.Background(), &client.Record{Topic: r.o.Topic, Value: value}, func(_ *client.Record, err error) {
		if err != nil {
			r.m.fail(err)
			return
		}
		r.m.observe(time.Since(due))
	})
}
