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
func (b *Broker) EpochEnds(_ context.Context, queries []api.EpochQuery) ([]api.EpochEnd, error) {
	results := make([]api.EpochEnd, len(queries))
	for i := range queries {
		q, r := &queries[i], &results[i]
		*r = api.EpochEnd{PartitionRef: q.PartitionRef, Epoch: record.UnknownEpoch, End: record.UnknownOffset}
		l, err := b.serving(&r.PartitionRef)
		if err == nil {
			err = b.mayRead(l, &api.FetchPartition{LeaderEpoch: q.LeaderEpoch})
		}
		switch {
		case err != nil:
			r.Err = err
		case q.Epoch == l.epoch():
			// The current one has not ended: what may be read of it does.
			r.Epoch, r.End = q.Epoch, l.logEnd()
		case q.Epoch >= 0 && q.Epoch < l.epoch():
			if epoch, end := l.epochEnd(q.Epoch); epoch >= 0 {
				r.Epoch, r.End = epoch, end
			}
		}
	}
	return results, nil
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

// Producers lists the idempotent producers that a partition led here remembers.
func (b *Broker) Producers(ref api.PartitionRef) ([]api.ProducerState, *api.Error) {
	l, err := b.serving(&ref)
	if err != nil {
		return nil, err
	}
	remembered := l.log.Producers()
	out := make([]api.ProducerState, len(remembered))
	for i, p := range remembered {
		out[i] = api.ProducerState{ID: p.ID, Epoch: p.Epoch, LastSequence: p.LastSequence, LastUsed: p.LastUsed}
	}
	return out, nil
}
