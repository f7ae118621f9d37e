package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/bench/peers/load"
)

// installNATS builds the server from the Go module that go.mod names.
func installNATS(ctx context.Context, l *lab) error {
	_, err := command(ctx, l.module, []string{"CGO_ENABLED=0"}, "go", "build", "-o", l.natsServer(), "github.com/nats-io/nats-server/v2")
	return err
}

func (l *lab) natsServer() string { return filepath.Join(l.tools, "nats-server") }

func natsConfig(id int, clients, routes []string, data string, d durability) string {
	urls := make([]string, 0, len(routes))
	for _, r := range routes {
		urls = append(urls, `"nats://`+r+`"`)
	}
	sync := ""
	if d == synced {
		sync = "  sync_interval: always\n"
	}
	return fmt.Sprintf("server_name: peer%d\nlisten: %q\njetstream {\n  store_dir: %q\n%s}\ncluster {\n  name: peers\n  listen: %q\n  routes: [%s]\n}\n",
		id, clients[id-1], data, sync, routes[id-1], strings.Join(urls, ", "))
}

func startNATS(ctx context.Context, l *lab, dir string, d durability) (*cluster, error) {
	clients, err := l.addresses(nodes)
	if err != nil {
		return nil, err
	}
	routes, err := l.addresses(nodes)
	if err != nil {
		return nil, err
	}
	version, err := command(ctx, "", nil, l.natsServer(), "--version")
	if err != nil {
		return nil, err
	}
	sync := "sync_interval of 2m, its default"
	if d == synced {
		sync = "sync_interval: always"
	}
	c := &cluster{addrs: clients, settings: fmt.Sprintf("%s, three servers, R3 file streams, %s", strings.TrimSpace(version), sync)}
	var processes servers
	c.stop, c.alive = func() error { return processes.stop() }, func() error { return processes.died() }
	for id := 1; id <= nodes; id++ {
		name := fmt.Sprintf("nats%d", id)
		data := filepath.Join(dir, name)
		file := filepath.Join(dir, name+".conf")
		err := os.WriteFile(file, []byte(natsConfig(id, clients, routes, data, d)), 0o600)
		var s *server
		if err == nil {
			s, err = launch(dir, name, nil, l.natsServer(), "-c", file)
		}
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
		processes = append(processes, s)
		c.dirs = append(c.dirs, data)
	}
	c.pids = processes.pids()
	if err := processes.serves(ctx, load.NATS, clients, nodes); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}
