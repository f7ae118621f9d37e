package grpcapi

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// ask opens a stream of fetches and sends one whose answer, the batch of f, is
// larger than what may be under way.
func ask(t *testing.T, conn *grpc.ClientConn) grpc.BidiStreamingClient[pb.FetchRequest, wire.Fetched] {
	t.Helper()
	stream, err := wire.FetchStream(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.FetchRequest{Partitions: []*pb.FetchPartition{{Topic: "t"}}}); err != nil {
		t.Fatal(err)
	}
	return stream
}

// pending waits until so many calls have something on its way.
func pending(t *testing.T, d *PublicDoor, want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := 0
		d.deliveries.mu.Lock()
		for s := range d.deliveries.set {
			if s.Pending() > 0 {
				got++
			}
		}
		d.deliveries.mu.Unlock()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d calls have something on its way, want %d", got, want)
		}
	}
}

func TestStalledCallsAreFound(t *testing.T) {
	f := &fakeBroker{batches: [][]byte{largeRun(t)}}
	conn, door := dialDoor(t, f, "")
	ask(t, conn)
	pending(t, door, 1)
	now := time.Now()
	const limit = 10 * time.Second
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {limit - 1, 0}, {limit, 1}, {2 * limit, 0}} {
		if got := door.deliveries.stalled(now.Add(step.after), limit); len(got) != step.want {
			t.Errorf("after %s: %d stalled calls, want %d", step.after, len(got), step.want)
		} else if step.want > 0 && got[0].conn == nil {
			t.Error("the connection is not known")
		}
	}
}

// One that goes on is not stalled however long it takes, and one that has arrived
// is forgotten.
func TestCallsThatGoOnAreNotStalled(t *testing.T) {
	f := &fakeBroker{batches: [][]byte{largeRun(t)}}
	conn, door := dialDoor(t, f, "")
	stream := ask(t, conn)
	pending(t, door, 1)
	now := time.Now()
	door.deliveries.stalled(now, time.Second)
	out, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	out.Release()
	pending(t, door, 0)
	if err := stream.Send(&pb.FetchRequest{Partitions: []*pb.FetchPartition{{Topic: "t"}}}); err != nil {
		t.Fatal(err)
	}
	pending(t, door, 1)
	if got := door.deliveries.stalled(now.Add(time.Second), time.Second); len(got) != 0 {
		t.Error("an answer was taken since, and the call counts as stalled")
	}
	if out, err = stream.Recv(); err != nil {
		t.Fatal(err)
	}
	out.Release()
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.CallFetch(t.Context(), conn, &pb.FetchRequest{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		door.deliveries.stalled(now, time.Hour)
		door.deliveries.mu.Lock()
		left := len(door.deliveries.set)
		door.deliveries.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d calls are remembered", left)
		}
	}
}

// A connection is cut only while others wait for the memory.
func TestStalledClientsAreCutWhenMemoryIsShort(t *testing.T) {
	f := &fakeBroker{batches: [][]byte{largeRun(t)}}
	conn, door := dialDoor(t, f, "")
	stream := ask(t, conn)
	pending(t, door, 1)
	now, logger := time.Now(), slog.New(slog.DiscardHandler)
	for _, after := range []time.Duration{0, time.Hour} {
		if door.cutStalled(now.Add(after), time.Second, logger) {
			t.Fatal("cut though nobody waits for memory")
		}
	}
	f.short.Store(true)
	if !door.cutStalled(now.Add(2*time.Hour), time.Second, logger) {
		t.Fatal("not cut")
	}
	if out, err := stream.Recv(); err == nil {
		out.Release()
		t.Error("an answer came over a connection that was cut")
	}
}

// largeRun is a batch that does not fit into what may be under way.
func largeRun(t *testing.T) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	if err := b.Append(&record.Record{Value: make([]byte, 6<<20)}); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
