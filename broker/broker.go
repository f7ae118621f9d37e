package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/log/record"
	"github.com/penstock/penstock/proto/wire"
)

// Broker serves the partitions that the metadata places on this node. Make it
// with Start and end it with Shutdown and Close.
type Broker struct {
	cfg    Config
	logger *slog.Logger
	table  *table

	brokerEpoch  int64
	cleanEpoch   int64             // of the marker found at the start; -1: none
	traffic      replica.Traffic   // what producers and in-sync replicas wait for
	server       *replica.Server   // the leader's side of replication
	follower     *replica.Follower // the follower's side
	proposer     *proposer
	coordinator  *coordinator.Coordinator
	producerIDs  *producerIDs
	offsets      offsetsCreator
	metrics      *metrics
	groupMetrics *groupMetrics
	cleaner      *cleaner
	scrubber     *scrubber
	applied      *applied

	admission *admission
	// short are the fetches that wait for memory.
	short shortage
	// runs lends reads the list that they append to: *[]record.Slice.
	runs sync.Pool
	// suspended: no controller was heard for a session.
	suspended atomic.Bool
	// diskFull: free space is below the reserve, and the logs refuse produce.
	diskFull atomic.Bool
	// kick wakes the reconciler; of capacity one.
	kick chan struct{}
	// startsDue wakes retain: a log start was told; of capacity one.
	startsDue chan struct{}

	// doubted is when a leader's stream last ended, in Unix nanoseconds.
	doubted atomic.Int64
	// stopping is closed when Shutdown or Close begins: long polls end.
	stopping chan struct{}
	stop     func() // closes stopping, once
	cancel   context.CancelFunc
	wg       sync.WaitGroup // the goroutines of doc.go that cancel ends
	drains   sync.WaitGroup // those of Drain, which end with the replicas
	closed   func() error   // what Close does, once
}

// Start opens the logs that are on disk, registers the broker with what it
// recovered, and begins to serve what the metadata assigns to it. It returns
// once the registration is applied here. A valid Config's Dir is the broker's
// from then on, and closed also when Start fails.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	cfg.ensureDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	b := &Broker{
		cfg: cfg, logger: cfg.Logger, table: newTable(), applied: newApplied(), cleanEpoch: -1,
		kick: make(chan struct{}, 1), startsDue: make(chan struct{}, 1), stopping: make(chan struct{}),
	}
	b.shareMemory()
	b.stop = sync.OnceFunc(func() { close(b.stopping) })
	b.closed = sync.OnceValue(b.close)
	b.proposer = newProposer(b)
	b.producerIDs = newProducerIDs(cfg)
	b.offsets.turn = make(chan struct{}, 1)
	b.metrics, b.groupMetrics = newMetrics(b), newGroupMetrics(b)
	b.cleaner = newCleaner(b)
	b.scrubber = newScrubber(b)
	var err error
	if b.coordinator, err = coordinator.New(coordinator.Config{
		NodeID: cfg.NodeID, Topics: groupTopics{cfg.Images}, Logger: cfg.Logger,
		SessionGrace: cfg.SessionGrace, OffsetsRetention: cfg.OffsetsRetention, InitialRebalanceDelay: cfg.InitialRebalance,
		Migration: coordinator.Migration(cfg.GroupMigration),
	}); err != nil {
		return nil, errors.Join(err, cfg.Dir.Close(-1))
	}
	if err := errors.Join(cfg.Registry.Register(b.metrics), cfg.Registry.Register(b.cleaner), cfg.Registry.Register(b.scrubber), cfg.Registry.Register(b.groupMetrics)); err != nil {
		return nil, errors.Join(fmt.Errorf("broker: metrics: %w", err), b.abandon())
	}
	if err := b.join(ctx); err != nil {
		return nil, errors.Join(err, b.abandon())
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.cancel = cancel
	rec := newReconciler(run, b)
	rec.reconcile(cfg.Images.Image())
	b.wg.Go(rec.run)
	b.wg.Go(func() { b.proposer.run(run) })
	b.wg.Go(func() { b.tick(run) })
	b.wg.Go(func() { b.retain(run) })
	b.wg.Go(func() { b.cleaner.run(run) })
	b.wg.Go(func() { b.scrubber.run(run) })
	b.wg.Go(func() { b.tellProgress(run) })
	return b, nil
}

