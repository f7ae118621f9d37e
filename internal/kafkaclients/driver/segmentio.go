package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

type segmentio struct{}

func (segmentio) produce(ctx context.Context, a *args, acked func(int)) error {
	codecs := map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}
	w := &kafka.Writer{
		Addr: kafka.TCP(a.brokers...), Topic: a.topic, Balancer: &kafka.Hash{}, RequiredAcks: kafka.RequireAll,
		Compression: codecs[a.codec], BatchTimeout: 10 * time.Millisecond,
	}
	var batch []kafka.Message
	for n := range a.count {
		batch = append(batch, kafka.Message{Key: keyOf(n), Value: fmt.Appendf(nil, "v%d", n), Headers: []kafka.Header{{Key: "n", Value: []byte(strconv.Itoa(n))}}})
	}
	if err := w.WriteMessages(ctx, batch...); err != nil {
		return err
	}
	for n := range a.count {
		acked(n)
	}
	return w.Close()
}

func segmentioShown(m *kafka.Message) record {
	out := record{int32(m.Partition), m.Offset, text(m.Key), text(m.Value), "-"}
	for _, h := range m.Headers {
		out.header = string(h.Value)
	}
	return out
}

func (segmentio) consume(ctx context.Context, a *args, got func(record)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := kafka.DialContext(ctx, "tcp", a.brokers[0])
	if err != nil {
		return err
	}
	partitions, err := conn.ReadPartitions(a.topic)
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	all := make(chan kafka.Message)
	var wg sync.WaitGroup
	for _, p := range partitions {
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: a.brokers, Topic: a.topic, Partition: p.ID, MaxWait: 100 * time.Millisecond})
		from := r.SetOffset(kafka.FirstOffset)
		if ms, err := strconv.ParseInt(a.from, 10, 64); err == nil {
			from = r.SetOffsetAt(ctx, time.UnixMilli(ms))
		}
		if from != nil {
			return from
		}
		wg.Go(func() {
			defer func() { _ = r.Close() }()
			for {
				m, err := r.ReadMessage(ctx)
				if err != nil {
					return
				}
				select {
				case all <- m:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	for range a.count {
		select {
		case m := <-all:
			got(segmentioShown(&m))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	cancel()
	wg.Wait()
	return nil
}

func (segmentio) join(ctx context.Context, a *args, got func(record) bool) error {
	c := kafka.ReaderConfig{
		Brokers: a.brokers, GroupID: a.group, Topic: a.topic, StartOffset: kafka.FirstOffset,
		MaxWait: 100 * time.Millisecond, HeartbeatInterval: 300 * time.Millisecond, JoinGroupBackoff: 200 * time.Millisecond,
	}
	if a.commit == "auto" {
		c.CommitInterval = 100 * time.Millisecond
	}
	r := kafka.NewReader(c)
	for more := true; more; {
		m, err := r.FetchMessage(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
		more = got(segmentioShown(&m))
		if err := r.CommitMessages(context.WithoutCancel(ctx), m); err != nil {
			return err
		}
	}
	return r.Close()
}

func (segmentio) admin(ctx context.Context, a *args) error {
	cl := &kafka.Client{Addr: kafka.TCP(a.brokers...)}
	created, err := cl.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: a.topic, NumPartitions: 3, ReplicationFactor: 3, ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "3600000"}},
	}}})
	if err != nil || created.Errors[a.topic] != nil {
		return errors.Join(err, created.Errors[a.topic])
	}
	altered, err := cl.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: a.topic,
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: "retention.ms", Value: "7200000", ConfigOperation: kafka.ConfigOperationSet}},
	}}})
	if err != nil || altered.Resources[0].Error != nil {
		return errors.Join(err, altered.Resources[0].Error)
	}
	configs, err := cl.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: a.topic, ConfigNames: []string{"retention.ms"}}}})
	if err != nil || configs.Resources[0].ConfigEntries[0].ConfigValue != "7200000" {
		return fmt.Errorf("DescribeConfigs: %v %w", configs, err)
	}
	if _, err := cl.ListGroups(ctx, &kafka.ListGroupsRequest{}); err != nil {
		return err
	}
	deleted, err := cl.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{a.topic}})
	if err != nil {
		return err
	}
	return deleted.Errors[a.topic]
}
