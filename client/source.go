package client

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// A source fetches from one broker over a few lanes, each a stream with one
// request under way. The main lane carries the long poll of everything that can be
// fetched at the moment; the others take what becomes fetchable meanwhile (the
// application made room, an offset was resolved), so that it need not wait for the
// long poll to end, and ask the broker to wait only shortly. Once such a lane
// comes back with nothing, its partitions have reached the end too: it interrupts
// the main lane, whose next poll takes them all.
//
// One stream with several requests in it would not do: answers come in the order
// of the requests, so that a poll that waits would hold up all behind it.
type source struct {
	k       *Consumer
	address string
	lanes   [laneCount]*lane

	// Guarded by Consumer.mu:
	busy    bool // the main lane has a request under way
	merging bool // it was interrupted: the others leave everything to its next one
}

const (
	laneCount = 3
	// shortWait is what the lanes beside the main one ask the broker to wait.
	shortWait = 50 * time.Millisecond
)

type lane struct {
	src  *source
	main bool
	wake chan struct{} // capacity 1

	// Guarded by Consumer.mu:
	idle        bool      // it found nothing to fetch and waits for wake
	called      bool      // woken, and has not looked yet
	sent        time.Time // of the request under way; zero: none
	wait        time.Duration
	interrupt   context.CancelFunc // ends the stream; nil: none is open
	interrupted bool

	// Owned by the lane's goroutine:
	stream grpc.BidiStreamingClient[pb.FetchRequest, wire.Fetched]
	number uint64
}

// asked is one partition of a request.
type asked struct {
	sub     *subscription
	number  int64 // must equal sub.fetching for the answer to count
	version int64
	from    int64
	leader  int32 // leader epoch of whom was asked; -1: unknown
}

func (k *Consumer) wakeSources() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, src := range k.sources {
		src.look()
	}
}

// look has a lane look for what has become fetchable, which will take all of it, and
// wakes no other: with few records on their way, lanes that wake up for nothing
// cost as much as the records. The caller holds mu.
func (src *source) look() {
	main := src.lanes[0]
	if main.idle {
		main.call()
		return
	}
	if !src.busy || src.merging {
		return // the main lane is about to look
	}
	for _, l := range src.lanes[1:] {
		if l.called {
			return
		}
	}
	for _, l := range src.lanes[1:] {
		if l.idle {
			l.call()
			return
		}
	}
	// The first of them to come back takes it.
}

