package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaClient is one of franz-go for the cluster.
func (w *world) kafkaClient(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(w.d.Kafka()...)}, opts...)...)
	require.NoError(w.t, err)
	w.t.Cleanup(cl.Close)
	return cl
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// A client that nobody here wrote produces to topics that it makes on the way, with
// every codec, and reads back what it wrote.
func TestKafkaClientsProduceAndConsume(t *testing.T) {
	w := startWorld(t, 3, 0)
	ctx := within(t, time.Minute)
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	const each = 200
	for i, codec := range codecs {
		topic := fmt.Sprintf("orders-%d", i)
		p := w.kafkaClient(kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic(topic))
		for j := range each {
			p.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "k%d", j%7), Value: fmt.Appendf(nil, "v%d", j), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("x")}}},
				func(_ *kgo.Record, err error) { assertNoError(t, err) })
		}
		require.NoError(t, p.Flush(ctx))
		c := w.kafkaClient(kgo.ConsumeTopics(topic))
		for got := 0; got < each; {
			fs := c.PollFetches(ctx)
			require.NoError(t, fs.Err())
			fs.EachRecord(func(r *kgo.Record) {
				require.Equal(t, fmt.Sprintf("v%d", r.Offset), string(r.Value))
				require.Len(t, r.Headers, 1)
				got++
			})
		}
	}
}

func assertNoError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("produce: %v", err)
	}
}
