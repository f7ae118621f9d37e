package api_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
)

func request(n int) *api.ProduceRequest {
	req := &api.ProduceRequest{Partitions: make([]api.ProducePartition, n)}
	for i := range n {
		req.Partitions[i].PartitionRef = api.PartitionRef{Topic: "t", Partition: int32(i)}
	}
	return req
}

func TestPendingAnswersWhenAllAreSettled(t *testing.T) {
	for _, n := range []int{0, 1, 3} {
		p := api.NewPending(request(n), time.Now().Add(time.Minute))
		for i := range n {
			p.Appended(i, api.ProduceResult{BaseOffset: 5})
			p.Settle(i, nil)
			p.Settle(i, api.Errorf(api.CodeUnknown, "late"))
		}
		results, err := p.Wait(t.Context())
		if err != nil || len(results) != n {
			t.Fatalf("n %d: %d results, error %v", n, len(results), err)
		}
		for _, r := range results {
			if r.Err != nil || r.BaseOffset != 5 {
				t.Errorf("n %d: result %+v", n, r)
			}
		}
	}
}

// What comes after a request has timed out does not change the answer.
func TestPendingExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := api.NewPending(request(2), time.Now().Add(time.Second))
		p.Settle(0, nil)
		results, err := p.Wait(t.Context())
		if err != nil || results[0].Err != nil || results[1].Err == nil || results[1].Err.Code != api.CodeRequestTimedOut {
			t.Fatalf("results %+v, error %v", results, err)
		}
		p.Settle(1, nil)
		if results[1].Err == nil {
			t.Fatalf("result %+v", results[1])
		}
	})
}

func TestPendingWaitEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := api.NewPending(request(1), time.Now().Add(time.Minute))
	if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
}
