package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

// Consumer reads records, of partitions that it was given or that a group assigns
// to it. Poll and Records belong to one goroutine at a time; everything else is
// safe for concurrent use.
type Consumer struct {
	c    *Client
	cfg  consumerConfig
	life context.Context //nolint:containedctx // ends when Close is done or gives up; parent of every goroutine's context
	stop context.CancelFunc
	wg   sync.WaitGroup // resolver, clerk, committer, member, sources
	off  func()         // stops listening to metadata

	member  *member       // nil: not a member of a group
	arrived chan struct{} // capacity 1; wakes Poll
	unsolve chan struct{} // capacity 1; wakes the resolver
	fresh   chan struct{} // capacity 1; wakes assignAll: there is newer metadata
	handed  waitList      // woken when the application moves past records
	calls   sync.Mutex    // held while a callback runs: one at a time
	// committing holds a token while a commit is under way.
	committing chan struct{}
	polled     Polled // what Poll returned last; its application's goroutine owns it
	ended      error  // why Records ended; same owner

	mu       sync.Mutex // guards what follows
	parts    map[TopicPartition]*subscription
	known    map[string]int32 // partitions of a topic when it was first assigned from
	lives    map[string]topicLife
	queue    []*chunk // fetched, not taken, oldest first
	buffered int64    // bytes in queue
	inHand   map[*subscription]int
	sources  map[string]*source
	errs     []error // for Poll
	refused  error   // why the consumer is out of its group for good; nil: it is not
	closing  bool
}

// maxErrors bounds the errors kept for a Poll that nobody calls.
const maxErrors = 16

// NewConsumer makes a consumer and starts to fetch ahead.
func (c *Client) NewConsumer(opts ...ConsumerOpt) (*Consumer, error) {
	cfg := defaultConsumerConfig()
	for _, o := range opts {
		o.applyConsumer(&cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(c.life)
	k := &Consumer{
		c: c, cfg: cfg, life: life, stop: stop,
		arrived: make(chan struct{}, 1), committing: make(chan struct{}, 1),
		unsolve: make(chan struct{}, 1),
		fresh:   make(chan struct{}, 1),
		parts:   map[TopicPartition]*subscription{},
		known:   map[string]int32{},
		lives:   map[string]topicLife{},
		inHand:  map[*subscription]int{},
		sources: map[string]*source{},
	}
	k.polled.k = k
	if !c.use(k) {
		stop()
		return nil, ErrClosed
	}
	k.off = c.meta.listen(k.led)
	k.wg.Go(func() { k.resolve(life) })
	k.wg.Go(func() { k.clerk(life) })
	if cfg.group != "" && cfg.autoCommit > 0 {
		k.wg.Go(func() { k.commitNowAndThen(life) })
	}
	if cfg.member() {
		c.meta.want(cfg.topics...) // the leaders are known by the time that partitions are assigned
		k.member = newMember(k)
		k.wg.Go(func() { k.member.run(life) })
		k.wg.Go(func() { k.member.reconcile(life) })
	} else {
		k.assign(slices.Clone(cfg.assigned)) // so that Seek may follow at once
		k.wg.Go(func() { k.assignAll(life) })
	}
	return k, nil
}

// assignAll takes the partitions of the topics that the options name, and those that
// they get later. A topic that is not found is an error of Poll, and looked for
// again.
func (k *Consumer) assignAll(ctx context.Context) {
	var parts []TopicPartition
	for _, topic := range k.cfg.topics {
		for {
			t, err := k.c.meta.topic(ctx, topic)
			if err == nil {
				for i := range t.parts {
					parts = append(parts, TopicPartition{topic, int32(i)})
				}
				break
			}
			if ctx.Err() != nil {
				return
			}
			k.report(err)
		}
	}
	k.assign(parts)
	for len(k.cfg.topics) > 0 {
		select {
		case <-k.fresh:
			k.assign(k.grown())
		case <-ctx.Done():
			return
		}
	}
}

// grown are the partitions of the topics of the options that are not assigned yet.
func (k *Consumer) grown() (parts []TopicPartition) {
	snap := k.c.meta.snapshot()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, topic := range k.cfg.topics {
		t := snap.topics[topic]
		if t == nil {
			continue
		}
		for i := k.known[topic]; int(i) < len(t.parts); i++ {
			if tp := (TopicPartition{topic, i}); k.parts[tp] == nil {
				parts = append(parts, tp)
			}
		}
	}
	return parts
}

// begin is where reading begins in a partition without a committed offset. One
// that its topic got later is read from its beginning also where others began at
// their end: what was produced before this consumer heard of it is no older than
// the consumer. The caller holds mu.
func (k *Consumer) begin(tp TopicPartition) Offset {
	if tp.Partition >= k.known[tp.Topic] && k.cfg.start.kind == offsetLatest {
		return Earliest()
	}
	return k.cfg.start
}

// learn notes how many partitions topics have when they are first assigned from.
// The caller holds mu.
func (k *Consumer) learn(parts []TopicPartition) {
	snap := k.c.meta.snapshot()
	first := map[string]int32{}
	for _, tp := range parts {
		if _, ok := k.known[tp.Topic]; ok {
			continue
		}
		if t := snap.topics[tp.Topic]; t != nil {
			first[tp.Topic] = int32(len(t.parts))
		}
		first[tp.Topic] = max(first[tp.Topic], tp.Partition+1)
	}
	maps.Copy(k.known, first)
}

// Records yields records one by one, waiting for more, until ctx ends, the consumer
// is closed, or an error comes up that the application must know of; Err says
// which. A record and its bytes are the loop's to keep. It counts as taken when it
// is yielded and as moved past when the loop asks for the next one; a loop that is
// left early leaves its last record taken, but not moved past, and what was not
// yielded to the next Records or Poll.
func (k *Consumer) Records(ctx context.Context) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		k.ended = nil
		for {
			p, err := k.Poll(ctx)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, ErrClosed) {
					k.ended = err
				}
				return
			}
			if !p.each(yield) {
				return
			}
			if err := p.Err(); err != nil {
				k.ended = err
				return
			}
		}
	}
}

