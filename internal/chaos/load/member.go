package load

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

// member reads as part of the group, over many clients.
type member struct {
	l      *Load
	number int
	lives  int
}

const (
	groupSession   = 6 * time.Second
	groupRebalance = 20 * time.Second
	commitWait     = 2 * time.Second // shorter than the session: who is told to give up answers in time
)

func (m *member) run(ctx context.Context) {
	for ctx.Err() == nil {
		m.l.note("member", m.live(ctx))
		m.lives++
		pause(ctx, 100*time.Millisecond)
	}
}

// membership is one client's part in the group.
type membership struct {
	l       *Load
	proc    *record.Process
	closing atomic.Bool // partitions are given up because the consumer closes
	next    map[client.TopicPartition]place
}

func (m *member) live(ctx context.Context) error {
	c, err := m.l.client()
	if err != nil {
		return err
	}
	s := &membership{l: m.l, proc: m.l.rec.Process(), next: map[client.TopicPartition]place{}}
	s.proc.Append(check.Op{Type: check.OK, F: check.FSubscribe, Topics: []string{Strict, Weak}})
	k, err := c.NewConsumer(client.WithGroup(Group), client.WithTopics(Strict, Weak), client.WithManualCommit(), client.WithReset(client.ResetError),
		client.WithSessionTimeout(groupSession), client.WithRebalanceTimeout(groupRebalance),
		client.OnAssigned(s.assigned), client.OnRevoked(s.revoked), client.OnLost(s.lost))
	if err != nil {
		return errors.Join(err, c.Close())
	}
	until := time.Now().Add(m.l.o.Life + time.Duration(m.number)*m.l.o.Life/3)
	for ctx.Err() == nil && time.Now().Before(until) {
		clear(s.next)
		if err := poll(ctx, m.l, s.proc, k, s.next); err == nil {
			s.commit(ctx, k)
		} else if client.CodeOf(err) == client.CodeOffsetOutOfRange && !s.skip(ctx, c, k, err) {
			break
		}
	}
	s.closing.Store(true)
	if m.lives%2 == 1 && ctx.Err() == nil {
		// It dies without a word; its session ends by itself.
		err = c.Close()
		s.proc.Append(check.Op{Type: check.OK, F: check.FCrash})
		return err
	}
	closing, cancel := context.WithTimeout(context.Background(), commitWait)
	defer cancel()
	err = k.Close(closing)
	s.proc.Append(check.Op{Type: check.OK, F: check.FCrash})
	return errors.Join(err, c.Close())
}

// skip goes on where a log begins that has overtaken the member. Of the strict topic
// nothing is deleted that the group has not committed: the partition is another's by
// now, and the member needs a new life.
func (s *membership) skip(ctx context.Context, c *client.Client, k *client.Consumer, cause error) bool {
	tp, start, ok := s.l.overtaken(ctx, c, s.proc, cause, func(tp client.TopicPartition) int64 {
		at, _ := k.Position(tp)
		return at
	})
	if !ok || tp.Topic == Strict {
		return false
	}
	s.l.note("seek", k.Seek(tp, client.At(start)))
	return true
}

// commit stores the place after what was read.
func (s *membership) commit(ctx context.Context, k *client.Consumer) {
	if len(s.next) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, commitWait)
	defer cancel()
	op := check.Op{Type: check.Invoke, F: check.FCommit, Group: Group}
	op.Member, op.Epoch = k.Membership()
	records := make([]*client.Record, 0, len(s.next))
	for tp, next := range s.next {
		op.Keys = append(op.Keys, check.Position{Key: keyOf(tp), Offset: next.offset})
		records = append(records, &client.Record{Topic: tp.Topic, Partition: tp.Partition, Offset: next.offset - 1, LeaderEpoch: next.epoch})
	}
	s.proc.Append(op)
	op.Type = check.OK
	if err := k.CommitRecords(ctx, records...); err != nil {
		// An attempt before the last may have been taken.
		op.Type, op.Error = check.Info, err.Error()
		s.l.note("commit", err)
	}
	s.proc.Append(op)
}

// assigned looks the committed offsets up first: the owner alone may move them.
func (s *membership) assigned(k *client.Consumer, parts []client.TopicPartition) {
	op := check.Op{Type: check.OK, F: check.FAssigned, Group: Group}
	op.Member, op.Epoch = k.Membership()
	ctx, cancel := context.WithTimeout(context.Background(), commitWait)
	defer cancel()
	from := map[client.TopicPartition]int64{}
	found, err := k.Committed(ctx, parts...)
	s.l.note("committed", err)
	for _, f := range found {
		if f.Err == nil {
			from[f.TopicPartition] = f.Offset
		}
	}
	for _, tp := range parts {
		at := check.Position{Key: keyOf(tp), Offset: -1}
		if offset, ok := from[tp]; ok && err == nil {
			at.Offset = offset
		}
		op.Keys = append(op.Keys, at)
	}
	s.proc.Append(op)
}

func (s *membership) revoked(k *client.Consumer, parts []client.TopicPartition) {
	if s.closing.Load() {
		s.lost(k, parts)
		return
	}
	s.release(check.FRevoked, k, parts)
}

func (s *membership) lost(k *client.Consumer, parts []client.TopicPartition) {
	s.release(check.FLost, k, parts)
}

func (s *membership) release(f check.F, k *client.Consumer, parts []client.TopicPartition) {
	op := check.Op{Type: check.OK, F: f, Group: Group}
	op.Member, op.Epoch = k.Membership()
	for _, tp := range parts {
		op.Keys = append(op.Keys, check.Position{Key: keyOf(tp), Offset: -1})
	}
	s.proc.Append(op)
}
