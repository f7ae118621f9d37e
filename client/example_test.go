package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/penstock/penstock/client"
)

// Produce a few records and wait for all of them.
func ExampleProducer_ProduceSync() {
	ctx := context.Background()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	p, err := c.NewProducer()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = p.Close(ctx) }()

	r := &client.Record{Topic: "orders", Key: []byte("order-17"), Value: []byte("paid")}
	if err := p.ProduceSync(ctx, r); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("partition %d, offset %d\n", r.Partition, r.Offset)
}

// Produce many records; promises tell what became of each.
func ExampleProducer_Produce() {
	ctx := context.Background()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	p, err := c.NewProducer(
		client.WithCompression("zstd"),
		client.WithLinger(10*time.Millisecond),
		client.WithDeliveryTimeout(30*time.Second),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 100_000 {
		p.Produce(ctx, &client.Record{Topic: "events", Value: fmt.Appendf(nil, "event %d", i)},
			func(r *client.Record, err error) {
				switch {
				case err == nil:
				case client.IsIndefinite(err):
					fmt.Printf("%s: may be in the log: %v\n", r.Value, err)
				default:
					fmt.Printf("%s: not in the log: %v\n", r.Value, err)
				}
			})
	}
	if err := p.Close(ctx); err != nil { // flushes
		fmt.Println(err)
	}
}

// Read in a group until interrupted. What the loop moved past is committed every
// few seconds and by Close.
func ExampleConsumer_Records() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	consumer, err := c.NewConsumer(
		client.WithGroup("billing"),
		client.WithTopics("orders"),
		client.OnRevoked(func(_ *client.Consumer, parts []client.TopicPartition) {
			fmt.Println("going to another member:", parts)
		}),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	for record := range consumer.Records(ctx) {
		fmt.Printf("%s-%d@%d %s=%s\n", record.Topic, record.Partition, record.Offset, record.Key, record.Value)
	}
	if err := consumer.Err(); err != nil {
		fmt.Println(err)
	}
	if err := consumer.Close(context.WithoutCancel(ctx)); err != nil {
		fmt.Println(err)
	}
}

// Read millions of records a second: batches are decoded in place, and each
// record is valid until the next turn.
func ExampleConsumer_Poll() {
	ctx := context.Background()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	consumer, err := c.NewConsumer(client.WithTopics("events"), client.WithStart(client.AtTime(time.Now().Add(-time.Hour))))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = consumer.Close(ctx) }()
	var records, bytes int
	for records < 1_000_000 {
		polled, err := consumer.Poll(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		for record := range polled.All() {
			records++
			bytes += len(record.Value)
		}
		if err := polled.Err(); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println(records, bytes)
}

// Commit by hand, after the work is done.
func ExampleConsumer_Commit() {
	ctx := context.Background()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	consumer, err := c.NewConsumer(client.WithGroup("billing"), client.WithTopics("orders"), client.WithManualCommit())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = consumer.Close(ctx) }()
	for {
		polled, err := consumer.Poll(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		for record := range polled.All() {
			fmt.Println(string(record.Value))
		}
		if err := consumer.Commit(ctx); err != nil && !client.IsRetriable(err) {
			fmt.Println(err)
			return
		}
	}
}

// Change what a member of a group reads while it reads. What stays, it goes on
// reading without a pause.
func ExampleConsumer_Subscribe() {
	ctx := context.Background()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	consumer, err := c.NewConsumer(client.WithGroup("billing"), client.WithTopics("orders"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = consumer.Close(ctx) }()
	for record := range consumer.Records(ctx) {
		fmt.Println(record.Topic, string(record.Value))
		if string(record.Key) == "refunds-begin" {
			if err := consumer.Subscribe("orders", "refunds"); err != nil {
				fmt.Println(err)
				return
			}
		}
	}
}

// Say what is to happen where a group has committed nothing, and where what it
// committed is no longer in the log: here the application decides itself.
func ExampleWithAutoOffsetReset() {
	ctx := context.Background()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	consumer, err := c.NewConsumer(
		client.WithGroup("billing"),
		client.WithTopics("orders"),
		client.WithAutoOffsetReset(client.ResetError), // or ResetEarliest, ResetLatest
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = consumer.Close(ctx) }()
	for {
		polled, err := consumer.Poll(ctx)
		if e, ok := errors.AsType[*client.Error](err); ok && e.Code == client.CodeOffsetOutOfRange {
			at := client.TopicPartition{Topic: e.Topic, Partition: e.Partition}
			fmt.Println("nothing to go on from in", at, "- from its beginning then")
			if err := consumer.Seek(at, client.Earliest()); err != nil {
				fmt.Println(err)
				return
			}
			continue
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		for record := range polled.All() {
			fmt.Println(string(record.Value))
		}
	}
}

// Create a topic unless it is there.
func ExampleAdmin_CreateTopic() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.New([]string{"127.0.0.1:7070"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	_, err = c.Admin().CreateTopic(ctx, client.TopicSpec{
		Name: "orders", Partitions: 6, ReplicationFactor: 3,
		Configs: map[string]string{"retention.ms": "604800000"},
	})
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code == client.CodeTopicExists {
		fmt.Println("it exists")
		return
	}
	fmt.Println(err)
}
