package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/internal/chaos"
)

func installPenstock(_ context.Context, l *lab) error {
	_, err := os.Stat(l.binary)
	return err
}

// startPenstock starts three servers on addresses of the loopback that are this
// process's own, so that each can have the usual ports.
func startPenstock(ctx context.Context, l *lab, dir string, _ durability) (*cluster, error) {
	opts := chaos.Options{Binary: l.binary, Dir: dir, Nodes: nodes, Config: []string{"log.retention.check.interval: " + retentionCheck.String()}}
	c := &cluster{settings: fmt.Sprintf("three servers with both doors, log.retention.check.interval=%s, else defaults; topics have retention.bytes, segment.bytes, and durability=synced or replicated", retentionCheck)}
	for i := range nodes {
		ip := fmt.Sprintf("127.%d.%d.%d", 64+i, os.Getpid()>>8&0xff, os.Getpid()&0xff)
		data := filepath.Join(dir, fmt.Sprintf("node%d", i+1))
		opts.Hosts = append(opts.Hosts, chaos.Host{IP: ip, DataDir: data, Env: []string{"PENSTOCK_LISTEN_KAFKA=" + ip + ":9092"}})
		c.kafka, c.dirs = append(c.kafka, ip+":9092"), append(c.dirs, data)
	}
	processes, err := chaos.New(opts)
	if err != nil {
		return nil, err
	}
	c.addrs, c.stop = processes.Addrs(), processes.Close
	c.alive = func() error {
		for id := 1; id <= nodes; id++ {
			if !processes.Running(id) {
				return fmt.Errorf("node %d ended; see %s", id, processes.LogFile(id))
			}
		}
		return nil
	}
	err = processes.StartAll()
	if err == nil {
		err = processes.WaitHealthy(ctx, readyWait)
	}
	if err == nil {
		c.pids = processes.Pids()
	}
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}