// call ends the lane's wait. The caller holds mu.
func (l *lane) call() {
	l.idle, l.called = false, true
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// led takes a new snapshot: partitions go to the sources of their leaders.
func (k *Consumer) led(snap *snapshot) {
	select {
	case k.fresh <- struct{}{}:
	default:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.life.Err() != nil {
		return
	}
	for topic := range k.known {
		if t := snap.topics[topic]; t != nil {
			k.follow(topic, t.id)
		}
	}
	for tp, s := range k.parts {
		if life := k.lives[tp.Topic]; s.topicID != life.id {
			if s.topicID != ([16]byte{}) {
				k.c.cfg.logger.Warn("the topic was deleted and created again; its position does not count any more", "topic", tp.Topic, "partition", tp.Partition)
				s.restart(k.begin(tp))
				s.askCommitted, s.committed = k.cfg.group != "", -1
				k.wakeResolver()
			}
			s.topicID = life.id
		}
		address := snap.leader(tp)
		if epoch := snap.epoch(tp); epoch != s.leaderEpoch {
			s.leaderEpoch, s.notYet = epoch, time.Time{}
			if address != "" && address == s.leader {
				k.sourceOf(address).look()
			}
		}
		if address == s.leader {
			continue
		}
		s.leader = address
		s.fetching, s.notYet = 0, time.Time{} // an answer of the old leader comes too late
		if address != "" {
			k.sourceOf(address).look()
		}
	}
}

// topicLife is which topic has a name, and which one had it before: a broker that is
// behind may still speak of that.
type topicLife struct{ id, former [16]byte }

// follow notes which topic has a name. Of one that was created again all is new to this
// consumer. The caller holds mu.
func (k *Consumer) follow(topic string, id [16]byte) {
	life := k.lives[topic]
	if id == life.id || id == life.former {
		return
	}
	if life.id != ([16]byte{}) {
		k.known[topic] = 0
	}
	k.lives[topic] = topicLife{id: id, former: life.id}
}

// sourceOf returns the source of a broker. The caller holds mu.
func (k *Consumer) sourceOf(address string) *source {
	src := k.sources[address]
	if src == nil {
		src = newSource(k, address)
		k.sources[address] = src
		for _, l := range src.lanes {
			k.wg.Go(func() { l.run(k.life) })
		}
	}
	return src
}

func newSource(k *Consumer, address string) *source {
	src := &source{k: k, address: address}
	for i := range src.lanes {
		src.lanes[i] = &lane{src: src, main: i == 0, wake: make(chan struct{}, 1)}
	}
	return src
}

// watch looks for an answer that is overdue; true: ask who leads. The caller holds mu.
func (src *source) watch(now time.Time) (overdue bool) {
	for _, l := range src.lanes {
		if l.sent.IsZero() {
			continue
		}
		late := now.Sub(l.sent) - l.wait
		if late > stallAfter {
			overdue = true
		}
		if late > src.k.c.cfg.requestTimeout && l.interrupt != nil {
			l.interrupt()
		}
	}
	return overdue
}

// run fetches until the consumer ends.
func (l *lane) run(ctx context.Context) {
	failures := 0
	defer l.hangUp()
	for {
		req, parts := l.prepare()
		if req == nil {
			select {
			case <-l.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		began := time.Now()
		resp, err := l.exchange(ctx, req)
		if err != nil {
			l.hangUp()
			if ctx.Err() != nil {
				return
			}
			if l.undo(parts, err, failures) {
				continue // interrupted by another lane
			}
			failures++
			l.src.k.c.meta.refresh()
			if sleep(ctx, l.src.k.c.backoff(failures)) != nil {
				return
			}
			continue
		}
		failures = 0
		if l.src.k.deliver(l, parts, resp, time.Since(began)) {
			l.hangUp()
		}
	}
}

// prepare makes the next request; nil: there is nothing to fetch, or it is the
// main lane's turn.
func (l *lane) prepare() (*pb.FetchRequest, []asked) {
	k := l.src.k
	k.mu.Lock()
	defer k.mu.Unlock()
	l.called, l.idle = false, true
	if l.main {
		l.src.merging = false
	} else if !l.src.busy || l.src.merging {
		return nil, nil
	}
	if k.buffered >= k.cfg.prefetchBytes {
		return nil, nil
	}
	var parts []asked
	for _, s := range k.parts {
		if s.fetchable(l.src.address) {
			s.fetches++
			s.fetching = s.fetches
			parts = append(parts, asked{sub: s, number: s.fetches, version: s.version.Load(), from: s.fetchAt, leader: s.leaderEpoch})
		}
	}
	if len(parts) == 0 {
		return nil, nil
	}
	l.idle = false
	l.wait = k.cfg.maxWait
	if l.main {
		l.src.busy = true
	} else {
		l.wait = min(l.wait, shortWait)
	}
	l.sent = time.Now()
	l.number++
	req := &pb.FetchRequest{
		MaxWaitMs: uint32(max(l.wait.Milliseconds(), 1)), MinBytes: uint32(k.cfg.minBytes), MaxBytes: uint32(k.cfg.maxBytes),
		CorrelationId: l.number, Partitions: make([]*pb.FetchPartition, len(parts)),
	}
	for i := range parts {
		s := parts[i].sub
		req.Partitions[i] = &pb.FetchPartition{
			Topic: s.tp.Topic, Partition: s.tp.Partition, FetchOffset: s.fetchAt, MaxBytes: uint32(k.cfg.maxPartBytes),
		}
		if s.topicID != ([16]byte{}) {
			id := s.topicID
			req.Partitions[i].TopicId = id[:]
		}
		if s.leaderEpoch >= 0 {
			req.Partitions[i].LeaderEpoch = new(s.leaderEpoch)
		}
		if s.fetchEpoch >= 0 {
			req.Partitions[i].LastEpoch = new(s.fetchEpoch)
		}
	}
	return req, parts
}

// exchange sends a request and waits for its answer, over a new stream when there
// is none.
func (l *lane) exchange(ctx context.Context, req *pb.FetchRequest) (*wire.Fetched, *Error) {
	k := l.src.k
	if l.stream == nil {
		if err := l.open(ctx); err != nil {
			return nil, err
		}
	}
	if err := l.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, fromRPC(err, l.src.address)
	}
	resp, err := l.stream.Recv()
	if err != nil {
		e := fromRPC(err, l.src.address)
		if errors.Is(err, io.EOF) {
			e.Message, e.Retriable = "the broker ended the stream", true
		}
		if ctx.Err() == nil {
			k.c.cfg.hooks.onConnection(l.src.address, e)
		}
		return nil, e
	}
	if resp.GetCorrelationId() != req.GetCorrelationId() || len(resp.GetResults()) != len(req.GetPartitions()) {
		resp.Release()
		return nil, fromRPC(status.Error(codes.Internal, "the answer is to another request"), l.src.address)
	}
	return resp, nil
}

func (l *lane) open(ctx context.Context) *Error {
	k := l.src.k
	conn, err := k.c.conn(l.src.address)
	if err != nil {
		return &Error{Code: CodeUnknown, Message: err.Error(), Partition: -1, Broker: l.src.address, Retriable: true, Err: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(k.c.cfg.dialTimeout, cancel)
	stream, err := wire.FetchStream(ctx, conn)
	if !slow.Stop() && err == nil {
		err = status.Error(codes.DeadlineExceeded, "the stream did not open in time")
	}
	k.c.cfg.hooks.onConnection(l.src.address, err)
	if err != nil {
		cancel()
		return fromRPC(err, l.src.address)
	}
	l.stream = stream
	k.mu.Lock()
	defer k.mu.Unlock()
	l.interrupt = cancel
	return nil
}

// hangUp ends the stream.
func (l *lane) hangUp() {
	k := l.src.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.interrupt != nil {
		l.interrupt()
		l.interrupt = nil
	}
	l.stream = nil
}

// undo takes a request back that had no answer; true: another lane asked for that.
func (l *lane) undo(parts []asked, err *Error, failures int) (interrupted bool) {
	k := l.src.k
	k.mu.Lock()
	defer k.mu.Unlock()
	interrupted, l.interrupted = l.interrupted, false
	l.sent = time.Time{}
	if l.main {
		l.src.busy = false
	}
	if !interrupted {
		k.c.cfg.logger.Warn("fetch failed", "broker", l.src.address, "error", err)
	}
	for _, a := range parts {
		if a.sub.fetching == a.number {
			a.sub.fetching = 0
			if !interrupted {
				a.sub.notYet = time.Now().Add(k.c.backoff(failures + 1))
			}
		}
	}
	return interrupted
}

// deliver queues what an answer holds; interrupted: another lane has ended the
// stream, too late.
func (k *Consumer) deliver(l *lane, parts []asked, resp *wire.Fetched, waited time.Duration) (interrupted bool) {
	batches := resp.Batches
	bytes, got := 0, false
	var errs []*Error
	k.mu.Lock()
	interrupted, l.interrupted = l.interrupted, false
	l.sent = time.Time{}
	if l.main {
		l.src.busy = false
	}
	for i, a := range parts {
		r := resp.GetResults()[i]
		n := min(int(r.GetBatchCount()), len(batches))
		mine := batches[:n]
		batches = batches[n:]
		current := a.sub.fetching == a.number && a.sub.version.Load() == a.version
		if a.sub.fetching == a.number {
			a.sub.fetching = 0
		}
		if !current || a.sub.revoking.Load() {
			for j := range mine {
				mine[j].Release()
			}
			continue
		}
		e := fromPB(r.GetError(), l.src.address)
		if e == nil {
			var ch *chunk
			if ch, e = newChunk(a, mine, r); ch != nil {
				bytes += ch.bytes
				got = true
				k.enqueue(ch)
			}
			a.sub.highWatermark = r.GetHighWatermark()
		}
		if e != nil {
			if e = k.fetchFailed(a, e, r.GetDiverging()); e != nil {
				errs = append(errs, e)
			}
		} else {
			a.sub.failures, a.sub.unknown = 0, time.Time{}
		}
	}
	for j := range batches {
		batches[j].Release()
	}
	if !got && !l.main && l.src.busy {
		if m := l.src.lanes[0]; m.interrupt != nil && !m.interrupted {
			m.interrupted, l.src.merging = true, true
			m.interrupt()
		}
	}
	if !l.main && !l.src.busy {
		l.src.look() // this lane leaves it to the main one
	}
	k.mu.Unlock()
	k.wakePoll()
	for _, e := range errs {
		k.report(e)
	}
	if bytes > 0 {
		for _, h := range k.c.cfg.hooks.fetch {
			h.OnFetch(l.src.address, bytes, waited)
		}
	}
	return interrupted
}

// enqueue adds a chunk. The caller holds mu.
func (k *Consumer) enqueue(ch *chunk) {
	ch.sub.fetchAt, ch.sub.fetchEpoch = ch.next, ch.epoch
	ch.sub.chunks++
	k.buffered += int64(ch.bytes)
	k.queue = append(k.queue, ch)
}

// newChunk checks what arrived and takes the references over; nil without an error:
// nothing new.
func newChunk(a asked, slices []record.Slice, r *pb.FetchPartitionResult) (*chunk, *Error) {
	ch := &chunk{sub: a.sub, version: a.version, slices: slices, from: a.from, next: a.from, epoch: -1, high: r.GetHighWatermark()}
	for _, s := range slices {
		for rest := s.Bytes; len(rest) > 0; {
			b, more, err := record.Next(rest)
			if err == nil && !record.VerifyCRC(b) {
				err = record.ErrCorrupt
			}
			if err != nil {
				ch.release()
				return nil, &Error{
					Code: CodeCorruptBatch, Message: "what arrived is damaged: " + err.Error(),
					Topic: a.sub.tp.Topic, Partition: a.sub.tp.Partition, Retriable: true, Err: err,
				}
			}
			info, _ := record.Peek(b)
			ch.next = max(ch.next, int64(info.NextOffset()))
			ch.epoch = int32(info.Epoch)
			ch.bytes += len(b)
			rest = more
		}
	}
	if ch.next == ch.from {
		ch.release()
		return nil, nil
	}
	return ch, nil
}

// fetchFailed decides what a partition does after an error; it returns the error
// when the application must know. The caller holds mu.
func (k *Consumer) fetchFailed(a asked, e *Error, diverging *pb.EpochEnd) *Error {
	s := a.sub
	s.failures++
	s.notYet = time.Now().Add(k.c.backoff(s.failures))
	switch e.Code {
	case CodeOffsetOutOfRange:
		k.suspect(a, e, diverging)
		return nil
	case CodeUnknownLeaderEpoch:
		if s.fetchEpoch > a.leader {
			k.suspect(a, e, nil)
			return nil
		}
		k.c.meta.refresh()
		return nil
	case CodeNotLeader, CodeLeaderNotAvailable, CodeFencedLeaderEpoch, CodeStorageFailed, CodeShuttingDown:
		k.hintLater(s.tp, e.leader)
		return nil
	case CodeOffsetNotAvailable:
		k.c.meta.refresh() // it may have been replaced as the leader
		return nil
	case CodeUnknownTopic, CodeUnknownPartition:
		k.c.meta.refresh()
		if s.unknown.IsZero() {
			s.unknown = time.Now()
		}
		if time.Since(s.unknown) < k.c.cfg.unknownWait {
			return nil
		}
	default:
		if e.Retriable {
			return nil
		}
	}
	s.failed = true
	return e
}

// hintLater applies a leader hint without the consumer's lock, which led takes.
func (k *Consumer) hintLater(tp TopicPartition, h *pb.LeaderHint) {
	if h == nil {
		k.c.meta.refresh()
		return
	}
	k.wg.Go(func() { k.c.meta.hint(tp, h) })
}
