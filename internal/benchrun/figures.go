package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/client"
)

// produce measures records/s with every ack meaning three disks.
func (l *lab) produce(ctx context.Context) error { return l.throughput(ctx, "synced", "produce") }

// memory is produce with every ack meaning three memories.
func (l *lab) memory(ctx context.Context) error {
	return l.throughput(ctx, "replicated", "produce, not waiting for disks")
}

func (l *lab) throughput(ctx context.Context, durability, what string) (err error) {
	c, stop, err := l.cluster(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var rates, client, broker, million, resident, disk []float64
	var setting string
	for range l.runs {
		topic := l.topic("produce")
		if err := l.create(ctx, c, topic, partitions, durability); err != nil {
			return err
		}
		if err := l.warmMemory(); err != nil {
			return err
		}
		r, mib, err := l.watched(ctx, c, "produce", append(l.timed(topic), "--durability", durability)...)
		if err != nil {
			return err
		}
		l.say("  %.0f records/s", r.RecordsPerSec)
		million = append(million, *r.CPUSecondsPerGB.Broker*float64(r.RecordSize)/1000)
		resident = append(resident, slices.Max(mib))
		disk = append(disk, float64(*r.BrokerDiskReads)/(1<<20))
		rates = append(rates, r.RecordsPerSec)
		client = append(client, r.CPUSecondsPerGB.Client)
		broker = append(broker, *r.CPUSecondsPerGB.Broker)
		setting = describe(r)
		if err := l.drop(ctx, c, topic); err != nil {
			return err
		}
	}
	if durability == "synced" {
		l.produced = rates[len(rates)-1]
	}
	l.table.add(figure{what, setting, "records/s", rates})
	l.table.add(figure{what + ": CPU of the client", setting, "s/GB", client})
	l.table.add(figure{what + ": CPU of the three brokers together", setting, "s/GB", broker})
	l.table.add(figure{what + ": CPU of the three brokers together, a million records", setting, "s", million})
	l.table.add(figure{what + ": resident memory of the largest node", setting, "MiB", resident})
	l.table.add(figure{what + ": read from disks", readSetting, "MiB", disk})
	return nil
}

func describe(r *bench.Report) string {
	return fmt.Sprintf("%d B, acks=%s, %s, %d replicas, %d partitions, batches of %.4g KiB",
		r.RecordSize, r.Acks, r.Durability, r.Replicas, r.Partitions, r.MeanBatchBytes/1024)
}

// consume measures records/s from the start of a topic, round and round.
func (l *lab) consume(ctx context.Context) (err error) {
	c, stop, err := l.cluster(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	topic := l.topic("consume")
	if err := l.fill(ctx, c, topic); err != nil {
		return err
	}
	var rates []float64
	var setting string
	for range l.runs {
		if err := l.warmMemory(); err != nil {
			return err
		}
		r, err := l.load(ctx, c, "consume", l.timed(topic)...)
		if err != nil {
			return err
		}
		l.say("  %.0f records/s", r.RecordsPerSec)
		rates = append(rates, r.RecordsPerSec)
		setting = fmt.Sprintf("%d B, %d partitions, batches of %.4g KiB", r.RecordSize, r.Partitions, r.MeanBatchBytes/1024)
	}
	l.table.add(figure{"consume from the start", setting, "records/s", rates})
	return nil
}

const (
	idleAfter  = 5 * time.Second
	startLimit = 30 * time.Second
)

// idle measures the resident memory of servers without topics.
func (l *lab) idle(ctx context.Context) (err error) {
	c, stop, err := l.cluster(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := pause(ctx, idleAfter); err != nil {
		return err
	}
	var mib []float64
	for _, pid := range c.Pids() {
		n, err := bench.Resident(pid)
		if err != nil {
			return err
		}
		mib = append(mib, float64(n)/(1<<20))
	}
	l.table.add(figure{"idle server process", fmt.Sprintf("of %d, no topic, %s after the start", nodes, idleAfter), "MiB", mib})
	return nil
}

// start measures exec to first acknowledgement.
func (l *lab) start(ctx context.Context) error {
	var seconds []float64
	for range max(l.runs, 3) {
		took, err := l.startOnce(ctx)
		if err != nil {
			return err
		}
		l.say("  %s", took.Round(time.Millisecond))
		seconds = append(seconds, took.Seconds())
	}
	l.table.add(figure{"dev: exec to first acknowledged record", fmt.Sprintf("%d nodes in one process, new topic, %d replicas, synced", nodes, nodes), "s", seconds})
	return nil
}

func (l *lab) startOnce(ctx context.Context) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	dir, err := os.MkdirTemp(l.dir, "dev-")
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, l.binary, "dev", "--nodes", fmt.Sprint(nodes), "--base-port", "0", "--data-dir", dir) //nolint:gosec // the user's binary
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = startLimit
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		_, rest, _ := strings.Cut(line, "brokers ")
		brokers, _, _ := strings.Cut(rest, ";")
		err = firstRecord(ctx, strings.Split(brokers, ","))
	}
	took = time.Since(began)
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
	return took, errors.Join(err, cmd.Wait())
}

func firstRecord(ctx context.Context, brokers []string) (err error) {
	c, err := client.New(brokers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if _, err := c.Admin().CreateTopic(ctx, client.TopicSpec{Name: "first", Partitions: 1, ReplicationFactor: nodes}); err != nil {
		return err
	}
	p, err := c.NewProducer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close(ctx)) }()
	return p.ProduceSync(ctx, &client.Record{Topic: "first", Value: []byte("first")})
}
