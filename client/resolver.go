package client

import (
	"context"
	"errors"
	"time"
)

func (k *Consumer) wakeResolver() {
	select {
	case k.unsolve <- struct{}{}:
	default:
	}
}

// question is a subscription whose first offset is not known.
type question struct {
	sub     *subscription
	version int64
	want    Offset
}

// resolve finds the offsets to begin at: what the group committed, else what the
// options or a Seek say.
func (k *Consumer) resolve(ctx context.Context) {
	failures := 0
	for {
		select {
		case <-k.unsolve:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			committed, others := k.questions()
			doubts := k.doubts()
			if len(committed)+len(others)+len(doubts) == 0 {
				failures = 0
				break
			}
			again := k.resolveCommitted(ctx, committed)
			_, others = k.questions()
			again = k.resolveOthers(ctx, others) || again
			again = k.settleDoubts(ctx, doubts) || again
			k.wakeSources()
			if !again {
				continue
			}
			failures++
			k.c.meta.refresh()
			if sleep(ctx, k.c.backoff(failures)) != nil {
				return
			}
		}
	}
}

// questions lists what is to be resolved, in two kinds.
func (k *Consumer) questions() (committed, others []question) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.parts {
		if s.resolved || s.failed || !s.active || s.revoking.Load() {
			continue
		}
		q := question{sub: s, version: s.version.Load(), want: s.want}
		if s.askCommitted {
			committed = append(committed, q)
		} else {
			others = append(others, q)
		}
	}
	return committed, others
}

// solve applies do to the subscription of q unless it went elsewhere meanwhile.
func (k *Consumer) solve(q question, do func(*subscription)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if q.sub.version.Load() == q.version {
		do(q.sub)
	}
}

// resolveCommitted looks committed offsets up; true: some are to be tried again.
func (k *Consumer) resolveCommitted(ctx context.Context, qs []question) (again bool) {
	if len(qs) == 0 {
		return false
	}
	parts := make([]TopicPartition, len(qs))
	byPart := make(map[TopicPartition]question, len(qs))
	for i, q := range qs {
		parts[i], byPart[q.sub.tp] = q.sub.tp, q
	}
	sortPartitions(parts)
	offsets, err := k.c.fetchOffsets(ctx, k.cfg.group, parts)
	if err != nil {
		k.complain(ctx, err)
		return true
	}
	for _, o := range offsets {
		q, ok := byPart[o.TopicPartition]
		if !ok {
			continue
		}
		if o.Err != nil {
			again = true
			k.complain(ctx, o.Err)
			continue
		}
		k.solve(q, func(s *subscription) {
			s.askCommitted = false
			if o.Offset >= 0 {
				s.committed = o.Offset
				epoch := o.LeaderEpoch
				if epoch == 0 { // of a client that has left the field out
					epoch = -1
				}
				s.begin(o.Offset, epoch)
			}
		})
		delete(byPart, o.TopicPartition)
	}
	return again || len(byPart) > 0
}

// complain hands errors on that waiting will not cure.
func (k *Consumer) complain(ctx context.Context, err error) {
	if ctx.Err() != nil || IsRetriable(err) && !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	k.report(err)
}

// resolveOthers looks offsets up in the logs; true: some are to be tried again.
func (k *Consumer) resolveOthers(ctx context.Context, qs []question) (again bool) {
	byWant := map[Offset][]question{}
	for _, q := range qs {
		if q.want.kind == offsetExact {
			k.solve(q, func(s *subscription) { s.begin(q.want.value, q.want.epoch) })
			continue
		}
		if q.want.kind == offsetNone {
			k.solve(q, func(s *subscription) { s.failed = true })
			k.report(&Error{
				Code: CodeOffsetOutOfRange, Message: "the group has committed nothing, and the consumer is to start nowhere else (NoStart)",
				Topic: q.sub.tp.Topic, Partition: q.sub.tp.Partition,
			})
			continue
		}
		byWant[q.want] = append(byWant[q.want], q)
	}
	for want, group := range byWant {
		again = k.lookUp(ctx, want, group) || again
	}
	return again
}

func (k *Consumer) lookUp(ctx context.Context, want Offset, qs []question) (again bool) {
	found := make([]FoundOffset, len(qs))
	todo := make([]int, len(qs))
	for i, q := range qs {
		found[i].TopicPartition, todo[i] = q.sub.tp, i
	}
	k.c.listOffsets(ctx, want, found, todo)
	for i, q := range qs {
		f := found[i]
		switch {
		case f.Err != nil:
			again = true
			k.notFound(ctx, q, f.Err)
		case f.Offset < 0 && want.kind == offsetTime:
			k.solve(q, func(s *subscription) { s.want = Latest() })
			again = true
		default:
			k.solve(q, func(s *subscription) { s.begin(f.Offset, -1) })
		}
	}
	return again
}

// notFound notes that a look-up failed, and gives up for the errors that stay.
func (k *Consumer) notFound(ctx context.Context, q question, err error) {
	if ctx.Err() != nil {
		return
	}
	fatal := !IsRetriable(err)
	k.solve(q, func(s *subscription) {
		if s.unknown.IsZero() {
			s.unknown = time.Now()
		}
		missing := k.c.meta.snapshot().topics[s.tp.Topic]
		gone := missing == nil || int(s.tp.Partition) >= len(missing.parts)
		if gone && time.Since(s.unknown) > k.c.cfg.unknownWait {
			fatal = true
			if missing != nil {
				err = unknownPartition(s.tp, len(missing.parts))
			} else {
				err = unknownTopic(s.tp.Topic)
			}
		}
		s.failed = s.failed || fatal
	})
	if fatal {
		k.report(err)
	}
}
