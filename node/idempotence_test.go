package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// idempotentSender sends batches of its own making, each as often as a test wants:
// what a client does that lost an answer.
type idempotentSender struct {
	w     *world
	topic string
	id    int64
	acks  pb.Acks
}

// try sends the batch with a base sequence, of two records.
func (s *idempotentSender) try(sequence int32, timeout time.Duration) (int64, pb.ErrorCode, error) {
	t := s.w.t
	b := record.NewBuilder(record.BuilderOptions{})
	b.SetProducer(s.id, 0, sequence)
	for i := range int32(2) {
		require.NoError(t, b.Append(&record.Record{Timestamp: time.Now().UnixMilli(), Value: fmt.Appendf(nil, "%d-%d", s.id, sequence+i)}))
	}
	raw, err := b.Build(nil)
	require.NoError(t, err)
	conn, _, err := s.w.leader(s.topic, 0)
	if err != nil {
		return -1, pb.ErrorCode_ERROR_CODE_LEADER_NOT_AVAILABLE, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout+5*time.Second)
	defer cancel()
	buf := record.NewBuf(raw)
	defer buf.Release()
	out, err := wire.CallProduce(ctx, conn, &wire.Produce{
		ProduceRequest: &pb.ProduceRequest{
			Acks: s.acks, TimeoutMs: uint32(timeout.Milliseconds()),
			Partitions: []*pb.ProducePartition{{Topic: s.topic, BatchCount: 1}},
		},
		Batches: []*record.Buf{buf},
	})
	if err != nil {
		return -1, pb.ErrorCode_ERROR_CODE_UNKNOWN, err
	}
	r := out.GetResults()[0]
	if e := r.GetError(); e != nil {
		return -1, e.GetCode(), errorf(e)
	}
	return r.GetBaseOffset(), pb.ErrorCode_ERROR_CODE_UNSPECIFIED, nil
}

// must sends until there is a leader that has an answer, and wants it to be the offset.
func (s *idempotentSender) must(sequence int32, want int64) {
	s.w.t.Helper()
	s.w.until(fmt.Sprintf("producer %d, sequence %d", s.id, sequence), 20*time.Second, func() error {
		got, code, err := s.try(sequence, 5*time.Second)
		switch code {
		case pb.ErrorCode_ERROR_CODE_OUT_OF_ORDER_SEQUENCE, pb.ErrorCode_ERROR_CODE_UNKNOWN_PRODUCER_ID, pb.ErrorCode_ERROR_CODE_INVALID_PRODUCER_EPOCH:
			s.w.t.Fatalf("producer %d, sequence %d: %v", s.id, sequence, err)
		default:
		}
		if err == nil && got != want {
			s.w.t.Fatalf("producer %d, sequence %d is at %d, want %d", s.id, sequence, got, want)
		}
		return err
	})
}

// change takes the leader away and brings it back once another leads; clean says how.
func (w *world) change(topic string, clean bool) {
	w.t.Helper()
	_, leader, err := w.leader(topic, 0)
	require.NoError(w.t, err)
	config := w.node(leader).cfg
	w.stopNode(leader, clean)
	w.until("another leader", 20*time.Second, func() error {
		_, now, err := w.leader(topic, 0)
		if err == nil && now == leader {
			err = fmt.Errorf("broker %d still leads", leader)
		}
		return err
	})
	w.restart(config)
	w.until("full in-sync set", 20*time.Second, func() error { return w.inSync(topic, 3) })
}

// restart starts nodes that were stopped, side by side: they may need each other.
func (w *world) restart(configs ...Config) {
	w.t.Helper()
	nodes, errs := make([]*Node, len(configs)), make([]error, len(configs))
	var wg sync.WaitGroup
	for i, c := range configs {
		wg.Go(func() { nodes[i], errs[i] = startNode(w.t, c) })
	}
	wg.Wait()
	for i, n := range nodes {
		require.NoError(w.t, errs[i])
		w.d.nodes = append(w.d.nodes, n)
	}
}

// Batches whose answers were lost get their first offsets when they are sent
// again: to the same leader, to the next one and to the one after that; all five
// that a producer may have in flight. One that is older is none of them.
func TestRetriesAcrossLeaderChanges(t *testing.T) {
	for _, durability := range []string{"synced", "replicated"} {
		for _, clean := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s clean=%v", durability, clean), func(t *testing.T) {
				t.Parallel()
				w := startWorld(t, 3, freePorts(t, 3))
				w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3, Configs: map[string]string{"durability": durability}})
				s := &idempotentSender{w: w, topic: "t", id: 700, acks: pb.Acks_ACKS_ALL}
				next := int32(0)
				for round := range 3 {
					for range 6 {
						s.must(next, int64(next))
						next += 2
					}
					for i := int32(5); i > 0; i-- {
						s.must(next-2*i, int64(next-2*i))
					}
					_, code, err := s.try(next-12, 5*time.Second)
					require.Equal(t, pb.ErrorCode_ERROR_CODE_OUT_OF_ORDER_SEQUENCE, code, "%v", err)
					if round < 2 {
						w.change("t", clean)
						for i := int32(5); i > 0; i-- {
							s.must(next-2*i, int64(next-2*i))
						}
					}
				}
				want := make([]string, next)
				for i := range want {
					want[i] = fmt.Sprintf("700-%d", i)
				}
				require.Equal(t, want, w.readAll("t", 0, len(want)))
				require.Equal(t, int64(next), w.listOffsets("t", pb.OffsetQuery_OFFSET_QUERY_LATEST, 0).GetOffset(), "nothing twice")
			})
		}
	}
}

