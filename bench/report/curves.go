package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

// definition is a curve and how it is measured.
type definition struct {
	curve   curve
	measure func(context.Context, *lab, *curve) error
}

const (
	produce = "produce"
	consume = "consume from the start"
	records = "records/s"
	// consumeWorkload is what bench calls the second.
	consumeWorkload = "consume"
)

func definitions() []definition {
	return []definition{
		{curve{Name: "partitions", Title: "Rate by partitions", X: "partitions", Y: records}, measurePartitions},
		{curve{Name: "producers", Title: "Rate by producers", X: "producers", Y: records}, measureProducers},
		{curve{Name: "consumers", Title: "Rate by consumers, each of which reads the newest MiB again and again", X: "consumers", Y: "records/s, together"}, measureConsumers},
		{curve{Name: "sizes", Title: "Rate by record size", X: "bytes of a record", Y: "MB/s", LogY: true}, measureSizes},
		{curve{Name: "codecs", Title: "Rate by codec, orders of 200 B in JSON", X: "codec", Y: records}, measureCodecs},
		{curve{Name: "nodes", Title: "Rate by nodes, all on this one machine", X: "nodes", Y: records}, measureNodes},
	}
}

func curveNames() (names []string) {
	for _, d := range definitions() {
		names = append(names, d.curve.Name)
	}
	return names
}

// lab has a cluster that curves share until one needs another number of nodes.
type lab struct {
	*options

	dir      string
	cluster  *chaos.Cluster
	clusters int
	topics   int
	reports  []*bench.Report // of the curve
}

const healthWait = 3 * time.Minute

// nodes makes a running cluster of so many nodes.
func (l *lab) nodes(ctx context.Context, n int) error {
	if l.cluster != nil && l.cluster.Nodes() == n {
		return nil
	}
	if err := l.close(); err != nil {
		return err
	}
	l.clusters++
	dir := filepath.Join(l.dir, fmt.Sprintf("cluster%d", l.clusters))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	c, err := chaos.New(chaos.Options{Binary: l.binary, Dir: dir, Nodes: n, Voters: 3})
	if err != nil {
		return err
	}
	l.cluster = c
	if err := c.StartAll(); err != nil {
		return err
	}
	return c.WaitHealthy(ctx, healthWait)
}

func (l *lab) close() error {
	if l.cluster == nil {
		return nil
	}
	c := l.cluster
	l.cluster = nil
	return errors.Join(c.Close(), os.RemoveAll(filepath.Dir(c.DataDir(1))))
}

// admin does something that may take long with many partitions on a busy machine.
func (l *lab) admin(do func(*client.Admin) error) (err error) {
	cl, err := client.New(l.cluster.Addrs(), client.WithClientID("report"), client.WithRequestTimeout(healthWait))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cl.Close()) }()
	return do(cl.Admin())
}

const (
	replicas        = 3
	usualPartitions = 6
)

// messageBytes leaves room for a batch of one record of a MiB.
const messageBytes = 2 << 20

// topic makes one.
func (l *lab) topic(ctx context.Context, partitions int) (name string, err error) {
	l.topics++
	name = fmt.Sprintf("curve%04d", l.topics)
	if err := l.admin(func(a *client.Admin) error {
		_, err := a.CreateTopic(ctx, client.TopicSpec{
			Name: name, Partitions: int32(partitions), ReplicationFactor: replicas,
			Configs: map[string]string{"max.message.bytes": strconv.Itoa(messageBytes)},
		})
		return err
	}); err != nil {
		return "", err
	}
	return name, l.cluster.WaitHealthy(ctx, healthWait)
}

// bench runs a workload of `penstock bench`.
func (l *lab) bench(ctx context.Context, workload, topic string, args ...string) (*bench.Report, error) {
	if err := bench.TouchMemory(l.touch << 30); err != nil {
		return nil, err
	}
	common := []string{
		"bench", workload, "--json", "--topic", topic, "--duration", l.duration.String(), "--warmup", l.warmup.String(),
		"--data-dir", filepath.Dir(l.cluster.DataDir(1)),
	}
	out, err := l.cluster.CLI(ctx, nil, append(common, args...)...)
	if err != nil {
		return nil, err
	}
	r := &bench.Report{}
	if err := json.Unmarshal([]byte(out), r); err != nil {
		return nil, fmt.Errorf("report of bench %s: %w", workload, err)
	}
	if r.Errors > 0 {
		return nil, fmt.Errorf("bench %s: %d errors", workload, r.Errors)
	}
	l.reports = append(l.reports, r)
	fmt.Fprintf(os.Stderr, "%s  %s %v: %.0f records/s, %.0f MB/s\n", time.Now().Format(time.TimeOnly), workload, args, r.RecordsPerSec, megabytes(r))
	return r, nil
}

