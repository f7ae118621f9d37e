package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/broker"
	"github.com/penstock/penstock/broker/grpcapi"
	"github.com/penstock/penstock/cluster"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/kafka"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	"github.com/penstock/penstock/proto/wire"
)

// Options are what a node needs beside its configuration.
type Options struct {
	// Version of the program, shown to the cluster.
	Version string
	Logger  *slog.Logger // required
	// Registry receives the metrics; nil: one of the node's own.
	Registry *prometheus.Registry
}

// Addresses are where a node listens, ports that the system chose included.
type Addresses struct {
	GRPC, Kafka []Endpoint
	// HTTP is empty when there is no admin listener.
	Raft, HTTP, Peer string
}

// goodbye is how long clients may take to leave before their connections are cut.
const goodbye = 300 * time.Millisecond

// Node is one running node.
type Node struct {
	cfg    Config
	logger *slog.Logger

	listeners *listeners
	arena     *record.Arena // of the codec, the logs and the broker
	dir       *commitlog.Dir
	cluster   *cluster.Node
	broker    *broker.Broker
	admin     *admin
	registry  *prometheus.Registry
	metadata  []prometheus.Collector // none until the node is in its cluster
	public    *grpc.Server
	peer      *grpc.Server
	door      *grpcapi.PeerDoor
	clients   *grpcapi.PublicDoor
	kafka     *kafka.Door // nil: listen.kafka is not set

	serving sync.WaitGroup // goroutines that serve a listener, and the watcher
	ready   atomic.Bool

	done    chan struct{} // closed when the node failed or was stopped
	endOnce sync.Once     // closes done
	err     error         // readable once done is closed
}

