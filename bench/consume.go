package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/client"
)

// Consume measures throughput of reading the topic from its start to the end that
// it had when the run began, and again from the start until the run is over. Every
// whole pass must yield exactly the records between those offsets. With several
// Producers set, as many consumers share the partitions; with Readers, each of so many
// reads all of them. Newest leaves out what is older than so many bytes of values.
func Consume(ctx context.Context, o Options) (*Report, error) {
	if err := o.fill("consume"); err != nil {
		return nil, err
	}
	m := newMeter()
	t, err := o.openTarget(ctx, m, false)
	if err != nil {
		return nil, err
	}
	r := &consumeRun{o: &o, m: m, t: t}
	report, err := r.measure(ctx)
	return report, errors.Join(err, t.c.Close())
}

// More readers than this fetch less ahead, so that their buffers fit into memory.
const (
	manyReaders = 16
	manyFetch   = 1 << 20
)

// consumeRun is a run that consumes.
type consumeRun struct {
	o          *Options
	m          *meter
	t          *target
	start, end map[client.TopicPartition]int64

	records, bytes, wire, polls atomic.Int64
}

func (r *consumeRun) measure(ctx context.Context) (*Report, error) {
	if err := r.bounds(ctx); err != nil {
		return nil, err
	}
	readers, err := r.readers()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, k := range readers {
			k.close()
		}
	}()
	if r.o.Warmup > 0 {
		if err := r.phase(ctx, readers, "warm-up", r.o.Warmup, 0); err != nil {
			return nil, err
		}
	}
	before, err := r.spent(ctx)
	if err != nil {
		return nil, err
	}
	r.records.Store(0)
	r.bytes.Store(0)
	r.wire.Store(0)
	r.polls.Store(0)
	began := time.Now()
	if err := r.phase(ctx, readers, "consume", r.o.Duration, r.o.Records); err != nil {
		return nil, err
	}
	elapsed := time.Since(began)
	after, err := r.spent(ctx)
	if err != nil {
		return nil, err
	}
	return r.report(len(readers), elapsed, before, after), nil
}

// bounds looks up what there is to read.
func (r *consumeRun) bounds(ctx context.Context) (err error) {
	if r.start, err = r.t.ends(ctx, client.Earliest()); err != nil {
		return err
	}
	if r.end, err = r.t.ends(ctx, client.Latest()); err != nil {
		return err
	}
	if r.o.Newest > 0 {
		for tp, end := range r.end {
			r.start[tp] = max(r.start[tp], end-r.o.Newest/int64(r.o.RecordSize*len(r.end)))
		}
	}
	if sum(r.end) == sum(r.start) {
		return fmt.Errorf("%w: topic %q is empty; run bench produce first", ErrOptions, r.o.Topic)
	}
	return nil
}

// spending is what processes took up to a moment.
type spending struct {
	cpu   usage
	disks int64 // bytes that the named brokers read from theirs
}

func (r *consumeRun) spent(ctx context.Context) (s spending, err error) {
	if s.cpu, err = r.o.cpuNow(ctx); err != nil {
		return s, err
	}
	s.disks, err = r.o.diskReads()
	return s, err
}

func (r *consumeRun) report(readers int, elapsed time.Duration, before, after spending) *Report {
	report := r.t.report(r.o, "consume")
	report.Producers, report.BatchBytes = readers, 0 // the producers' affair
	if r.o.Readers > 0 {
		report.Producers, report.Readers = 0, r.o.Readers
	}
	report.Newest = r.o.Newest
	if len(r.o.BrokerPids) > 0 {
		report.BrokerDiskReads = new(after.disks - before.disks)
	}
	report.Payload = "what the topic holds"
	report.rates(r.records.Load(), r.bytes.Load(), elapsed)
	if report.Records > 0 {
		report.RecordSize = int(report.Bytes / report.Records)
	}
	report.CPUSecondsPerGB = r.o.perGB(before.cpu, after.cpu, report.Bytes)
	report.DiskBytes = diskBytes(r.o.DataDir)
	if n := r.polls.Load(); n > 0 {
		report.MeanBatchBytes = float64(r.wire.Load()) / float64(n)
	}
	return report
}

