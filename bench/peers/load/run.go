package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/internal/punctual"
)

// The workloads.
const (
	Produce = "produce" // as fast as it goes
	Consume = "consume" // from the start
	Latency = "latency" // open loop
	Single  = "single"  // one record at a time
)

// Job is one run.
type Job struct {
	Client    string        `json:"client"`
	Addresses []string      `json:"addresses"`
	Topic     Topic         `json:"topic"` // exists
	Workload  string        `json:"workload"`
	Size      int           `json:"size"`
	Rate      int           `json:"rate"` // of Latency, records/s
	Duration  time.Duration `json:"duration"`
	Warmup    time.Duration `json:"warmup"`
	// Records bounds the whole run of what keeps everything, so that it fits the disk;
	// 0: no bound.
	Records int64 `json:"records"`
	Pids    []int `json:"pids"`   // the servers, one a node
	Others  []int `json:"others"` // servers that should have nothing to do meanwhile
}

// Outcome is what came of a job.
type Outcome struct {
	Records   int64   `json:"records"`
	Bytes     int64   `json:"bytes"`
	Seconds   float64 `json:"seconds"`
	Failed    int64   `json:"failed"`
	ClientCPU float64 `json:"client_cpu_s"`
	ServerCPU float64 `json:"server_cpu_s"` // of all nodes
	OthersCPU float64 `json:"others_cpu_s"`
	RSS       []int64 `json:"rss"` // the most that was seen of each node
	P50       float64 `json:"p50_ms,omitempty"`
	P99       float64 `json:"p99_ms,omitempty"`
	P999      float64 `json:"p999_ms,omitempty"`
	Max       float64 `json:"max_ms,omitempty"`
	LateP99   float64 `json:"generator_late_p99_ms,omitempty"`
	Exhausted bool    `json:"exhausted,omitempty"` // ended by Records, not by Duration
}

const (
	block        = 256 // records between two looks at the clock; one of each is timed
	payloads     = 10_000
	settleWait   = 2 * time.Minute
	samplePeriod = 250 * time.Millisecond
	knownWait    = 30 * time.Second
	knownPoll    = 50 * time.Millisecond
	knownTimes   = 3
)

// Main reads a job, does it, and writes what came of it.
func Main(ctx context.Context, in io.Reader, out io.Writer) error {
	var j Job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return fmt.Errorf("load: read the job: %w", err)
	}
	found, err := Run(ctx, &j)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(found)
}

// Run does a job.
func Run(ctx context.Context, j *Job) (found *Outcome, err error) {
	s, err := Dial(ctx, j.Client, j.Addresses)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r := &run{Job: j, system: s, latency: newHistogram(), late: newHistogram()}
	if j.Workload == Consume {
		return r.consume(ctx)
	}
	return r.produce(ctx)
}

type run struct {
	*Job

	system   System
	tally    Tally
	producer Producer
	pool     [][]byte
	sent     int64 // in all phases

	mu      sync.Mutex // guards both
	latency *hdrhistogram.Histogram
	late    *hdrhistogram.Histogram
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)
}

func (r *run) observe(h *hdrhistogram.Histogram, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = h.RecordValue(min(max(d.Microseconds(), 1), h.HighestTrackableValue())) // in range
}

