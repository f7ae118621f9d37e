package grpcapi

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/broker/api"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// pipeline is a fetch stream of a broker that has no records, with the time at which it
// was opened.
type pipeline struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[pb.FetchRequest, wire.Fetched]
	began  time.Time
	sent   uint64
	got    uint64
}

func openPipeline(t *testing.T, f *fakeBroker) *pipeline {
	t.Helper()
	f.waits = true
	stream, err := wire.FetchStream(t.Context(), dial(t, f, ""))
	if err != nil {
		t.Fatal(err)
	}
	return &pipeline{t: t, stream: stream, began: time.Now()}
}

// asks is a request of a pipeline.
type asks struct {
	wait       time.Duration
	ends       bool // the waits before it
	structured bool
}

// send sends requests, and waits until the broker can do no more about them without
// time passing.
func (p *pipeline) send(requests ...asks) {
	p.t.Helper()
	for _, r := range requests {
		p.sent++
		err := p.stream.Send(&pb.FetchRequest{
			MaxWaitMs: uint32(r.wait.Milliseconds()), EndsWaits: r.ends, Structured: r.structured,
			CorrelationId: p.sent, Partitions: []*pb.FetchPartition{{Topic: "t"}},
		})
		if err != nil {
			p.t.Fatal(err)
		}
	}
	synctest.Wait()
}

// answered checks that the next answer is to the next request, and how long after the
// beginning it comes.
func (p *pipeline) answered(after time.Duration) {
	p.t.Helper()
	out, err := p.stream.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Release()
	p.got++
	if got := time.Since(p.began); out.GetCorrelationId() != p.got || got != after {
		p.t.Errorf("answer %d comes after %s and is to request %d, want it after %s", p.got, got, out.GetCorrelationId(), after)
	}
	if !out.GetEndsWaits() || len(out.GetResults()) != 1 || out.GetResults()[0].GetBatchCount() != 0 {
		p.t.Errorf("answer %d: %v", p.got, out.FetchResponse)
	}
}

const (
	long  = 10 * time.Second
	short = time.Second
)

// A request that ends waits has all before it answered at once, also those whose turn has
// not come, and waits itself as it says. Without that, requests wait behind each other as
// they did before there was ends_waits: a client of then, however early it sends the next
// request, makes a broker look no more often.
func TestEndsWaits(t *testing.T) {
	for _, tt := range []struct {
		name     string
		requests []asks
		answered []time.Duration
	}{
		{"nothing ends a wait", []asks{{wait: long}, {wait: long}, {wait: short}}, []time.Duration{long, 2 * long, 2*long + short}},
		{"the one before", []asks{{wait: long}, {wait: short, ends: true}}, []time.Duration{0, short}},
		{"no wait of its own", []asks{{wait: long}, {ends: true}, {wait: short}}, []time.Duration{0, 0, short}},
		{"all before", []asks{{wait: long}, {wait: long}, {wait: short, ends: true}}, []time.Duration{0, 0, short}},
		{"none after", []asks{{wait: long}, {wait: short, ends: true}, {wait: long}}, []time.Duration{0, short, short + long}},
		{"its own by another one", []asks{{wait: long}, {wait: long, ends: true}, {wait: short, ends: true}}, []time.Duration{0, 0, short}},
		{"nothing before it", []asks{{wait: short, ends: true}, {wait: long}}, []time.Duration{short, short + long}},
		{"as far as a broker reads ahead", []asks{{wait: long}, {wait: long}, {wait: long}, {ends: true}}, []time.Duration{0, 0, 0, 0}},
		{"and no further", []asks{{wait: long}, {wait: long}, {wait: long}, {wait: long}, {ends: true}}, []time.Duration{long, long, long, long, long}},
	} {
		for kind, structured := range map[string]bool{"batches": false, "records": true} {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := openPipeline(t, &fakeBroker{})
					for _, r := range tt.requests { // each when the broker has done about the others what it can
						r.structured = structured
						p.send(r)
					}
					for _, after := range tt.answered {
						p.answered(after)
					}
				})
			})
		}
	}
}

// Requests that arrive together, the newest before the oldest has begun to wait, lose no
// wake-up; and time passes in no wait that has been ended.
func TestEndsWaitsOfWhatHasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPipeline(t, &fakeBroker{})
		for range 50 {
			p.send(asks{wait: long}, asks{ends: true})
			p.answered(0)
			p.answered(0)
		}
		p.send(asks{wait: short})
		p.answered(short)
	})
}

// A client that always sends its next request before it has the answer to the one before,
// as pipelines of before ends_waits do, is as quiet as one that waits for its answers.
func TestAPipelineDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBroker{}
		p := openPipeline(t, f)
		p.send(asks{wait: short})
		for i := range 100 {
			p.send(asks{wait: short})
			p.answered(time.Duration(i+1) * short)
		}
		if got := f.fetches.Load(); got != 101 && got != 100 {
			t.Errorf("%d fetches for 101 requests", got)
		}
	})
}

// What was queued before a client closes its side, or sends nonsense, is answered, in its
// own time.
func TestTheEndOfAFetchStream(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := openPipeline(t, &fakeBroker{})
			p.send(asks{wait: short}, asks{wait: long})
			if err := p.stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			p.answered(short)
			p.answered(short + long)
			if _, err := p.stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the end is %v", err)
			}
		})
	})
	t.Run("nonsense", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := openPipeline(t, &fakeBroker{})
			p.send(asks{wait: short})
			if err := p.stream.Send(&pb.FetchRequest{Partitions: []*pb.FetchPartition{{}}}); err != nil {
				t.Fatal(err)
			}
			p.answered(short)
			_, err := p.stream.Recv()
			if e := detail(t, err); e.GetCode() != pb.ErrorCode(api.CodeInvalidTopic) {
				t.Errorf("the end is %v", err)
			}
		})
	})
}

// receiver is a stream whose client has sent n requests.
type receiver struct{ n, read int }

func (r *receiver) Recv() (*pb.FetchRequest, error) {
	if r.read == r.n {
		return nil, io.EOF
	}
	r.read++
	return &pb.FetchRequest{}, nil
}

// A pipeline stays in the transport, where flow control bounds it: however many requests a
// client sends behind one that waits, few are read.
func TestAPipelineIsNotReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{n: 100}
		ctx, cancel := context.WithCancel(t.Context())
		queue := make(chan fetchTurn, fetchWindow)
		done := make(chan error)
		go func() { done <- receiveAll(ctx, queue, r.Recv, fetchTurns()) }()
		<-queue // it waits for records
		synctest.Wait()
		if r.read != 1+fetchWindow+1 {
			t.Errorf("%d requests are held, one of them waits", r.read)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
