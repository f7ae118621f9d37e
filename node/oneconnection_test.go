package node

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/client"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// fetched counts the bytes that a client's consumers were sent.
type fetched struct{ bytes atomic.Int64 }

func (f *fetched) OnFetch(_ string, bytes int, _ time.Duration) { f.bytes.Add(int64(bytes)) }

// shared is a topic on one node for consumers that share a connection: of 38 MiB the
// newest 32 are in memory.
type shared struct {
	*world
	ctx     context.Context
	parts   []client.TopicPartition
	records int64 // in each of them
}

func startShared(t *testing.T, partitions int32) *shared {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	batches := 600 / int(partitions)
	s := &shared{world: startWorld(t, 1, 0), ctx: ctx, records: int64(batches) + 1}
	s.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: partitions})
	raw := batch(t, string(make([]byte, batchSize-200)))
	errs := make(chan error, partitions)
	for p := range partitions {
		s.mustProduce("t", p, "the leader leads")
		s.parts = append(s.parts, client.TopicPartition{Topic: "t", Partition: p})
	}
	conn := s.any()
	for p := range partitions {
		go func() { errs <- s.feed(ctx, conn, p, raw, batches) }()
	}
	for range partitions {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Of two consumers of one client, which share a connection, one that takes nothing is sent
// what it has room for, and holds up the other by nothing.
func TestASlowConsumerHoldsUpNoOther(t *testing.T) {
	const room, answer = 2 << 20, 1 << 20
	s := startShared(t, 12)
	var sent fetched
	var dialled atomic.Int32
	cl, err := client.New(s.d.Brokers(), client.WithHooks(&sent), client.WithDialer(func(ctx context.Context, address string) (net.Conn, error) {
		dialled.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	consumer := func() *client.Consumer {
		k, err := cl.NewConsumer(client.WithPartitions(s.parts...), client.WithStart(client.Earliest()),
			client.WithPrefetchBytes(room), client.WithFetchMaxBytes(answer))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	consumer() // takes nothing, ever
	s.until("it has all that it has room for", 10*time.Second, func() error {
		if got := sent.bytes.Load(); got < room {
			return fmt.Errorf("%d bytes", got)
		}
		return nil
	})
	next := make([]int64, len(s.parts))
	var taken, bytes int64
	for k := consumer(); taken < int64(len(s.parts))*s.records; {
		p, err := k.Poll(s.ctx)
		if err != nil {
			t.Fatalf("after %d records: %v", taken, err)
		}
		for r := range p.All() {
			if r.Offset != next[r.Partition] {
				t.Fatalf("partition %d: record %d comes where %d is next", r.Partition, r.Offset, next[r.Partition])
			}
			next[r.Partition]++
			taken++
		}
		bytes += int64(p.Bytes())
	}
	// Room for one byte is room for an answer, and another one may come in between.
	if most := bytes + room + 2*(answer+batchSize); sent.bytes.Load() > most {
		t.Errorf("%d bytes were sent, at most %d were asked for", sent.bytes.Load(), most)
	}
	if got := dialled.Load(); got != 1 {
		t.Errorf("%d connections", got)
	}
}

// The credits of a connection are not used up by streams that nobody reads, though more
// than it may have on its way waits on them: others of the same connection go on.
func TestUnreadStreamsHoldUpNoOther(t *testing.T) {
	// More than the window of a stream, 4 MiB; all together more than that of a
	// connection, 16 MiB, and less than what the broker has for readers, 32 MiB.
	const unread = 5 << 20
	s := startShared(t, 4)
	conn, err := grpc.NewClient(s.any().Target(), append(wire.DialOptions(s.codec), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for _, tp := range s.parts {
		stream, err := wire.FetchStream(s.ctx, conn)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second answer, of the same batches, waits to be sent
			err = stream.Send(&pb.FetchRequest{Partitions: []*pb.FetchPartition{{Topic: "t", Partition: tp.Partition, MaxBytes: unread, FetchOffset: 60}}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	arena := s.d.nodes[0].arena
	s.until("the answers are on their way", 10*time.Second, func() error {
		if got := arena.Pinned(); got < int64(len(s.parts))*(unread-batchSize) {
			return fmt.Errorf("%d bytes are pinned", got)
		}
		return nil
	})
	s.readAlong(conn)
	if got := arena.Pinned(); got < int64(len(s.parts))*(unread-batchSize) {
		t.Errorf("%d bytes are pinned: somebody has read the streams", got)
	}
}

// readAlong reads all partitions over one more stream of a connection.
func (s *shared) readAlong(conn *grpc.ClientConn) {
	s.t.Helper()
	stream, err := wire.FetchStream(s.ctx, conn)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, tp := range s.parts {
		for next := int64(0); next < s.records; {
			err := stream.Send(&pb.FetchRequest{MaxWaitMs: 1000, Partitions: []*pb.FetchPartition{{Topic: "t", Partition: tp.Partition, FetchOffset: next}}})
			if err != nil {
				s.t.Fatal(err)
			}
			out, err := stream.Recv()
			if err != nil {
				s.t.Fatalf("partition %d, at offset %d: %v", tp.Partition, next, err)
			}
			next += int64(len(out.Batches)) // of a record each
			out.Release()
		}
	}
}