// produce is every workload but Consume: a warm-up, the measured phase, a check.
func (r *run) produce(ctx context.Context) (found *Outcome, err error) {
	r.pool = bench.Payloads(payloads, r.Size)
	r.producer, err = r.system.Producer(ctx, &r.Topic, &r.tally, r.Workload != Produce)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.producer.Close()) }()
	feed := map[string]func(context.Context) (bool, error){Produce: r.flood, Latency: r.tick, Single: r.single}[r.Workload]
	if feed == nil {
		return nil, fmt.Errorf("load: workload %q is none of %s, %s, %s, %s", r.Workload, Produce, Consume, Latency, Single)
	}
	if err := r.known(ctx); err != nil {
		return nil, err
	}
	if _, err := r.phase(ctx, r.Warmup, feed); err != nil {
		return nil, fmt.Errorf("warm-up: %w", err)
	}
	before, err := r.system.Count(ctx, &r.Topic)
	if err != nil {
		return nil, err
	}
	r.tally.reset()
	r.latency.Reset()
	r.late.Reset()
	m, err := r.meter(ctx)
	if err != nil {
		return nil, err
	}
	exhausted, err := r.phase(ctx, r.Duration, feed)
	found, meterErr := m.stop()
	if err := errors.Join(err, meterErr); err != nil {
		return nil, err
	}
	found.Records, found.Failed, found.Exhausted = r.tally.acked.Load(), r.tally.failed.Load(), exhausted
	found.Bytes = found.Records * int64(r.Size)
	r.percentiles(found)
	return found, r.check(ctx, before, found)
}

// known waits until the topic is, on every node that is asked.
func (r *run) known(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, knownWait)
	defer cancel()
	for good := 0; good < knownTimes; {
		_, err := r.system.Count(ctx, &r.Topic)
		if err == nil {
			good++
			continue
		}
		good = 0
		select {
		case <-time.After(knownPoll):
		case <-ctx.Done():
			return fmt.Errorf("load: topic %s is not there: %w", r.Topic.Name, err)
		}
	}
	return nil
}

// check compares what was acknowledged with what is there.
func (r *run) check(ctx context.Context, before int64, found *Outcome) error {
	if found.Failed > 0 {
		return fmt.Errorf("load: %d records failed: %w", found.Failed, r.tally.Err())
	}
	after, err := r.system.Count(ctx, &r.Topic)
	if err != nil {
		return err
	}
	if after-before != found.Records {
		return fmt.Errorf("load: %d records were acknowledged, but topic %s grew by %d", found.Records, r.Topic.Name, after-before)
	}
	return nil
}

