package client

import (
	"context"
	"time"
)

// Commit stores the position of every partition: what Poll returned, and what
// Records yielded, the record in hand included, counts as done.
func (k *Consumer) Commit(ctx context.Context) error {
	return k.commitPositions(ctx, func(s *subscription) int64 { return s.taken.Load() }, nil)
}

// CommitRecords stores the offsets after the given records: per partition, after
// the last of them.
func (k *Consumer) CommitRecords(ctx context.Context, records ...*Record) error {
	if k.cfg.group == "" {
		return ErrNoGroup
	}
	done, err := k.commitTurn(ctx)
	if err != nil {
		return err
	}
	defer done()
	newest := map[TopicPartition]*Record{}
	for _, r := range records {
		tp := TopicPartition{r.Topic, r.Partition}
		if n := newest[tp]; n == nil || n.Offset < r.Offset {
			newest[tp] = r
		}
	}
	offsets := make([]CommittedOffset, 0, len(newest))
	for tp, r := range newest {
		offsets = append(offsets, CommittedOffset{TopicPartition: tp, Offset: r.Offset + 1, LeaderEpoch: r.LeaderEpoch})
	}
	return k.commit(ctx, offsets)
}

// Committed returns what the group has committed, of parts or of all partitions
// that have an offset.
func (k *Consumer) Committed(ctx context.Context, parts ...TopicPartition) ([]CommittedOffset, error) {
	if k.cfg.group == "" {
		return nil, ErrNoGroup
	}
	return k.c.fetchOffsets(ctx, k.cfg.group, parts)
}

// commitMoved commits what the application moved past, in subs or, when nil, in all
// partitions.
func (k *Consumer) commitMoved(ctx context.Context, subs []*subscription) error {
	return k.commitPositions(ctx, func(s *subscription) int64 { return s.moved.Load() }, subs)
}

// commitPositions commits where position differs from what was committed last.
func (k *Consumer) commitPositions(ctx context.Context, position func(*subscription) int64, subs []*subscription) error {
	if k.cfg.group == "" {
		return ErrNoGroup
	}
	done, err := k.commitTurn(ctx)
	if err != nil {
		return err
	}
	defer done()
	var offsets []CommittedOffset
	k.mu.Lock()
	if subs == nil {
		for _, s := range k.parts {
			subs = append(subs, s)
		}
	}
	for _, s := range subs {
		if at := position(s); at >= 0 && at != s.committed {
			offsets = append(offsets, CommittedOffset{TopicPartition: s.tp, Offset: at, LeaderEpoch: s.epoch.Load()})
		}
	}
	k.mu.Unlock()
	return k.commit(ctx, offsets)
}

// commitTurn waits until no other commit is under way: one that overtook another
// would take a committed offset back.
func (k *Consumer) commitTurn(ctx context.Context) (done func(), err error) {
	select {
	case k.committing <- struct{}{}:
		return func() { <-k.committing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// commit stores offsets and remembers them.
func (k *Consumer) commit(ctx context.Context, offsets []CommittedOffset) error {
	if len(offsets) == 0 {
		return nil
	}
	var err error
	if k.member != nil {
		err = k.member.commit(ctx, offsets)
	} else {
		err = k.c.commitOffsets(ctx, k.cfg.group, "", 0, offsets)
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range offsets {
		if s := k.parts[offsets[i].TopicPartition]; s != nil {
			s.committed = offsets[i].Offset
			// What the application committed by itself it has moved past, or else auto
			// commit would take it back.
			if moved := s.moved.Load(); moved >= 0 && moved < s.committed {
				s.moved.CompareAndSwap(moved, s.committed)
			}
		}
	}
	return nil
}

// commitNowAndThen is auto commit. What fails is tried again at the next turn.
func (k *Consumer) commitNowAndThen(ctx context.Context) {
	tick := time.NewTicker(k.cfg.autoCommit)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := k.commitMoved(ctx, nil); err != nil && ctx.Err() == nil {
			k.c.cfg.logger.Warn("auto commit failed", "group", k.cfg.group, "error", err)
		}
	}
}