// Start starts a node and returns when it serves: its listeners are open, its
// data recovered, its broker registered. It waits for the metadata quorum as
// long as ctx allows. When it fails it leaves nothing behind.
func Start(ctx context.Context, cfg Config, opts Options) (*Node, error) {
	cfg.ListenGRPC, cfg.AdvertiseGRPC = slices.Clone(cfg.ListenGRPC), slices.Clone(cfg.AdvertiseGRPC)
	cfg.ListenKafka, cfg.AdvertiseKafka = slices.Clone(cfg.ListenKafka), slices.Clone(cfg.AdvertiseKafka)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	lis, err := listen(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	return start(ctx, cfg, opts, lis)
}

// start is Start with listeners that are open; it owns them.
func start(ctx context.Context, cfg Config, opts Options, lis *listeners) (*Node, error) {
	lis.bound(&cfg)
	cfg.complete()
	if err := cfg.validateAdvertised(); err != nil {
		lis.close()
		return nil, err
	}
	n := &Node{
		cfg: cfg, logger: opts.Logger.With("node", cfg.NodeID), listeners: lis,
		done: make(chan struct{}),
	}
	if err := n.run(ctx, opts); err != nil {
		return nil, errors.Join(err, n.abandon())
	}
	return n, nil
}

// run starts the parts in the order of the package comment.
func (n *Node) run(ctx context.Context, opts Options) error {
	registry := opts.Registry
	if registry == nil {
		registry = prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	arena := record.NewArena(n.cfg.TailMemory)
	n.arena = arena
	if err := n.openDir(arena); err != nil {
		return err
	}
	if n.listeners.http != nil {
		n.admin = startAdmin(n.listeners.http, registry, n.healthy, n.serves, n.cfg.Pprof, n.logger)
	}
	codec := wire.NewCodec(arena)
	n.peer, n.door = grpcapi.Peer(codec)
	n.serve(n.peer, wire.NewPeerListener(n.listeners.peer, codec, n.door.ReplicateFramed), "listen.peer")
	n.public, n.clients = grpcapi.Public(codec)
	for _, l := range n.listeners.grpc {
		n.serve(n.public, grpcapi.Listener(l.Listener, l.name), "listen.grpc")
	}
	if err := n.joinCluster(ctx, codec, registry); err != nil {
		return err
	}
	if err := n.startBroker(ctx, arena, registry, opts.Version); err != nil {
		return err
	}
	n.clients.Open(grpcapi.Services{
		Producer: n.broker, Fetcher: n.broker, Topics: n.broker, Placement: n.broker, Cluster: n.broker,
		Groups: n.broker, GroupAdmin: n.broker, Operator: n.broker, Mender: n.broker, Now: time.Now,
	})
	if err := n.serveKafka(ctx, arena); err != nil {
		return err
	}
	n.serving.Go(n.watch)
	n.serving.Go(func() { n.clients.Watch(n.done, n.cfg.FetchStall, n.logger) })
	n.ready.Store(true)
	return nil
}

// serveKafka opens the door for Kafka clients, if there is to be one.
func (n *Node) serveKafka(ctx context.Context, arena *record.Arena) error {
	if len(n.listeners.kafka) == 0 {
		return nil
	}
	n.kafka = kafka.New(kafka.Options{
		Arena: arena, Logger: n.logger, DataDir: n.cfg.DataDir, Configs: kafkaConfigs(&n.cfg),
		NumPartitions: n.cfg.NumPartitions, ReplicationFactor: n.cfg.DefaultReplicas, AutoCreate: n.cfg.AutoCreateTopics,
		MaxConnections: int(n.cfg.MaxConnections), IdleTimeout: n.cfg.ConnectionIdle, StallTimeout: n.cfg.FetchStall,
	}, kafka.Services{
		Producer: n.broker, Fetcher: n.broker, Topics: n.broker, Cluster: n.broker, Replicas: n.broker, Offsets: n.broker,
		Groups: n.broker, GroupAdmin: n.broker, Placement: n.broker, Growth: n.broker,
	})
	if err := n.registry.Register(n.kafka.Metrics()); err != nil {
		return err
	}
	for _, port := range n.listeners.kafka {
		lis, err := port.listen(ctx)
		if err != nil {
			return &ListenError{"listen.kafka", port.address.String(), err}
		}
		n.serving.Go(func() {
			if err := n.kafka.Serve(lis, port.name); err != nil {
				n.logger.Error("a listener ended", "key", "listen.kafka", "error", err)
			}
		})
	}
	return nil
}

// openDir makes and locks the data directory.
func (n *Node) openDir(arena *record.Arena) error {
	if err := os.MkdirAll(n.cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("data.dir: %w", err)
	}
	fsys := n.cfg.fs
	if fsys == nil {
		fsys = vfs.OS{}
	}
	var err error
	n.dir, err = commitlog.OpenDir(commitlog.DirOptions{
		FS: fsys, Path: n.cfg.DataDir, Arena: arena,
		// The rest of the arena is for what is in flight.
		TailBytes: n.cfg.TailMemory / 2, DiskReserve: n.cfg.DiskReserve, Logger: n.logger,
		PageCacheBytes: n.cfg.PageCache, OpenFiles: int(n.cfg.OpenFiles), Others: n.others(),
	})
	if err != nil {
		return fmt.Errorf("data.dir: %w", err)
	}
	return nil
}

// others are the names in the data directory that do not belong to logs.
func (n *Node) others() []string {
	inside, err := filepath.Rel(n.cfg.DataDir, n.cfg.RaftDir)
	if err != nil || !filepath.IsLocal(inside) {
		return nil // elsewhere
	}
	first, _, _ := strings.Cut(inside, string(filepath.Separator))
	return []string{first}
}

func (n *Node) joinCluster(ctx context.Context, codec *wire.Codec, registry *prometheus.Registry) error {
	voters := make([]cluster.Voter, len(n.cfg.Voters))
	for i, v := range n.cfg.Voters {
		voters[i] = cluster.Voter{NodeID: v.NodeID, Address: v.Address}
	}
	if err := os.MkdirAll(n.cfg.RaftDir, 0o755); err != nil {
		return fmt.Errorf("raft.dir: %w", err)
	}
	var err error
	n.cluster, err = cluster.Start(ctx, cluster.Config{
		NodeID: n.cfg.NodeID, Dir: n.cfg.RaftDir, Voters: voters, Listener: n.listeners.raft,
		AdvertiseRaft: n.cfg.AdvertiseRaft, AdvertisePeer: n.cfg.AdvertisePeer,
		DialOptions: append(wire.DialOptions(codec), grpc.WithTransportCredentials(insecure.NewCredentials())),
		Logger:      n.logger, SessionTimeout: n.cfg.SessionTimeout, HeartbeatInterval: n.cfg.HeartbeatInterval,
		ElectionTimeout: n.cfg.RaftElection, Dial: n.cfg.dial,
	})
	if err != nil {
		return err
	}
	n.door.OpenMembers(n.cluster)
	n.registry, n.metadata = registry, []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "penstock", Name: "unclean_elections_total",
			Help: "Elections that may have lost acknowledged records, decided by this node as the controller.",
		}, func() float64 { return float64(n.cluster.PossibleLoss()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "penstock", Name: "metadata_log_file_bytes",
			Help: "Size of the file of the metadata log (raft.db), free pages included; it does not shrink.",
		}, func() float64 { return float64(n.cluster.LogFileBytes()) }),
	}
	for _, c := range n.metadata {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) startBroker(ctx context.Context, arena *record.Arena, registry *prometheus.Registry, version string) error {
	dir := n.dir
	n.dir = nil // It is the broker's from here on, whatever comes.
	var err error
	n.broker, err = broker.Start(ctx, broker.Config{
		NodeID: n.cfg.NodeID, Dir: dir, Arena: arena,
		Images: n.cluster, Controller: n.cluster, Membership: n.cluster, Dialer: n.cluster.Peers(),
		GRPC: advertised(n.cfg.AdvertiseGRPC), Kafka: advertised(n.cfg.AdvertiseKafka), Rack: n.cfg.Rack, Version: version,
		Logger: n.logger, Registry: registry,
		SessionTimeout: n.cfg.SessionTimeout, LagTimeMax: n.cfg.ReplicaLagMax, FlushStall: n.cfg.FlushStall,
		RetentionInterval:    n.cfg.RetentionInterval,
		Cleaner:              commitlog.CleanerOptions{Memory: n.cfg.CleanerMemory, BytesPerSecond: n.cfg.CleanerRate},
		CleanerBackoff:       n.cfg.CleanerBackoff,
		Scrub:                commitlog.ScrubberOptions{BytesPerSecond: n.cfg.ScrubRate},
		ScrubInterval:        n.cfg.ScrubInterval,
		ReassignmentThrottle: n.cfg.ReassignmentThrottle,
		OffsetsReplicas:      n.cfg.OffsetsReplicas, OffsetsPartitions: n.cfg.OffsetsPartitions,
		SessionGrace: n.cfg.SessionGrace, OffsetsRetention: n.cfg.OffsetsRetention, InitialRebalance: n.cfg.InitialRebalance,
		GroupMigration: n.cfg.GroupMigration,
	})
	if err != nil {
		return err
	}
	n.door.OpenReplicas(n.broker)
	return nil
}

func advertised(list []Endpoint) []metadata.Endpoint {
	out := make([]metadata.Endpoint, len(list))
	for i, e := range list {
		out[i] = metadata.Endpoint{Listener: e.Listener, Address: e.Address}
	}
	return out
}

// serve runs a server on a listener until the server stops.
func (n *Node) serve(srv *grpc.Server, lis net.Listener, key string) {
	n.serving.Go(func() {
		if err := srv.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			n.logger.Error("a listener ended", "key", key, "error", err)
		}
	})
}