// Err returns the error that ended the last Records; nil when its context did, or
// Close, or the loop itself.
func (k *Consumer) Err() error { return k.ended }

// Poll returns records that were fetched, waiting for the first until ctx ends. It
// releases what the Poll before it returned: the application has moved past that.
// The result is valid until Release or the next Poll. An error that is not the
// context's or ErrClosed is about some partition, and polling on is possible; or, for
// a member of a group, it says that the group refuses it for good: then OnLost was
// called, and every Poll from now on returns that error.
func (k *Consumer) Poll(ctx context.Context) (*Polled, error) {
	k.polled.Release()
	for {
		k.mu.Lock()
		if k.closing {
			k.mu.Unlock()
			return nil, ErrClosed
		}
		if len(k.errs) > 0 {
			err := k.errs[0]
			k.errs = k.errs[1:]
			k.mu.Unlock()
			return nil, err
		}
		ok, refused := k.take(&k.polled), k.refused
		k.mu.Unlock()
		switch {
		case ok:
			return &k.polled, nil
		case refused != nil:
			return nil, refused
		}
		select {
		case <-k.arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-k.life.Done():
			return nil, ErrClosed
		}
	}
}

// take moves chunks from the queue into p, until one does not fit: what comes after
// it may be of the same partition, and must not come before it. The caller holds mu.
func (k *Consumer) take(p *Polled) bool {
	kept := k.queue[:0]
	bytes, full := 0, false
	for _, ch := range k.queue {
		switch {
		case ch.stale():
			k.dropChunk(ch)
		case ch.sub.paused:
			kept = append(kept, ch)
		case full || bytes > 0 && bytes+ch.bytes > k.cfg.maxPollBytes:
			full = true
			kept = append(kept, ch)
		default:
			bytes += ch.bytes
			k.unqueue(ch)
			k.inHand[ch.sub]++
			p.chunks = append(p.chunks, ch)
		}
	}
	clear(k.queue[len(kept):])
	k.queue = kept
	if len(p.chunks) == 0 {
		return false
	}
	p.hold()
	return true
}

