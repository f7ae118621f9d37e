package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/client"
)

const (
	loadBefore = 1 * time.Second
	loadAfter  = 3 * time.Second
	loadRate   = 5000 // records/s
)

// killLeader kills, under load, a broker that leads partitions and is not the
// controller, goes on, and lets it return.
func (d *demo) killLeader(ctx context.Context) error {
	victim, led, err := d.leaderToKill(ctx)
	if err != nil {
		return err
	}
	d.acked.resetPause()
	before := d.acked.len()
	load, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	loaded := make(chan error, 1)
	go func() { loaded <- d.load(ctx, load) }()

	if err := wait(ctx, loadBefore); err != nil {
		return errors.Join(err, <-loaded)
	}
	if err := d.nodes.Kill(victim); err != nil {
		return err
	}
	d.say("6. killed node %d (SIGKILL), leader of %d of %d partitions, while %d records/s came in", victim, led, partitions, loadRate)
	err = wait(ctx, loadAfter)
	stopLoad()
	if err := errors.Join(err, <-loaded, d.acked.failure()); err != nil {
		return err
	}
	d.say("     producing went on: %d more records acknowledged, longest pause of acknowledgements %s",
		d.acked.len()-before, d.acked.longestPause().Round(time.Millisecond))
	began := time.Now()
	if err := d.nodes.Start(victim); err != nil {
		return err
	}
	if err := d.nodes.WaitHealthy(ctx, healthWait); err != nil {
		return err
	}
	d.say("     node %d came back and caught up in %s", victim, time.Since(began).Round(time.Millisecond))
	return nil
}

// wait lets the demonstration run on for d.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (d *demo) leaderToKill(ctx context.Context) (node, led int, err error) {
	cluster, err := d.client.Admin().Cluster(ctx)
	if err != nil {
		return 0, 0, err
	}
	t, err := d.client.Admin().DescribeTopic(ctx, topic)
	if err != nil {
		return 0, 0, err
	}
	count := map[int32]int{}
	for _, p := range t.Partitions {
		count[p.Leader]++
	}
	for id := range int32(3) {
		if id++; id != cluster.Controller && count[id] > led {
			node, led = int(id), count[id]
		}
	}
	if node == 0 {
		return 0, 0, fmt.Errorf("no broker but the controller (%d) leads a partition", cluster.Controller)
	}
	return node, led, nil
}

// load produces the corpus at a steady rate until load ends, then settles what is under way.
func (d *demo) load(ctx, load context.Context) error {
	p, err := d.client.NewProducer()
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; {
		select {
		case <-load.Done():
			return p.Close(ctx)
		case <-tick.C:
		}
		for range loadRate / 100 {
			r := d.corpus.Records[i%len(d.corpus.Records)]
			p.Produce(ctx, &client.Record{Topic: topic, Key: []byte(r.Key), Value: r.Value}, d.acked.settle)
			i++
		}
	}
}
