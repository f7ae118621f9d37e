package load

import (
	"context"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/check"
)

const (
	watchEvery = 250 * time.Millisecond
	watchWait  = 3 * time.Second
)

// watch calls f again and again, with a client that is replaced when it fails.
func (l *Load) watch(ctx context.Context, f func(context.Context, *client.Admin) error) {
	l.repeat(ctx, watchEvery, watchWait, f)
}

func (l *Load) repeat(ctx context.Context, every, wait time.Duration, f func(context.Context, *client.Admin) error) {
	for ctx.Err() == nil {
		c, err := l.client()
		for err == nil && pause(ctx, every) {
			asking, cancel := context.WithTimeout(ctx, wait)
			err = f(asking, c.Admin())
			cancel()
		}
		l.note("watcher", err)
		if c != nil {
			l.note("client", c.Close())
		}
		pause(ctx, watchEvery)
	}
}

// watchBounds asks each leader where its log begins and ends.
func (l *Load) watchBounds(ctx context.Context) {
	proc := l.rec.Process()
	l.watch(ctx, func(ctx context.Context, a *client.Admin) error {
		proc.Append(check.Op{Type: check.Invoke, F: check.FOffsets})
		starts, err := a.ListOffsets(ctx, client.Earliest(), l.parts...)
		var ends []client.FoundOffset
		if err == nil {
			ends, err = a.ListOffsets(ctx, client.Latest(), l.parts...)
		}
		if err != nil {
			proc.Append(check.Op{Type: check.Info, F: check.FOffsets, Error: err.Error()})
			return err
		}
		op := check.Op{Type: check.OK, F: check.FOffsets}
		for i := range ends {
			key := keyOf(ends[i].TopicPartition)
			if starts[i].Err == nil {
				op.Parts = append(op.Parts, check.Part{Key: key, Bounds: startAt(starts[i])})
				l.retained(starts[i].TopicPartition, starts[i].Offset)
			}
			if ends[i].Err == nil {
				b := &check.Bounds{LogStart: -1, HighWatermark: ends[i].Offset, LeaderEpoch: ends[i].LeaderEpoch}
				op.Parts = append(op.Parts, check.Part{Key: key, Bounds: b})
			}
		}
		proc.Append(op)
		return nil
	})
}

// startAt is where a leader says that its log begins.
func startAt(found client.FoundOffset) *check.Bounds {
	return &check.Bounds{LogStart: found.Offset, HighWatermark: -1, LeaderEpoch: found.LeaderEpoch}
}

// watchCommitted asks the coordinator what the group has committed.
func (l *Load) watchCommitted(ctx context.Context) {
	proc := l.rec.Process()
	l.watch(ctx, func(ctx context.Context, a *client.Admin) error {
		proc.Append(check.Op{Type: check.Invoke, F: check.FCommitted, Group: Group})
		found, err := a.CommittedOffsets(ctx, Group, l.parts...)
		if err != nil {
			proc.Append(check.Op{Type: check.Info, F: check.FCommitted, Group: Group, Error: err.Error()})
			return err
		}
		op := check.Op{Type: check.OK, F: check.FCommitted, Group: Group}
		for _, at := range found {
			if at.Err == nil {
				op.Keys = append(op.Keys, check.Position{Key: keyOf(at.TopicPartition), Offset: at.Offset})
			}
		}
		proc.Append(op)
		return nil
	})
}
