package main

import (
	"context"
	"fmt"
	"path"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/penstock/penstock/bench/peers/load"
)

const nodes = 3

// durability is one of the two pairs in which systems are compared.
type durability string

// An acknowledgement means the disks of the in-sync replicas, or their memories.
const (
	synced     durability = "synced"
	replicated durability = "replicated"
)

// peer is a system that is compared, Penstock among them.
type peer struct {
	name string
	// install brings its programs here; its error is why it cannot be compared.
	install func(context.Context, *lab) error
	// start starts its servers on an empty folder.
	start func(ctx context.Context, l *lab, dir string, d durability) (*cluster, error)
	// perDurability means that durability is a setting of the servers.
	perDurability bool
	warms         bool // it gets faster for minutes: -warm
	contenders    []contender
}

// contender is a peer's servers under a client.
type contender struct {
	name   string // in the tables
	client string // of package load
	kafka  bool   // at the Kafka door
	only   durability
	rows   []string // none: all
	parts  int      // instead of the row's partitions, where fewer do better; 0: as many
	// keeps means that no retention removes anything, so that the turn is bounded.
	keeps bool
	// module is that of the client; settings are those that are not its defaults.
	module, settings string
}

// cluster is the servers of a peer that run.
type cluster struct {
	peer     *peer
	addrs    []string
	kafka    []string // of the Kafka door, where there is one beside addrs
	streams  []string // of the stream protocol, likewise
	pids     []int
	dirs     []string // of the data
	settings string
	stop     func() error
	alive    func() error
}

func (c *cluster) addresses(ct *contender) []string {
	switch {
	case ct.kafka:
		return c.kafka
	case ct.client == load.RabbitStream:
		return slices.Concat(c.addrs, c.streams)
	default:
		return c.addrs
	}
}

// admin is a connection that makes and drops the contender's topics.
func (c *cluster) admin(ctx context.Context, ct *contender) (load.System, error) {
	if ct.kafka {
		return load.Dial(ctx, load.Penstock, c.addrs) // only it knows durability
	}
	return load.Dial(ctx, ct.client, c.addresses(ct))
}

const (
	penstockGRPC  = "Penstock, its own client"
	penstockKafka = "Penstock, franz-go at its Kafka door"
	kafkaFranz    = "Apache Kafka, franz-go"
	franzSettings = "acks=all, idempotent, no compression, linger 5 ms (0 for latency, single), 1,000,000 records buffered; else defaults"
)

// The modules of the clients.
const (
	franzModule  = "github.com/twmb/franz-go"
	natsModule   = "github.com/nats-io/nats.go"
	fastModule   = "github.com/synadia-io/orbit.go/jetstreamext"
	redisModule  = "github.com/redis/go-redis/v9"
	amqpModule   = "github.com/rabbitmq/amqp091-go"
	streamModule = "github.com/rabbitmq/rabbitmq-stream-go-client"
)

// all are the systems.
func all() []*peer {
	return []*peer{
		{
			name: "penstock", install: installPenstock, start: startPenstock,
			contenders: []contender{
				{name: penstockGRPC, client: load.Penstock, settings: "acks=all, idempotent, no compression, linger 0 for latency and single; else defaults"},
				{name: penstockKafka, client: load.FranzGo, module: franzModule, kafka: true, settings: franzSettings},
			},
		},
		{
			name: "kafka", install: installKafka, start: startKafka, warms: true,
			contenders: []contender{{name: kafkaFranz, client: load.FranzGo, module: franzModule, settings: franzSettings}},
		},
		{
			name: "jetstream", install: installNATS, start: startNATS, perDurability: true,
			contenders: []contender{
				{name: "JetStream, nats.go", client: load.NATS, module: natsModule, parts: 1, settings: "one stream, which takes records faster than six here; PublishAsync, by default 4,000 messages under way; an ordered consumer"},
				{name: "JetStream, fast batch", client: load.NATSBatch, module: fastModule, parts: 1, rows: []string{"produce-100", "produce-1k"}, settings: "the same stream; FastPublisher, an acknowledgement every 500 messages, 4 outstanding"},
			},
		},
		{
			name: "redis", install: installRedis, start: startRedis, perDurability: true,
			contenders: []contender{{name: "Redis Streams, go-redis", client: load.GoRedis, module: redisModule, settings: "50 connections, as redis-benchmark has, pipelines of 64 XADD MAXLEN ~ (of one for latency and single); a stream a partition, and a reader by XREAD COUNT 1000 a stream"}},
		},
		{
			name: "rabbitmq", install: installRabbit, start: startRabbit,
			contenders: []contender{
				{name: "RabbitMQ quorum queues, amqp091-go", client: load.RabbitQuorum, module: amqpModule, only: synced, keeps: true, settings: "publisher confirms, 2,000 messages under way a queue; prefetch 2,000, an acknowledgement every 500; a queue a partition, and a connection a queue, to its leader"},
				{name: "RabbitMQ streams, stream protocol", client: load.RabbitStream, module: streamModule, only: replicated, settings: "by default 10,000 messages under way a stream; BatchSend; a stream a partition, and a connection a stream; read over AMQP 0.9.1 by amqp091-go, prefetch 2,000, since chunks of the stream protocol came 200 ms apart from this server"},
			},
		},
	}
}

func peerNames() (names []string) {
	for _, p := range all() {
		names = append(names, p.name)
	}
	return names
}

// row is a workload.
type row struct {
	name       string
	what       string
	workload   string
	size       int
	partitions int
}

const latencyRate = 1000

// rows are the workloads, in their order. A consume row reads what the produce row of
// the same size wrote.
func rows() []row {
	return []row{
		{"produce-100", "produce, 100 B", load.Produce, 100, 6},
		{"consume-100", "consume from the start, 100 B", load.Consume, 100, 6},
		{"produce-1k", "produce, 1 KiB", load.Produce, 1024, 6},
		{"consume-1k", "consume from the start, 1 KiB", load.Consume, 1024, 6},
		{"latency", fmt.Sprintf("open loop, %d/s, 100 B", latencyRate), load.Latency, 100, 3},
		{"single", "one record at a time, 100 B", load.Single, 100, 1},
	}
}

func rowNames() (names []string) {
	for _, r := range rows() {
		names = append(names, r.name)
	}
	return names
}

// takes reports whether a contender has a row at a durability.
func (c *contender) takes(name string, d durability) bool {
	return (len(c.rows) == 0 || slices.Contains(c.rows, name)) && (c.only == "" || c.only == d)
}

// described are the client's version and settings.
func (c *contender) described() string {
	build, ok := debug.ReadBuildInfo()
	if !ok || c.module == "" {
		return c.settings
	}
	for _, m := range build.Deps {
		if m.Path == c.module {
			return fmt.Sprintf("%s %s; %s", path.Base(strings.TrimSuffix(m.Path, "/v9")), m.Version, c.settings)
		}
	}
	return c.settings
}

// choose splits a flag's value and checks it.
func choose(flag, value string, of []string) ([]string, error) {
	chosen := strings.Split(value, ",")
	for i, name := range chosen {
		if !slices.Contains(of, name) || slices.Contains(chosen[:i], name) {
			return nil, &flagError{flag, value, "some of " + strings.Join(of, ",") + ", each once"}
		}
	}
	return chosen, nil
}