// dropChunk forgets a chunk that was in the queue. The caller holds mu.
func (k *Consumer) dropChunk(ch *chunk) {
	k.unqueue(ch)
	ch.release()
}

// unqueue no longer counts a chunk as queued, and has fetched what there is room for
// now and was not before. The caller holds mu.
func (k *Consumer) unqueue(ch *chunk) {
	full := k.buffered >= k.cfg.prefetchBytes
	k.buffered -= int64(ch.bytes)
	ch.sub.chunks--
	if full && k.buffered < k.cfg.prefetchBytes {
		for _, src := range k.sources {
			src.look()
		}
	} else if src := k.sources[ch.sub.leader]; src != nil && ch.sub.chunks == maxChunks-1 {
		src.look()
	}
}

// giveBack puts chunks that were not used up at the head of the queue again.
func (k *Consumer) giveBack(chunks []*chunk) {
	k.mu.Lock()
	defer k.mu.Unlock()
	queue := make([]*chunk, 0, len(chunks)+len(k.queue))
	for _, ch := range chunks {
		k.left(ch.sub)
		if ch.stale() || ch.sub.revoking.Load() || ch.from >= ch.next {
			ch.release()
			continue
		}
		k.buffered += int64(ch.bytes)
		ch.sub.chunks++
		queue = append(queue, ch)
	}
	for _, ch := range slices.Backward(queue) {
		ch.sub.taken.Store(ch.from)
	}
	k.queue = append(queue, k.queue...)
	k.wakePoll()
}

// back returns a partition to an offset that could not be decoded.
func (k *Consumer) back(s *subscription, offset int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	moved := s.moved.Load()
	s.restart(At(offset))
	s.begin(offset, -1)
	s.moved.Store(max(moved, offset))
	if src := k.sources[s.leader]; src != nil {
		src.look()
	}
}

// left notes that a chunk is no longer in the application's hands. The caller
// holds mu.
func (k *Consumer) left(s *subscription) {
	if k.inHand[s]--; k.inHand[s] <= 0 {
		delete(k.inHand, s)
	}
}

func (k *Consumer) wakePoll() {
	select {
	case k.arrived <- struct{}{}:
	default:
	}
}

// report hands an error to Poll.
func (k *Consumer) report(err error) {
	k.mu.Lock()
	if len(k.errs) < maxErrors {
		k.errs = append(k.errs, err)
	}
	k.mu.Unlock()
	k.wakePoll()
}

// refuse has every Poll return err from now on.
func (k *Consumer) refuse(err error) {
	k.mu.Lock()
	k.refused = err
	k.mu.Unlock()
	k.wakePoll()
}

// Subscribe changes the topics that a member of a group subscribes to, by name.
// What it owns of topics that stay it keeps, without a pause; what goes is
// revoked, what comes is assigned. A consumer that its group has refused for good
// stays out of it: the error is what it was refused for.
func (k *Consumer) Subscribe(topics ...string) error {
	switch {
	case k.member == nil:
		return ErrNoGroup
	case k.cfg.pattern != "":
		return errors.New("client: a consumer of a topic pattern does not subscribe by name")
	case len(topics) == 0 || slices.Contains(topics, ""):
		return fmt.Errorf("client: %q: a subscription names at least one topic, none of them empty", topics)
	}
	if err := k.member.refusal(); err != nil {
		return err
	}
	k.member.mu.Lock()
	k.member.topics = slices.Clone(topics)
	k.member.mu.Unlock()
	k.c.meta.want(topics...)
	poke(k.member.rejoin)
	return nil
}

// Pause stops fetching and delivering from partitions until Resume. A partition
// that is not assigned is ignored.
func (k *Consumer) Pause(parts ...TopicPartition) { k.setPaused(true, parts) }

