package broker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

const defaultProduceTimeout = 30 * time.Second

// Produce appends what req holds, each partition in the order of the calls, and
// returns without waiting for any disk or replica. It takes over the references
// to the batches. When too much is in flight or the arena is full it first waits
// at the door, as long as ctx and the request's timeout allow, and refuses with
// CodeOverloaded then.
func (b *Broker) Produce(ctx context.Context, req *api.ProduceRequest) *api.Pending {
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = defaultProduceTimeout
	}
	deadline := b.cfg.Now().Add(timeout)
	bytes, held := int64(0), int64(0)
	for i := range req.Partitions {
		for _, buf := range req.Partitions[i].Batches {
			bytes += int64(buf.Len())
			held += buf.Footprint()
		}
	}
	if !b.admission.enter(ctx, held, timeout) {
		p := api.NewPending(req, deadline)
		b.refuseAll(p, req, api.Errorf(api.CodeOverloaded, "the broker's memory for batches is full (%d of %d bytes); nothing was appended", b.cfg.Arena.InUse(), b.cfg.Arena.Limit()))
		return p
	}
	p := api.NewPending(req, deadline)
	b.metrics.produceBytes.Add(float64(bytes))
	for i := range req.Partitions {
		b.produceOne(p, i, req, deadline)
	}
	b.admission.release(held) // what was appended counts as unwritten now
	return p
}

func (b *Broker) refuseAll(p *api.Pending, req *api.ProduceRequest, e *api.Error) {
	for i := range req.Partitions {
		pp := &req.Partitions[i]
		releaseAll(pp.Batches)
		p.Settle(i, e.At(pp.Topic, pp.Partition))
	}
}

// produceOne validates and appends the batches of one partition, and settles it
// or leaves that to the state machine.
func (b *Broker) produceOne(p *api.Pending, i int, req *api.ProduceRequest, deadline time.Time) {
	pp := &req.Partitions[i]
	defer releaseAll(pp.Batches)
	l, err := b.serving(&pp.PartitionRef)
	if err == nil {
		err = b.checkBatches(l, pp.Batches)
	}
	if err != nil {
		p.Settle(i, err)
		return
	}
	l.append(p, i, pp, record.UnknownEpoch, req.Acks, deadline)
}

// checkBatches is the door: nothing gets into a log that this has not seen.
func (b *Broker) checkBatches(l *localReplica, batches []*record.Buf) *api.Error {
	if l.internal {
		return api.Errorf(api.CodeInvalidTopic, "the topic is internal: only brokers write it").At(l.topic, l.partition)
	}
	if len(batches) == 0 {
		return api.Errorf(api.CodeInvalidArgument, "the entry holds no batch").At(l.topic, l.partition)
	}
	limits := l.limits(b.cfg.Now().UnixMilli())
	for i, buf := range batches {
		if _, err := record.Validate(buf.Bytes(), limits); err != nil {
			if len(batches) > 1 {
				err = fmt.Errorf("batch %d of %d: %w", i, len(batches), err)
			}
			return batchError(err).At(l.topic, l.partition)
		}
	}
	return nil
}

// limits are what the door accepts now.
func (l *localReplica) limits(nowMS int64) record.Limits {
	lim := record.Limits{MaxBatchBytes: int(l.maxMessageBytes.Load()), Keys: l.compacted.Load()}
	if before := l.timestampBefore.Load(); before < nowMS {
		lim.MinTimestamp = nowMS - before
	}
	if after := l.timestampAfter.Load(); after < math.MaxInt64-nowMS {
		lim.MaxTimestamp = max(nowMS+after, 1)
	}
	return lim
}

// append admits, appends and registers the waiter under one hold of mu, so that
// no change of leader comes between. An epoch other than -1 is the only one in
// which it appends. It reports whether the log took the batches, or had them.
func (l *localReplica) append(p *api.Pending, i int, pp *api.ProducePartition, epoch record.Epoch, acks api.Acks, deadline time.Time) (taken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || epoch != record.UnknownEpoch && epoch != l.state.Epoch() {
		p.Settle(i, l.outcome(partition.OutcomeNotLeader))
		return false
	}
	l.noteLapse()
	if o := l.state.Admit(partition.Acks(acks)); o != partition.OutcomeOK {
		p.Settle(i, l.outcome(o))
		return false
	}
	now := l.b.cfg.Now()
	l.b.traffic.Note(now)
	nowMS := now.UnixMilli()
	first, next, err := l.log.Append(l.state.Epoch(), pp.Batches, nowMS)
	dup, isDup := errors.AsType[*commitlog.DuplicateError](err)
	if err != nil && !isDup {
		// A producer that is not known begins anew when it learns that its records may be
		// below the log's start, and sends the same again for ever when it is not told.
		p.Appended(i, api.ProduceResult{PartitionRef: pp.PartitionRef, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: l.log.Start()})
		p.Settle(i, l.appendError(err))
		if errors.Is(err, commitlog.ErrDamaged) || errors.Is(err, commitlog.ErrFailed) {
			l.step(l.refusal()) // A log that takes nothing must not lead.
		}
		return false
	}
	if isDup {
		first, next = dup.First, dup.Next
	}
	result := api.ProduceResult{PartitionRef: pp.PartitionRef, BaseOffset: first, LogAppendTime: -1, LogStartOffset: l.log.Start()}
	if l.logConfig.LogAppendTime && !isDup {
		result.LogAppendTime = nowMS
	}
	p.Appended(i, result)
	handle := uint64(0)
	if acks != api.AcksNone {
		handle = l.addWaiter(waiter{pending: p, index: i})
	}
	if isDup {
		l.step(partition.Wait(next, partition.Acks(acks), handle, deadline))
	} else {
		l.step(partition.Appended(first, next, partition.Acks(acks), handle, deadline))
	}
	if acks == api.AcksNone {
		p.Settle(i, nil)
	}
	return true
}

// appendError maps a refusal of the log. The caller holds mu.
func (l *localReplica) appendError(err error) *api.Error {
	code := api.CodeUnknown
	switch {
	case errors.Is(err, commitlog.ErrFailed), errors.Is(err, commitlog.ErrDamaged):
		code = api.CodeStorageFailed
	case errors.Is(err, commitlog.ErrDiskFull):
		code = api.CodeDiskFull
	case errors.Is(err, commitlog.ErrOutOfOrderSequence):
		code = api.CodeOutOfOrderSequence
	case errors.Is(err, commitlog.ErrProducerFenced):
		code = api.CodeInvalidProducerEpoch
	case errors.Is(err, commitlog.ErrUnknownProducer):
		code = api.CodeUnknownProducerID
	case errors.Is(err, commitlog.ErrInvalidBatch):
		code = api.CodeInvalidRecord
	case errors.Is(err, commitlog.ErrBusy), errors.Is(err, commitlog.ErrClosed), errors.Is(err, commitlog.ErrStaleEpoch):
		code = api.CodeNotLeader
	}
	if code == api.CodeDiskFull {
		return api.Errorf(code, "nothing was appended: %w", err).At(l.topic, l.partition)
	}
	return api.Errorf(code, "%w", err).At(l.topic, l.partition)
}

func releaseAll(bufs []*record.Buf) {
	for _, b := range bufs {
		b.Release()
	}
}