// A batch of unknown outcome is not acknowledged the second time either while the
// condition of the first does not hold. When its leader goes away with it, the next
// one takes it as new; it is there once.
func TestRetryOfAnUnknownOutcome(t *testing.T) {
	for _, durability := range []string{"synced", "replicated"} {
		t.Run(durability, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, freePorts(t, 3))
			w.configure = func(c *Config) { c.SessionTimeout = time.Minute } // a leader goes on that long alone
			w.start(3)
			w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3, Configs: map[string]string{"durability": durability}})
			s := &idempotentSender{w: w, topic: "t", id: 700, acks: pb.Acks_ACKS_ALL}
			s.must(0, 0)
			_, leader, err := w.leader("t", 0)
			require.NoError(t, err)
			// Without the other two there is no controller that could take them out of the
			// in-sync set, and nobody who follows.
			var configs []Config
			for _, id := range []int32{leader%3 + 1, (leader+1)%3 + 1} {
				configs = append(configs, w.node(id).cfg)
				w.stopNode(id, false)
			}
			for range 2 {
				_, code, err := s.try(2, 300*time.Millisecond)
				require.Contains(t, []pb.ErrorCode{
					pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, pb.ErrorCode_ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
				}, code, "%v", err)
			}
			one := *s
			one.acks = pb.Acks_ACKS_LEADER
			one.must(2, 2) // it is in that log, and nowhere else
			configs = append(configs, w.node(leader).cfg)
			w.stopNode(leader, false)
			w.restart(configs[:2]...)
			s.must(2, 2)
			w.restart(configs[2])
			w.until("full in-sync set", 20*time.Second, func() error { return w.inSync("t", 3) })
			s.must(0, 0)
			s.must(4, 4)
			w.change("t", true)
			for sequence := int32(4); sequence >= 0; sequence -= 2 {
				s.must(sequence, int64(sequence))
			}
			require.Len(t, w.readAll("t", 0, 6), 6)
			require.Equal(t, int64(6), w.listOffsets("t", pb.OffsetQuery_OFFSET_QUERY_LATEST, 0).GetOffset(), "nothing twice")
		})
	}
}

// A replica that begins above offset 0, for the log's start has moved on, knows
// producers whose batches it never saw: leading, it gives a retried batch its
// offset, and goes on where the producer is.
func TestAReplicaThatStartsOverKnowsOldProducers(t *testing.T) {
	for _, inside := range []bool{false, true} {
		t.Run(fmt.Sprintf("start inside a batch=%v", inside), func(t *testing.T) {
			t.Parallel()
			w := startWorld(t, 3, freePorts(t, 3))
			w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 2, Configs: map[string]string{
				"segment.bytes": "4096", "min.insync.replicas": "1",
			}})
			old := &idempotentSender{w: w, topic: "t", id: 700, acks: pb.Acks_ACKS_ALL}
			for sequence := int32(0); sequence < 20; sequence += 2 {
				old.must(sequence, int64(sequence))
			}
			for range 20 {
				w.mustProduce("t", 0, strings.Repeat("v", 500))
			}
			young := &idempotentSender{w: w, topic: "t", id: 701, acks: pb.Acks_ACKS_ALL}
			young.must(0, 40)
			before := int64(30)
			if inside {
				before = 41 // of [40, 42)
			}
			w.mustDelete("t", before, before)

			_, leader, err := w.leader("t", 0)
			require.NoError(t, err)
			follower := w.replicaBeside("t", leader)
			config := w.node(follower).cfg
			w.stopNode(follower, true)
			require.NoError(t, os.RemoveAll(filepath.Join(config.DataDir, "t-0")))
			w.restart(config)
			w.until("both in sync", 20*time.Second, func() error { return w.inSync("t", 2) })
			young.must(2, 42)

			w.stopNode(leader, false)
			old.must(18, 18)
			old.must(10, 10) // the oldest of five
			young.must(0, 40)
			young.must(2, 42)
			old.must(20, 44)
			_, now, err := w.leader("t", 0)
			require.NoError(t, err)
			require.Equal(t, follower, now)
		})
	}
}

// replicaBeside is another replica of partition 0.
func (w *world) replicaBeside(topic string, node int32) int32 {
	w.t.Helper()
	md, err := pb.NewAdminServiceClient(w.any()).DescribeTopic(w.t.Context(), &pb.DescribeTopicRequest{Name: topic})
	require.NoError(w.t, err)
	for _, r := range md.GetTopic().GetPartitions()[0].GetReplicas() {
		if r != node {
			return r
		}
	}
	w.t.Fatalf("no replica beside %d", node)
	return 0
}
