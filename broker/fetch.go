package broker

import (
	"context"
	"errors"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// Fetch returns whole batches below the high watermark. It waits up to MaxWait
// until MinBytes are there, and does not wait when a partition has an error,
// which the client should hear of; nor longer than until Ended is closed. It looks again
// only when a watermark moves or a partition changes hands. An error means that ctx
// ended.
func (b *Broker) Fetch(ctx context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	results, err := b.poll(ctx, req)
	got := 0
	for i := range results {
		got += results[i].Bytes()
	}
	b.metrics.fetchBytes.Add(float64(got))
	return results, err
}

func (b *Broker) poll(ctx context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	results := make([]api.FetchResult, len(req.Partitions))
	switch at := b.read(req, results, false); {
	case at.doubt:
		return b.settle(ctx, req, results)
	case at.done || req.MaxWait <= 0:
		return results, nil
	}
	p := newPoll()
	for i := range req.Partitions {
		// Not found means an error in the results, and no wait.
		if l := b.table.get(req.Partitions[i].PartitionRef); l != nil {
			l.readers.add(p)
			defer l.readers.remove(p)
		}
	}
	timer := time.NewTimer(req.MaxWait)
	defer timer.Stop()
	inLine := false
	for last := false; ; {
		// The first look after joining the readers closes the gap before it. While
		// it waits a fetch holds no memory.
		releaseResults(results)
		at := b.read(req, results, false)
		if at.doubt {
			return b.settle(ctx, req, results)
		}
		if at.done || last {
			return results, nil
		}
		if at.short && !inLine {
			inLine = true
			b.short.add(p)
			defer b.leaveLine(p)
			continue
		}
		releaseResults(results)
		select {
		case <-p.woken:
			if inLine {
				b.short.add(p)
			}
		case <-timer.C:
			last = true
		case <-req.Ended:
			last = true
		case <-b.stopping:
			last = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// leaveLine ends a wait for memory. There may be more for the next one.
func (b *Broker) leaveLine(p *poll) {
	b.short.remove(p)
	b.short.wake()
}

// look is what one look at the partitions of a fetch found.
type look struct {
	// done: it is an answer, for there are enough bytes or an error.
	done bool
	// short: there is more, but no memory for it; with anything at all that is an
	// answer too.
	short bool
	// doubt: a client would be sent elsewhere, and nobody was asked whether this broker
	// still leads.
	doubt bool
}

// read fills results with what is there now. asked: the metadata is as new as the
// request (settle).
func (b *Broker) read(req *api.FetchRequest, results []api.FetchResult, asked bool) (at look) {
	most := min(req.MaxBytes, b.maxAnswer())
	room, got, failed := most, 0, false
	for i := range req.Partitions {
		r := &results[i]
		short, doubt := b.readOne(r, &req.Partitions[i], reading{room: room, must: got == 0, files: req.Files, asked: asked})
		at.short, at.doubt = at.short || short, at.doubt || doubt
		failed = failed || r.Err != nil
		got += r.Bytes()
		room = most - got
	}
	at.done = failed || got >= min(req.MinBytes, most) || at.short && got > 0
	return at
}

// maxAnswer bounds what one client is sent at once: what it does not take stays
// in memory.
func (b *Broker) maxAnswer() int { return int(b.cfg.Arena.Limit() / 8) }

// reading is how a partition is read. Below a room of zero bytes that is done only when
// it must, so that the first batch gets through whatever its size. files: a range of a
// file will do. asked: as in read.
type reading struct {
	room               int
	must, files, asked bool
}

// readOne reads one partition into r, whose memory it uses again. short: there is no
// memory for what could be read. doubt: as in look.
func (b *Broker) readOne(r *api.FetchResult, fp *api.FetchPartition, how reading) (short, doubt bool) {
	*r = api.FetchResult{
		PartitionRef: fp.PartitionRef, HighWatermark: record.UnknownOffset, LogStartOffset: record.UnknownOffset,
		Batches: r.Batches[:0],
	}
	l, err := b.serving(&r.PartitionRef)
	if err != nil {
		r.Err = err
		return false, false
	}
	epoch := l.epoch()
	short = b.readFrom(l, r, fp, how)
	if r.Err == nil || r.Err.Code != api.CodeOffsetOutOfRange {
		return short, false
	}
	doubt, err = b.mayJudge(l, epoch, how.asked)
	if err != nil {
		r.Err, r.Diverging = err, nil
	}
	return short, doubt
}

// readFrom is readOne for a replica that leads as far as it knows.
func (b *Broker) readFrom(l *localReplica, r *api.FetchResult, fp *api.FetchPartition, how reading) (short bool) {
	if r.Err = b.mayRead(l, fp); r.Err != nil {
		return false
	}
	hw, start := l.watermark(), l.log.Start()
	r.HighWatermark, r.LogStartOffset = hw, start
	if r.Err, r.Diverging = b.misplaced(l, fp, start); r.Err != nil {
		return false
	}
	if fp.Offset >= hw || how.room <= 0 && !how.must {
		return false
	}
	o := commitlog.ReadOptions{From: fp.Offset, Limit: hw, MaxBytes: min(max(how.room, 0), fp.MaxBytes), Bounded: true}
	if how.files {
		// Asked for a mebibyte, batches of 600 KiB come two at a time rather than one: what an
		// answer costs is the same. The answer as a whole stays within its bound.
		o.Most = how.room
		if file := l.log.ReadRange(o); file != nil {
			r.File = file
			return false
		}
	}
	readErr := b.readInto(r, l, o)
	if errors.Is(readErr, commitlog.ErrReadMemory) {
		return true
	}
	if readErr != nil {
		r.Err = l.readError(readErr)
		l.checkDamage()
	}
	return false
}

// readInto reads by way of a list that is used again, so that the result's own is
// made once and in its size, however many batches there are.
func (b *Broker) readInto(r *api.FetchResult, l *localReplica, o commitlog.ReadOptions) error {
	runs, ok := b.runs.Get().(*[]record.Slice)
	if !ok {
		runs = new([]record.Slice)
	}
	read, err := l.log.ReadInto((*runs)[:0], o)
	r.Batches = append(r.Batches, read...)
	clear(read)
	if cap(read) <= runsKept {
		*runs = read
		b.runs.Put(runs)
	}
	return err
}

// runsKept is how many batches of an answer the list of runs is kept for.
const runsKept = 4096

// mayRead checks the leader epoch and that this broker still has its session.
func (b *Broker) mayRead(l *localReplica, fp *api.FetchPartition) *api.Error {
	epoch := l.epoch()
	switch {
	case b.lapsed():
		return api.Errorf(api.CodeNotLeader, "this broker has lost its controller and does not act as leader").At(l.topic, l.partition)
	case fp.LeaderEpoch >= 0 && fp.LeaderEpoch < epoch:
		e := api.Errorf(api.CodeFencedLeaderEpoch, "leader epoch %d is old, the current one is %d", fp.LeaderEpoch, epoch).At(l.topic, l.partition)
		e.Leader = &api.LeaderHint{NodeID: b.cfg.NodeID, LeaderEpoch: int32(epoch)}
		return e
	case fp.LeaderEpoch > epoch:
		return api.Errorf(api.CodeUnknownLeaderEpoch, "leader epoch %d is ahead of this broker's %d", fp.LeaderEpoch, epoch).At(l.topic, l.partition)
	default:
		return nil
	}
}

// misplaced says why a client cannot read on at an offset: the log does not reach so far,
// or, told in addition, no longer holds what the client has read before it.
func (b *Broker) misplaced(l *localReplica, fp *api.FetchPartition, start record.Offset) (*api.Error, *api.Divergence) {
	epoch := l.epoch()
	if fp.KnowsLast && fp.LastEpoch > epoch {
		return api.Errorf(api.CodeUnknownLeaderEpoch, "records of leader epoch %d were read, this broker knows of %d", fp.LastEpoch, epoch).At(l.topic, l.partition), nil
	}
	end := l.logEnd()
	var diverging *api.Divergence
	if fp.KnowsLast && fp.Offset >= start {
		if at, ends := l.epochEnd(fp.LastEpoch); ends < fp.Offset {
			diverging = &api.Divergence{Epoch: at, End: max(ends, start)}
		}
	}
	if diverging == nil && fp.Offset >= start && fp.Offset <= end {
		return nil, nil
	}
	// A replica that leads no longer may have been truncated in between.
	if l.role() != partition.RoleLeader || l.epoch() != epoch {
		return api.Errorf(api.CodeNotLeader, "the partition has another leader now").At(l.topic, l.partition), nil
	}
	if diverging != nil {
		return api.Errorf(api.CodeOffsetOutOfRange, "the log was truncated: the records before offset %d, of leader epoch %d, are gone from offset %d on",
			fp.Offset, fp.LastEpoch, diverging.End).At(l.topic, l.partition), diverging
	}
	return outOfRange(l, fp.Offset, start, end), nil
}

func outOfRange(l *localReplica, offset, start, end record.Offset) *api.Error {
	return api.Errorf(api.CodeOffsetOutOfRange, "offset %d is out of range: the log holds [%d, %d)", offset, start, end).At(l.topic, l.partition)
}

func (l *localReplica) readError(err error) *api.Error {
	if e, ok := errors.AsType[*commitlog.OffsetError](err); ok {
		return outOfRange(l, e.Offset, e.Start, e.End)
	}
	code := api.CodeStorageFailed
	switch {
	case errors.Is(err, commitlog.ErrClosed):
		code = api.CodeNotLeader
	case errors.Is(err, commitlog.ErrOpenFiles):
		code = api.CodeOverloaded
	}
	return api.Errorf(code, "%w", err).At(l.topic, l.partition)
}

func releaseResults(results []api.FetchResult) {
	for i := range results {
		results[i].Release()
	}
}
