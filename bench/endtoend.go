package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/punctual"
)

const (
	endToEnd = "e2e"
	// A timed value begins with a byte that no payload has, and the time it was due.
	stampMark  = 0xff
	stampBytes = 9
	// drainLimit bounds how long the consumer may be behind once producing is over.
	drainLimit = time.Minute
)

// EndToEnd produces, as fast as it goes or open loop at a rate, while one consumer
// reads along, and measures both: the rate at which records arrive until the last
// acknowledged one has, and the time from the moment a record was due until the
// consumer has it in hand.
func EndToEnd(ctx context.Context, o Options) (*Report, error) {
	if err := o.fill(endToEnd); err != nil {
		return nil, err
	}
	run, err := newProduceRun(ctx, &o)
	if err != nil {
		return nil, err
	}
	run.stamp = stamp
	report, err := run.measureArrivals(ctx)
	return report, errors.Join(err, run.close())
}

// stamp returns a copy of a value that says when it was due.
func stamp(value []byte, due time.Time) []byte {
	v := append([]byte(nil), value...)
	v[0] = stampMark
	binary.BigEndian.PutUint64(v[1:], uint64(due.UnixNano()))
	return v
}

// stamped returns when a value was due, if it says so.
func stamped(value []byte) (due time.Time, ok bool) {
	if len(value) < stampBytes || value[0] != stampMark {
		return time.Time{}, false
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(value[1:]))), true
}

// arrivals is what a consumer that reads along has seen.
type arrivals struct {
	k *client.Consumer

	mu   sync.Mutex // guards what follows
	at   map[client.TopicPartition]int64
	n    int64     // records since begin
	last time.Time // when the last of them came
	hist *hdrhistogram.Histogram
}

func (r *produceRun) measureArrivals(ctx context.Context) (*Report, error) {
	a, err := r.follow(ctx)
	if err != nil {
		return nil, err
	}
	reading, stop := context.WithCancel(ctx)
	read := make(chan error, 1)
	go func() { read <- a.read(reading) }() // until stop, and waited for below
	feed := r.feed
	if r.o.Rate > 0 {
		feed = r.tick
	}
	var began time.Time
	report, err := r.measure(ctx, endToEnd, func(ctx context.Context, p *client.Producer, index int, phase time.Time) error {
		if index == 0 { // The measured phase comes last.
			began = phase
			a.begin()
		}
		return feed(ctx, p, index, phase)
	})
	if err == nil {
		err = r.drained(ctx, a)
	}
	stop()
	if err := errors.Join(err, <-read, a.close()); err != nil {
		return nil, err
	}
	report.ConsumedPerSec = float64(a.n) / a.last.Sub(began).Seconds()
	report.EndToEndMS = new(latency(a.hist))
	return report, nil
}

// follow makes a consumer that begins where the topic ends.
func (r *produceRun) follow(ctx context.Context) (*arrivals, error) {
	ends, err := r.t.ends(ctx, client.Latest())
	if err != nil {
		return nil, err
	}
	k, err := r.t.c.NewConsumer(client.WithPartitions(r.t.parts...), client.WithStart(client.Latest()), client.WithReset(client.ResetError))
	if err != nil {
		return nil, err
	}
	a := &arrivals{k: k, at: ends, hist: newHistogram()}
	for tp, end := range ends {
		if err := k.Seek(tp, client.At(end)); err != nil {
			return nil, errors.Join(err, a.close())
		}
	}
	return a, nil
}

func (a *arrivals) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	return a.k.Close(ctx)
}

func (a *arrivals) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n = 0
	a.hist.Reset()
}

func (a *arrivals) read(ctx context.Context) error {
	for {
		p, err := a.k.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it is over
			}
			return err
		}
		if err := a.use(p); err != nil {
			return err
		}
	}
}

// use takes note of every record, and checks that offsets go on without a gap.
func (a *arrivals) use(p *client.Polled) error {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for part := range p.Partitions() {
		at := a.at[part.TopicPartition]
		for rec := range part.All() {
			if rec.Offset != at {
				return fmt.Errorf("bench: %s: record %d follows record %d", part.TopicPartition, rec.Offset, at-1)
			}
			at++
			a.n++
			if due, ok := stamped(rec.Value); ok {
				record(a.hist, now.Sub(due))
			}
		}
		a.at[part.TopicPartition] = at
	}
	a.last = now
	return p.Err()
}

// drained waits until the consumer has everything.
func (r *produceRun) drained(ctx context.Context, a *arrivals) error {
	ends, err := r.t.ends(ctx, client.Latest())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	for {
		missing := a.missing(ends)
		if missing == 0 {
			return nil
		}
		punctual.Wait(ctx, time.Now().Add(time.Millisecond))
		if ctx.Err() != nil {
			return fmt.Errorf("bench: the consumer lacks %d records %s after the last was acknowledged: %w", missing, drainLimit, ctx.Err())
		}
	}
}

func (a *arrivals) missing(ends map[client.TopicPartition]int64) (n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for tp, end := range ends {
		n += max(end-a.at[tp], 0)
	}
	return n
}