// watch ends the node's life when its part in the cluster has failed for good.
func (n *Node) watch() {
	select {
	case err := <-n.cluster.Failed():
		n.ready.Store(false)
		n.end(err)
	case <-n.done:
	}
}

// end closes done, once, with the reason.
func (n *Node) end(err error) {
	n.endOnce.Do(func() {
		n.err = err
		close(n.done)
	})
}

// Done is closed when the node has failed for good or was stopped. The owner
// calls Stop in either case.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err says why the node ended, nil after Stop. It may be called once Done is closed.
func (n *Node) Err() error { return n.err }

// Addresses are where the node listens.
func (n *Node) Addresses() Addresses {
	return Addresses{
		GRPC: slices.Clone(n.cfg.ListenGRPC), Kafka: slices.Clone(n.cfg.ListenKafka),
		Raft: n.cfg.ListenRaft, HTTP: n.cfg.ListenHTTP, Peer: n.cfg.ListenPeer,
	}
}

func (n *Node) healthy() error {
	select {
	case <-n.done:
		if n.err != nil {
			return n.err
		}
		return errors.New("stopped")
	default:
		return nil
	}
}

func (n *Node) serves() error {
	if err := n.healthy(); err != nil {
		return err
	}
	if !n.ready.Load() {
		return errors.New("not serving: starting, stopping, or waiting for the metadata quorum")
	}
	return nil
}

