package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// stallAfter is how long a broker may owe an answer before the client asks others
// who leads now. A healthy broker under load may take longer; asking costs little.
const stallAfter = 500 * time.Millisecond

// sink sends the batches of the partitions that one broker leads, many partitions
// in a request, over one stream. run is the only goroutine that sends.
type sink struct {
	p       *Producer
	address string
	wake    chan struct{} // capacity 1
	lingers atomic.Bool   // a batch waits for others' answers

	mu     sync.Mutex // guards what follows
	ready  []*partition
	stream *produceStream // nil: none open
}

// produceStream is one open stream. run of the sink sends; receive is a goroutine
// of its own, which ends the stream and settles what it owes.
type produceStream struct {
	s      *sink
	stream grpc.BidiStreamingClient[wire.Produce, pb.ProduceResponse]
	cancel context.CancelFunc
	done   chan struct{} // closed when receive ended

	mu      sync.Mutex // guards what follows
	flights []*flight  // oldest first
	broken  bool
	heard   time.Time // newest answer, or opening
	suspect bool      // a partition left while an answer was owed
}

// flight is a request without an answer yet.
type flight struct {
	correlation uint64
	sent        time.Time
	parts       []*partition
	batches     []*batch
}

func newSink(p *Producer, address string) *sink {
	return &sink{p: p, address: address, wake: make(chan struct{}, 1)}
}

// add puts a partition on the ready list.
func (s *sink) add(pt *partition) {
	s.mu.Lock()
	s.ready = append(s.ready, pt)
	s.mu.Unlock()
	s.poke()
}

// poke has run look again.
func (s *sink) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sink) takeReady() []*partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	ready := s.ready
	s.ready = nil
	return ready
}

// run sends until the producer ends, then waits for the stream's receiver.
func (s *sink) run(ctx context.Context) {
	var (
		correlation uint64
		failures    int
		scratch     []byte // for compression
		later       = postponed{timer: time.NewTimer(time.Hour)}
	)
	defer later.timer.Stop()
	defer s.hangUp()
	for {
		f := s.gather(time.Now(), &later)
		if f == nil {
			// Whoever takes the last answer looks at lingers after it has counted
			// that; so one of the two sees what the other did.
			s.lingers.Store(later.lingering > 0)
			if later.lingering > 0 && s.p.away.Load() == 0 {
				later.release(func(w postponedPart) bool { return w.linger })
				continue
			}
			select {
			case <-s.wake:
			case now := <-later.timer.C:
				later.release(func(w postponedPart) bool { return w.at.Sub(now) < dueTogether })
			case <-ctx.Done():
				return
			}
			continue
		}
		correlation++
		f.correlation = correlation
		msg := s.encode(f, &scratch)
		if len(f.batches) == 0 {
			continue
		}
		stream, err := s.open(ctx)
		if err != nil {
			failures++
			s.refuse(f, err)
			s.p.c.meta.refresh()
			if sleep(ctx, s.p.c.backoff(failures)) != nil {
				return
			}
			continue
		}
		failures = 0
		stream.send(f, msg)
	}
}

// dueTogether is how early a partition may be asked again, so that a thousand that
// are due one after another are not a thousand looks at all of them.
const dueTogether = 100 * time.Microsecond

// postponed holds the partitions whose next batch is not due yet.
type postponed struct {
	timer     *time.Timer
	at        time.Time // when the timer fires; zero: nobody waits
	parts     []postponedPart
	lingering int // of parts
}

type postponedPart struct {
	*partition
	at     time.Time
	linger bool
}

func (l *postponed) add(pt *partition, now time.Time, wait pause) {
	w := postponedPart{pt, now.Add(wait.d), wait.linger}
	l.parts = append(l.parts, w)
	if w.linger {
		l.lingering++
	}
	if l.at.IsZero() || w.at.Before(l.at) {
		l.at = w.at
		l.timer.Reset(wait.d)
	}
}

// release puts the partitions for which due says so on their ready lists again; those
// that are early come back.
func (l *postponed) release(due func(postponedPart) bool) {
	parts := l.parts
	l.parts, l.at, l.lingering = parts[:0], time.Time{}, 0
	now := time.Now()
	for _, w := range parts {
		if due(w) {
			w.ready()
		} else {
			l.add(w.partition, now, pause{max(w.at.Sub(now), 1), w.linger})
		}
	}
	clear(parts[len(l.parts):])
}

