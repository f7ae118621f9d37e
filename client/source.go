package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// A source fetches from one broker, over one stream. As a rule one request is under way:
// a poll, which waits for records of everything that can be fetched when it leaves. What
// becomes fetchable meanwhile (the application made room, resumed or seeked, a partition
// was gained) does not wait for that poll, nor is the poll cut off. A request in between
// asks for that alone; it has the broker answer the poll with what there is
// (FetchRequest.ends_waits), and does not wait itself. When both are answered the next
// poll asks for everything.
//
// That never becomes a busy loop, however little the answers hold. A poll asks for all
// that is fetchable, so that a request in between takes something that became fetchable
// after it, and not by an answer: none comes before the poll's own. So there are no more
// requests in between than there were calls of the application, assignments, back-offs
// and the like.
//
// A broker of an earlier release answers in order, whatever a request says. It is asked for
// one thing at a time, and to wait shortly. The first answer of a stream tells which
// kind of broker it is, so the first request does not wait.
type source struct {
	k       *Consumer
	address string
	wake    chan struct{} // capacity 1: there may be something to poll for
	between chan struct{} // capacity 1: there may be something to ask for meanwhile

	// sending is held while a request is made and sent, and taken before Consumer.mu.
	// It guards number, and stream, which run alone changes.
	sending sync.Mutex
	stream  grpc.BidiStreamingClient[pb.FetchRequest, wire.Fetched] // nil: none is open
	number  uint64

	// Guarded by Consumer.mu:
	underWay  [2]request         // a poll, and a request in between; the first sent comes first
	count     int                // of underWay
	idle      bool               // nothing is under way, nothing was found to fetch, and run waits for wake
	answered  bool               // the stream has had an answer,
	endsWaits bool               // which said that the broker heeds ends_waits
	cut       context.CancelFunc // ends the stream; nil: none is open
}

// shortWait is what a broker of an earlier release is asked to wait.
const shortWait = 50 * time.Millisecond

// request is one that has no answer yet.
type request struct {
	number  uint64
	parts   []asked
	between bool          // it ends the wait of the poll before it
	wait    time.Duration // what the broker was asked to wait
	sent    time.Time
	turn    time.Time // when it was sent, or the answer before its own came
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

// look has the source look for what has become fetchable. The caller holds mu.
func (src *source) look() {
	switch {
	case src.count == 0:
		if src.idle {
			src.idle = false
			poke(src.wake)
		}
	case src.mayAskBetween():
		poke(src.between)
	}
	// Else the next poll takes it, for what is under way is answered soon.
}

// mayAskBetween reports whether all that is under way is a poll whose wait can be ended.
// The caller holds mu.
func (src *source) mayAskBetween() bool {
	return src.count == 1 && !src.underWay[0].between && src.endsWaits
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
		k.wg.Go(func() { src.run(k.life) })
		k.wg.Go(func() { src.askBetween(k.life) })
	}
	return src
}

func newSource(k *Consumer, address string) *source {
	return &source{k: k, address: address, wake: make(chan struct{}, 1), between: make(chan struct{}, 1)}
}

// watch looks for an answer that is overdue; true: ask who leads. The caller holds mu.
func (src *source) watch(now time.Time) (overdue bool) {
	if src.count == 0 {
		return false
	}
	late := now.Sub(src.underWay[0].turn) - src.underWay[0].wait
	if late > src.k.c.cfg.requestTimeout && src.cut != nil {
		src.cut()
	}
	return late > stallAfter
}