func megabytes(r *bench.Report) float64 { return float64(r.Bytes) / 1e6 / r.Seconds }
func rate(r *bench.Report) float64      { return r.RecordsPerSec }

// point produces to a new topic, reads it, and drops it.
func (l *lab) point(ctx context.Context, c *curve, x float64, label string, partitions int, of func(*bench.Report) float64, args ...string) error {
	nodes := l.cluster.Nodes()
	for range l.runs {
		topic, err := l.topic(ctx, partitions)
		if err != nil {
			return err
		}
		in, err := l.bench(ctx, produce, topic, args...)
		if err != nil {
			return err
		}
		out, err := l.bench(ctx, consumeWorkload, topic)
		if err != nil {
			return err
		}
		c.add(produce, x, label, of(in))
		c.add(consume, x, label, of(out))
		if partitions > mostDropped { // a new cluster is there sooner
			err = l.close()
		} else {
			err = l.drop(ctx, topic)
		}
		if err != nil {
			return err
		}
		if err := l.nodes(ctx, nodes); err != nil {
			return err
		}
	}
	return nil
}

const mostDropped = 1000 // partitions of a topic

const dropWait = 3 * time.Minute

// drop deletes a topic and waits until its bytes are gone.
func (l *lab) drop(ctx context.Context, topic string) error {
	if err := l.admin(func(a *client.Admin) error { return a.DeleteTopic(ctx, topic) }); err != nil {
		return err
	}
	for deadline := time.Now().Add(dropWait); ; {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(l.cluster.DataDir(1)), "node*", "*", topic+"-*"))
		if err != nil || len(found) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("topic %s is deleted, but after %s %s is still there", topic, dropWait, found[0])
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func measurePartitions(ctx context.Context, l *lab, c *curve) error {
	if err := l.nodes(ctx, 3); err != nil {
		return err
	}
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		if err := l.point(ctx, c, float64(n), "", n, rate); err != nil {
			return err
		}
	}
	return nil
}

func measureProducers(ctx context.Context, l *lab, c *curve) error {
	if err := l.nodes(ctx, 3); err != nil {
		return err
	}
	for _, n := range []int{1, 10, 100, 1000} {
		for range l.runs {
			topic, err := l.topic(ctx, usualPartitions)
			if err != nil {
				return err
			}
			r, err := l.bench(ctx, produce, topic, "--producers", strconv.Itoa(n))
			if err != nil {
				return err
			}
			c.add(produce, float64(n), "", rate(r))
			if err := l.drop(ctx, topic); err != nil {
				return err
			}
		}
	}
	return nil
}

const newest = 1 << 20

func measureConsumers(ctx context.Context, l *lab, c *curve) error {
	if err := l.nodes(ctx, 3); err != nil {
		return err
	}
	topic, err := l.topic(ctx, usualPartitions)
	if err != nil {
		return err
	}
	if _, err := l.bench(ctx, produce, topic); err != nil {
		return err
	}
	for _, n := range []int{1, 10, 100, 1000} {
		for range l.runs {
			r, err := l.bench(ctx, consumeWorkload, topic, "--readers", strconv.Itoa(n), "--newest", strconv.Itoa(newest))
			if err != nil {
				return err
			}
			c.add("consume the newest MiB", float64(n), "", rate(r))
		}
	}
	return l.drop(ctx, topic)
}

func measureSizes(ctx context.Context, l *lab, c *curve) error {
	if err := l.nodes(ctx, 3); err != nil {
		return err
	}
	for _, n := range []int{10, 100, 1000, 10_000, 100_000, 1 << 20} {
		if err := l.point(ctx, c, float64(n), "", usualPartitions, megabytes, "--record-size", strconv.Itoa(n)); err != nil {
			return err
		}
	}
	return nil
}

func measureCodecs(ctx context.Context, l *lab, c *curve) error {
	if err := l.nodes(ctx, 3); err != nil {
		return err
	}
	for i, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		if err := l.point(ctx, c, float64(i), codec, usualPartitions, rate, "--compression", codec, "--payload", "orders", "--record-size", "200"); err != nil {
			return err
		}
	}
	return nil
}

func measureNodes(ctx context.Context, l *lab, c *curve) error {
	for _, n := range []int{3, 5, 7, 9} {
		if err := l.nodes(ctx, n); err != nil {
			return err
		}
		if err := l.point(ctx, c, float64(n), "", usualPartitions, rate); err != nil {
			return err
		}
	}
	return nil
}
