package broker

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
)

// NodeID is this broker's.
func (b *Broker) NodeID() int32 { return b.cfg.NodeID }

// KafkaAddress is the address of a node's Kafka door on a listener; empty when it
// has none.
func (b *Broker) KafkaAddress(nodeID int32, listener string) string {
	broker := b.cfg.Images.Image().Broker(nodeID)
	if broker == nil {
		return ""
	}
	return addressIn(broker.Kafka, listener)
}

// TopicName is the name of the topic with an id.
func (b *Broker) TopicName(id api.TopicID) (string, bool) {
	t := b.cfg.Images.Image().TopicByID(metadata.ID(id))
	if t == nil {
		return "", false
	}
	return t.Name, true
}

// EpochEnds says where leader epochs of partitions led here end. A consumer asks
// after a change of leader, to find out whether what it has read is still there
// (KIP-320).
func (b *Broker) EpochEnds(ctx context.Context, queries []api.EpochQuery) ([]api.EpochEnd, error) {
	results := make([]api.EpochEnd, len(queries))
	if !b.epochEnds(queries, results, false) {
		return results, nil
	}
	asked := b.askMetadata(ctx, 0)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.epochEnds(queries, results, asked)
	return results, nil
}

// epochEnds fills results; asked: the metadata is as new as the queries. doubt: as in look.
func (b *Broker) epochEnds(queries []api.EpochQuery, results []api.EpochEnd, asked bool) (doubt bool) {
	for i := range queries {
		doubt = b.epochEndsAt(&queries[i], &results[i], asked) || doubt
	}
	return doubt
}

func (b *Broker) epochEndsAt(q *api.EpochQuery, r *api.EpochEnd, asked bool) (doubt bool) {
	*r = api.EpochEnd{PartitionRef: q.PartitionRef, Epoch: record.UnknownEpoch, End: record.UnknownOffset}
	l, err := b.serving(&r.PartitionRef)
	if err != nil {
		r.Err = err
		return false
	}
	leads := l.epoch()
	if r.Err = b.mayRead(l, &api.FetchPartition{LeaderEpoch: q.LeaderEpoch}); r.Err != nil || q.Epoch < 0 {
		return false
	}
	if q.Epoch == leads {
		// The current one has not ended: what may be read of it does.
		r.Epoch, r.End = q.Epoch, l.logEnd()
		return false
	}
	if q.Epoch < leads {
		if epoch, end := l.epochEnd(q.Epoch); epoch >= 0 {
			r.Epoch, r.End = epoch, end
			return false
		}
	}
	// A consumer starts anew that hears of an epoch which nobody knows: one of a newer
	// leader, or of records that only this broker has removed.
	doubt, r.Err = b.mayJudge(l, leads, asked)
	return doubt
}

// Logs lists the partitions that lie here.
func (b *Broker) Logs() []api.LogInfo {
	all := b.table.all()
	out := make([]api.LogInfo, 0, len(all))
	for _, l := range all {
		out = append(out, api.LogInfo{
			TopicPartition: l.name(), Bytes: l.log.Size(), Lag: max(int64(l.watermark()-l.log.End()), 0),
		})
	}
	return out
}

// Volume is the size of the file system on which they lie, and what is free of it.
func (b *Broker) Volume() (total, free int64, err error) { return b.cfg.Dir.Volume() }

// Producers lists the idempotent producers that the replica of a partition on this broker
// remembers, whatever its role: what a follower knows is asked of it, too.
func (b *Broker) Producers(ref api.PartitionRef) ([]api.ProducerState, *api.Error) {
	l := b.table.get(ref)
	if l == nil {
		return nil, b.whyNot(ref)
	}
	remembered := l.log.Producers()
	out := make([]api.ProducerState, len(remembered))
	for i, p := range remembered {
		out[i] = api.ProducerState{ID: p.ID, Epoch: p.Epoch, LastSequence: p.LastSequence, LastUsed: p.LastUsed}
	}
	return out, nil
}
