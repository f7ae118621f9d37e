package bench

import (
	"context"
	"errors"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/punctual"
)

// OpenLoop measures latency at a fixed rate: record i is due at i/rate, whether or
// not earlier ones are acknowledged, and its latency runs from then. How late the
// generator itself was is reported beside.
func OpenLoop(ctx context.Context, o Options) (*Report, error) {
	if err := o.fill("latency"); err != nil {
		return nil, err
	}
	run, err := newProduceRun(ctx, &o)
	if err != nil {
		return nil, err
	}
	report, err := run.measure(ctx, "latency", run.tick)
	return report, errors.Join(err, run.close())
}

// tick sends every record at its time; producers take turns.
func (r *produceRun) tick(ctx context.Context, p *client.Producer, index int, began time.Time) error {
	gap := time.Duration(float64(time.Second) / float64(r.o.Rate))
	step := gap * time.Duration(len(r.producers))
	due := began.Add(gap * time.Duration(index+1))
	for n := index; ; n++ {
		if r.take(1) == 0 {
			return nil
		}
		punctual.Wait(ctx, due)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the phase is over
		}
		r.m.observeLate(time.Since(due))
		r.timed(p, due, r.pool[n%len(r.pool)])
		due = due.Add(step)
	}
}

// OneAtATime measures latency in a closed loop: each record is sent when the one before
// is acknowledged, as a caller does that waits for every write.
func OneAtATime(ctx context.Context, o Options) (*Report, error) {
	if err := o.fill("single"); err != nil {
		return nil, err
	}
	run, err := newProduceRun(ctx, &o)
	if err != nil {
		return nil, err
	}
	report, err := run.measure(ctx, "single", run.alternate)
	return report, errors.Join(err, run.close())
}

// alternate sends and waits in turn.
func (r *produceRun) alternate(ctx context.Context, p *client.Producer, index int, _ time.Time) error {
	for n := index; ctx.Err() == nil; n++ {
		if r.take(1) == 0 {
			return nil
		}
		began := time.Now()
		// What is under way when the phase ends is waited for, like everything else.
		if err := p.ProduceSync(context.WithoutCancel(ctx), &client.Record{Topic: r.o.Topic, Value: r.pool[n%len(r.pool)]}); err != nil {
			r.m.fail(err)
			return nil // the report counts errors
		}
		r.m.observe(time.Since(began))
	}
	return nil
}
