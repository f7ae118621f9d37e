package load

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

type writerKind struct {
	topic   string
	acks    client.Acks
	plain   bool // not idempotent
	timeout time.Duration
	share   int
	rate    int
}

// writer produces at a steady rate, whatever happens to what it sent before.
type writer struct {
	l    *Load
	kind writerKind

	mu      sync.Mutex // guards settled
	settled map[check.Type][]check.Send
}

const (
	burstEvery  = 20 * time.Millisecond
	payloadSize = 100
)

func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.l.note("producer", w.live(ctx))
		pause(ctx, 100*time.Millisecond)
	}
}

// live is the life of one producer. It ends in good order: all that was sent is
// settled when it returns.
func (w *writer) live(ctx context.Context) error {
	c, err := w.l.client()
	if err != nil {
		return err
	}
	defer func() { w.l.note("client", c.Close()) }()
	opts := []client.ProducerOpt{
		client.WithAcks(w.kind.acks), client.WithPartitioner(client.ManualPartitioner()), client.WithDeliveryTimeout(w.kind.timeout),
		client.WithLinger(0), client.WithBatchBytes(16 << 10),
	}
	if w.kind.plain {
		opts = append(opts, client.WithoutIdempotence())
	}
	p, err := c.NewProducer(opts...)
	if err != nil {
		return err
	}
	w.settled = map[check.Type][]check.Send{}
	proc := w.l.rec.Process()
	until := time.Now().Add(2 * w.l.o.Life)
	tick := time.NewTicker(burstEvery)
	defer tick.Stop()
	owed, last := 0.0, time.Now()
	for turn := int32(0); ctx.Err() == nil && time.Now().Before(until); turn++ {
		owed += time.Since(last).Seconds() * float64(w.kind.rate)
		last = time.Now()
		n := int(owed)
		owed -= float64(n)
		w.burst(ctx, p, proc, turn, min(n, w.kind.rate))
		w.record(proc)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	// Every record ends by its delivery timeout at the latest.
	closing, cancel := context.WithTimeout(context.Background(), w.kind.timeout+10*time.Second)
	defer cancel()
	err = p.Close(closing)
	w.record(proc)
	return err
}

// burst sends n records to n partitions.
func (w *writer) burst(ctx context.Context, p *client.Producer, proc *record.Process, turn int32, n int) {
	if n == 0 {
		return
	}
	sends := make([]check.Send, n)
	for i := range sends {
		part := (turn + int32(i)) % w.l.o.Partitions
		sends[i] = check.Send{Key: check.Key{Topic: w.kind.topic, Partition: part}, Value: check.Value(w.l.values.Add(1)), Offset: -1}
	}
	acks := check.AcksAll
	if w.kind.acks == client.AcksLeader {
		acks = check.AcksLeader
	}
	proc.Append(check.Op{Type: check.Invoke, F: check.FSend, Acks: acks, Plain: w.kind.plain, Sends: sends})
	for _, s := range sends {
		r := &client.Record{Topic: s.Topic, Partition: s.Partition, Value: record.Payload(s.Value, payloadSize)}
		p.Produce(ctx, r, func(r *client.Record, err error) { w.settle(s, r.Offset, err) })
	}
}

// settle is told of each record's end, by the client.
func (w *writer) settle(s check.Send, offset int64, err error) {
	how := check.OK
	switch {
	case err == nil:
		s.Offset = offset
		if w.kind.acks == client.AcksAll {
			w.l.Outages.acked(s.Partition, offset, time.Now())
		}
	case client.IsIndefinite(err), errors.Is(err, client.ErrClosed):
		how = check.Info
	default:
		how = check.Fail
	}
	if err != nil {
		what := produceWeak
		if w.kind.acks == client.AcksAll {
			what = produceAll
		}
		w.l.note(what, err)
	}
	w.mu.Lock()
	w.settled[how] = append(w.settled[how], s)
	w.mu.Unlock()
}

// record puts what was settled into the history.
func (w *writer) record(proc *record.Process) {
	w.mu.Lock()
	settled := w.settled
	w.settled = map[check.Type][]check.Send{}
	w.mu.Unlock()
	for _, how := range []check.Type{check.OK, check.Info, check.Fail} {
		if len(settled[how]) > 0 {
			// A client that is not idempotent does not say how often it tried.
			proc.Append(check.Op{Type: how, F: check.FSend, Retried: w.kind.plain, Sends: settled[how]})
		}
	}
}
