package bench

import (
	"context"
	"errors"
	"time"

	"github.com/penstock/penstock/client"
)

// target is the topic that a run works on.
type target struct {
	c       *client.Client
	topic   *client.Topic
	parts   []client.TopicPartition
	brokers int
}

// openTarget connects and finds the topic, creating it when create says so.
func (o *Options) openTarget(ctx context.Context, m *meter, create bool) (*target, error) {
	opts := append([]client.Opt{client.WithClientID("penstock-bench"), client.WithHooks(m)}, o.ClientOptions...)
	c, err := client.New(o.Brokers, opts...)
	if err != nil {
		return nil, err
	}
	t := &target{c: c}
	if err := t.find(ctx, o, create); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return t, nil
}

func (t *target) find(ctx context.Context, o *Options, create bool) error {
	admin := t.c.Admin()
	cluster, err := admin.Cluster(ctx)
	if err != nil {
		return err
	}
	for _, b := range cluster.Brokers {
		if !b.Fenced {
			t.brokers++
		}
	}
	t.topic, err = admin.DescribeTopic(ctx, o.Topic)
	if client.CodeOf(err) == client.CodeUnknownTopic && create {
		if _, err = admin.CreateTopic(ctx, client.TopicSpec{
			Name: o.Topic, Partitions: int32(o.Partitions), ReplicationFactor: int32(o.Replicas),
			Configs: map[string]string{"durability": o.Durability},
		}); err != nil && client.CodeOf(err) != client.CodeTopicExists {
			return err
		}
		t.topic, err = describeNew(ctx, admin, o.Topic)
	}
	if err != nil {
		return err
	}
	t.parts, err = admin.Partitions(ctx, o.Topic)
	return err
}

// describeNew waits for a topic that was just created to show up.
func describeNew(ctx context.Context, admin *client.Admin, name string) (*client.Topic, error) {
	for {
		t, err := admin.DescribeTopic(ctx, name)
		if client.CodeOf(err) != client.CodeUnknownTopic {
			return t, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// ends returns the end offset of every partition.
func (t *target) ends(ctx context.Context, where client.Offset) (map[client.TopicPartition]int64, error) {
	found, err := t.c.Admin().ListOffsets(ctx, where, t.parts...)
	if err != nil {
		return nil, err
	}
	ends := make(map[client.TopicPartition]int64, len(found))
	for _, f := range found {
		if f.Err != nil {
			return nil, f.Err
		}
		ends[f.TopicPartition] = f.Offset
	}
	return ends, nil
}

func sum(offsets map[client.TopicPartition]int64) (n int64) {
	for _, o := range offsets {
		n += o
	}
	return n
}

// report fills in what every workload reports alike.
func (t *target) report(o *Options, workload string) *Report {
	return &Report{
		Workload: workload, Acks: o.Acks, Durability: t.topic.Durability, Replicas: int(t.topic.ReplicationFactor),
		Partitions: len(t.parts), RecordSize: o.RecordSize, Compression: o.Compression,
		Payload: o.describePayload(), Producers: o.Producers, BatchBytes: o.BatchSize, Spread: o.Spread,
		WarmupSeconds: o.Warmup.Seconds(), Processes: t.brokers, FS: FileSystem(o.DataDir), GitRev: o.GitRev,
	}
}

// rates fills in what follows from the measured part.
func (r *Report) rates(records, bytes int64, elapsed time.Duration) {
	r.Records, r.Bytes, r.Seconds = records, bytes, elapsed.Seconds()
	if r.Seconds > 0 {
		r.RecordsPerSec = float64(records) / r.Seconds
		r.MiBPerSec = float64(bytes) / (1 << 20) / r.Seconds
	}
}