// shareMemory makes the rules for who may hold how much of the arena.
func (b *Broker) shareMemory() {
	arena := b.cfg.Arena
	b.admission = newAdmission(arena, b.cfg.MaxInFlight, b.cfg.Dir.Unwritten, b.cfg.Dir.Reclaim)
	arena.WatchPinned(&record.Watch{Level: arena.ReadLimit(), Fell: b.short.wake})
}

// join recovers, registers and starts the two sides of replication.
func (b *Broker) join(ctx context.Context) error {
	if err := b.register(ctx); err != nil {
		return err
	}
	clusterID := b.cfg.Images.Image().ClusterID()
	var err error
	b.server, err = replica.NewServer(replica.ServerConfig{
		NodeID: b.cfg.NodeID, ClusterID: clusterID, Leaders: b, Logger: b.logger, Traffic: &b.traffic,
		// What is being sent cannot give way: little of a small arena.
		MessageBytes: int(min(b.cfg.Arena.Limit()/64, 1<<20)), PartitionBytes: int(min(b.cfg.Arena.Limit()/256, 256<<10)),
	})
	if err != nil {
		return err
	}
	b.follower, err = replica.NewFollower(replica.FollowerConfig{
		NodeID: b.cfg.NodeID, BrokerEpoch: b.brokerEpoch, ClusterID: clusterID,
		Transport: replica.NewTransport(b.cfg.Dialer, wire.NewCodec(b.cfg.Arena)), Logger: b.logger, Traffic: &b.traffic,
		Receive: b.cfg.Arena.ReceiveShare() * 4 / 5, // credit counts bytes, and a Buf has up to a quarter of slack
	})
	return err
}

// abandon undoes a start that failed. The directory gets the marker back that
// it had: nothing was appended since.
func (b *Broker) abandon() error {
	b.stop()
	b.cfg.Registry.Unregister(b.metrics)
	b.cfg.Registry.Unregister(b.groupMetrics)
	b.cfg.Registry.Unregister(b.cleaner)
	b.cfg.Registry.Unregister(b.scrubber)
	err := b.coordinator.Close()
	b.groupMetrics.close()
	if b.server != nil {
		err = errors.Join(err, b.server.Close())
	}
	for _, l := range b.table.all() {
		l.stop()
	}
	return errors.Join(err, b.cfg.Dir.Close(b.cleanEpoch))
}

// BrokerEpoch is the epoch of this broker's session.
func (b *Broker) BrokerEpoch() int64 { return b.brokerEpoch }

// Replicate is the leader's side of a replication stream.
func (b *Broker) Replicate(stream wire.ReplicateServer) error {
	return b.server.Replicate(stream)
}

// Shutdown hands the leaderships over, as far as ctx allows. The doors should
// still be open, so that clients hear where to go; Close comes after them.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.Drain(ctx)
	err := b.cfg.Membership.RequestShutdown(ctx)
	b.stop()
	return err
}

// Drain refuses further produce and lets what was appended be committed, for a
// short while: before the leaderships go, or before a whole cluster stops.
func (b *Broker) Drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var left sync.WaitGroup
	for _, l := range b.table.all() {
		l.mu.Lock()
		if l.role() == partition.RoleLeader && !l.closed && l.onDrained == nil {
			left.Add(1)
			l.onDrained = left.Done
			l.step(partition.Drain(true))
		}
		l.mu.Unlock()
	}
	done := make(chan struct{})
	b.drains.Go(func() { // Ends at the latest when Close stops the replicas.
		left.Wait()
		close(done)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Close ends everything, flushes and closes the logs, and leaves the marker of
// a clean stop last.
func (b *Broker) Close() error { return b.closed() }

func (b *Broker) close() error {
	b.stop()
	b.cancel()
	b.wg.Wait()
	err := b.coordinator.Close()
	b.groupMetrics.close()
	err = errors.Join(err, b.follower.Close(), b.server.Close())
	for _, l := range b.table.all() {
		l.stop()
	}
	b.drains.Wait()
	b.cfg.Registry.Unregister(b.metrics)
	b.cfg.Registry.Unregister(b.groupMetrics)
	b.cfg.Registry.Unregister(b.cleaner)
	b.cfg.Registry.Unregister(b.scrubber)
	return errors.Join(err, b.cfg.Dir.Close(b.brokerEpoch))
}
