package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/client"
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

// Two members share a group's partitions, in both protocols; a third one comes, one
// goes, and what they committed is where the next one begins.
func TestKafkaGroupsShareAndHandOver(t *testing.T) {
	for _, protocol := range []struct {
		name string
		opts []kgo.Opt
	}{
		{"classic", []kgo.Opt{kgo.Balancers(kgo.CooperativeStickyBalancer())}},
		{"eager", []kgo.Opt{kgo.Balancers(kgo.RangeBalancer())}},
		{"consumer", []kgo.Opt{kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer())}},
	} {
		t.Run(protocol.name, func(t *testing.T) {
			w := startWorld(t, 3, 0)
			w.t = t
			ctx := within(t, time.Minute)
			admin := w.kafkaClient()
			createKafkaTopic(ctx, t, admin, "orders", 6)
			const records = 600
			p := w.kafkaClient(kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
			produce := func() {
				for i := range records {
					p.Produce(ctx, kgo.StringRecord(fmt.Sprint(i)), func(_ *kgo.Record, err error) { assertNoError(t, err) })
				}
				require.NoError(t, p.Flush(ctx))
			}
			member := func() *kgo.Client {
				return w.kafkaClient(append(protocol.opts, kgo.ConsumerGroup("billing"), kgo.ConsumeTopics("orders"),
					kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(200*time.Millisecond), kgo.SessionTimeout(6*time.Second))...)
			}
			read := func(want int, members ...*kgo.Client) map[int32]int {
				seen := make(map[int32]int)
				for n := 0; n < want; {
					for _, m := range members {
						short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
						fs := m.PollFetches(short)
						cancel()
						fs.EachRecord(func(r *kgo.Record) { seen[r.Partition]++; n++ })
					}
					require.NoError(t, ctx.Err())
				}
				return seen
			}
			a, b := member(), member()
			produce()
			require.Len(t, read(records, a, b), 6)
			// A client that may not use the protocol asked for uses another, and says nothing.
			require.Equal(t, protocol.name == "consumer", isConsumerGroup(ctx, t, admin, "billing"))
			require.NoError(t, a.CommitUncommittedOffsets(ctx))
			require.NoError(t, b.CommitUncommittedOffsets(ctx))
			a.Close()
			b.Close()
			require.Equal(t, int64(records), committed(ctx, t, admin, "billing"))
			c := member()
			produce()
			require.Len(t, read(records, c), 6)
		})
	}
}

// isConsumerGroup reports whether a group is of the protocol of KIP-848.
func isConsumerGroup(ctx context.Context, t *testing.T, cl *kgo.Client, group string) bool {
	t.Helper()
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{group}
	resp, err := req.RequestWith(ctx, cl)
	require.NoError(t, err)
	require.Len(t, resp.Groups, 1)
	return resp.Groups[0].ErrorCode == 0
}

// A trial is answered at once, also when nothing happens in the cluster that would
// bring the brokers to a later image.
func TestKafkaClientsTryOutTopics(t *testing.T) {
	w := startWorld(t, 3, 0)
	ctx := within(t, time.Minute)
	cl := w.kafkaClient()
	createKafkaTopic(ctx, t, cl, "there", 1)
	for i := range 30 {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = fmt.Sprintf("trial-%d", i), 2, 3
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Topics, req.TimeoutMillis, req.ValidateOnly = append(req.Topics, topic), 10_000, true
		resp, err := req.RequestWith(ctx, cl)
		require.NoError(t, err)
		require.NoError(t, kerr.ErrorForCode(resp.Topics[0].ErrorCode))
	}
}

func createKafkaTopic(ctx context.Context, t *testing.T, cl *kgo.Client, name string, partitions int32) {
	t.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, -1
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, topic), 10_000
	resp, err := req.RequestWith(ctx, cl)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(resp.Topics[0].ErrorCode))
}

// committed is the sum of what a group has committed.
func committed(ctx context.Context, t *testing.T, cl *kgo.Client, group string) int64 {
	t.Helper()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.Groups = group, append(req.Groups, g)
	resp, err := req.RequestWith(ctx, cl)
	require.NoError(t, err)
	require.Len(t, resp.Groups, 1)
	require.NoError(t, kerr.ErrorForCode(resp.Groups[0].ErrorCode))
	sum := int64(0)
	for _, topic := range resp.Groups[0].Topics {
		for _, p := range topic.Partitions {
			sum += p.Offset
		}
	}
	return sum
}

