package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
)

const (
	loadKeys = 20
	loadTick = 5 * time.Millisecond // one record a key every tick: 4,000 records/s
)

// place is where an acknowledged record must be found.
type place struct {
	partition int32
	offset    int64
}

// load produces 0, 1, 2, ... under each of its keys at a steady rate, acks=all,
// and keeps what was acknowledged.
type load struct {
	topic    string
	producer *client.Producer
	stop     context.CancelFunc
	done     chan struct{} // closed once the producer is

	mu       sync.Mutex // guards what follows
	acked    map[place]string
	next     map[string]int         // by key: the sequence to be acknowledged next
	times    map[string][]time.Time // by key: when each sequence was acknowledged
	failures []error
	watched  map[int32]bool // partitions whose first acknowledgement is awaited
	since    time.Time
	first    time.Time // acknowledgement of a record produced after since, there
}

func (w *world) startLoad(topic string) *load {
	w.t.Helper()
	p, err := w.client.NewProducer()
	require.NoError(w.t, err)
	ctx, stop := context.WithCancel(w.ctx)
	l := &load{
		topic: topic, producer: p, stop: stop, done: make(chan struct{}),
		acked: map[place]string{}, next: map[string]int{}, times: map[string][]time.Time{},
	}
	go l.run(ctx)
	w.t.Cleanup(func() { stop(); <-l.done })
	return l
}

func (l *load) run(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(loadTick)
	defer tick.Stop()
	for seq := 0; ctx.Err() == nil; seq++ {
		for k := range loadKeys {
			key := fmt.Sprintf("key-%02d", k)
			// Not ctx: a record that was refused at the end would be a failure.
			l.producer.Produce(context.WithoutCancel(ctx), &client.Record{
				Topic: l.topic, Key: []byte(key), Value: fmt.Appendf(nil, "%s %d", key, seq), Timestamp: time.Now(),
			}, l.settle)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), testWait)
	defer cancel()
	if err := l.producer.Close(ending); err != nil {
		l.fail(err)
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, err)
}

func (l *load) settle(r *client.Record, err error) {
	if err != nil {
		l.fail(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key, value := string(r.Key), string(r.Value)
	if want := fmt.Sprintf("%s %d", key, l.next[key]); value != want {
		l.failures = append(l.failures, fmt.Errorf("acknowledged %q, want %q first", value, want))
	}
	l.next[key]++
	l.times[key] = append(l.times[key], time.Now())
	at := place{r.Partition, r.Offset}
	if other, ok := l.acked[at]; ok {
		l.failures = append(l.failures, fmt.Errorf("%v was acknowledged for %q and for %q", at, other, value))
	}
	l.acked[at] = value
	if l.first.IsZero() && l.watched[r.Partition] && r.Timestamp.After(l.since) {
		l.first = time.Now()
	}
}

// ticks is how many records of the key that a record has were acknowledged in
// (from, to]: the time in between by the clock of the load, which goes slower when
// the machine does.
func (l *load) ticks(record place, from, to time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	key, _, _ := strings.Cut(l.acked[record], " ")
	times := l.times[key]
	upTo := func(t time.Time) int {
		return sort.Search(len(times), func(i int) bool { return times[i].After(t) })
	}
	return upTo(to) - upTo(from)
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// watch awaits the first acknowledgement of a record that is produced from now
// on to any of the partitions.
func (l *load) watch(partitions map[int32]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched, l.since, l.first = partitions, time.Now(), time.Time{}
}

// waitFirst returns how long after watch that acknowledgement came.
func (l *load) waitFirst(t *testing.T) time.Duration {
	t.Helper()
	var took time.Duration
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		took = l.first.Sub(l.since)
		return !l.first.IsZero()
	}, testWait, loadTick, "no write was acknowledged any more")
	return took
}

// waitMore waits until n more records are acknowledged.
func (l *load) waitMore(t *testing.T, n int) {
	t.Helper()
	want := l.count() + n
	require.Eventually(t, func() bool { return l.count() >= want }, testWait, loadTick, "writes were not acknowledged any more")
}

// finish ends the load and requires that nothing failed.
func (l *load) finish(t *testing.T) {
	t.Helper()
	l.stop()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(t, l.failures)
	require.NotEmpty(t, l.acked)
	t.Logf("%d records acknowledged", len(l.acked))
}

// readAll yields the topic from the earliest offset to the ends of now.
func (w *world) readAll(topic string, yield func(*client.Record)) {
	w.t.Helper()
	parts, err := w.client.Admin().Partitions(w.ctx, topic)
	require.NoError(w.t, err)
	ends, err := w.client.Admin().ListOffsets(w.ctx, client.Latest(), parts...)
	require.NoError(w.t, err)
	want := int64(0)
	for _, e := range ends {
		require.NoError(w.t, e.Err)
		want += e.Offset
	}
	k, err := w.client.NewConsumer(client.WithPartitions(parts...), client.WithStart(client.Earliest()))
	require.NoError(w.t, err)
	ctx, cancel := context.WithTimeout(w.ctx, testWait)
	defer cancel()
	for read := int64(0); read < want; {
		polled, err := k.Poll(ctx)
		require.NoError(w.t, err, "read %d of %d records", read, want)
		for r := range polled.All() {
			yield(r)
			read++
		}
		require.NoError(w.t, polled.Err())
		polled.Release()
	}
	require.NoError(w.t, k.Close(ctx))
}

// verify reads the topic back and compares it with what was acknowledged: each
// record once, where its acknowledgement said, and each key's in order. The load
// has finished without failures, so there is nothing else either.
func (l *load) verify(w *world) {
	w.t.Helper()
	next := map[string]int{}
	read := 0
	w.readAll(l.topic, func(r *client.Record) {
		key, value := string(r.Key), string(r.Value)
		require.Equal(w.t, l.acked[place{r.Partition, r.Offset}], value, "partition %d, offset %d", r.Partition, r.Offset)
		require.Equal(w.t, fmt.Sprintf("%s %d", key, next[key]), value, "the order of key %s", key)
		next[key]++
		read++
	})
	require.Equal(w.t, len(l.acked), read)
	require.Equal(w.t, l.next, next)
}

// requireEqualReplicas stops all nodes and compares what the replicas of each
// partition have on disk.
func (w *world) requireEqualReplicas(topic string, nodes int) {
	w.t.Helper()
	parts := w.partitions(topic)
	for id := 1; id <= nodes; id++ {
		if w.nodes.Pid(id) != 0 {
			require.NoError(w.t, w.nodes.Stop(id, 20*time.Second))
		}
	}
	for _, p := range parts {
		var want []byte
		for i, id := range p.Replicas {
			got := segments(w.t, w.nodes.DataDir(int(id)), fmt.Sprintf("%s-%d", topic, p.Partition))
			require.NotEmpty(w.t, got)
			if i == 0 {
				want = got
			}
			require.True(w.t, bytes.Equal(want, got), "%s-%d: node %d has %d bytes that differ from the %d of node %d",
				topic, p.Partition, id, len(got), len(want), p.Replicas[0])
		}
	}
}

// segments returns the bytes of a replica's segments, one behind the other.
func segments(t *testing.T, dataDir, partition string) (all []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, partition, "*.log"))
	require.NoError(t, err)
	slices.Sort(files)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		all = append(all, b...)
	}
	return all
}
