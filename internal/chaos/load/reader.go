package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

// pollWait bounds one poll, so that everything else of a client gets its turn.
const pollWait = 300 * time.Millisecond

// reader reads all partitions by itself, over many clients, each of which goes on
// where the one before it was.
type reader struct {
	l      *Load
	number int
	life   time.Duration
	final  bool
	proc   *record.Process
	next   map[client.TopicPartition]place
}

// place is where reading goes on: the next offset, and the leader epoch of the record
// before it, -1 when there is none.
type place struct {
	offset int64
	epoch  int32
}

func (r *reader) run(ctx context.Context) {
	r.begin()
	for ctx.Err() == nil {
		r.l.note("reader", r.live(ctx, func() bool { return false }))
		pause(ctx, 100*time.Millisecond)
	}
}

func (r *reader) begin() {
	r.proc = r.l.rec.Process()
	r.next = map[client.TopicPartition]place{}
	for _, tp := range r.l.parts {
		r.next[tp] = place{0, -1}
	}
}

// live is the life of one client: until its time is over, or done says so.
func (r *reader) live(ctx context.Context, done func() bool) error {
	c, err := r.l.client()
	if err != nil {
		return err
	}
	defer func() { r.l.note("client", c.Close()) }()
	r.proc.Append(check.Op{Type: check.OK, F: check.FCrash})
	keys := make([]check.Position, 0, len(r.l.parts))
	for _, tp := range r.l.parts {
		keys = append(keys, check.Position{Key: keyOf(tp), Offset: r.next[tp].offset})
	}
	r.proc.Append(check.Op{Type: check.OK, F: check.FAssign, Final: r.final, Keys: keys})
	k, err := c.NewConsumer(client.WithPartitions(r.l.parts...), client.WithReset(client.ResetError), client.OnAssigned(r.seek))
	if err != nil {
		return err
	}
	until := time.Now().Add(r.life)
	for ctx.Err() == nil && !done() && (r.final || time.Now().Before(until)) {
		err := poll(ctx, r.l, r.proc, k, r.next)
		if !r.final {
			r.l.passed.note(r.number, r.next)
		}
		if client.CodeOf(err) == client.CodeOffsetOutOfRange {
			r.skip(ctx, c, err)
			break // only a new client, or Seek, reads on
		}
	}
	closing, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return k.Close(closing)
}

// skip lets the reader go on where a log begins that has overtaken it.
func (r *reader) skip(ctx context.Context, c *client.Client, cause error) {
	tp, start, ok := r.l.overtaken(ctx, c, r.proc, cause, func(tp client.TopicPartition) int64 { return r.next[tp].offset })
	if ok {
		r.next[tp] = place{start, -1}
	}
}

func (r *reader) seek(k *client.Consumer, parts []client.TopicPartition) {
	for _, tp := range parts {
		r.l.note("seek", k.Seek(tp, client.AtEpoch(r.next[tp].offset, r.next[tp].epoch)))
	}
}

// poll polls once, writes down what came, and moves next past it.
func poll(ctx context.Context, l *Load, proc *record.Process, k *client.Consumer, next map[client.TopicPartition]place) error {
	ctx, cancel := context.WithTimeout(ctx, pollWait)
	defer cancel()
	proc.Append(check.Op{Type: check.Invoke, F: check.FPoll})
	polled, err := k.Poll(ctx)
	if err != nil {
		proc.Append(check.Op{Type: check.Info, F: check.FPoll, Error: err.Error()})
		l.note("poll", err)
		return err
	}
	op := check.Op{Type: check.OK, F: check.FPoll}
	for part := range polled.Partitions() {
		p := check.Part{Key: keyOf(part.TopicPartition), Bounds: &check.Bounds{LogStart: -1, HighWatermark: part.HighWatermark, LeaderEpoch: -1}}
		for r := range part.All() {
			p.Reads = append(p.Reads, check.Read{Offset: r.Offset, Value: record.ValueOf(r.Value)})
			next[part.TopicPartition] = place{r.Offset + 1, r.LeaderEpoch}
		}
		op.Parts = append(op.Parts, p)
	}
	proc.Append(op)
	l.note("decode", polled.Err())
	return nil
}

// Final is the final phase: new clients read everything from where the logs begin,
// until they are past every offset that anybody was told.
func (l *Load) Final(ctx context.Context) error {
	c, err := l.client()
	if err != nil {
		return err
	}
	defer func() { l.note("client", c.Close()) }()
	ends, err := c.Admin().ListOffsets(ctx, client.Latest(), l.parts...)
	if err != nil {
		return fmt.Errorf("final phase: ends of the logs: %w", err)
	}
	for _, e := range ends {
		if e.Err != nil {
			return fmt.Errorf("final phase: end of %s: %w", e.TopicPartition, e.Err)
		}
	}
	r := &reader{l: l, final: true}
	r.begin()
	if err := r.fromStart(ctx, c); err != nil {
		return err
	}
	behind := func() (open []error) {
		for _, e := range ends {
			if e.Topic == Strict {
				e.Offset = max(e.Offset, l.Outages.logEnd(e.Partition))
			}
			if r.next[e.TopicPartition].offset < e.Offset {
				open = append(open, fmt.Errorf("final phase: %s is read up to %d of %d", e.TopicPartition, r.next[e.TopicPartition].offset, e.Offset))
			}
		}
		return open
	}
	for ctx.Err() == nil && len(behind()) > 0 {
		if err := r.live(ctx, func() bool { return len(behind()) == 0 }); err != nil {
			l.note("final", err)
		}
	}
	if err := errors.Join(behind()...); err != nil {
		return err
	}
	return l.groupDone(ctx, c, ends)
}

// fromStart puts a reader where the logs begin.
func (r *reader) fromStart(ctx context.Context, c *client.Client) error {
	r.proc.Append(check.Op{Type: check.Invoke, F: check.FOffsets})
	starts, err := c.Admin().ListOffsets(ctx, client.Earliest(), r.l.parts...)
	op := check.Op{Type: check.OK, F: check.FOffsets}
	for _, s := range starts {
		err = errors.Join(err, s.Err)
		r.next[s.TopicPartition] = place{s.Offset, -1}
		op.Parts = append(op.Parts, check.Part{Key: keyOf(s.TopicPartition), Bounds: startAt(s)})
	}
	if err != nil {
		return fmt.Errorf("final phase: starts of the logs: %w", err)
	}
	r.proc.Append(op)
	return nil
}

// groupWait is how long the group may take after that. A member that died without a word
// keeps its partitions for a session.
const groupWait = 30 * time.Second

// groupDone waits until the group has consumed everything.
func (l *Load) groupDone(ctx context.Context, c *client.Client, ends []client.FoundOffset) error {
	ctx, cancel := context.WithTimeout(ctx, groupWait)
	defer cancel()
	behind := errors.New("it was not asked")
	for behind != nil && ctx.Err() == nil {
		committed, err := c.Admin().CommittedOffsets(ctx, Group, l.parts...)
		if err != nil {
			behind = err
			continue
		}
		at := map[client.TopicPartition]int64{}
		for _, o := range committed {
			at[o.TopicPartition] = o.Offset
		}
		behind = nil
		for _, e := range ends {
			if at[e.TopicPartition] < e.Offset {
				behind = fmt.Errorf("%s is committed up to %d of %d", e.TopicPartition, at[e.TopicPartition], e.Offset)
			}
		}
		if behind != nil {
			pause(ctx, 100*time.Millisecond)
		}
	}
	if behind != nil {
		return fmt.Errorf("final phase: the group does not go on: %w", behind)
	}
	return nil
}
