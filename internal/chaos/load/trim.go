package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

// Logs begin later while everything else goes on. Of the strict topic records are
// deleted once every reader and the group have passed them, so that the checker
// misses them like any others (Options.ReadFirst). The weak topic has retention by
// size, and now and then everything in a partition of it is deleted, read or not.
const (
	// trimmers share the partitions: a deletion waits for every replica that is in sync, and
	// one that sleeps must not hold up all of them.
	trimmers  = 3
	trimEvery = 600 * time.Millisecond
	trimWait  = 4 * time.Second // for the answer to one deletion
	// wipeOne of so many deletions of a trimmer is of all there is in a partition of the
	// weak topic.
	wipeOne = 8
)

// weakConfigs makes retention remove segments of the weak topic every few seconds.
func weakConfigs() map[string]string {
	return map[string]string{"segment.bytes": "16384", "retention.bytes": "65536"}
}

// strictConfigs makes deletions remove segments of the strict topic, too.
func strictConfigs() map[string]string { return map[string]string{"segment.bytes": "262144"} }

// Judged says what the checker must know of the load's history.
func Judged() check.Options {
	return check.Options{Retained: []string{Weak}, ReadFirst: true, Stale: staleness}
}

// staleness is longer than a leader that was replaced is held asleep or cut off, by the
// storm, and the time that it then needs to notice (docs/RELIABILITY.md).
const staleness = 15 * time.Second

// passed is how far each reader has read.
type passed struct {
	mu sync.Mutex
	by []map[client.TopicPartition]int64 // guarded by mu; one a reader
}

func newPassed(readers int) *passed {
	return &passed{by: make([]map[client.TopicPartition]int64, readers)}
}

// note takes where a reader stands.
func (p *passed) note(reader int, next map[client.TopicPartition]place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by[reader] == nil {
		p.by[reader] = map[client.TopicPartition]int64{}
	}
	for tp, at := range next {
		p.by[reader][tp] = at.offset
	}
}

// all is the offset below which every reader has read a partition.
func (p *passed) all(tp client.TopicPartition) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	least := p.by[0][tp]
	for _, positions := range p.by[1:] {
		least = min(least, positions[tp])
	}
	return least
}

// trim deletes records of some partitions, one after the other.
func (l *Load) trim(ctx context.Context, number int) {
	proc := l.rec.Process()
	turn := 0
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1)) //nolint:gosec // what is deleted is in the history
	l.repeat(ctx, trimEvery, trimWait, func(ctx context.Context, a *client.Admin) error {
		turn++
		tp := client.TopicPartition{Topic: Strict, Partition: int32(turn*trimmers+number) % l.o.Partitions}
		before := int64(0)
		var err error
		if turn%wipeOne == 0 {
			tp.Topic, tp.Partition = Weak, int32(turn/wipeOne*trimmers+number)%l.o.Partitions
			var end client.FoundOffset
			end, err = lookUp(ctx, a, client.Latest(), tp)
			before = end.Offset
		} else if before, err = l.consumed(ctx, a, tp); before > 0 {
			before -= l.kept(tp.Partition) + rng.Int64N(min(before, 100)) // in the midst of a batch, often
		}
		if err != nil || before <= 0 {
			return err
		}
		return l.deleteRecords(ctx, a, proc, tp, before)
	})
}

// kept is how many records of a partition are left to those who are behind: of the
// first none, of the last the most, so that logs of all lengths are recovered and
// copied.
func (l *Load) kept(partition int32) int64 {
	return int64(float64(partition) * l.o.Life.Seconds() / 4 * float64(l.o.Rate) / float64(l.o.Partitions))
}

// consumed is the offset below which all readers and the group are done.
func (l *Load) consumed(ctx context.Context, a *client.Admin, tp client.TopicPartition) (int64, error) {
	before := l.passed.all(tp)
	if before <= 0 {
		return 0, nil
	}
	committed, err := a.CommittedOffsets(ctx, Group, tp)
	if err != nil {
		return 0, err
	}
	if committed[0].Err != nil {
		return 0, committed[0].Err
	}
	return min(before, committed[0].Offset), nil
}

