package grpcapi

import (
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// The way of a batch through the door costs few allocations: the request, the
// pending answer and the message.
func TestProduceAllocations(t *testing.T) {
	s := &produceService{door: &PublicDoor{services: Services{Now: time.Now}}}
	in := &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{Topic: "t", BatchCount: 1}}}}
	batches := []*record.Buf{record.NewBuf([]byte{1})}
	ctx, deadline := context.Background(), time.Now().Add(time.Hour)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	got := testing.AllocsPerRun(1000, func() {
		in.Batches = batches
		req, err := s.request(in)
		if err != nil {
			t.Fatal(err)
		}
		p := api.NewPending(req, deadline)
		p.Settle(0, nil)
		results, err := p.WaitTimer(ctx, timer)
		if err != nil {
			t.Fatal(err)
		}
		s.response(ctx, 0, results)
	})
	// The log takes one more, and one is for a wait.
	if got > 3 {
		t.Errorf("%.0f allocations a batch, the door's part of the budget of 5 is 3", got)
	}
	t.Logf("%.0f allocations a batch", got)
}

// nothing is a Fetcher without records.
type nothing struct{ Fetcher }

func (nothing) Fetch(_ context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	return make([]api.FetchResult, len(req.Partitions)), nil
}

// fetches is a stream whose client sends a request n times.
type fetches struct {
	grpc.BidiStreamingServer[pb.FetchRequest, wire.Fetched]

	ctx  context.Context
	req  *pb.FetchRequest
	n    int
	sent int
}

func (f *fetches) Context() context.Context { return f.ctx }

func (f *fetches) Recv() (*pb.FetchRequest, error) {
	if f.n == 0 {
		return nil, io.EOF
	}
	f.n--
	return f.req, nil
}

func (f *fetches) Send(*wire.Fetched) error {
	f.sent++
	return nil
}

// A fetch of a stream costs the request in its two parts, the results, and the answer in
// its three and its list; that it passes from the goroutine that receives to the one that
// answers costs nothing, and that it ends waits one channel.
func TestFetchStreamAllocations(t *testing.T) {
	s := &fetchService{door: &PublicDoor{services: Services{Fetcher: nothing{}}}}
	for _, tt := range []struct {
		name string
		ends bool
		want uint64
	}{{"waits", false, 7}, {"ends waits", true, 8}} {
		t.Run(tt.name, func(t *testing.T) {
			const requests = 10_000
			f := &fetches{ctx: t.Context(), n: requests, req: &pb.FetchRequest{EndsWaits: tt.ends, Partitions: []*pb.FetchPartition{{Topic: "t"}}}}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := s.FetchStream(f); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if got := (after.Mallocs - before.Mallocs) / requests; got > tt.want || f.sent != requests {
				t.Errorf("%d allocations a fetch, want %d; %d answers", got, tt.want, f.sent)
			}
		})
	}
}
