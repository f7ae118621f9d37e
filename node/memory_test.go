package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

const (
	smallTail = 8 << 20
	batchSize = 64 << 10
)

// startSmall starts nodes with little memory for batches.
func startSmall(t *testing.T, nodes int, stall time.Duration) *world {
	t.Helper()
	w := newWorld(t, 0)
	opts := devOptions(nodes, w.dir)
	configure := opts.Configure
	opts.Configure = func(c *Config) {
		configure(c)
		c.TailMemory = smallTail
		c.FetchStall = stall
		c.SessionTimeout = time.Minute // who leads stays, however slow the machine is
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var err error
	if w.d, err = StartDev(ctx, opts); err != nil {
		t.Fatal(err)
	}
	return w
}

// producers is how many requests of a feed are under way at once: more than
// memory is left for beside stalled consumers, and less than may wait at the door.
const producers = 32

// feed produces n batches of batchSize to a partition, many at a time, and waits
// for the acknowledgement of each by all replicas.
func (w *world) feed(ctx context.Context, conn *grpc.ClientConn, partition int32, raw []byte, n int) error {
	var (
		wg   sync.WaitGroup
		left atomic.Int64
		fail = make(chan error, producers)
	)
	left.Store(int64(n))
	for range producers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				out, err := wire.CallProduce(ctx, conn, &wire.Produce{
					ProduceRequest: &pb.ProduceRequest{Acks: pb.Acks_ACKS_ALL, Partitions: []*pb.ProducePartition{{Topic: "t", Partition: partition, BatchCount: 1}}},
					Batches:        []*record.Buf{record.NewBuf(raw)},
				})
				if err == nil && out.GetResults()[0].GetError() != nil {
					err = fmt.Errorf("partition %d: %v", partition, out.GetResults()[0].GetError())
				}
				if err != nil {
					fail <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(fail)
	return <-fail
}

// stall opens streams that ask for records and never take an answer, each from a
// place of its own.
func (w *world) stall(ctx context.Context, address string, partition int32, streams, end int) {
	w.t.Helper()
	const perConn, window = 250, 64 << 10
	var conn *grpc.ClientConn
	for i := range streams {
		if i%perConn == 0 {
			c, err := grpc.NewClient(address, append(wire.DialOptions(w.codec),
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window))...)
			if err != nil {
				w.t.Fatal(err)
			}
			w.conns[fmt.Sprintf("%s/%d/%d", address, partition, i)] = c
			conn = c
		}
		stream, err := wire.FetchStream(ctx, conn)
		if err != nil {
			w.t.Fatal(err)
		}
		for range 3 {
			err := stream.Send(&pb.FetchRequest{MaxWaitMs: 1000, Partitions: []*pb.FetchPartition{{Topic: "t", Partition: partition, FetchOffset: int64(i % end)}}})
			if err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// drain reads a partition from its start until it has n records.
func (w *world) drain(ctx context.Context, conn *grpc.ClientConn, partition int32, n int64) error {
	for next := int64(0); next < n; {
		out, err := wire.CallFetch(ctx, conn, &pb.FetchRequest{
			MaxWaitMs:  1000,
			Partitions: []*pb.FetchPartition{{Topic: "t", Partition: partition, FetchOffset: next}},
		})
		if err != nil {
			return fmt.Errorf("at offset %d: %w", next, err)
		}
		for _, b := range out.Batches {
			if info, ok := record.Peek(b.Bytes); ok && int64(info.BaseOffset) == next {
				next = int64(info.NextOffset())
			}
		}
		err = nil
		if e := out.GetResults()[0].GetError(); e != nil {
			err = fmt.Errorf("at offset %d: %v", next, e)
		}
		out.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// watch looks at the arenas of all nodes until ctx ends, and returns the most that
// was in use and pinned in one of them.
func (w *world) watch(ctx context.Context) (inUse, pinned int64) {
	for ctx.Err() == nil {
		for _, n := range w.d.nodes {
			inUse, pinned = max(inUse, n.arena.InUse()), max(pinned, n.arena.Pinned())
		}
		time.Sleep(200 * time.Microsecond)
	}
	return inUse, pinned
}

// Two brokers lead for each other, a thousand consumers take nothing of what they
// asked for, and memory is small: producers go on, for what they wait for needs
// none of the memory that consumers hold, and none is used beyond the bound.
func TestStalledConsumersHoldUpNobody(t *testing.T) {
	w := startSmall(t, 2, time.Hour)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 2, ReplicationFactor: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	raw := batch(t, string(make([]byte, batchSize-200)))
	leaders := make([]*grpc.ClientConn, 2)
	for p := range leaders {
		w.until("a leader", 10*time.Second, func() (err error) {
			leaders[p], _, err = w.leader("t", p)
			return err
		})
	}
	if leaders[0] == leaders[1] {
		t.Fatal("one broker leads both partitions")
	}
	feedBoth := func(n int) {
		t.Helper()
		errs := make(chan error, 2)
		for p, conn := range leaders {
			go func() { errs <- w.feed(ctx, conn, int32(p), raw, n) }()
		}
		for range leaders {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
	for p := range int32(2) {
		w.mustProduce("t", p, "the leaders lead")
	}
	feedBoth(200)
	for p, conn := range leaders {
		w.stall(ctx, conn.Target(), int32(p), 500, 200)
	}
	arenas := func(ok func(*record.Arena) bool) error {
		for _, n := range w.d.nodes {
			if !ok(n.arena) {
				return fmt.Errorf("node %d: %d pinned of %d", n.cfg.NodeID, n.arena.Pinned(), n.arena.InUse())
			}
		}
		return nil
	}
	w.until("readers with all that they may hold", 20*time.Second, func() error {
		return arenas(func(a *record.Arena) bool { return a.Pinned() > a.PinLimit() })
	})

	watching, stop := context.WithCancel(ctx)
	type most struct{ inUse, pinned int64 }
	result := make(chan most, 1)
	go func() {
		inUse, pinned := w.watch(watching)
		result <- most{inUse, pinned}
	}()
	begin := time.Now()
	const fed = 600
	feedBoth(fed)
	took := time.Since(begin)
	stop()
	m := <-result
	t.Logf("%d MiB in %s; %d KiB in use at most, %d pinned", 2*fed*batchSize>>20, took, m.inUse>>10, m.pinned>>10)
	arena := w.d.nodes[0].arena
	// The limit, and all producers at the door.
	if bound := arena.Limit() + producers*(batchSize*5/4+100); m.inUse > bound {
		t.Errorf("%d bytes were in use, the bound is %d", m.inUse, bound)
	}
	// Replication is no bounded reader: two messages a stream come on top.
	if bound := arena.ReadLimit() + 4*(smallTail/64+batchSize); m.pinned > bound {
		t.Errorf("%d bytes were pinned, the bound is %d", m.pinned, bound)
	}
}

// A consumer that takes what it asks for gets there, though others hold all the
// memory for readers: those who take nothing are cut off.
func TestStalledConsumersAreCutOff(t *testing.T) {
	w := startSmall(t, 1, 500*time.Millisecond)
	w.createTopic(&pb.CreateTopicRequest{Name: "t"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w.mustProduce("t", 0, "the leader leads")
	const batches = 300
	if err := w.feed(ctx, w.any(), 0, batch(t, string(make([]byte, batchSize-200))), batches); err != nil {
		t.Fatal(err)
	}
	w.stall(ctx, w.any().Target(), 0, 300, batches)
	arena := w.d.nodes[0].arena
	w.until("readers with all that they may hold", 20*time.Second, func() error {
		if arena.Pinned() < arena.PinLimit() {
			return fmt.Errorf("%d pinned", arena.Pinned())
		}
		return nil
	})
	if err := w.drain(ctx, w.any(), 0, batches+1); err != nil {
		t.Fatal(err)
	}
}
