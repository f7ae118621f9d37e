package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// A client that speaks as those of an old release did, and asks for nothing newer, does
// what it is made for: from 0.11 on, which brought the format of records.
func TestKafkaClientsOfOldReleases(t *testing.T) {
	w := startWorld(t, 1, 0)
	for name, versions := range map[string]*kversion.Versions{
		"0.11": kversion.V0_11_0(), "1.0": kversion.V1_0_0(), "2.1": kversion.V2_1_0(), "2.8": kversion.V2_8_0(),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := within(t, time.Minute)
			topic := "orders-" + name
			old := func(opts ...kgo.Opt) *kgo.Client { return w.kafkaClient(append(opts, kgo.MaxVersions(versions))...) }
			createKafkaTopic(ctx, t, old(), topic, 2)
			producer := old(kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.AllowIdempotentProduceCancellation())
			const count = 100
			for i := range count {
				require.NoError(t, producer.ProduceSync(ctx, &kgo.Record{Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i)}).FirstErr())
			}
			member := old(kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
			seen := make(map[string]bool)
			for len(seen) < count {
				fs := member.PollFetches(ctx)
				require.NoError(t, fs.Err())
				fs.EachRecord(func(r *kgo.Record) { seen[string(r.Value)] = true })
			}
			require.NoError(t, member.CommitUncommittedOffsets(ctx))
			member.CloseAllowingRebalance()
			require.Equal(t, int64(count), committed(ctx, t, w.kafkaClient(), topic))
		})
	}
}
