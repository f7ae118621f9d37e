// Command demo shows the main job on real processes and real records, and
// checks every step instead of believing it:
//
//	three server processes -> a topic -> the package index, keyed ->
//	a group of two consumers -> a replay from the earliest offset ->
//	a leader killed under load -> the same cluster, whole again
//
// It exits 1 when a record is missing, comes twice, differs, or is out of the
// order of its key.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/corpus"
)

const (
	topic      = "packages"
	partitions = 6
	replicas   = 3
	healthWait = 30 * time.Second
)

func main() {
	binary := flag.String("penstock", "bin/penstock", "the binary")
	keep := flag.Bool("keep", false, "keep the data directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := run(ctx, *binary, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, keep bool) (err error) {
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "penstock-demo-")
	if err != nil {
		return err
	}
	if !keep {
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	}
	nodes, err := chaos.New(chaos.Options{Binary: binary, Dir: dir, Nodes: 3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nodes.Close()) }()

	d := &demo{nodes: nodes, began: time.Now()}
	if err := d.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.client.Close()) }()
	for _, step := range []func(context.Context) error{d.produce, d.consumeInGroup, d.replay, d.killLeader, d.replayAll} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.say("done in %s: every record acknowledged was read back, in the order of its key, none missing, none twice.", time.Since(d.began).Round(100*time.Millisecond))
	if keep {
		d.say("data and logs are in %s", dir)
	}
	return nil
}

// demo is the cluster and what is known to have been acknowledged.
type demo struct {
	nodes  *chaos.Cluster
	client *client.Client
	corpus *corpus.Corpus
	acked  *ledger
	began  time.Time
}

func (d *demo) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// rate is a number of records and bytes over a time.
func rate(records int, bytes int64, took time.Duration) string {
	s := took.Seconds()
	return fmt.Sprintf("%d records, %.1f MiB in %.2f s: %.0f records/s, %.1f MiB/s",
		records, float64(bytes)/(1<<20), s, float64(records)/s, float64(bytes)/(1<<20)/s)
}

func (d *demo) start(ctx context.Context) error {
	began := time.Now()
	if err := d.nodes.StartAll(); err != nil {
		return err
	}
	if err := d.nodes.WaitHealthy(ctx, healthWait); err != nil {
		return err
	}
	d.say("1. three server processes formed a cluster in %s", time.Since(began).Round(time.Millisecond))
	for id := 1; id <= 3; id++ {
		d.say("     node %d  grpc %s  pid %d", id, d.nodes.Addr(id), d.nodes.Pid(id))
	}
	c, err := client.New(d.nodes.Addrs(), client.WithClientID("demo"))
	if err != nil {
		return err
	}
	d.client = c
	if _, err := c.Admin().CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: partitions, ReplicationFactor: replicas}); err != nil {
		return err
	}
	d.say("2. topic %s: %d partitions, %d replicas, durability synced (an ack means: on three disks)", topic, partitions, replicas)
	d.corpus, err = corpus.Load(ctx, ".")
	if err != nil {
		return err
	}
	d.acked = newLedger()
	return nil
}

func (d *demo) produce(ctx context.Context) error {
	p, err := d.client.NewProducer(client.WithCompression("lz4"))
	if err != nil {
		return err
	}
	began := time.Now()
	for _, r := range d.corpus.Records {
		p.Produce(ctx, &client.Record{Topic: topic, Key: []byte(r.Key), Value: r.Value}, d.acked.settle)
	}
	if err := p.Close(ctx); err != nil {
		return err
	}
	if err := d.acked.failure(); err != nil {
		return err
	}
	d.say("3. produced from %s, key = package or path, acks=all, lz4\n     %s", d.corpus.Source,
		rate(len(d.corpus.Records), d.corpus.Bytes(), time.Since(began)))
	return nil
}

func (d *demo) consumeInGroup(ctx context.Context) error {
	began := time.Now()
	seen := newLedger()
	counts, bytes, err := readInGroup(ctx, d.client, "demo-group", 2, d.acked.len(), seen)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := d.acked.compare(seen); err != nil {
		return fmt.Errorf("the group's records: %w", err)
	}
	d.say("4. a group of two consumers read them back (%d and %d records) and committed their offsets\n     %s", counts[0], counts[1], rate(seen.len(), bytes, took))
	return nil
}

func (d *demo) replay(ctx context.Context) error {
	return d.readBack(ctx, "the replay", "5. replayed from the earliest offset")
}

func (d *demo) replayAll(ctx context.Context) error {
	return d.readBack(ctx, "after the kill", "7. read everything once more")
}

// readBack reads the topic from its earliest offset and compares it with what was acknowledged.
func (d *demo) readBack(ctx context.Context, what, line string) error {
	began := time.Now()
	seen := newLedger()
	bytes, err := readAll(ctx, d.client, seen)
	if err != nil {
		return err
	}
	if err := d.acked.compare(seen); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	d.say("%s\n     %s", line, rate(seen.len(), bytes, time.Since(began)))
	return nil
}