// Stop stops the node: it hands its leaderships over, as long as ctx and
// shutdown.timeout allow, lets its clients go, flushes, and leaves the marker of
// a clean stop.
func (n *Node) Stop(ctx context.Context) error {
	n.quiesce(ctx, true)
	return n.close()
}

// quiesce ends this node's part as a leader. Without handing over, for a whole
// cluster that stops, it only lets what was appended be committed.
func (n *Node) quiesce(ctx context.Context, handOver bool) {
	n.ready.Store(false)
	n.clients.Leaving()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.ShutdownTimeout)
	defer cancel()
	if !handOver {
		n.broker.Drain(ctx)
		return
	}
	if err := n.broker.Shutdown(ctx); err != nil {
		n.logger.Warn("stopping without having handed all leaderships over", "error", err)
	}
}

// close closes the doors, then what is behind them.
func (n *Node) close() error {
	n.end(nil)
	left := make(chan struct{})
	n.serving.Go(func() {
		n.public.GracefulStop()
		close(left)
	})
	select {
	case <-left:
	case <-time.After(goodbye):
	}
	n.public.Stop()
	n.closeKafka()
	// A follower that takes nothing any more (stopped, cut off) holds up the
	// stream that is sending to it, until the server goes.
	late := time.AfterFunc(goodbye, n.peer.Stop)
	err := n.broker.Close()
	late.Stop()
	err = errors.Join(err, n.cluster.Close())
	n.peer.Stop()
	n.stopAdmin()
	n.listeners.close()
	n.serving.Wait()
	return err
}

// abandon undoes a start that failed, as far as it got.
func (n *Node) abandon() error {
	n.end(nil)
	n.closeKafka()
	var err error
	if n.broker != nil {
		err = n.broker.Close()
	} else if n.dir != nil {
		err = n.dir.Close(-1)
	}
	if n.cluster != nil {
		err = errors.Join(err, n.cluster.Close())
	}
	for _, srv := range []*grpc.Server{n.public, n.peer} {
		if srv != nil {
			srv.Stop()
		}
	}
	n.stopAdmin()
	n.listeners.close()
	n.serving.Wait()
	return err
}

func (n *Node) closeKafka() {
	if n.kafka != nil {
		n.kafka.Close()
	}
}

func (n *Node) stopAdmin() {
	for _, c := range n.metadata {
		n.registry.Unregister(c)
	}
	if n.kafka != nil {
		n.registry.Unregister(n.kafka.Metrics())
	}
	if n.admin == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	n.admin.stop(ctx)
}
