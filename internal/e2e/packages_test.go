package e2e

import (
	"context"
	"crypto/sha256"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/corpus"
)

const corpusRecords = 20_000

// sums is, for each key, the hashes of its values in order.
type sums struct {
	mu    sync.Mutex // guards byKey
	byKey map[string][][sha256.Size]byte
}

func newSums() *sums { return &sums{byKey: map[string][][sha256.Size]byte{}} }

func (s *sums) add(key, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byKey[string(key)] = append(s.byKey[string(key)], sha256.Sum256(value))
}

func (s *sums) requireEqual(t *testing.T, got *sums) {
	t.Helper()
	require.Len(t, got.byKey, len(s.byKey))
	for key, want := range s.byKey {
		require.Equal(t, want, got.byKey[key], "the values of key %q", key)
	}
}

func TestPackageIndex(t *testing.T) {
	c, err := corpus.Load(t.Context(), "../..")
	require.NoError(t, err)
	records := c.Records[:min(corpusRecords, len(c.Records))]
	t.Logf("%s: %d records", c.Source, len(records))
	want := newSums()
	for _, r := range records {
		want.add([]byte(r.Key), r.Value)
	}

	w := start(t, chaos.Options{Nodes: 3})
	for _, codec := range []string{"none", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			w := &world{t: t, ctx: t.Context(), nodes: w.nodes, client: w.client}
			topic := "packages-" + codec
			w.createTopic(topic, 6, 3)
			w.produceCorpus(topic, codec, records)

			grouped := newSums()
			w.consumeInGroup(topic, 2, len(records), grouped)
			want.requireEqual(t, grouped)

			replayed := newSums()
			w.readAll(topic, func(r *client.Record) { replayed.add(r.Key, r.Value) })
			want.requireEqual(t, replayed)
		})
	}
}

func (w *world) produceCorpus(topic, codec string, records []corpus.Record) {
	w.t.Helper()
	p, err := w.client.NewProducer(client.WithCompression(codec))
	require.NoError(w.t, err)
	for _, r := range records {
		p.Produce(w.ctx, &client.Record{Topic: topic, Key: []byte(r.Key), Value: r.Value}, nil)
	}
	require.NoError(w.t, p.Flush(w.ctx))
	require.NoError(w.t, p.Close(w.ctx))
}

// consumeInGroup lets n members share the topic until want records came, then
// checks that the group has committed all of them.
func (w *world) consumeInGroup(topic string, n, want int, seen *sums) {
	w.t.Helper()
	limit, cancel := context.WithTimeout(w.ctx, testWait)
	defer cancel()
	ctx, stop := context.WithCancel(limit)
	defer stop()
	group := "readers-of-" + topic
	var members errgroup.Group
	var mu sync.Mutex
	left := want
	counts := make([]int, n)
	// Nobody reads before all members are assigned partitions, so that each has a
	// share. (A member that waited with a record in hand would hold the others up.)
	var assigned sync.WaitGroup
	assigned.Add(n)
	for i := range n {
		var once sync.Once
		k, err := w.client.NewConsumer(client.WithGroup(group), client.WithTopics(topic),
			client.OnAssigned(func(_ *client.Consumer, added []client.TopicPartition) {
				if len(added) > 0 {
					once.Do(assigned.Done)
				}
			}))
		require.NoError(w.t, err)
		members.Go(func() error {
			assigned.Wait()
			for r := range k.Records(ctx) {
				seen.add(r.Key, r.Value)
				counts[i]++
				mu.Lock()
				if left--; left == 0 {
					stop() // the others wait for records that will not come
				}
				mu.Unlock()
			}
			if err := k.Err(); err != nil {
				return err
			}
			return k.Close(limit)
		})
	}
	require.NoError(w.t, members.Wait())
	require.Zero(w.t, left, "records missing (or twice, when negative)")
	for i, count := range counts {
		require.Positive(w.t, count, "records of member %d", i+1)
	}
	w.t.Logf("members of %s read %v records", group, counts)
}
