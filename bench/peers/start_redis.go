package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/bench/peers/load"
)

func installRedis(ctx context.Context, _ *lab) error { return apt(ctx, "redis-server", "redis-server") }

// startRedis starts one server: a write to Redis does not wait for replicas, so one
// that has none is its best case.
func startRedis(ctx context.Context, l *lab, dir string, d durability) (*cluster, error) {
	address, err := l.addresses(1)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(address[0])
	if err != nil {
		return nil, err
	}
	version, err := command(ctx, "", nil, "redis-server", "--version")
	if err != nil {
		return nil, err
	}
	fsync := "everysec" // the default of the append-only file
	if d == synced {
		fsync = "always"
	}
	s, err := launch(dir, "redis", nil, "redis-server", "--bind", host, "--port", port, "--dir", dir, "--appendonly", "yes", "--appendfsync", fsync, "--save", "")
	if err != nil {
		return nil, err
	}
	processes := servers{s}
	release := strings.Fields(version)
	c := &cluster{
		addrs: address, pids: processes.pids(), dirs: []string{filepath.Join(dir, "appendonlydir")}, stop: processes.stop, alive: processes.died,
		settings: fmt.Sprintf("Redis %s (Debian's), one server and so one copy of each record, appendonly yes, appendfsync %s, no snapshots, else defaults", strings.TrimPrefix(release[2], "v="), fsync),
	}
	if err := processes.serves(ctx, load.GoRedis, address, 1); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}
