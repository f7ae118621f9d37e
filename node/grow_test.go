package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/client"
)

// seen collects the values that a consumer has read.
type seen struct {
	mu     sync.Mutex // guards values
	values map[string]bool
}

// read consumes until the test ends.
func (w *world) read(k *client.Consumer) *seen {
	w.t.Helper()
	s := &seen{values: make(map[string]bool)}
	done := make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for r := range k.Records(ctx) {
				s.mu.Lock()
				s.values[string(r.Value)] = true
				s.mu.Unlock()
			}
		}
	}()
	w.t.Cleanup(func() {
		stop()
		<-done
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := k.Close(closing); err != nil {
			w.t.Log(err)
		}
	})
	return s
}

func (s *seen) all(values []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		if !s.values[v] {
			return fmt.Errorf("%s was not read; there are %d of %d", v, len(s.values), len(values))
		}
	}
	return nil
}

// A topic that gets more partitions: producers spread over them, whoever reads the
// topic reads them from their beginning, alone or in a group, also who began at
// the end of the others.
func TestClientsLearnOfMorePartitions(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	newClient := func(opts ...client.Opt) *client.Client {
		t.Helper()
		c, err := client.New(w.d.Brokers(), opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return c
	}
	operator, often := newClient(), newClient(client.WithMetadataMaxAge(50*time.Millisecond))
	if _, err := operator.Admin().CreateTopic(t.Context(), client.TopicSpec{Name: "wide", Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	consumer := func(c *client.Client, opts ...client.ConsumerOpt) *seen {
		t.Helper()
		k, err := c.NewConsumer(append(opts, client.WithTopics("wide"))...)
		if err != nil {
			t.Fatal(err)
		}
		return w.read(k)
	}
	readers := map[string]*seen{
		"from the start":     consumer(often),
		"from the end":       consumer(often, client.WithStart(client.Latest())),
		"group":              consumer(newClient(), client.WithGroup("g")),
		"group from the end": consumer(newClient(), client.WithGroup("late"), client.WithStart(client.Latest())),
	}

	manual, err := newClient().NewProducer(client.WithPartitioner(client.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	spread, err := often.NewProducer()
	if err != nil {
		t.Fatal(err)
	}
	send := func(p *client.Producer, partition int32, value string) int32 {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r := &client.Record{Topic: "wide", Partition: partition, Value: []byte(value)}
		if err := p.ProduceSync(ctx, r); err != nil {
			t.Fatal(err)
		}
		return r.Partition
	}
	// All read the end of what is there now.
	n := 0
	w.until("the readers from the end have begun", 30*time.Second, func() error {
		n++
		value := fmt.Sprintf("before %d", n)
		send(manual, int32(n%2), value)
		for name, s := range readers {
			if err := s.all([]string{value}); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})

	if err := operator.Admin().AddPartitions(t.Context(), "wide", 6, false); err != nil {
		t.Fatal(err)
	}
	var values []string
	for p := range int32(6) { // by a producer that knows two partitions
		values = append(values, fmt.Sprintf("to %d", p))
		send(manual, p, values[p])
	}
	for name, s := range readers {
		w.until(name, 30*time.Second, func() error { return s.all(values) })
	}
	var hit []int32
	w.until("the producer spreads over all", 30*time.Second, func() error {
		if p := send(spread, -1, "spread"); !slices.Contains(hit, p) {
			hit = append(hit, p)
		}
		if len(hit) < 6 {
			return fmt.Errorf("it sent to %v", hit)
		}
		return nil
	})
	for _, p := range []*client.Producer{manual, spread} {
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
