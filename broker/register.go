package broker

import (
	"context"
	"fmt"
	"sync"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// openers is how many logs are opened at once: recovery reads and syncs.
const openers = 8

// openRequest names a replica to open.
type openRequest struct {
	topic    string
	key      replica.Key
	internal bool
	settings metadata.TopicSettings
	// damage is what the metadata holds against the replica since this broker
	// registered: a folder that was not there then must not pass for an empty log.
	damage metadata.Damage
}

// openAll opens logs side by side. What cannot be opened is logged and counted.
func (b *Broker) openAll(requests []openRequest) (opened []*localReplica, failed int) {
	var (
		mu   sync.Mutex // guards opened and failed
		wg   sync.WaitGroup
		next = make(chan openRequest)
	)
	for range min(openers, len(requests)) {
		wg.Go(func() {
			for req := range next {
				l, err := b.open(req)
				if err != nil {
					b.logger.Error("a replica could not be opened", "topic", req.topic, "partition", req.key.Partition, "error", err)
				}
				mu.Lock()
				if err != nil {
					failed++
				} else {
					opened = append(opened, l)
				}
				mu.Unlock()
			}
		})
	}
	for _, req := range requests {
		next <- req
	}
	close(next)
	wg.Wait()
	return opened, failed
}

// register opens what is on disk and begins the broker's session with it. What
// each replica recovered must be known first: the election trusts it.
func (b *Broker) register(ctx context.Context) error {
	cleanEpoch, clean, err := b.cfg.Dir.CleanMarker()
	if err != nil {
		return fmt.Errorf("broker: the marker of the last stop: %w", err)
	}
	if clean {
		b.cleanEpoch = cleanEpoch
	}
	found, err := b.cfg.Dir.Scan()
	if err != nil {
		return fmt.Errorf("broker: scan of the data directory: %w", err)
	}
	req := &metav1.RegisterBroker{Rack: b.cfg.Rack, Version: b.cfg.Version, CleanStop: clean, CleanStopEpoch: cleanEpoch}
	for _, e := range b.cfg.GRPC {
		req.Grpc = append(req.Grpc, &metav1.Endpoint{Listener: e.Listener, Address: e.Address})
	}
	for _, e := range b.cfg.Kafka {
		req.Kafka = append(req.Kafka, &metav1.Endpoint{Listener: e.Listener, Address: e.Address})
	}
	opened, unopened := b.openFound(found)
	if err := b.keepPlaces(ctx, opened); err != nil {
		return fmt.Errorf("broker: what the metadata says of damaged replicas: %w", err)
	}
	b.table.change(opened, nil)
	for _, l := range opened {
		req.Replicas = append(req.Replicas, l.recovered())
	}
	for _, o := range unopened {
		req.Replicas = append(req.Replicas, &metav1.RecoveredReplica{
			TopicId: o.key.Topic[:], Partition: o.key.Partition, LastEpoch: -1, Damage: metav1.Damage_DAMAGE_CORRUPT,
		})
	}
	if b.brokerEpoch, err = b.cfg.Membership.Register(ctx, req); err != nil {
		return fmt.Errorf("broker: registration: %w", err)
	}
	b.logger.Info("recovered and registered", "broker_epoch", b.brokerEpoch, "replicas", len(opened), "clean_stop", clean)
	return nil
}

// openFound opens the folders that say whose they are; the others are left
// alone. Configs come from what this node had applied before: the reconciler
// brings them up to date.
func (b *Broker) openFound(found []commitlog.Found) (opened []*localReplica, unopened []openRequest) {
	im := b.cfg.Images.Image()
	var err error
	var requests []openRequest
	for _, f := range found {
		if !f.HasID { // told by Scan; it is left alone
			continue
		}
		req := openRequest{topic: f.Topic, key: replica.Key{Topic: api.TopicID(f.TopicID), Partition: f.Partition}, internal: f.Topic == offsetsTopic}
		if t := im.TopicByID(metadata.ID(f.TopicID)); t != nil {
			req.settings, req.internal = t.Settings(), t.Internal
		} else if req.settings, err = metadata.ParseSettings(nil); err != nil {
			b.logger.Error("the default topic configs are invalid", "error", err)
		}
		requests = append(requests, req)
	}
	opened, _ = b.openAll(requests)
	have := make(map[replica.Key]bool, len(opened))
	for _, l := range opened {
		have[l.key] = true
	}
	for _, req := range requests {
		if !have[req.key] {
			unopened = append(unopened, req)
		}
	}
	return opened, unopened
}

// recovered is what the election needs to know of a replica: what of it is whole.
func (l *localReplica) recovered() *metav1.RecoveredReplica {
	epoch, end := l.log.Readable()
	damage := l.log.Damage()
	if l.untold {
		l.logger.Error("the replica is damaged, and the last holder of its partition: it keeps its place, serves what it can read, and takes no records; "+
			"an operator decides what is given up (penstock cluster damaged)", "damage", damage, "whole_to", end, "end", l.log.End())
		epoch, end, damage = l.log.LastEpoch(), l.log.End(), commitlog.DamageNone
	}
	r := &metav1.RecoveredReplica{
		TopicId: l.key.Topic[:], Partition: l.partition, LastEpoch: int32(epoch), LogEndOffset: int64(end),
	}
	switch damage {
	case commitlog.DamageNone:
	case commitlog.DamageMissing:
		r.Damage = metav1.Damage_DAMAGE_MISSING
	case commitlog.DamageCorrupt:
		r.Damage = metav1.Damage_DAMAGE_CORRUPT
	case commitlog.DamageLostBytes:
		r.Damage = metav1.Damage_DAMAGE_LOST_BYTES
	}
	if r.Damage != metav1.Damage_DAMAGE_UNSPECIFIED {
		rec := l.log.Recovery()
		l.logger.Error("the replica is damaged", "damage", damage, "cause", rec.Cause, "readable_end", end, "flushed", rec.Flushed)
	}
	return r
}

// setAside moves the data of a topic that no image mentions out of the way. It
// is kept: absence in the metadata deletes nothing.
func (b *Broker) setAside(l *localReplica) {
	if err := l.log.Close(); err != nil {
		l.logger.Error("a log without a topic could not be closed", "error", err)
		return
	}
	err := b.cfg.Dir.SetAside(commitlog.Found{
		Topic: l.topic, Partition: l.partition, TopicID: l.key.Topic, HasID: true,
	})
	if err != nil {
		l.logger.Error("data that no topic owns could not be set aside", "error", err)
		return
	}
	l.logger.Warn("data that no topic owns was set aside", "topic_id", l.key.Topic)
}
