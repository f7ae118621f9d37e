package node

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What Kafka's tools ask of a broker is answered with what is so: its configs, and how
// much room there is.
func TestKafkaDescribesBrokers(t *testing.T) {
	w := startWorld(t, 1, 0)
	ctx := within(t, time.Minute)
	cl := w.kafkaClient()
	createKafkaTopic(ctx, t, cl, "t", 1)
	describe := kmsg.NewPtrDescribeConfigsRequest()
	describe.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "1"}}
	configs, err := describe.RequestWith(ctx, cl)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(configs.Resources[0].ErrorCode))
	shown := make(map[string]string)
	for _, c := range configs.Resources[0].Configs {
		require.NotNil(t, c.Value, c.Name)
		shown[c.Name] = *c.Value
	}
	require.Equal(t, "1", shown["default.replication.factor"], "there is one broker")
	require.Equal(t, "3", shown["offsets.topic.num.partitions"], "what tests say")
	require.Equal(t, "10080", shown["offsets.retention.minutes"])
	require.Equal(t, "500", shown["group.initial.rebalance.delay.ms"])
	require.Equal(t, "bidirectional", shown["group.consumer.migration.policy"])
	require.Equal(t, "20000", shown["max.connections"])
	logs := kmsg.NewPtrDescribeLogDirsRequest()
	answer, err := cl.Broker(1).Request(ctx, logs) // franz-go drops the sizes when it merges answers
	require.NoError(t, err)
	dirs, ok := answer.(*kmsg.DescribeLogDirsResponse)
	require.True(t, ok)
	require.Len(t, dirs.Dirs, 1)
	require.Equal(t, shown["log.dirs"], dirs.Dirs[0].Dir)
	require.Positive(t, dirs.Dirs[0].UsableBytes)
	require.GreaterOrEqual(t, dirs.Dirs[0].TotalBytes, dirs.Dirs[0].UsableBytes)
	// The end of kafka-reassign-partitions.sh --verify.
	removal := kmsg.NewPtrIncrementalAlterConfigsRequest()
	removal.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{
		{Name: "leader.replication.throttled.replicas", Op: kmsg.IncrementalAlterConfigOpDelete}, {Name: "follower.replication.throttled.replicas", Op: kmsg.IncrementalAlterConfigOpDelete},
	}}}
	cleared, err := removal.RequestWith(ctx, cl)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(cleared.Resources[0].ErrorCode))
}

// Every replica tells which producers it remembers, as in Kafka: a follower knows what it
// would go on with as the leader. A broker without a replica says who leads.
func TestKafkaDescribesProducersOfEveryReplica(t *testing.T) {
	w := startWorld(t, 3, 0)
	ctx := within(t, time.Minute)
	cl := w.kafkaClient(kgo.DefaultProduceTopic("t"))
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 1, 2
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Topics, create.TimeoutMillis = append(create.Topics, topic), 10_000
	created, err := create.RequestWith(ctx, cl)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(created.Topics[0].ErrorCode))
	for range 3 { // each in a batch of its own, acknowledged by both replicas
		require.NoError(t, cl.ProduceSync(ctx, &kgo.Record{Value: []byte("v")}).FirstErr())
	}

	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	strangers := 0
	for node := range int32(3) {
		answer, err := cl.Broker(int(node+1)).Request(ctx, req)
		require.NoError(t, err)
		resp, ok := answer.(*kmsg.DescribeProducersResponse)
		require.True(t, ok)
		p := &resp.Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			require.Equal(t, kerr.NotLeaderForPartition, kerr.ErrorForCode(p.ErrorCode))
			strangers++
			continue
		}
		require.Len(t, p.ActiveProducers, 1)
		require.Equal(t, int32(2), p.ActiveProducers[0].LastSequence)
	}
	require.Equal(t, 1, strangers, "one broker of three has no replica")
}
