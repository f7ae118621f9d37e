package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock/penstock/bench/peers/load"
)

// The programs themselves: what is in the PATH changes the user first.
const (
	rabbitServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	rabbitCtl    = "/usr/lib/rabbitmq/bin/rabbitmqctl"
)

func installRabbit(ctx context.Context, _ *lab) error {
	return apt(ctx, rabbitServer, "rabbitmq-server")
}

// Nodes trust whoever has their cookie with everything, so they talk to each other on
// the loopback alone.
const rabbitLoopback = "-kernel inet_dist_use_interface {127,0,0,1}"

// rabbitNode is one node: what is where, and its environment.
type rabbitNode struct {
	name, base, conf string
	amqp, stream     string // addresses
	env              []string
}

func newRabbitNode(id int, dir, amqp, stream, dist, epmd string) (*rabbitNode, error) {
	_, distPort, err := net.SplitHostPort(dist)
	if err != nil {
		return nil, err
	}
	_, epmdPort, err := net.SplitHostPort(epmd)
	if err != nil {
		return nil, err
	}
	n := &rabbitNode{name: fmt.Sprintf("rabbit%d", id), amqp: amqp, stream: stream}
	n.base, n.conf = filepath.Join(dir, n.name), filepath.Join(dir, n.name+".conf")
	n.env = []string{
		"HOME=" + dir, fmt.Sprintf("RABBITMQ_NODENAME=peer%d@localhost", id), "RABBITMQ_DIST_PORT=" + distPort,
		"ERL_EPMD_PORT=" + epmdPort, "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_BASE=" + n.base, "RABBITMQ_MNESIA_BASE=" + n.base,
		"RABBITMQ_LOG_BASE=" + filepath.Join(dir, "logs"), "RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "plugins"), "RABBITMQ_CONFIG_FILE=" + n.conf,
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=" + rabbitLoopback, "RABBITMQ_CTL_ERL_ARGS=" + rabbitLoopback,
		"RUNNING_UNDER_SYSTEMD=true", // the script becomes the server, instead of waiting for it
	}
	return n, nil
}

// config says where a node listens, and nothing else.
func (n *rabbitNode) config() (string, error) {
	host, port, err := net.SplitHostPort(n.stream)
	return fmt.Sprintf("listeners.tcp.1 = %s\nstream.listeners.tcp.1 = %s\nstream.advertised_host = %s\nstream.advertised_port = %s\n", n.amqp, n.stream, host, port), err
}

// control runs the node's tool.
func (n *rabbitNode) control(ctx context.Context, dir string, args ...string) (string, error) {
	return command(ctx, dir, n.env, rabbitCtl, args...)
}

// rabbitFiles are those that all nodes share.
func rabbitFiles(dir string) error {
	cookie := make([]byte, 16)
	if _, err := rand.Read(cookie); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Join(dir, "logs"), 0o755), //nolint:gosec // an ordinary folder
		os.WriteFile(filepath.Join(dir, ".erlang.cookie"), []byte(hex.EncodeToString(cookie)), 0o400),
		os.WriteFile(filepath.Join(dir, "plugins"), []byte("[rabbitmq_stream].\n"), 0o600))
}

// startRabbit starts epmd, by which the nodes find each other, and three nodes, and
// joins them.
func startRabbit(ctx context.Context, l *lab, dir string, _ durability) (*cluster, error) {
	a, err := l.addresses(3*nodes + 1)
	if err == nil {
		err = rabbitFiles(dir)
	}
	if err != nil {
		return nil, err
	}
	brokers, streams, dist, epmdAt := a[:nodes], a[nodes:2*nodes], a[2*nodes:3*nodes], a[3*nodes]
	_, epmdPort, err := net.SplitHostPort(epmdAt)
	if err != nil {
		return nil, err
	}
	epmd, err := launch(dir, "epmd", []string{"ERL_EPMD_ADDRESS=127.0.0.1"}, "epmd", "-port", epmdPort)
	if err != nil {
		return nil, err
	}
	processes := servers{}
	c := &cluster{addrs: brokers, streams: streams}
	c.stop = func() error { return errors.Join(processes.stop(), epmd.stop()) }
	c.alive = func() error { return processes.died() }
	for i := range nodes {
		n, err := newRabbitNode(i+1, dir, brokers[i], streams[i], dist[i], epmdAt)
		var s *server
		if err == nil {
			s, err = n.launch(dir)
		}
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
		processes = append(processes, s)
		c.dirs = append(c.dirs, n.base)
		if err := n.join(ctx, dir, processes, i > 0); err != nil {
			return nil, errors.Join(err, c.stop())
		}
		if c.settings == "" {
			c.settings, err = n.describe(ctx, dir)
		}
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	c.pids = processes.pids()
	err = processes.serves(ctx, load.RabbitQuorum, brokers, nodes)
	if err == nil {
		err = processes.serves(ctx, load.RabbitStream, slices.Concat(brokers, streams), nodes)
	}
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (n *rabbitNode) launch(dir string) (*server, error) {
	config, err := n.config()
	if err == nil {
		err = os.WriteFile(n.conf, []byte(config), 0o600)
	}
	if err != nil {
		return nil, err
	}
	return launch(dir, n.name, n.env, rabbitServer)
}

// join waits until the node is up, and makes it one of the first one's cluster.
func (n *rabbitNode) join(ctx context.Context, dir string, processes servers, other bool) error {
	if err := processes.await(ctx, func(ctx context.Context) error {
		_, err := n.control(ctx, dir, "await_startup", "--timeout", "5")
		return err
	}); err != nil || !other {
		return err
	}
	for _, step := range [][]string{{"stop_app"}, {"join_cluster", "peer1@localhost"}, {"start_app"}} {
		if _, err := n.control(ctx, dir, step...); err != nil {
			return err
		}
	}
	return nil
}

func (n *rabbitNode) describe(ctx context.Context, dir string) (string, error) {
	version, err := n.control(ctx, dir, "version")
	return fmt.Sprintf("RabbitMQ %s (Debian's), three nodes, the stream plugin, else defaults; a queue or stream is declared at the node that its client uses, and led there", strings.TrimSpace(version)), err
}