// gather collects one batch from each ready partition, up to the size of a
// request; nil: none is due.
func (s *sink) gather(now time.Time, later *postponed) (f *flight) {
	ready := s.takeReady()
	size := 0
	for i, pt := range ready {
		if size >= maxRequestBytes {
			for _, rest := range ready[i:] {
				s.add(rest) // still marked
			}
			break
		}
		b, wait := pt.take(s, now)
		if wait.d > 0 {
			later.add(pt, now, wait)
		}
		if b == nil {
			continue
		}
		if f == nil {
			f = &flight{sent: now}
		}
		f.parts = append(f.parts, pt)
		f.batches = append(f.batches, b)
		size += b.size
	}
	return f
}

// encode builds the request. Batches that cannot be built fail and are left out.
func (s *sink) encode(f *flight, scratch *[]byte) *wire.Produce {
	req := &pb.ProduceRequest{
		Acks: s.p.cfg.acks.wire(), TimeoutMs: uint32(s.p.c.cfg.requestTimeout.Milliseconds()), CorrelationId: f.correlation,
	}
	msg := &wire.Produce{ProduceRequest: req}
	kept := 0
	for i, b := range f.batches {
		pt := f.parts[i]
		if err := b.build(s.p, scratch); err != nil {
			pt.answered(b, answer{err: pt.final(b, &Error{Code: CodeInvalidArgument, Message: err.Error(), Err: err}), baseOffset: -1})
			continue
		}
		f.parts[kept], f.batches[kept] = pt, b
		kept++
		req.Partitions = append(req.Partitions, pt.request(pt.id16()))
		msg.Batches = append(msg.Batches, b.buf)
	}
	f.parts, f.batches = f.parts[:kept], f.batches[:kept]
	return msg
}

// refuse gives back what could not be sent.
func (s *sink) refuse(f *flight, err *Error) {
	for i, b := range f.batches {
		f.parts[i].answered(b, answer{err: err, baseOffset: -1, never: true})
	}
}

// open returns the stream, opening one when there is none.
func (s *sink) open(ctx context.Context) (*produceStream, *Error) {
	s.mu.Lock()
	stream := s.stream
	s.mu.Unlock()
	if stream != nil && !stream.isBroken() {
		return stream, nil
	}
	s.hangUp()
	conn, err := s.p.c.conn(s.address)
	if err != nil {
		return nil, &Error{Code: CodeUnknown, Message: err.Error(), Partition: -1, Broker: s.address, Retriable: true, Err: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	// A broker that accepts connections and does nothing must not hold us up.
	slow := time.AfterFunc(s.p.c.cfg.dialTimeout, cancel)
	raw, err := wire.ProduceStream(ctx, conn)
	if !slow.Stop() && err == nil {
		err = status.Error(codes.DeadlineExceeded, "the stream did not open in time")
	}
	s.p.c.cfg.hooks.onConnection(s.address, err)
	if err != nil {
		cancel()
		e := fromRPC(err, s.address)
		e.Retriable = e.Code != CodeUnsupported
		return nil, e
	}
	stream = &produceStream{s: s, stream: raw, cancel: cancel, done: make(chan struct{}), heard: time.Now()}
	s.mu.Lock()
	s.stream = stream
	s.mu.Unlock()
	s.p.wg.Go(stream.receive)
	return stream, nil
}

// hangUp ends the stream, if any, and waits until it settled what it owed.
func (s *sink) hangUp() {
	s.mu.Lock()
	stream := s.stream
	s.stream = nil
	s.mu.Unlock()
	if stream != nil {
		stream.cancel()
		<-stream.done
	}
}

func (s *sink) current() *produceStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream
}

// suspect notes that a partition moved away while the broker owed an answer.
func (s *sink) suspect() {
	if stream := s.current(); stream != nil {
		stream.mu.Lock()
		stream.suspect = true
		stream.mu.Unlock()
	}
}

// watch looks for a broker that owes an answer for too long; true: ask who leads.
// A stream is given up when a partition has moved away from a silent broker, and
// when a request is older than any broker may take.
func (s *sink) watch(now time.Time) (stalled bool) {
	stream := s.current()
	if stream == nil {
		return false
	}
	stream.mu.Lock()
	defer stream.mu.Unlock()
	if len(stream.flights) == 0 {
		stream.suspect = false
		return false
	}
	age := now.Sub(stream.flights[0].sent)
	silent := min(age, now.Sub(stream.heard))
	if silent > stallAfter && stream.suspect || age > s.p.c.cfg.requestTimeout+5*time.Second {
		stream.cancel()
	}
	return silent > stallAfter
}

func (st *produceStream) isBroken() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.broken
}

