package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
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

// rabbitNode is the environment of one node.
func rabbitNode(id int, dir string, amqp, dist, epmd string) []string {
	host, port, _ := net.SplitHostPort(amqp) // made by us
	_, distPort, _ := net.SplitHostPort(dist)
	_, epmdPort, _ := net.SplitHostPort(epmd)
	base := filepath.Join(dir, fmt.Sprintf("rabbit%d", id))
	return []string{
		"HOME=" + dir, fmt.Sprintf("RABBITMQ_NODENAME=peer%d@localhost", id), "RABBITMQ_NODE_IP_ADDRESS=" + host, "RABBITMQ_NODE_PORT=" + port,
		"RABBITMQ_DIST_PORT=" + distPort, "ERL_EPMD_PORT=" + epmdPort, "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_BASE=" + base, "RABBITMQ_MNESIA_BASE=" + base,
		"RABBITMQ_LOG_BASE=" + filepath.Join(dir, "logs"), "RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "plugins"), "RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, "none"),
		"RUNNING_UNDER_SYSTEMD=true", // the script becomes the server, instead of waiting for it
	}
}

// startRabbit starts epmd, by which the nodes find each other, and three nodes, and
// joins them.
func startRabbit(ctx context.Context, l *lab, dir string, _ durability) (*cluster, error) {
	a, err := l.addresses(2*nodes + 1)
	if err != nil {
		return nil, err
	}
	brokers, dist, epmdAt := a[:nodes], a[nodes:2*nodes], a[2*nodes]
	err = errors.Join(os.MkdirAll(filepath.Join(dir, "logs"), 0o755), //nolint:gosec // an ordinary folder
		os.WriteFile(filepath.Join(dir, ".erlang.cookie"), []byte("PENSTOCKPEERS"), 0o400), os.WriteFile(filepath.Join(dir, "plugins"), []byte("[].\n"), 0o600))
	if err != nil {
		return nil, err
	}
	_, epmdPort, err := net.SplitHostPort(epmdAt)
	if err != nil {
		return nil, err
	}
	epmd, err := launch(dir, "epmd", []string{"ERL_EPMD_ADDRESS=127.0.0.1"}, "epmd", "-port", epmdPort)
	if err != nil {
		return nil, err
	}
	processes := servers{}
	c := &cluster{addrs: brokers}
	c.stop = func() error { return errors.Join(processes.stop(), epmd.stop()) }
	c.alive = func() error { return processes.died() }
	for id := 1; id <= nodes; id++ {
		env := rabbitNode(id, dir, brokers[id-1], dist[id-1], epmdAt)
		s, err := launch(dir, fmt.Sprintf("rabbit%d", id), env, rabbitServer)
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
		processes = append(processes, s)
		c.dirs = append(c.dirs, filepath.Join(dir, fmt.Sprintf("rabbit%d", id)))
		if err := processes.await(ctx, func(ctx context.Context) error {
			_, err := command(ctx, dir, env, rabbitCtl, "await_startup", "--timeout", "5")
			return err
		}); err != nil {
			return nil, errors.Join(err, c.stop())
		}
		if id == 1 {
			continue
		}
		for _, step := range [][]string{{"stop_app"}, {"join_cluster", "peer1@localhost"}, {"start_app"}} {
			if _, err := command(ctx, dir, env, rabbitCtl, step...); err != nil {
				return nil, errors.Join(err, c.stop())
			}
		}
	}
	c.pids = processes.pids()
	version, err := command(ctx, dir, rabbitNode(1, dir, brokers[0], dist[0], epmdAt), rabbitCtl, "version")
	if err == nil {
		c.settings = fmt.Sprintf("RabbitMQ %s (Debian's), three nodes, defaults", strings.TrimSpace(version))
		err = processes.serves(ctx, load.RabbitQuorum, brokers, nodes)
	}
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}
