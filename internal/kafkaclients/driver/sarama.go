package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

type saramaClient struct{}

func saramaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.ClientID = "driver"
	c.Consumer.MaxWaitTime = 100 * time.Millisecond // commits wait behind fetches: it has one connection a broker
	return c
}

func (saramaClient) produce(_ context.Context, a *args, acked func(int)) error {
	c := saramaConfig()
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	if err := c.Producer.Compression.UnmarshalText([]byte(a.codec)); err != nil {
		return err
	}
	if a.idempotent {
		c.Producer.Idempotent, c.Net.MaxOpenRequests = true, 1
	}
	p, err := sarama.NewAsyncProducer(a.brokers, c)
	if err != nil {
		return err
	}
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() {
		for m := range p.Successes() {
			acked(m.Metadata.(int))
		}
	})
	wg.Go(func() {
		for e := range p.Errors() {
			failed = e
		}
	})
	wait := pace(a.rate)
	for n := range a.count {
		wait()
		m := &sarama.ProducerMessage{Topic: a.topic, Value: sarama.StringEncoder(fmt.Sprintf("v%d", n)), Metadata: n, Headers: []sarama.RecordHeader{{Key: []byte("n"), Value: []byte(strconv.Itoa(n))}}}
		if k := keyOf(n); k != nil {
			m.Key = sarama.ByteEncoder(k)
		}
		p.Input() <- m
	}
	p.AsyncClose()
	wg.Wait()
	return failed
}

func saramaShown(m *sarama.ConsumerMessage) record {
	out := record{m.Partition, m.Offset, text(m.Key), text(m.Value), "-"}
	for _, h := range m.Headers {
		out.header = string(h.Value)
	}
	return out
}

func (saramaClient) consume(ctx context.Context, a *args, got func(record)) error {
	cl, err := sarama.NewClient(a.brokers, saramaConfig())
	if err != nil {
		return err
	}
	c, err := sarama.NewConsumerFromClient(cl)
	if err != nil {
		return err
	}
	partitions, err := c.Partitions(a.topic)
	if err != nil {
		return err
	}
	all := make(chan *sarama.ConsumerMessage)
	for _, p := range partitions {
		from := sarama.OffsetOldest
		if ms, err := strconv.ParseInt(a.from, 10, 64); err == nil {
			if from, err = cl.GetOffset(a.topic, p, ms); err != nil {
				return err
			}
		}
		pc, err := c.ConsumePartition(a.topic, p, from)
		if err != nil {
			return err
		}
		go func() { // Ends with the process.
			for m := range pc.Messages() {
				all <- m
			}
		}()
	}
	for range a.count {
		select {
		case m := <-all:
			got(saramaShown(m))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

type saramaMember struct {
	commit string
	got    func(record) bool
	stop   func()
	mu     sync.Mutex
	done   bool
}

func (*saramaMember) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*saramaMember) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *saramaMember) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case msg, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			m.mu.Lock()
			if m.done {
				m.mu.Unlock()
				return nil
			}
			m.done = !m.got(saramaShown(msg))
			s.MarkMessage(msg, "")
			if m.commit == "manual" {
				s.Commit()
			}
			if m.done {
				m.stop()
			}
			m.mu.Unlock()
		case <-s.Context().Done():
			return nil
		}
	}
}

func (saramaClient) join(ctx context.Context, a *args, got func(record) bool) error {
	c := saramaConfig()
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = a.commit == "auto"
	c.Consumer.Offsets.AutoCommit.Interval = 100 * time.Millisecond
	c.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	g, err := sarama.NewConsumerGroup(a.brokers, a.group, c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &saramaMember{commit: a.commit, got: got, stop: cancel}
	for ctx.Err() == nil {
		if err := g.Consume(ctx, []string{a.topic}, m); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return g.Close()
}

func (saramaClient) admin(_ context.Context, a *args) error {
	adm, err := sarama.NewClusterAdmin(a.brokers, saramaConfig())
	if err != nil {
		return err
	}
	value := "3600000"
	if err := adm.CreateTopic(a.topic, &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 3, ConfigEntries: map[string]*string{"retention.ms": &value}}, false); err != nil {
		return err
	}
	list, err := adm.ListTopics()
	if err != nil || list[a.topic].NumPartitions != 3 {
		return fmt.Errorf("ListTopics: %v %w", list[a.topic], err)
	}
	value = "7200000"
	if err := adm.IncrementalAlterConfig(sarama.TopicResource, a.topic, map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}}, false); err != nil {
		return err
	}
	configs, err := adm.DescribeConfig( //nolint:staticcheck // what applications have
		sarama.ConfigResource{Type: sarama.TopicResource, Name: a.topic, ConfigNames: []string{"retention.ms"}})
	if err != nil || len(configs) != 1 || configs[0].Value != value {
		return fmt.Errorf("DescribeConfig: %v %w", configs, err)
	}
	if _, err := adm.ListConsumerGroups(); err != nil {
		return err
	}
	if _, _, err := adm.DescribeCluster(); err != nil {
		return err
	}
	return errors.Join(adm.DeleteTopic(a.topic), adm.Close())
}
