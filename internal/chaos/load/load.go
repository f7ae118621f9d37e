package load

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

// The topics, and the group that reads both.
const (
	Strict = "strict" // written with acks=all
	Weak   = "weak"   // written with acks=1
	Group  = "readers"
)

// readers is how many read everything by themselves.
const readers = 2

// Options describe a load.
type Options struct {
	Brokers    []string
	History    string // file
	Partitions int32  // of each topic
	Replicas   int32
	Rate       int // records a second, of all producers together
	// Life is about how long a client lives before it is replaced.
	Life   time.Duration
	Logger *slog.Logger
}

// Load is a running load.
type Load struct {
	o       Options
	rec     *record.Recorder
	values  atomic.Uint64
	parts   []client.TopicPartition
	passed  *passed
	Outages *Outages

	stopWriters, stopReaders context.CancelFunc
	writers, readers         sync.WaitGroup // who deletes records is among the writers

	mu         sync.Mutex // guards what follows
	errors     map[string]int
	violations map[string][]string
	deletions  int
	retentions int
	deleted    int64
	starts     map[client.TopicPartition]int64 // where logs begin, as far as is known
}

// Start makes the topics and starts every client.
func Start(ctx context.Context, o Options) (*Load, error) {
	l := &Load{
		o: o, errors: map[string]int{}, violations: map[string][]string{}, starts: map[client.TopicPartition]int64{}, passed: newPassed(readers),
	}
	if err := l.createTopics(ctx); err != nil {
		return nil, err
	}
	var err error
	if l.rec, err = record.Create(o.History); err != nil {
		return nil, err
	}
	for _, topic := range []string{Strict, Weak} {
		for p := range o.Partitions {
			l.parts = append(l.parts, client.TopicPartition{Topic: topic, Partition: p})
		}
	}
	l.Outages = newOutages(o.Partitions)
	l.start()
	return l, nil
}

func (l *Load) createTopics(ctx context.Context) (err error) {
	c, err := l.client()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for topic, configs := range map[string]map[string]string{Strict: strictConfigs(), Weak: weakConfigs()} {
		spec := client.TopicSpec{Name: topic, Partitions: l.o.Partitions, ReplicationFactor: l.o.Replicas, Configs: configs}
		if _, err := c.Admin().CreateTopic(ctx, spec); err != nil {
			return fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	return nil
}

func (l *Load) client() (*client.Client, error) {
	return client.New(l.o.Brokers, client.WithClientID("chaos"), client.WithLogger(l.o.Logger), client.WithDialTimeout(time.Second),
		client.WithRequestTimeout(5*time.Second), client.WithMetadataMaxAge(10*time.Second))
}

func (l *Load) start() {
	writing, stopWriters := context.WithCancel(context.Background())
	reading, stopReaders := context.WithCancel(context.Background())
	l.stopWriters, l.stopReaders = stopWriters, stopReaders
	kinds := []writerKind{
		{topic: Strict, acks: client.AcksAll, timeout: time.Minute, share: 4},
		{topic: Strict, acks: client.AcksAll, timeout: 4 * time.Second, share: 2},
		{topic: Strict, acks: client.AcksAll, timeout: 10 * time.Second, share: 1, plain: true},
		{topic: Weak, acks: client.AcksLeader, timeout: 10 * time.Second, share: 1},
		{topic: Weak, acks: client.AcksLeader, timeout: 10 * time.Second, share: 1, plain: true},
	}
	shares := 0
	for _, k := range kinds {
		shares += k.share
	}
	for _, k := range kinds {
		k.rate = max(1, l.o.Rate*k.share/shares)
		w := &writer{l: l, kind: k}
		l.writers.Go(func() { w.run(writing) })
	}
	for i := range readers {
		r := &reader{l: l, number: i, life: l.o.Life * time.Duration(i+1)}
		l.readers.Go(func() { r.run(reading) })
	}
	for i := range 3 {
		m := &member{l: l, number: i}
		l.readers.Go(func() { m.run(reading) })
	}
	for i := range trimmers {
		l.writers.Go(func() { l.trim(writing, i) })
	}
	l.readers.Go(func() { l.watchBounds(reading) })
	l.readers.Go(func() { l.watchCommitted(reading) })
}

// StopWriters ends the producers, each of which waits until what it sent is settled, and
// the deletions.
func (l *Load) StopWriters() {
	l.stopWriters()
	l.writers.Wait()
	l.Outages.end()
}

// Close ends what still runs and the history. It is complete only if the error is nil.
func (l *Load) Close() error {
	l.StopWriters()
	l.stopReaders()
	l.readers.Wait()
	return l.rec.Close()
}

// Ops is the length of the history.
func (l *Load) Ops() int64 { return l.rec.Ops() }

// Errors counts what clients were told, by code.
func (l *Load) Errors() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.errors)
}

// Violations are broken promises that a history has no words for, one line a kind.
func (l *Load) Violations() (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(l.violations)) {
		seen := l.violations[kind]
		lines = append(lines, fmt.Sprintf("%s, %d times, first at %s", kind, len(seen), seen[0]))
	}
	return lines
}

// What errors are counted under.
const (
	produceAll  = "produce, acks=all"
	produceWeak = "produce, acks=1"
)

// note counts an error, and keeps those that must never come.
func (l *Load) note(what string, err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return
	}
	code := client.CodeOf(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors[what+": "+code.String()]++
	broken := code == client.CodeOffsetOutOfRange && what != "poll" || code == client.CodeCorruptBatch || code == client.CodeInvalidCommitOffset
	if code == client.CodeOutOfOrderSequence {
		// What waits behind a record that ran out of time is refused like this once, and
		// gets a new identity. To fail with it means that the broker lost something, which
		// it may for acks=1.
		_, late := errors.AsType[*client.DeliveryError](err)
		broken = !late && what != produceWeak
	}
	if broken {
		l.keep(fmt.Sprintf("%s: %s", what, code), err)
	}
}

// violate notes a broken promise.
func (l *Load) violate(kind string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep(kind, err)
}

// keep is violate for callers that hold mu.
func (l *Load) keep(kind string, err error) {
	l.violations[kind] = append(l.violations[kind], fmt.Sprintf("%s %v", time.Now().Format(time.TimeOnly), err))
}

func keyOf(tp client.TopicPartition) check.Key {
	return check.Key{Topic: tp.Topic, Partition: tp.Partition}
}

// pause waits; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