// A group holds members of both doors at once: they share its partitions.
func TestAGroupHoldsMembersOfBothDoors(t *testing.T) {
	w := startWorld(t, 3, 0)
	ctx := within(t, time.Minute)
	admin := w.kafkaClient()
	createKafkaTopic(ctx, t, admin, "orders", 6)
	theirs := w.kafkaClient(kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("orders"))
	cl, err := client.New(w.d.Brokers())
	require.NoError(t, err)
	t.Cleanup(func() { _ = cl.Close() })
	ours, err := cl.NewConsumer(client.WithGroup("g"), client.WithTopics("orders"))
	require.NoError(t, err)
	producer := w.kafkaClient(kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	byTheirs, byOurs := make(map[int32]bool), make(map[int32]bool)
	for round := 0; len(byTheirs) != 3 || len(byOurs) != 3; round++ {
		require.NoError(t, ctx.Err(), "the partitions are not shared: %v and %v", byTheirs, byOurs)
		clear(byTheirs)
		clear(byOurs)
		value := fmt.Sprint(round)
		for p := range int32(6) {
			require.NoError(t, producer.ProduceSync(ctx, &kgo.Record{Partition: p, Value: []byte(value)}).FirstErr())
		}
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		for r := range ours.Records(short) {
			if string(r.Value) == value {
				byOurs[r.Partition] = true
			}
		}
		cancel()
		short, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
		for short.Err() == nil {
			theirs.PollFetches(short).EachRecord(func(r *kgo.Record) {
				if string(r.Value) == value {
					byTheirs[r.Partition] = true
				}
			})
		}
		cancel()
	}
	for p := range byTheirs {
		require.False(t, byOurs[p], "both read partition %d", p)
	}
	require.True(t, isConsumerGroup(ctx, t, admin, "g"))
	require.NoError(t, ours.Close(ctx))
}

// Both doors open on the same records, groups and offsets: what one kind of client
// writes the other reads, and where one commits the other goes on.
func TestTheDoorsShareEverything(t *testing.T) {
	w := startWorld(t, 3, 0)
	ctx := within(t, time.Minute)
	ours, err := client.New(w.d.Brokers())
	require.NoError(t, err)
	t.Cleanup(func() { _ = ours.Close() })
	theirs := w.kafkaClient(kgo.DefaultProduceTopic("orders"))
	createKafkaTopic(ctx, t, theirs, "orders", 1)

	producer, err := ours.NewProducer(client.WithCompression("zstd"))
	require.NoError(t, err)
	for i := range 10 {
		require.NoError(t, producer.ProduceSync(ctx, &client.Record{Topic: "orders", Key: []byte("grpc"), Value: fmt.Appendf(nil, "v%d", 2*i)}))
		require.NoError(t, theirs.ProduceSync(ctx, &kgo.Record{Key: []byte("kafka"), Value: fmt.Appendf(nil, "v%d", 2*i+1)}).FirstErr())
	}
	require.NoError(t, producer.Close(ctx))

	// A Kafka member reads the first half and commits.
	member := w.kafkaClient(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	var taken []*kgo.Record
	for len(taken) < 8 {
		fs := member.PollRecords(ctx, 8-len(taken))
		require.NoError(t, fs.Err())
		taken = append(taken, fs.Records()...)
	}
	for i, r := range taken {
		require.Equal(t, fmt.Sprintf("v%d", i), string(r.Value))
		require.Equal(t, []string{"grpc", "kafka"}[i%2], string(r.Key))
	}
	require.NoError(t, member.CommitRecords(ctx, taken...))
	member.Close()

	// A member of ours goes on where that one committed, in the same group.
	c, err := ours.NewConsumer(client.WithGroup("g"), client.WithTopics("orders"))
	require.NoError(t, err)
	i := 8
	for r := range c.Records(ctx) {
		require.Equal(t, fmt.Sprintf("v%d", i), string(r.Value))
		if i++; i == 20 {
			break
		}
	}
	require.NoError(t, c.Commit(ctx))
	require.NoError(t, c.Close(ctx))
	require.Equal(t, int64(20), committed(ctx, t, theirs, "g"))
}