// Resume undoes Pause.
func (k *Consumer) Resume(parts ...TopicPartition) { k.setPaused(false, parts) }

func (k *Consumer) setPaused(paused bool, parts []TopicPartition) {
	k.mu.Lock()
	for _, tp := range parts {
		if s := k.parts[tp]; s != nil {
			s.paused = paused
		}
	}
	k.mu.Unlock()
	k.wakePoll()
	k.wakeSources()
}

// Seek goes to another place in a partition; what was fetched of it and not taken
// is dropped.
func (k *Consumer) Seek(tp TopicPartition, to Offset) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.parts[tp]
	if s == nil || s.revoking.Load() {
		return ErrNotAssigned
	}
	s.restart(to)
	k.wakeResolver()
	return nil
}

// Position returns the offset after the last record taken; ok is false when the
// partition is not assigned or its first offset is still looked up.
func (k *Consumer) Position(tp TopicPartition) (offset int64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.parts[tp]
	if s == nil || s.taken.Load() < 0 {
		return -1, false
	}
	return s.taken.Load(), true
}

// HighWatermark returns the end of what may be read, as of the newest fetch; ok is
// false when there was none yet.
func (k *Consumer) HighWatermark(tp TopicPartition) (offset int64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.parts[tp]
	if s == nil || s.highWatermark < 0 {
		return -1, false
	}
	return s.highWatermark, true
}

// Assignment lists the partitions that the consumer owns now.
func (k *Consumer) Assignment() []TopicPartition {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]TopicPartition, 0, len(k.parts))
	for tp := range k.parts {
		out = append(out, tp)
	}
	sortPartitions(out)
	return out
}

// Membership names the consumer in its group as the coordinator and its log do: the
// member id and the member epoch, which rises with every assignment; "" and -1
// while the consumer is not a member. Inside OnAssigned the epoch is one in which
// the new partitions are this member's.
func (k *Consumer) Membership() (id string, epoch int32) {
	if k.member == nil {
		return "", -1
	}
	if id, epoch = k.member.identity(); epoch <= 0 {
		epoch = -1
	}
	return id, epoch
}

// Close gives the partitions up: it calls OnRevoked, commits what the application
// moved past when auto commit is on, and leaves the group at once, unless the
// consumer is a static member. It does not wait for records in the application's
// hands. ctx bounds all that; the consumer ends anyway.
func (k *Consumer) Close(ctx context.Context) error {
	if !k.beginClose() {
		k.wg.Wait()
		return nil
	}
	var errs []error
	stop := context.AfterFunc(ctx, k.stop)
	if k.member != nil {
		errs = append(errs, k.member.leave(ctx))
	} else {
		errs = append(errs, k.revoke(ctx, k.Assignment()))
	}
	stop()
	k.end()
	k.c.unuse(k)
	return errors.Join(errs...)
}

// abandon is Close without the farewell, for Close of the client.
func (k *Consumer) abandon() {
	if k.beginClose() {
		k.end()
	}
}

func (k *Consumer) beginClose() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return false
	}
	k.closing = true
	k.wakePoll()
	k.handed.wake()
	return true
}

func (k *Consumer) end() {
	k.off()
	k.mu.Lock() // no source is added once life has ended
	k.stop()
	k.mu.Unlock()
	k.wg.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, ch := range k.queue {
		k.dropChunk(ch)
	}
	k.queue = nil
	clear(k.parts)
}

// clerk looks after what no event announces: back-offs that are over, and leaders
// that went silent.
func (k *Consumer) clerk(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		again, ask := false, false
		k.mu.Lock()
		for _, s := range k.parts {
			if !s.notYet.IsZero() && now.After(s.notYet) {
				s.notYet = time.Time{}
				again = true
			}
			ask = ask || s.leader == "" && s.resolved
		}
		for _, src := range k.sources {
			ask = src.watch(now) || ask
		}
		k.mu.Unlock()
		if again {
			k.wakeSources()
		}
		if ask {
			k.c.meta.refresh()
		}
	}
}
