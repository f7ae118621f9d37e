package main

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/client"
)

// readAll reads the topic from the earliest offset to its present end, without a group.
func readAll(ctx context.Context, c *client.Client, seen *ledger) (bytes int64, err error) {
	parts, err := c.Admin().Partitions(ctx, topic)
	if err != nil {
		return 0, err
	}
	ends, err := c.Admin().ListOffsets(ctx, client.Latest(), parts...)
	if err != nil {
		return 0, err
	}
	want := int64(0)
	for _, e := range ends {
		if e.Err != nil {
			return 0, e.Err
		}
		want += e.Offset
	}
	k, err := c.NewConsumer(client.WithPartitions(parts...), client.WithStart(client.Earliest()))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, k.Close(ctx)) }()
	for read := int64(0); read < want; {
		polled, err := k.Poll(ctx)
		if err != nil {
			return bytes, err
		}
		for r := range polled.All() {
			seen.add(r.Key, r.Value)
			bytes += int64(len(r.Value))
			read++
		}
		err = polled.Err()
		polled.Release()
		if err != nil {
			return bytes, err
		}
	}
	return bytes, nil
}

// readInGroup lets n members of a group share the topic until want records came.
func readInGroup(ctx context.Context, c *client.Client, group string, n, want int, seen *ledger) (counts []int64, bytes int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var left, total atomic.Int64
	left.Store(int64(want))
	counts = make([]int64, n)
	var g errgroup.Group
	for i := range n {
		k, err := c.NewConsumer(client.WithGroup(group), client.WithTopics(topic), client.WithStart(client.Earliest()))
		if err != nil {
			return nil, 0, err
		}
		g.Go(func() (err error) {
			defer func() { err = errors.Join(err, k.Close(context.WithoutCancel(ctx))) }()
			for r := range k.Records(ctx) {
				seen.add(r.Key, r.Value)
				counts[i]++
				total.Add(int64(len(r.Value)))
				if left.Add(-1) == 0 {
					cancel() // the others wait for records that will not come
				}
			}
			return k.Err()
		})
	}
	err = g.Wait()
	return counts, total.Load(), err
}