// run polls and takes all answers, until the consumer ends.
func (src *source) run(ctx context.Context) {
	failures := 0
	defer src.hangUp(nil, 0)
	for {
		opening := src.stream == nil
		sent, err := src.ask(ctx, false)
		if opening && (sent || err != nil) {
			src.tell(err)
		}
		if err == nil && !sent {
			select {
			case <-src.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		for err == nil && src.owed() {
			err = src.receive(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			continue
		}
		src.hangUp(err, failures)
		failures++
		src.k.c.meta.refresh()
		if sleep(ctx, src.k.c.backoff(failures)) != nil {
			return
		}
	}
}

// askBetween sends the requests in between, until the consumer ends.
func (src *source) askBetween(ctx context.Context) {
	for {
		select {
		case <-src.between:
			_, _ = src.ask(ctx, true) // an error ends the stream, and run hears of it
		case <-ctx.Done():
			return
		}
	}
}

// ask sends a request, if there is one to send, over a new stream when there is none.
func (src *source) ask(ctx context.Context, between bool) (sent bool, err *Error) {
	src.sending.Lock()
	defer src.sending.Unlock()
	req := src.prepare(between)
	if req == nil {
		return false, nil
	}
	if src.stream == nil {
		if err := src.open(ctx); err != nil {
			return false, err
		}
	}
	if err := src.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		return false, fromRPC(err, src.address)
	}
	return true, nil
}

// owed reports whether an answer is.
func (src *source) owed() bool {
	src.k.mu.Lock()
	defer src.k.mu.Unlock()
	return src.count > 0
}

// prepare makes the next request; nil: there is nothing to fetch, or it is not the time.
// The caller holds sending.
func (src *source) prepare(between bool) *pb.FetchRequest {
	k := src.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if between != (src.count > 0) || between && !src.mayAskBetween() {
		return nil
	}
	var parts []asked
	if k.buffered < k.cfg.prefetchBytes {
		parts = k.fetchable(src.address)
	}
	if len(parts) == 0 {
		src.idle = !between
		return nil
	}
	src.idle = false
	src.number++
	now := time.Now()
	r := request{number: src.number, parts: parts, between: between, wait: src.wait(between), sent: now, turn: now}
	src.underWay[src.count] = r
	src.count++
	return r.message(&k.cfg)
}

// wait is how long the broker is asked to. The caller holds mu.
func (src *source) wait(between bool) time.Duration {
	longest := max(src.k.cfg.maxWait, time.Millisecond)
	switch {
	case between || !src.answered:
		return 0
	case !src.endsWaits:
		return min(longest, shortWait)
	default:
		return longest
	}
}

// fetchable takes what a request to a broker may ask for now. The caller holds mu.
func (k *Consumer) fetchable(address string) (parts []asked) {
	for _, s := range k.parts {
		if s.fetchable(address) {
			s.fetches++
			s.fetching = s.fetches
			parts = append(parts, asked{sub: s, number: s.fetches, version: s.version.Load(), from: s.fetchAt, leader: s.leaderEpoch})
		}
	}
	return parts
}

// message is the request as it is sent. The caller holds mu.
func (r *request) message(cfg *consumerConfig) *pb.FetchRequest {
	req := &pb.FetchRequest{
		MaxWaitMs: uint32(r.wait.Milliseconds()), MinBytes: uint32(cfg.minBytes), MaxBytes: uint32(cfg.maxBytes),
		CorrelationId: r.number, EndsWaits: r.between, Partitions: make([]*pb.FetchPartition, len(r.parts)),
	}
	for i := range r.parts {
		s := r.parts[i].sub
		req.Partitions[i] = &pb.FetchPartition{
			Topic: s.tp.Topic, Partition: s.tp.Partition, FetchOffset: s.fetchAt, MaxBytes: uint32(cfg.maxPartBytes),
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
	return req
}

// receive takes the next answer. Only run calls it, while one is owed.
func (src *source) receive(ctx context.Context) *Error {
	k := src.k
	resp, err := src.stream.Recv()
	if err != nil {
		e := fromRPC(err, src.address)
		if errors.Is(err, io.EOF) {
			e.Message, e.Retriable = "the broker ended the stream", true
		}
		if ctx.Err() == nil {
			src.tell(e)
		}
		return e
	}
	if !k.deliver(src, resp) {
		resp.Release()
		return fromRPC(status.Error(codes.Internal, "the answer is to another request"), src.address)
	}
	return nil
}

// tell has hooks know that the stream opened, or why it did not or broke.
func (src *source) tell(err *Error) {
	if err == nil {
		src.k.c.cfg.hooks.onConnection(src.address, nil)
		return
	}
	src.k.c.cfg.hooks.onConnection(src.address, err)
}

// open opens the stream. The caller holds sending.
func (src *source) open(ctx context.Context) *Error {
	k := src.k
	conn, err := k.c.conn(src.address)
	if err != nil {
		return &Error{Code: CodeUnknown, Message: err.Error(), Partition: -1, Broker: src.address, Retriable: true, Err: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(k.c.cfg.dialTimeout, cancel)
	stream, err := wire.FetchStream(ctx, conn)
	if !slow.Stop() && err == nil {
		err = status.Error(codes.DeadlineExceeded, "the stream did not open in time")
	}
	if err != nil {
		cancel()
		return fromRPC(err, src.address)
	}
	src.stream = stream
	k.mu.Lock()
	defer k.mu.Unlock()
	src.cut = cancel
	return nil
}

// hangUp ends the stream and takes back what was asked and not answered, because of err;
// nil: the consumer ends.
func (src *source) hangUp(err *Error, failures int) {
	k := src.k
	src.endStream() // first, for a Send may be waiting
	src.sending.Lock()
	defer src.sending.Unlock()
	src.stream = nil
	k.mu.Lock()
	defer k.mu.Unlock()
	src.answered, src.endsWaits = false, false
	if err != nil {
		k.c.cfg.logger.Warn("fetch failed", "broker", src.address, "error", err)
	}
	for ; src.count > 0; src.pop() {
		for _, a := range src.underWay[0].parts {
			if a.sub.fetching == a.number {
				a.sub.fetching = 0
				a.sub.notYet = time.Now().Add(k.c.backoff(failures + 1))
			}
		}
	}
}

func (src *source) endStream() {
	src.k.mu.Lock()
	defer src.k.mu.Unlock()
	if src.cut != nil {
		src.cut()
		src.cut = nil
	}
}

// pop forgets the request whose turn it was. The caller holds mu.
func (src *source) pop() {
	src.underWay[0], src.underWay[1] = src.underWay[1], request{}
	if src.count--; src.count > 0 {
		src.underWay[0].turn = time.Now()
	}
}

// deliver queues what an answer holds; false: it is to no request, or not to the one whose
// turn it is.
func (k *Consumer) deliver(src *source, resp *wire.Fetched) bool {
	batches := resp.Batches
	bytes := 0
	var errs []*Error
	k.mu.Lock()
	r := src.underWay[0]
	if src.count == 0 || resp.GetCorrelationId() != r.number || len(resp.GetResults()) != len(r.parts) {
		k.mu.Unlock()
		return false
	}
	src.answered, src.endsWaits = true, resp.GetEndsWaits()
	src.pop()
	for i, a := range r.parts {
		res := resp.GetResults()[i]
		n := min(int(res.GetBatchCount()), len(batches))
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
		e := fromPB(res.GetError(), src.address)
		if e == nil {
			var ch *chunk
			if ch, e = newChunk(a, mine, res); ch != nil {
				bytes += ch.bytes
				k.enqueue(ch)
			}
			a.sub.highWatermark = res.GetHighWatermark()
		}
		if e != nil {
			if e = k.fetchFailed(a, e, res.GetDiverging()); e != nil {
				errs = append(errs, e)
			}
		} else {
			a.sub.failures, a.sub.unknown = 0, time.Time{}
		}
	}
	for j := range batches {
		batches[j].Release()
	}
	k.mu.Unlock()
	k.wakePoll()
	for _, e := range errs {
		k.report(e)
	}
	if bytes > 0 {
		for _, h := range k.c.cfg.hooks.fetch {
			h.OnFetch(src.address, bytes, time.Since(r.sent))
		}
	}
	return true
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