// send sends a request that encode made. When the stream breaks, the receiver
// settles the flight with all others.
func (st *produceStream) send(f *flight, msg *wire.Produce) {
	st.mu.Lock()
	if st.broken {
		st.mu.Unlock()
		st.s.refuse(f, &Error{Code: CodeUnknown, Message: "the stream broke", Partition: -1, Broker: st.s.address, Retriable: true})
		return
	}
	st.flights = append(st.flights, f)
	st.mu.Unlock()
	if err := st.stream.Send(msg); err != nil && !errors.Is(err, io.EOF) {
		st.cancel() // Recv has the reason, or learns it now
	}
}

// receive settles flights as their answers come, in order.
func (st *produceStream) receive() {
	defer close(st.done)
	defer st.cancel()
	for {
		resp, err := st.stream.Recv()
		var f *flight
		if err == nil {
			f, err = st.land(resp)
		}
		if err != nil {
			st.fail(err)
			return
		}
		for i, r := range resp.GetResults() {
			st.deliver(f.parts[i], f.batches[i], r)
		}
	}
}

// land takes the oldest flight, which resp must answer.
func (st *produceStream) land(resp *pb.ProduceResponse) (*flight, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.flights) == 0 {
		return nil, status.Errorf(codes.Internal, "answer %d to no request", resp.GetCorrelationId())
	}
	f := st.flights[0]
	if resp.GetCorrelationId() != f.correlation {
		return nil, status.Errorf(codes.Internal, "answer %d, expected %d", resp.GetCorrelationId(), f.correlation)
	}
	if len(resp.GetResults()) != len(f.batches) {
		return nil, status.Errorf(codes.Internal, "%d results for %d partitions", len(resp.GetResults()), len(f.batches))
	}
	st.flights[0] = nil
	st.flights = st.flights[1:]
	st.heard = time.Now()
	return f, nil
}

// deliver settles one result.
func (st *produceStream) deliver(pt *partition, b *batch, r *pb.ProducePartitionResult) {
	e := fromPB(r.GetError(), st.s.address)
	if e != nil {
		switch e.Code {
		case CodeNotLeader, CodeLeaderNotAvailable, CodeFencedLeaderEpoch, CodeUnknownLeaderEpoch,
			CodeUnknownTopic, CodeUnknownPartition, CodeStorageFailed, CodeShuttingDown:
			defer st.s.p.c.meta.hint(pt.tp, e.leader)
		default:
		}
	}
	pt.answered(b, answer{err: e, baseOffset: r.GetBaseOffset(), appendTime: r.GetLogAppendTimeMs()})
}

// fail ends the stream: everything it owes has an unknown outcome.
func (st *produceStream) fail(err error) {
	st.mu.Lock()
	st.broken = true
	flights := st.flights
	st.flights = nil
	st.mu.Unlock()
	e := fromRPC(err, st.s.address)
	e.Retriable, e.Indefinite = true, true
	if errors.Is(err, io.EOF) {
		e.Message = "the broker ended the stream"
	}
	if st.s.p.life.Err() == nil {
		st.s.p.c.cfg.hooks.onConnection(st.s.address, e)
		st.s.p.c.cfg.logger.Warn("produce stream ended", "broker", st.s.address, "requests", len(flights), "error", e)
	}
	st.s.p.c.meta.refresh()
	for _, f := range flights {
		for i, b := range f.batches {
			f.parts[i].answered(b, answer{err: e, baseOffset: -1})
		}
	}
}
