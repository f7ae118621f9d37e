package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/chaos/probe"
)

const (
	loadBefore   = 3 * time.Second  // load before a kill
	loadAfter    = 5 * time.Second  // and after it
	recoverLimit = 30 * time.Second // longest wait for a write after a kill
	partitions   = 6
	rateTrial    = 5 * time.Second
)

// failover kills leaders of both kinds, each on new topics, so that every broker
// leads some.
func (l *lab) failover(ctx context.Context) (err error) {
	c, stop, err := l.cluster(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	rate, err := l.loadRate(ctx, c)
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		controller bool
		what       string
	}{{false, "SIGKILL of a leader that is not the controller"}, {true, "SIGKILL of a leader that is the controller"}} {
		var first, all []float64
		for range l.kills {
			k, err := l.kill(ctx, c, kind.controller, rate)
			if err != nil {
				return fmt.Errorf("%s: %w", kind.what, err)
			}
			first, all = append(first, k.first.Seconds()), append(all, k.all.Seconds())
		}
		setting := fmt.Sprintf("%d partitions, %d replicas, acks=all, synced, under %d records/s", partitions, nodes, rate)
		l.table.add(figure{kind.what + ", to the first acknowledged write", setting, "s", first})
		l.table.add(figure{kind.what + ", to one on each partition it led", setting, "s", all})
	}
	l.table.note("after every kill all acknowledged probe records were read back, each at its offset: none missing, none twice")
	return nil
}

// loadRate is half of what the cluster takes.
func (l *lab) loadRate(ctx context.Context, c *chaos.Cluster) (int, error) {
	if l.options.load > 0 {
		return l.options.load, nil
	}
	if l.produced == 0 {
		topic := l.topic("trial")
		if err := l.warmMemory(); err != nil {
			return 0, err
		}
		r, err := l.load(ctx, c, "produce", "--topic", topic, "--duration", rateTrial.String(), "--warmup", "2s")
		if err != nil {
			return 0, err
		}
		l.produced = r.RecordsPerSec
		if err := l.drop(ctx, c, topic); err != nil {
			return 0, err
		}
	}
	return int(l.produced) / 2, nil
}

// outage is how long writes failed after a kill.
type outage struct {
	first time.Duration // on the partitions that the killed broker led, the soonest write
	all   time.Duration // the latest partition's first write
}

func (l *lab) kill(ctx context.Context, c *chaos.Cluster, controller bool, rate int) (found outage, err error) {
	if err := l.warmMemory(); err != nil {
		return found, err
	}
	cl, err := client.New(c.Addrs(), client.WithClientID("benchrun"))
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, cl.Close()) }()
	probed, loaded := l.topic("probe"), l.topic("load")
	if _, err := cl.Admin().CreateTopic(ctx, client.TopicSpec{Name: probed, Partitions: partitions, ReplicationFactor: nodes}); err != nil {
		return found, err
	}
	if err := c.WaitHealthy(ctx, healthWait); err != nil {
		return found, err
	}
	p, err := probe.Start(ctx, cl, probed, partitions)
	if err != nil {
		return found, err
	}
	load := make(chan error, 1)
	go func() {
		_, err := l.load(ctx, c, "produce", "--topic", loaded, "--rate", strconv.Itoa(rate), "--duration", (loadBefore + loadAfter).String())
		load <- err
	}()
	found, victim, err := l.strike(ctx, c, cl, p, probed, controller)
	err = errors.Join(err, p.Stop(ctx))
	if lost := <-load; lost != nil {
		err = errors.Join(err, fmt.Errorf("the load did not survive: %w", lost))
	}
	if err != nil {
		return found, err
	}
	if err := c.Start(victim); err != nil {
		return found, err
	}
	if err := c.WaitHealthy(ctx, 2*healthWait); err != nil {
		return found, err
	}
	if err := p.Check(ctx, cl); err != nil {
		return found, err
	}
	l.say("  killed node %d: first write after %s, every partition after %s; %d acknowledged records are all there",
		victim, found.first.Round(time.Millisecond), found.all.Round(time.Millisecond), p.Acked())
	return found, errors.Join(l.drop(ctx, c, probed), l.drop(ctx, c, loaded))
}

// strike kills a node and waits until the partitions that it led take writes.
func (l *lab) strike(ctx context.Context, c *chaos.Cluster, cl *client.Client, p *probe.Prober, topic string, controller bool) (found outage, victim int, err error) {
	if err := pause(ctx, loadBefore); err != nil {
		return found, 0, err
	}
	victim, led, err := pick(ctx, cl, topic, controller)
	if err != nil {
		return found, 0, err
	}
	began := time.Now()
	if err := c.Kill(victim); err != nil {
		return found, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverLimit)
	defer cancel()
	for {
		writes := p.FirstAfter(began, led)
		if len(writes) == len(led) {
			found.first, found.all = writes[0], writes[0]
			for _, w := range writes {
				found.first, found.all = min(found.first, w), max(found.all, w)
			}
			return found, victim, nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return found, victim, fmt.Errorf("%s after node %d was killed, %d of its %d partitions take writes: %w",
				recoverLimit, victim, len(writes), len(led), err)
		}
	}
}

// pick names a broker to kill and the partitions of the topic that it leads.
func pick(ctx context.Context, cl *client.Client, topic string, controller bool) (node int, led []int32, err error) {
	cluster, err := cl.Admin().Cluster(ctx)
	if err != nil {
		return 0, nil, err
	}
	t, err := cl.Admin().DescribeTopic(ctx, topic)
	if err != nil {
		return 0, nil, err
	}
	for id := int32(1); id <= nodes; id++ {
		if (id == cluster.Controller) != controller {
			continue
		}
		for _, p := range t.Partitions {
			if p.Leader == id {
				led = append(led, p.Partition)
			}
		}
		if len(led) > 0 {
			return int(id), led, nil
		}
	}
	return 0, nil, fmt.Errorf("no broker to kill: controller %d leads none or all of %s", cluster.Controller, topic)
}