func (r *run) percentiles(found *Outcome) {
	ms := func(h *hdrhistogram.Histogram, q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	found.P50, found.P99, found.P999, found.Max = ms(r.latency, 50), ms(r.latency, 99), ms(r.latency, 99.9), float64(r.latency.Max())/1000
	if r.Workload == Latency {
		found.LateP99 = ms(r.late, 99)
	}
}

// phase feeds for a time and waits until everything is settled.
func (r *run) phase(ctx context.Context, d time.Duration, feed func(context.Context) (bool, error)) (exhausted bool, err error) {
	if d <= 0 {
		return false, nil
	}
	feeding, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if exhausted, err = feed(feeding); err != nil {
		return exhausted, err
	}
	settling, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	return exhausted, r.producer.Flush(settling)
}

// flood sends as fast as the client takes records. What is sent outlives the phase,
// so none of it has the phase's context.
func (r *run) flood(ctx context.Context) (exhausted bool, err error) {
	sending := context.WithoutCancel(ctx)
	next := 0
	for ctx.Err() == nil {
		if r.Records > 0 && r.sent >= r.Records {
			return true, nil
		}
		if r.tally.failed.Load() > 0 {
			return false, r.tally.Err()
		}
		if next+block > len(r.pool) {
			next = 0
		}
		values := r.pool[next : next+block]
		next += block
		r.sent += block
		due := time.Now()
		if err := r.producer.SendTimed(sending, values[0], func(error) { r.observe(r.latency, time.Since(due)) }); err != nil {
			return false, err
		}
		if err := r.producer.Send(sending, values[1:]); err != nil {
			return false, err
		}
	}
	return false, nil
}

// tick sends each record when it is due, whether or not earlier ones are acknowledged.
func (r *run) tick(ctx context.Context) (exhausted bool, err error) {
	sending := context.WithoutCancel(ctx)
	gap := time.Second / time.Duration(r.Rate)
	due := time.Now()
	for n := 0; ; n++ {
		due = due.Add(gap)
		if punctual.Wait(ctx, due); ctx.Err() != nil {
			return false, nil //nolint:nilerr // the phase is over
		}
		at := due
		r.observe(r.late, time.Since(at))
		if err := r.producer.SendTimed(sending, r.pool[n%len(r.pool)], func(error) { r.observe(r.latency, time.Since(at)) }); err != nil {
			return false, err
		}
	}
}

// single sends a record when the one before is acknowledged.
func (r *run) single(ctx context.Context) (exhausted bool, err error) {
	sending := context.WithoutCancel(ctx)
	settled := make(chan error, 1)
	for n := 0; ctx.Err() == nil; n++ {
		began := time.Now()
		if err := r.producer.SendTimed(sending, r.pool[n%len(r.pool)], func(err error) { settled <- err }); err != nil {
			return false, err
		}
		if err := <-settled; err != nil {
			return false, err
		}
		r.observe(r.latency, time.Since(began))
	}
	return false, nil
}

// consume reads from the start, and again from there when all is read, until the
// time is over.
func (r *run) consume(ctx context.Context) (found *Outcome, err error) {
	reader, size, err := r.system.Reader(ctx, &r.Topic)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	if size == 0 {
		return nil, fmt.Errorf("load: topic %s is empty", r.Topic.Name)
	}
	m, err := r.meter(ctx)
	if err != nil {
		return nil, err
	}
	reading, cancel := context.WithTimeout(ctx, r.Duration)
	defer cancel()
	records, bytes, err := passes(reading, reader, size)
	found, meterErr := m.stop()
	if err := errors.Join(err, meterErr, ctx.Err()); err != nil {
		return nil, err
	}
	found.Records, found.Bytes = records, bytes
	return found, nil
}

func passes(ctx context.Context, reader Reader, size int64) (records, bytes int64, err error) {
	for read := int64(0); ; {
		n, b, err := reader.Read(ctx)
		records, bytes, read = records+n, bytes+b, read+n
		switch {
		case ctx.Err() != nil:
			return records, bytes, nil //nolint:nilerr // the time is over
		case err != nil:
			return records, bytes, err
		case read < size:
			continue
		}
		read = 0
		if again, err := reader.Rewind(ctx); err != nil || !again {
			if ctx.Err() != nil {
				err = nil
			}
			return records, bytes, err
		}
	}
}

// meter measures what processes take between two moments.
type meter struct {
	j                       *Job
	began                   time.Time
	client, servers, others time.Duration
	rss                     []int64
	quit                    context.CancelFunc
	sampler                 sync.WaitGroup
}

func (r *run) meter(ctx context.Context) (*meter, error) {
	m := &meter{j: r.Job, rss: make([]int64, len(r.Pids))}
	ctx, m.quit = context.WithCancel(ctx)
	var err error
	if m.client, m.servers, m.others, err = m.times(); err != nil {
		m.quit()
		return nil, err
	}
	m.sampler.Go(func() { // until stop
		tick := time.NewTicker(samplePeriod)
		defer tick.Stop()
		for ctx.Err() == nil {
			m.sample()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	m.began = time.Now()
	return m, nil
}

func (m *meter) sample() {
	for i, pid := range m.j.Pids {
		if n, err := bench.Resident(pid); err == nil { // a server that died fails the run elsewhere
			m.rss[i] = max(m.rss[i], n)
		}
	}
}

func (m *meter) times() (client, servers, others time.Duration, err error) {
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		return 0, 0, 0, fmt.Errorf("load: processor time of this process: %w", err)
	}
	client = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	if servers, err = processTimes(m.j.Pids); err != nil {
		return 0, 0, 0, err
	}
	others, err = processTimes(m.j.Others)
	return client, servers, others, err
}

func processTimes(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		t, err := bench.ProcessTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

func (m *meter) stop() (*Outcome, error) {
	took := time.Since(m.began)
	client, servers, others, err := m.times()
	m.quit()
	m.sampler.Wait()
	m.sample()
	return &Outcome{
		Seconds: took.Seconds(), ClientCPU: (client - m.client).Seconds(), ServerCPU: (servers - m.servers).Seconds(),
		OthersCPU: (others - m.others).Seconds(), RSS: m.rss,
	}, err
}
