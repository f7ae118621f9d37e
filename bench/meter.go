package bench

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/penstock/penstock/client"
)

// meter counts what the client's hooks and promises tell. It outlives the phases
// of a run: begin starts a phase with everything at zero.
type meter struct {
	acked, failed atomic.Int64 // records
	batches       atomic.Int64
	batchBytes    atomic.Int64 // on the wire
	lastAck       atomic.Int64 // ns since the Unix epoch

	mu    sync.Mutex // guards what follows
	hist  *hdrhistogram.Histogram
	late  *hdrhistogram.Histogram // how late the generator was
	first error
}

func newMeter() *meter { return &meter{hist: newHistogram(), late: newHistogram()} }

// begin forgets the phase before. Nothing of it may be under way any more.
func (m *meter) begin() {
	m.acked.Store(0)
	m.failed.Store(0)
	m.batches.Store(0)
	m.batchBytes.Store(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hist.Reset()
	m.late.Reset()
}

// OnBatch implements client.HookBatch.
func (m *meter) OnBatch(b client.BatchInfo) {
	if b.Err != nil {
		m.failed.Add(int64(b.Records))
		m.fail(b.Err)
		return
	}
	m.acked.Add(int64(b.Records))
	m.batches.Add(1)
	m.batchBytes.Add(int64(b.Bytes))
	m.lastAck.Store(b.Done.UnixNano())
}

// fail keeps the first failure, to name it when the run gives up.
func (m *meter) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first == nil {
		m.first = err
	}
}

func (m *meter) firstError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first
}

// observe records one latency. Values beyond the histogram's range count as its
// greatest.
func (m *meter) observe(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	record(m.hist, d)
}

func (m *meter) observeLate(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	record(m.late, max(d, 0))
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	us := min(max(d.Microseconds(), 1), h.HighestTrackableValue())
	_ = h.RecordValue(us) // in range by the line above
}

// meanBatch is the size of a batch on the wire, 0 without one.
func (m *meter) meanBatch() float64 {
	if n := m.batches.Load(); n > 0 {
		return float64(m.batchBytes.Load()) / float64(n)
	}
	return 0
}

// usage is processor time at one moment.
type usage struct{ client, broker time.Duration }

// cpuNow reads the processor time of this process and of the brokers named.
func (o *Options) cpuNow(ctx context.Context) (usage, error) {
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		return usage{}, fmt.Errorf("bench: processor time of this process: %w", err)
	}
	u := usage{client: time.Duration(self.Utime.Nano() + self.Stime.Nano())}
	var err error
	if len(o.BrokerPids) > 0 {
		u.broker, err = processTimes(o.BrokerPids)
	} else if len(o.MetricsURLs) > 0 {
		u.broker, err = scrapeTimes(ctx, o.MetricsURLs)
	}
	return u, err
}

// perGB turns the time between two moments into seconds a GB of values.
func (o *Options) perGB(from, to usage, bytes int64) CPU {
	gb := float64(bytes) / 1e9
	if gb == 0 {
		return CPU{}
	}
	c := CPU{Client: (to.client - from.client).Seconds() / gb}
	if len(o.BrokerPids)+len(o.MetricsURLs) > 0 {
		b := (to.broker - from.broker).Seconds() / gb
		c.Broker = &b
	}
	return c
}

// showProgress writes a line a second until stop is called, which waits for the
// last one.
func showProgress(w io.Writer, what string, count func() int64) (stop func()) {
	if w == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		began, before := time.Now(), int64(0)
		for {
			select {
			case <-tick.C:
				n := count()
				fmt.Fprintf(w, "\r\x1b[K%s: %3.0f s, %d records, %d/s", what, time.Since(began).Seconds(), n, max(n-before, 0))
				before = n
			case <-done:
				fmt.Fprint(w, "\r\x1b[K")
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