// readers makes the consumers: each with all partitions, or these dealt out by turns.
func (r *consumeRun) readers() ([]*reader, error) {
	n := min(r.o.Producers, len(r.t.parts))
	if r.o.Readers > 0 {
		n = r.o.Readers
	}
	dealt := make([][]client.TopicPartition, n)
	for i, tp := range r.t.parts {
		dealt[i%n] = append(dealt[i%n], tp)
	}
	start := client.Earliest()
	if r.o.Newest > 0 {
		start = client.Latest() // until the first pass seeks, so that nothing older is fetched
	}
	opts := []client.ConsumerOpt{client.WithStart(start), client.WithReset(client.ResetError)}
	if n > manyReaders {
		opts = append(opts, client.WithPrefetchBytes(manyFetch), client.WithFetchMaxBytes(manyFetch))
	}
	var out []*reader
	for _, parts := range dealt {
		if r.o.Readers > 0 {
			parts = r.t.parts
		}
		k, err := r.t.c.NewConsumer(append(opts, client.WithPartitions(parts...))...)
		if err != nil {
			return out, err
		}
		out = append(out, &reader{r: r, k: k, parts: parts})
	}
	return out, nil
}

// phase lets all readers read for a time or a number of records; 0: no limit.
func (r *consumeRun) phase(ctx context.Context, readers []*reader, what string, d time.Duration, records int64) error {
	until := ctx
	if d > 0 {
		var cancel context.CancelFunc
		until, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	stop := showProgress(r.o.Progress, what, r.records.Load)
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, len(readers))
	for i, k := range readers {
		wg.Go(func() { errs[i] = k.read(until, records) })
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), ctx.Err())
}

// reader is one consumer and where it is in its pass over its partitions.
type reader struct {
	r     *consumeRun
	k     *client.Consumer
	parts []client.TopicPartition
	at    map[client.TopicPartition]int64 // next offset expected; nil: no pass began
	open  int                             // partitions whose end was not reached
}

func (k *reader) close() {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	_ = k.k.Close(ctx) // no group: there is nothing to commit that could fail
}

// read goes on with the pass, and begins others, until the phase is over.
func (k *reader) read(ctx context.Context, limit int64) error {
	for limit == 0 || k.r.records.Load() < limit {
		if err := k.nextPass(); err != nil {
			return err
		}
		p, err := k.k.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the phase is over
			}
			return err
		}
		if err := k.use(p); err != nil {
			return err
		}
	}
	return nil
}

// nextPass goes back to the start once all partitions are read.
func (k *reader) nextPass() error {
	if k.at != nil && k.open > 0 {
		return nil
	}
	again := k.at != nil || k.r.o.Newest > 0
	k.at, k.open = map[client.TopicPartition]int64{}, 0
	for _, tp := range k.parts {
		k.at[tp] = k.r.start[tp]
		if k.r.start[tp] < k.r.end[tp] {
			k.open++
		}
		if again {
			if err := k.k.Seek(tp, client.At(k.r.start[tp])); err != nil {
				return err
			}
		}
	}
	if k.open == 0 {
		return fmt.Errorf("%w: some consumer's partitions are all empty; use fewer --producers", ErrOptions)
	}
	return nil
}

// use reads every record of p and checks that offsets go on without a gap.
func (k *reader) use(p *client.Polled) error {
	var records, bytes int64
	for part := range p.Partitions() {
		at, end := k.at[part.TopicPartition], k.r.end[part.TopicPartition]
		finished := at >= end
		for rec := range part.All() {
			if rec.Offset != at {
				return fmt.Errorf("bench: %s: record %d follows record %d", part.TopicPartition, rec.Offset, at-1)
			}
			at++
			records++
			bytes += int64(len(rec.Key) + len(rec.Value))
		}
		k.at[part.TopicPartition] = at
		if !finished && at >= end {
			k.open--
		}
	}
	if err := p.Err(); err != nil {
		return err
	}
	k.r.records.Add(records)
	k.r.bytes.Add(bytes)
	k.r.wire.Add(int64(p.Bytes()))
	k.r.polls.Add(int64(p.Batches()))
	return nil
}