func (l *Load) deleteRecords(ctx context.Context, a *client.Admin, proc *record.Process, tp client.TopicPartition, before int64) error {
	op := check.Op{Type: check.Invoke, F: check.FTrim, Keys: []check.Position{{Key: keyOf(tp), Offset: before}}}
	proc.Append(op)
	deleted, err := a.DeleteRecords(ctx, client.At(before), tp)
	if err == nil {
		err = deleted[0].Err
	}
	if err != nil {
		// Whatever it was told, some attempt may have been carried out.
		proc.Append(check.Op{Type: check.Info, F: check.FTrim, Error: err.Error()})
		l.note("delete records", err)
		return err
	}
	op.Type, op.Keys = check.OK, []check.Position{{Key: keyOf(tp), Offset: deleted[0].LowWatermark}}
	proc.Append(op)
	l.mu.Lock()
	l.deletions++
	l.deleted += max(0, deleted[0].LowWatermark-l.starts[tp])
	l.starts[tp] = max(l.starts[tp], deleted[0].LowWatermark)
	l.mu.Unlock()
	return nil
}

// lookUp is one offset of a partition.
func lookUp(ctx context.Context, a *client.Admin, where client.Offset, tp client.TopicPartition) (client.FoundOffset, error) {
	found, err := a.ListOffsets(ctx, where, tp)
	if err == nil {
		err = found[0].Err
	}
	if err != nil {
		return client.FoundOffset{}, err
	}
	return found[0], nil
}

// overtaken judges that a reader's position was out of range, which is right only when
// the log begins beyond it by now. It returns where reading goes on; ok is false when
// nobody could be asked.
func (l *Load) overtaken(ctx context.Context, c *client.Client, proc *record.Process, cause error, position func(client.TopicPartition) int64) (tp client.TopicPartition, start int64, ok bool) {
	refused, typed := errors.AsType[*client.Error](cause)
	if _, truncated := errors.AsType[*client.LogTruncatedError](cause); truncated || !typed {
		l.violate("poll: the log was truncated", cause)
		return tp, -1, false
	}
	tp = client.TopicPartition{Topic: refused.Topic, Partition: refused.Partition}
	at := position(tp)
	for {
		asking, cancel := context.WithTimeout(ctx, watchWait)
		proc.Append(check.Op{Type: check.Invoke, F: check.FOffsets})
		found, err := lookUp(asking, c.Admin(), client.Earliest(), tp)
		cancel()
		if err == nil {
			proc.Append(check.Op{Type: check.OK, F: check.FOffsets, Parts: []check.Part{{Key: keyOf(tp), Bounds: startAt(found)}}})
			start := found.Offset
			if start <= max(at, 0) {
				l.violate("poll: out of range", fmt.Errorf("%w: the position is %d, and the log starts at %d", cause, at, start))
			}
			l.mu.Lock()
			l.errors["poll: overtaken by a deletion"]++
			l.mu.Unlock()
			return tp, max(start, at), true
		}
		proc.Append(check.Op{Type: check.Info, F: check.FOffsets, Error: err.Error()})
		if !pause(ctx, watchEvery) {
			return tp, -1, false
		}
	}
}

// retained notes that a log begins beyond what was deleted.
func (l *Load) retained(tp client.TopicPartition, start int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tp.Topic == Weak && start > l.starts[tp] {
		l.retentions++
		l.starts[tp] = start
	}
}

// Retentions counts the times that a log was seen to begin later by retention.
func (l *Load) Retentions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retentions
}

// Deleted counts the deletions that were acknowledged, and the records that went by them.
func (l *Load) Deleted() (deletions int, records int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deletions, l.deleted
}
