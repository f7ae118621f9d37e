package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type franz struct{}

func (franz) produce(ctx context.Context, a *args, acked func(int)) error {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	opts := []kgo.Opt{kgo.SeedBrokers(a.brokers...), kgo.DefaultProduceTopic(a.topic), kgo.ProducerBatchCompression(codecs[a.codec]), kgo.ProducerLinger(5 * time.Millisecond)}
	if !a.idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	wait := pace(a.rate)
	failed := make(chan error, a.count)
	for n := range a.count {
		if wait(); a.stopped() {
			break
		}
		r := &kgo.Record{Key: keyOf(n), Value: fmt.Appendf(nil, "v%d", n), Headers: []kgo.RecordHeader{{Key: "n", Value: []byte(strconv.Itoa(n))}}}
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				failed <- err
				return
			}
			acked(n)
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func shown(r *kgo.Record) record {
	out := record{r.Partition, r.Offset, text(r.Key), text(r.Value), "-"}
	for _, h := range r.Headers {
		out.header = string(h.Value)
	}
	return out
}

func (franz) consume(ctx context.Context, a *args, got func(record)) error {
	from := kgo.NewOffset().AtStart()
	if ms, err := strconv.ParseInt(a.from, 10, 64); err == nil {
		from = kgo.NewOffset().AfterMilli(ms)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(a.brokers...), kgo.ConsumeTopics(a.topic), kgo.ConsumeResetOffset(from))
	if err != nil {
		return err
	}
	defer cl.Close()
	for n := 0; n < a.count; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return err
		}
		fs.EachRecord(func(r *kgo.Record) { n++; got(shown(r)) })
	}
	return nil
}

func (franz) join(ctx context.Context, a *args, got func(record) bool) error {
	opts := []kgo.Opt{
		kgo.SeedBrokers(a.brokers...), kgo.ConsumeTopics(a.topic), kgo.ConsumerGroup(a.group),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(300 * time.Millisecond),
	}
	if a.protocol == "consumer" { // with its default balancer it would be silently of the other protocol
		opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
	}
	if a.commit == "manual" {
		opts = append(opts, kgo.DisableAutoCommit())
	} else {
		opts = append(opts, kgo.AutoCommitInterval(100*time.Millisecond), kgo.AutoCommitMarks())
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for more := true; more; {
		fs := cl.PollRecords(ctx, 10)
		if err := fs.Err(); err != nil {
			if errors.Is(err, context.Canceled) {
				break
			}
			// The client goes on and joins again: this tells of a session that ended.
			if _, ok := errors.AsType[*kgo.ErrGroupSession](err); !ok {
				return err
			}
		}
		var taken []*kgo.Record
		fs.EachRecord(func(r *kgo.Record) {
			if more {
				taken = append(taken, r)
				more = got(shown(r))
			}
		})
		if a.commit == "manual" {
			err = cl.CommitRecords(context.WithoutCancel(ctx), taken...)
		} else {
			cl.MarkCommitRecords(taken...)
		}
		if err != nil {
			return err
		}
	}
	if a.commit == "auto" {
		return cl.CommitMarkedOffsets(context.WithoutCancel(ctx))
	}
	return nil
}

func (franz) admin(ctx context.Context, a *args) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(a.brokers...))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	value := "3600000"
	created, err := adm.CreateTopic(ctx, 3, 3, map[string]*string{"retention.ms": &value}, a.topic)
	if err = errors.Join(err, created.Err); err != nil {
		return err
	}
	if again, _ := adm.CreateTopic(ctx, 3, 3, nil, a.topic); again.Err == nil {
		return errors.New("a topic was created twice")
	}
	topics, err := adm.ListTopics(ctx, a.topic)
	if err != nil || len(topics[a.topic].Partitions) != 3 || topics[a.topic].ID == (kadm.TopicID{}) {
		return fmt.Errorf("ListTopics: %v %w", topics[a.topic], err)
	}
	value = "7200000"
	altered, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, a.topic)
	if err != nil || altered[0].Err != nil {
		return fmt.Errorf("AlterTopicConfigs: %w", errors.Join(err, altered[0].Err))
	}
	configs, err := adm.DescribeTopicConfigs(ctx, a.topic)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(configs[0].Configs, func(c kadm.Config) bool { return c.Key == "retention.ms" })
	if i < 0 || configs[0].Configs[i].MaybeValue() != value {
		return fmt.Errorf("DescribeTopicConfigs: %v", configs[0].Configs)
	}
	if _, err := adm.BrokerMetadata(ctx); err != nil {
		return err
	}
	if _, err := adm.DescribeAllLogDirs(ctx, nil); err != nil {
		return err
	}
	if _, err := adm.DescribeGroups(ctx); err != nil {
		return err
	}
	if offsets, err := adm.ListEndOffsets(ctx, a.topic); err != nil || offsets.Error() != nil {
		return errors.Join(err, offsets.Error())
	}
	deleted, err := adm.DeleteTopics(ctx, a.topic)
	return errors.Join(err, deleted.Error())
}
