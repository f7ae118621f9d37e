package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// DevOptions describe a development cluster.
type DevOptions struct {
	// Nodes is how many there are, 1 by default; the first one, three or five vote.
	Nodes int
	// DataDir holds a directory a node; empty: a temporary one, removed at the end.
	DataDir string
	// BasePort is the gRPC port of node 1; Raft, HTTP and peers follow, and node i
	// has them 10*(i-1) higher. 0: any free ports.
	BasePort int
	// KafkaPort is the Kafka port of node 1; the next nodes have the next ones. 0: any
	// free ports.
	KafkaPort int
	// Configure, when not nil, may change the configuration of a node before it starts.
	Configure func(*Config)

	Options
}

// DevCluster is a whole cluster in this process. Its nodes talk over TCP.
type DevCluster struct {
	nodes   []*Node
	dataDir string
	remove  bool // dataDir is temporary
}

// portsPerNode is the distance between the ports of two nodes.
const portsPerNode = 10

// Dev runs a development cluster until ctx ends or a node fails, and prints one
// line with the endpoints to out when it is ready.
func Dev(ctx context.Context, opts DevOptions, out io.Writer) error {
	d, err := StartDev(ctx, opts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, d.Line())
	failed := make(chan error, len(d.nodes))
	var watchers sync.WaitGroup
	for _, n := range d.nodes {
		watchers.Go(func() {
			<-n.Done() // At the latest when Stop ends the node.
			failed <- n.Err()
		})
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	err = errors.Join(err, d.Stop(context.WithoutCancel(ctx)))
	watchers.Wait()
	return err
}

// StartDev starts a development cluster and returns when all nodes serve.
func StartDev(ctx context.Context, opts DevOptions) (*DevCluster, error) {
	if opts.Nodes == 0 {
		opts.Nodes = 1
	}
	opts.Registry = nil // Nodes have metrics of the same names.
	if opts.Nodes < 0 || opts.BasePort != 0 && opts.BasePort+portsPerNode*opts.Nodes > 65535 {
		return nil, fmt.Errorf("dev: %d nodes from port %d: needs at least one node, and ports up to 65535", opts.Nodes, opts.BasePort)
	}
	if opts.KafkaPort < 0 || opts.KafkaPort != 0 && opts.KafkaPort+opts.Nodes-1 > 65535 {
		return nil, fmt.Errorf("dev: %d nodes from Kafka port %d: ports are 1 to 65535, or 0 for any free ones", opts.Nodes, opts.KafkaPort)
	}
	d := &DevCluster{dataDir: opts.DataDir}
	if d.dataDir == "" {
		dir, err := os.MkdirTemp("", "penstock-dev-")
		if err != nil {
			return nil, fmt.Errorf("dev: %w", err)
		}
		d.dataDir, d.remove = dir, true
	}
	if err := d.start(ctx, opts); err != nil {
		return nil, errors.Join(err, d.cleanUp())
	}
	return d, nil
}

// start opens every listener before any node runs, for each needs to know the
// addresses of all.
func (d *DevCluster) start(ctx context.Context, opts DevOptions) error {
	configs := make([]Config, opts.Nodes)
	sockets := make([]*listeners, opts.Nodes)
	closeAll := func() {
		for _, l := range sockets {
			if l != nil {
				l.close()
			}
		}
	}
	for i := range configs {
		configs[i] = devConfig(opts, d.dataDir, i)
		var err error
		if sockets[i], err = listen(ctx, &configs[i]); err != nil {
			closeAll()
			return fmt.Errorf("dev: node %d: %w", configs[i].NodeID, err)
		}
		sockets[i].bound(&configs[i])
	}
	voters := devVoters(configs)
	for i := range configs {
		configs[i].Voters = voters
		if opts.Configure != nil {
			opts.Configure(&configs[i])
		}
		if err := configs[i].Validate(); err != nil {
			closeAll()
			return err
		}
	}
	return d.startNodes(ctx, opts, configs, sockets)
}

// startNodes starts all at once: a quorum needs most of them.
func (d *DevCluster) startNodes(ctx context.Context, opts DevOptions, configs []Config, sockets []*listeners) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nodes := make([]*Node, len(configs))
	faults := make([]error, len(configs))
	var wg sync.WaitGroup
	for i := range configs {
		wg.Go(func() {
			var err error
			if nodes[i], err = start(ctx, configs[i], opts.Options, sockets[i]); err != nil {
				faults[i] = fmt.Errorf("dev: node %d: %w", configs[i].NodeID, err)
				cancel() // The others would wait for it.
			}
		})
	}
	wg.Wait()
	for _, n := range nodes {
		if n != nil {
			d.nodes = append(d.nodes, n)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return errors.Join(err, d.stopNodes(context.WithoutCancel(ctx)))
	}
	return nil
}

func devConfig(opts DevOptions, dataDir string, i int) Config {
	c := DefaultConfig()
	c.NodeID = int32(i + 1)
	c.DataDir = filepath.Join(dataDir, "node-"+strconv.Itoa(i+1))
	address := func(offset int) string {
		port := 0
		if opts.BasePort != 0 {
			port = opts.BasePort + portsPerNode*i + offset
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	c.ListenGRPC = []Endpoint{{Address: address(0)}}
	c.ListenRaft, c.ListenHTTP, c.ListenPeer = address(1), address(2), address(3)
	kafkaPort := 0
	if opts.KafkaPort != 0 {
		kafkaPort = opts.KafkaPort + i
	}
	c.ListenKafka = []Endpoint{{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(kafkaPort))}}
	c.AutoCreateTopics = true
	c.OffsetsReplicas = int32(min(3, opts.Nodes))
	return c
}

// devVoters are the first one, three or five nodes.
func devVoters(configs []Config) []Voter {
	n := 1
	for _, quorum := range []int{3, 5} {
		if len(configs) >= quorum {
			n = quorum
		}
	}
	voters := make([]Voter, n)
	for i := range voters {
		voters[i] = Voter{NodeID: configs[i].NodeID, Address: configs[i].ListenRaft}
	}
	return voters
}

// Nodes are the nodes by ascending node.id.
func (d *DevCluster) Nodes() []*Node { return d.nodes }

// Brokers are the gRPC addresses, for clients.
func (d *DevCluster) Brokers() []string {
	var out []string
	for _, n := range d.nodes {
		out = append(out, n.cfg.ListenGRPC[0].Address)
	}
	return out
}

// Kafka are the addresses for Kafka clients.
func (d *DevCluster) Kafka() []string {
	var out []string
	for _, n := range d.nodes {
		for _, e := range n.cfg.ListenKafka {
			out = append(out, e.Address)
		}
	}
	return out
}

// Line is what people need to know once the cluster is ready.
func (d *DevCluster) Line() string {
	var admin []string
	for _, n := range d.nodes {
		admin = append(admin, n.cfg.ListenHTTP)
	}
	return fmt.Sprintf("penstock dev: %d node(s) ready: brokers %s; kafka %s; metrics %s; data %s",
		len(d.nodes), strings.Join(d.Brokers(), ","), strings.Join(d.Kafka(), ","), strings.Join(admin, ","), d.dataDir)
}

// Stop stops all nodes together. Nobody hands leaderships over: there is nobody
// to take them.
func (d *DevCluster) Stop(ctx context.Context) error {
	return errors.Join(d.stopNodes(ctx), d.cleanUp())
}

func (d *DevCluster) stopNodes(ctx context.Context) error {
	_ = d.each(func(n *Node) error {
		n.quiesce(ctx, false)
		return nil
	})
	for _, n := range d.nodes {
		n.cluster.Rest()
	}
	return d.each((*Node).close)
}

// each calls f for all nodes side by side.
func (d *DevCluster) each(f func(*Node) error) error {
	faults := make([]error, len(d.nodes))
	var wg sync.WaitGroup
	for i, n := range d.nodes {
		wg.Go(func() { faults[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(faults...)
}

func (d *DevCluster) cleanUp() error {
	if d.remove {
		return os.RemoveAll(d.dataDir)
	}
	return nil
}
