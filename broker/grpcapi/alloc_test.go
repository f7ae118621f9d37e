package grpcapi

import (
	"context"
	"testing"
	"time"

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
