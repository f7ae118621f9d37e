package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/internal/chaos"
)

const (
	nodes      = 3
	healthWait = 30 * time.Second
	deleteWait = 2 * time.Minute
)

// lab is what the measurements share.
type lab struct {
	*options

	dir      string
	clusters int
	topics   int
	produced float64 // records/s of the last produce run
	table    table
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// retentionCheck is often, so that a long run keeps to its part of the disk.
const retentionCheck = "log.retention.check.interval: 5s"

// cluster starts three processes on an empty folder; stop removes it.
func (l *lab) cluster(ctx context.Context) (c *chaos.Cluster, stop func() error, err error) {
	l.clusters++
	dir := filepath.Join(l.dir, "cluster"+strconv.Itoa(l.clusters))
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // an ordinary folder
		return nil, nil, err
	}
	if c, err = chaos.New(chaos.Options{Binary: l.binary, Dir: dir, Nodes: nodes, Config: slices.Concat([]string{retentionCheck}, l.config)}); err != nil {
		return nil, nil, err
	}
	stop = func() error {
		err := c.Close()
		if !l.keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return err
	}
	if err := c.StartAll(); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	if err := c.WaitHealthy(ctx, healthWait); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return c, stop, nil
}

// topic is a name not used before.
func (l *lab) topic(kind string) string {
	l.topics++
	return fmt.Sprintf("%s-%d", kind, l.topics)
}

// warmMemory touches memory before a run, see bench.TouchMemory.
func (l *lab) warmMemory() error {
	if l.warm == 0 {
		return nil
	}
	began := time.Now()
	if err := bench.TouchMemory(l.warm << 30); err != nil {
		return err
	}
	l.say("  touched %d GiB of memory in %s", l.warm, time.Since(began).Round(time.Millisecond))
	l.table.note("%d GiB of memory were touched and given back before each run", l.warm)
	return nil
}

// load runs `penstock bench` as a process of its own.
func (l *lab) load(ctx context.Context, c *chaos.Cluster, workload string, args ...string) (*bench.Report, error) {
	pids := make([]string, 0, nodes)
	for _, p := range c.Pids() {
		pids = append(pids, strconv.Itoa(p))
	}
	common := []string{
		"bench", workload, "--json", "--data-dir", filepath.Dir(c.DataDir(1)), "--batch-size", strconv.Itoa(l.batch),
	}
	if !slices.Contains(args, "--rate") { // Broker time says something of full load only, and not of brokers that are killed.
		common = append(common, "--broker-pids", strings.Join(pids, ","))
	}
	out, err := c.CLI(ctx, nil, append(common, args...)...)
	if err != nil {
		return nil, err
	}
	r := &bench.Report{}
	if err := json.Unmarshal([]byte(out), r); err != nil {
		return nil, fmt.Errorf("report of bench %s: %w", workload, err)
	}
	if r.Errors > 0 {
		return r, fmt.Errorf("bench %s: %d errors", workload, r.Errors)
	}
	l.table.GitRev = r.GitRev
	return r, nil
}

// retained is the part of -disk that retention leaves; the rest is for files that are
// begun, and for what comes between two of its rounds.
const retained = 2.0 / 3

// create makes a topic of which so much stays that a long run does not fill the disk.
func (l *lab) create(ctx context.Context, c *chaos.Cluster, topic string, partitions int, durability string) error {
	keep := int64(l.disk*retained*(1<<30)) / int64(nodes*partitions)
	segment := int64(l.segment)
	if segment == 0 {
		segment = max(keep/8, segmentLeast)
	}
	_, err := c.CLI(ctx, nil, "topic", "create", topic, "--partitions", strconv.Itoa(partitions), "--replicas", strconv.Itoa(nodes),
		"--config", "durability="+durability, "--config", fmt.Sprintf("retention.bytes=%d", keep), "--config", fmt.Sprintf("segment.bytes=%d", segment))
	return err
}

// segmentLeast keeps short runs from rolling files all the time.
const segmentLeast = 64 << 20

// fillMost is how long a topic is filled that is only read; nothing of it goes.
const fillMost = 10 * time.Second

// fill writes what is to be read.
func (l *lab) fill(ctx context.Context, c *chaos.Cluster, topic string) error {
	if l.segment > 0 {
		if _, err := c.CLI(ctx, nil, "topic", "create", topic, "--partitions", strconv.Itoa(partitions), "--replicas", strconv.Itoa(nodes), "--config", "segment.bytes="+strconv.Itoa(l.segment)); err != nil {
			return err
		}
	}
	if err := l.warmMemory(); err != nil {
		return err
	}
	_, err := l.load(ctx, c, "produce", "--topic", topic, "--duration", min(l.duration, fillMost).String())
	return err
}

// timed are the flags of a run that is measured.
func (l *lab) timed(topic string) []string {
	return []string{"--topic", topic, "--duration", l.duration.String(), "--warmup", l.warmup.String()}
}

// drop deletes a topic and waits until its bytes are gone from the disk, so that
// the next run neither runs out of it nor shares it with the deletion.
func (l *lab) drop(ctx context.Context, c *chaos.Cluster, topic string) error {
	if _, err := c.CLI(ctx, nil, "topic", "delete", topic); err != nil {
		return err
	}
	for deadline := time.Now().Add(deleteWait); ; {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(c.DataDir(1)), "node*", "*", topic+"-*"))
		if err != nil || len(found) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("topic %s is deleted, but after %s %s is still there", topic, deleteWait, found[0])
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
