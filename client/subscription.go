package client

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/log/record"
)

// subscription is one partition that the consumer owns. Its plain fields are
// guarded by Consumer.mu; the atomic ones are written by the application's
// goroutine, record by record.
type subscription struct {
	tp      TopicPartition
	version atomic.Int64 // grows with every seek; what belongs to an older one is stale
	taken   atomic.Int64 // offset after the last record yielded; -1: not resolved
	moved   atomic.Int64 // offset after the last record moved past; -1: not resolved
	epoch   atomic.Int32 // leader epoch of the last batch taken; -1: unknown
	// revoking: nothing more is fetched or yielded; what is in the application's
	// hands may still be moved past.
	revoking atomic.Bool

	active        bool // OnAssigned has returned
	paused        bool
	failed        bool // an error was reported; only Seek brings it back
	askCommitted  bool // look for a committed offset first
	resolved      bool // fetchAt is valid
	want          Offset
	fetchAt       int64 // next offset to fetch
	fetchEpoch    int32 // leader epoch of the batch before it, as it was read; -1: unknown
	doubt         *doubt
	fetching      int64 // number of the fetch that is under way; 0: none
	fetches       int64
	chunks        int // in the queue
	highWatermark int64
	committed     int64 // last offset committed; -1: none
	leader        string
	leaderEpoch   int32 // of leader
	topicID       [16]byte
	failures      int
	notYet        time.Time // back-off; zero: none
	unknown       time.Time // since when brokers deny the partition; zero: they do not
}

func newSubscription(tp TopicPartition, start Offset, askCommitted bool) *subscription {
	s := &subscription{tp: tp, askCommitted: askCommitted, highWatermark: -1, committed: -1, leaderEpoch: -1}
	s.restart(start)
	s.askCommitted = askCommitted
	return s
}

// restart begins anew elsewhere.
func (s *subscription) restart(at Offset) {
	s.version.Add(1)
	s.want, s.resolved, s.failed, s.askCommitted = at, false, false, false
	s.fetching, s.failures, s.notYet, s.unknown = 0, 0, time.Time{}, time.Time{}
	s.fetchEpoch, s.doubt = -1, nil
	s.epoch.Store(-1)
	s.taken.Store(-1)
	s.moved.Store(-1)
}

// begin starts fetching at an offset. epoch is the leader epoch of the batch before it,
// -1 when that is not known.
func (s *subscription) begin(offset int64, epoch int32) {
	s.fetchAt, s.fetchEpoch, s.resolved, s.failures, s.unknown = offset, epoch, true, 0, time.Time{}
	s.epoch.Store(epoch)
	s.taken.Store(offset)
	s.moved.Store(offset)
}

// fetchable reports whether the next fetch from address may include s.
func (s *subscription) fetchable(address string) bool {
	return s.leader == address && s.resolved && s.doubt == nil && s.fetching == 0 && s.chunks < maxChunks && s.notYet.IsZero() &&
		!s.paused && !s.revoking.Load() && !s.failed
}

// maxChunks is how many answers are kept ahead of one partition: one to read, one
// to have.
const maxChunks = 2

// chunk is what one answer held of one partition.
type chunk struct {
	sub     *subscription
	version int64
	slices  []record.Slice
	from    int64 // first offset wanted
	next    int64 // offset after the last batch
	epoch   int32 // leader epoch of the last batch
	bytes   int
	high    int64 // high watermark
}

func (ch *chunk) stale() bool { return ch.version != ch.sub.version.Load() }

func (ch *chunk) release() {
	for i := range ch.slices {
		ch.slices[i].Release()
	}
	ch.slices = nil
}

func sortPartitions(parts []TopicPartition) {
	slices.SortFunc(parts, func(a, b TopicPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
}

// assign takes partitions over: callback first, then fetching.
func (k *Consumer) assign(parts []TopicPartition) {
	if len(parts) == 0 {
		return
	}
	sortPartitions(parts)
	topics := make([]string, 0, len(parts))
	added := make([]*subscription, 0, len(parts))
	k.mu.Lock()
	k.learn(parts)
	for _, tp := range parts {
		if k.parts[tp] != nil {
			continue
		}
		s := newSubscription(tp, k.begin(tp), k.cfg.group != "")
		k.parts[tp] = s
		added = append(added, s)
		topics = append(topics, tp.Topic)
	}
	k.mu.Unlock()
	k.c.meta.want(topics...)
	k.call(k.cfg.onAssigned, parts)
	k.mu.Lock()
	for _, s := range added {
		s.active = true
	}
	k.mu.Unlock()
	k.led(k.c.meta.snapshot())
	k.wakeResolver()
}

// call runs a callback, one at a time.
func (k *Consumer) call(f func(*Consumer, []TopicPartition), parts []TopicPartition) {
	if f == nil || len(parts) == 0 {
		return
	}
	k.calls.Lock()
	defer k.calls.Unlock()
	f(k, slices.Clone(parts))
}

// revoke gives partitions up: it stops them, waits until the application has moved
// past what it took, calls OnRevoked and commits. ctx bounds the wait and the
// commit, the partitions are gone anyway.
func (k *Consumer) revoke(ctx context.Context, parts []TopicPartition) error {
	if len(parts) == 0 {
		return nil
	}
	subs := k.halt(parts)
	k.awaitHands(ctx, subs)
	k.call(k.cfg.onRevoked, parts)
	var err error
	if k.cfg.group != "" && k.cfg.autoCommit > 0 {
		err = k.commitMoved(ctx, subs)
	}
	k.forget(subs)
	return err
}

// awaitHands waits until the application has moved past what it took of subs, for
// half the rebalance timeout at most, so that time is left to commit. A consumer
// that closes does not wait: its application may be the caller.
func (k *Consumer) awaitHands(ctx context.Context, subs []*subscription) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.rebalanceTimeout/2)
	defer cancel()
	for ctx.Err() == nil {
		ready, leave := k.handed.join()
		if !k.anyInHand(subs) {
			leave()
			return
		}
		select {
		case <-ready:
		case <-ctx.Done():
		}
		leave()
	}
}

// lose drops partitions that are no longer the consumer's.
func (k *Consumer) lose(parts []TopicPartition) {
	subs := k.halt(parts)
	k.forget(subs)
	k.call(k.cfg.onLost, parts)
}

// halt stops fetching and delivery. What is queued is dropped.
func (k *Consumer) halt(parts []TopicPartition) []*subscription {
	k.mu.Lock()
	defer k.mu.Unlock()
	var subs []*subscription
	for _, tp := range parts {
		if s := k.parts[tp]; s != nil {
			s.revoking.Store(true)
			s.fetching = 0
			subs = append(subs, s)
		}
	}
	kept := k.queue[:0]
	for _, ch := range k.queue {
		if ch.sub.revoking.Load() {
			k.dropChunk(ch)
		} else {
			kept = append(kept, ch)
		}
	}
	clear(k.queue[len(kept):])
	k.queue = kept
	return subs
}

func (k *Consumer) anyInHand(subs []*subscription) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.closing && slices.ContainsFunc(subs, func(s *subscription) bool { return k.inHand[s] > 0 })
}

func (k *Consumer) forget(subs []*subscription) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range subs {
		if k.parts[s.tp] == s {
			delete(k.parts, s.tp)
		}
	}
}
