package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

// hungMemory is tail.memory of the nodes, far less than what is produced.
const hungMemory = 8 << 20

// A follower that hangs (SIGSTOP) and counts as in sync for minutes keeps back what
// waits for its acks, and nothing else: partitions that it has no part in are
// acknowledged, its own take records with acks=1, the memory of the leaders stays
// within its bound though several times that much passes through, and the other
// follower of the same partitions gets everything. Once it goes on, so does all.
func TestHungFollower(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3, Config: []string{
		fmt.Sprintf("tail.memory: %d", hungMemory), "broker.session.timeout: 5m", "replica.lag.time.max.ms: 300000",
	}})
	w.createTopic("shared", 24, 3)
	w.createTopic("apart", 6, 2)
	w.waitHealthy()
	cluster, err := w.client.Admin().Cluster(w.ctx)
	require.NoError(t, err)
	hung := cluster.Controller%3 + 1
	var addrs []string
	for id := 1; id <= 3; id++ {
		if id != int(hung) {
			addrs = append(addrs, w.nodes.Addr(id))
		}
	}
	require.NoError(t, w.nodes.Signal(int(hung), syscall.SIGSTOP))
	defer w.nodes.Signal(int(hung), syscall.SIGCONT) // it may run already

	// More than may be in flight waits for the follower.
	stuck := newSender(t, addrs)
	shared := stuck.partitions(w.ctx, "shared", func(p client.PartitionState) bool { return p.Leader != hung })
	var acked atomic.Int32
	const waiting = 400
	for i := range waiting {
		stuck.producer.Produce(w.ctx, &client.Record{Topic: "shared", Partition: shared[i%len(shared)], Value: incompressible(100 << 10)}, func(_ *client.Record, err error) {
			if err == nil {
				acked.Add(1)
			}
		})
	}

	apart := newSender(t, addrs)
	parts := apart.partitions(w.ctx, "apart", func(p client.PartitionState) bool { return !slices.Contains(p.Replicas, hung) })
	one := newSender(t, addrs, client.WithAcks(client.AcksLeader))
	const through = 5 * hungMemory / (100 << 10)
	for i := range through {
		apart.must(w.ctx, "apart", parts[i%len(parts)])
		one.must(w.ctx, "shared", shared[i%len(shared)])
	}
	require.Zero(t, acked.Load(), "acknowledged without the follower that hangs")
	for id := 1; id <= 3; id++ {
		if id != int(hung) {
			require.LessOrEqual(t, w.metric(t, id, "penstock_arena_bytes"), float64(hungMemory), "node %d", id)
		}
	}

	require.NoError(t, w.nodes.Signal(int(hung), syscall.SIGCONT))
	ctx, cancel := context.WithTimeout(w.ctx, testWait)
	defer cancel()
	require.NoError(t, stuck.producer.Flush(ctx))
	require.EqualValues(t, waiting, acked.Load())
	w.waitHealthy()
}

// incompressible is n bytes of noise.
func incompressible(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// sender is a producer with connections of its own.
type sender struct {
	t        *testing.T
	client   *client.Client
	producer *client.Producer
}

func newSender(t *testing.T, addrs []string, opts ...client.ProducerOpt) *sender {
	t.Helper()
	// Requests that wait for the follower that hangs are not given up.
	c, err := client.New(addrs, client.WithRequestTimeout(5*time.Minute))
	require.NoError(t, err)
	opts = append(opts, client.WithPartitioner(client.ManualPartitioner()), client.WithDeliveryTimeout(10*time.Minute), client.WithBatchBytes(256<<10))
	p, err := c.NewProducer(opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
		require.NoError(t, c.Close())
	})
	return &sender{t, c, p}
}

// partitions are those of a topic that suit.
func (s *sender) partitions(ctx context.Context, topic string, suits func(client.PartitionState) bool) (found []int32) {
	s.t.Helper()
	described, err := s.client.Admin().DescribeTopic(ctx, topic)
	require.NoError(s.t, err)
	for _, p := range described.Partitions {
		if suits(p) {
			found = append(found, p.Partition)
		}
	}
	require.NotEmpty(s.t, found)
	return found
}

// must produces a record and waits for its acknowledgement.
func (s *sender) must(ctx context.Context, topic string, partition int32) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, testWait/2)
	defer cancel()
	require.NoError(s.t, s.producer.ProduceSync(ctx, &client.Record{Topic: topic, Partition: partition, Value: incompressible(100 << 10)}))
}
