// Package probe finds out when the partitions of a topic take writes, and whether what
// was acknowledged stays: it writes a numbered record to each every few
// milliseconds, and reads all of them back.
package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/client"
)

// probeEvery is how often a record goes to each partition.
const probeEvery = 5 * time.Millisecond

// place is where a record was acknowledged.
type place struct {
	partition int32
	offset    int64
}

// write is an acknowledged probe record.
type write struct {
	partition   int32
	sent, acked time.Time
}

// Prober writes a numbered record to every partition of a topic again and again,
// and remembers what was acknowledged, where and when.
type Prober struct {
	topic      string
	partitions int32
	producer   *client.Producer
	cancel     context.CancelFunc
	done       chan struct{}

	mu     sync.Mutex // guards what follows
	acked  map[uint64]place
	writes []write
	err    error
}

// Start begins to write to a topic of so many partitions.
func Start(ctx context.Context, cl *client.Client, topic string, partitions int32) (*Prober, error) {
	producer, err := cl.NewProducer(client.WithPartitioner(client.ManualPartitioner()))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Prober{topic: topic, partitions: partitions, producer: producer, cancel: cancel, done: make(chan struct{}), acked: map[uint64]place{}}
	go p.run(ctx)
	return p, nil
}

func (p *Prober) run(ctx context.Context) {
	defer close(p.done)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for id := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range p.partitions {
			sent := time.Now()
			value := binary.BigEndian.AppendUint64(nil, id)
			p.producer.Produce(context.WithoutCancel(ctx), &client.Record{Topic: p.topic, Partition: i, Value: value},
				func(r *client.Record, err error) { p.settle(binary.BigEndian.Uint64(value), sent, r, err) })
			id++
		}
	}
}

func (p *Prober) settle(id uint64, sent time.Time, r *client.Record, err error) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.err = errors.Join(p.err, err)
		return
	}
	p.acked[id] = place{r.Partition, r.Offset}
	p.writes = append(p.writes, write{r.Partition, sent, now})
}

// FirstAfter says, for those of the partitions that took one, when the first
// record that was sent after a moment was acknowledged.
func (p *Prober) FirstAfter(moment time.Time, parts []int32) (found []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range parts {
		for _, w := range p.writes {
			if w.partition == part && w.sent.After(moment) {
				found = append(found, w.acked.Sub(moment))
				break
			}
		}
	}
	return found
}

// Latencies are the times from sending to acknowledgement of what was sent in a time.
func (p *Prober) Latencies(from, to time.Time) (all []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.writes {
		if !w.sent.Before(from) && w.sent.Before(to) {
			all = append(all, w.acked.Sub(w.sent))
		}
	}
	return all
}

// Acked is how many records were acknowledged.
func (p *Prober) Acked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

// Stop ends the writing and settles what is under way.
func (p *Prober) Stop(ctx context.Context) error {
	p.cancel()
	<-p.done
	err := p.producer.Close(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(err, p.err)
}

// Check reads the topic and finds every acknowledged record once, where it was
// acknowledged. A record that was not acknowledged may be there, once.
func (p *Prober) Check(ctx context.Context, cl *client.Client) (err error) {
	parts, err := cl.Admin().Partitions(ctx, p.topic)
	if err != nil {
		return err
	}
	ends, err := cl.Admin().ListOffsets(ctx, client.Latest(), parts...)
	if err != nil {
		return err
	}
	var want int64
	for _, e := range ends {
		if e.Err != nil {
			return e.Err
		}
		want += e.Offset
	}
	k, err := cl.NewConsumer(client.WithPartitions(parts...), client.WithStart(client.Earliest()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close(ctx)) }()
	seen := make(map[uint64]place, want)
	for int64(len(seen)) < want {
		if err := p.read(ctx, k, seen); err != nil {
			return err
		}
	}
	for id, at := range p.acked {
		if got, ok := seen[id]; !ok || got != at {
			return fmt.Errorf("record %d was acknowledged at %v of %s and is found (%t) at %v", id, at, p.topic, ok, got)
		}
	}
	return nil
}

func (p *Prober) read(ctx context.Context, k *client.Consumer, seen map[uint64]place) error {
	polled, err := k.Poll(ctx)
	if err != nil {
		return err
	}
	defer polled.Release()
	for r := range polled.All() {
		id := binary.BigEndian.Uint64(r.Value)
		if before, twice := seen[id]; twice {
			return fmt.Errorf("record %d of %s is at %v and at %d/%d", id, p.topic, before, r.Partition, r.Offset)
		}
		seen[id] = place{r.Partition, r.Offset}
	}
	return polled.Err()
}
