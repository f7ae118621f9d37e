package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

const (
	defaultDeleteTimeout = 30 * time.Second
	// trimmers is how many log starts are moved at once: each waits for the disk,
	// and those that wait together share the write of a checkpoint.
	trimmers = 16
)

// DeleteRecords lets partitions that are led here begin at a later offset, and
// returns when every replica that may lead has done so too, each durably, or the
// time is up. The results are in the order of the request.
func (b *Broker) DeleteRecords(ctx context.Context, req *api.DeleteRecords) ([]api.DeletedRecords, error) {
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = defaultDeleteTimeout
	}
	deadline := b.cfg.Now().Add(timeout)
	results := make([]api.DeletedRecords, len(req.Partitions))
	waits := make([]*trimWait, len(req.Partitions))
	slots := make(chan struct{}, trimmers)
	var wg sync.WaitGroup
	for i := range req.Partitions {
		p := &req.Partitions[i]
		results[i] = api.DeletedRecords{PartitionRef: p.PartitionRef, LowWatermark: record.UnknownOffset}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			waits[i], results[i].Err = b.beginTrim(p, deadline)
		})
	}
	wg.Wait()
	for i, w := range waits {
		if w == nil {
			continue
		}
		select {
		case o := <-w.outcome:
			results[i].LowWatermark, results[i].Err = w.result(o)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return results, nil
}

// beginTrim deletes here and asks the state machine to tell when it is done
// everywhere.
func (b *Broker) beginTrim(p *api.DeletePartition, deadline time.Time) (*trimWait, *api.Error) {
	l, err := b.serving(&p.PartitionRef)
	switch {
	case err != nil:
		return nil, err
	case l.internal:
		return nil, api.Errorf(api.CodeInvalidTopic, "the topic is internal: the brokers remove its records").At(l.topic, l.partition)
	case p.Before < record.UnknownOffset:
		return nil, api.Errorf(api.CodeInvalidArgument, "the offset is %d, want 0 or more, or -1 for the high watermark", p.Before).At(l.topic, l.partition)
	}
	if t := b.cfg.Images.Image().TopicByID(metadata.ID(l.key.Topic)); t != nil && t.Settings().Compact && !t.Settings().Delete {
		return nil, api.Errorf(api.CodePolicyViolation,
			"the topic is compacted (cleanup.policy=compact): the newest record of a key goes by a tombstone, or with cleanup.policy=compact,delete").At(l.topic, l.partition)
	}
	return l.trim(p.Before, deadline)
}

// trimWait is a request to delete records that waits for the other replicas.
type trimWait struct {
	l       *localReplica
	before  record.Offset
	outcome chan partition.Outcome // of capacity one
}

func (w *trimWait) result(o partition.Outcome) (record.Offset, *api.Error) {
	l := w.l
	switch o {
	case partition.OutcomeOK:
		l.mu.Lock()
		defer l.mu.Unlock()
		return max(w.before, l.state.LowWatermark()), nil
	case partition.OutcomeTimedOut:
		return record.UnknownOffset, api.Errorf(api.CodeRequestTimedOut,
			"the log of the leader begins at offset %d now, but not that of every in-sync replica in time", l.log.Start()).At(l.topic, l.partition)
	default:
		l.mu.Lock()
		defer l.mu.Unlock()
		return record.UnknownOffset, l.outcome(o)
	}
}

// trim lets the log begin at before, durably. What it deletes is below the high
// watermark, so it does no harm that leadership may end meanwhile.
func (l *localReplica) trim(before record.Offset, deadline time.Time) (*trimWait, *api.Error) {
	l.mu.Lock()
	before, o := l.state.AdmitTrim(before)
	hw := l.state.HighWatermark()
	if l.closed {
		o = partition.OutcomeNotLeader
	}
	refusal := l.outcome(o)
	l.mu.Unlock()
	switch {
	case o == partition.OutcomeOffsetOutOfRange:
		return nil, api.Errorf(api.CodeOffsetOutOfRange, "offset %d is past the high watermark %d: the log holds [%d, %d)",
			before, hw, l.log.Start(), hw).At(l.topic, l.partition)
	case refusal != nil:
		return nil, refusal
	}
	if err := l.log.AdvanceStart(before); err != nil {
		return nil, l.trimError(err)
	}
	w := &trimWait{l, before, make(chan partition.Outcome, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, l.outcome(partition.OutcomeNotLeader)
	}
	l.logStarted()
	l.step(partition.Trim(before, l.addWaiter(waiter{trim: w.outcome}), deadline))
	return w, nil
}

// trimError maps why the log could not begin later. The caller does not hold mu.
func (l *localReplica) trimError(err error) *api.Error {
	if errors.Is(err, commitlog.ErrOffsetOutOfRange) {
		err = errors.Join(commitlog.ErrBusy, err) // It was truncated meanwhile: another leads.
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, commitlog.ErrFailed) {
		l.step(partition.LogFailed())
	}
	return l.appendError(err)
}

// logStarted tells the state machine and the followers where the log begins by
// now. The caller holds mu.
func (l *localReplica) logStarted() {
	l.step(partition.LogStart(l.log.Start()))
	l.wakeSessions()
}
