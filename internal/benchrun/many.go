package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

// Of many partitions one topic's are written.
const (
	manyTopics        = 10
	writtenPartitions = 1000
	manyWait          = 3 * time.Minute
)

// many measures producing to some of 10,000 partitions, beside 6 on the same cluster in
// turn, and 6 on the cluster before there were any others. Records go where the client
// puts those without a key, a batch here and a batch there; and each to the next
// partition, as keys would have it, so that all of them fill at the same time.
func (l *lab) many(ctx context.Context) error {
	return l.onCluster(ctx, func(c *chaos.Cluster) error {
		cl, err := client.New(c.Addrs(), client.WithClientID("benchrun"), client.WithRequestTimeout(manyWait))
		if err != nil {
			return err
		}
		return errors.Join(l.manyOn(ctx, c, cl), cl.Close())
	})
}

// manyRates are records/s, one a run.
type manyRates struct {
	alone, few, many, spreadFew, spreadMany []float64
	setting, spreadSetting                  string
}

func (l *lab) manyOn(ctx context.Context, c *chaos.Cluster, cl *client.Client) error {
	var found manyRates
	for range l.runs {
		rate, err := l.few(ctx, c)
		if err != nil {
			return err
		}
		found.alone = append(found.alone, rate)
	}
	for range manyTopics - 1 {
		if err := l.createMany(ctx, c, cl, l.topic("idle")); err != nil {
			return err
		}
	}
	for range l.runs {
		if err := l.manyRun(ctx, c, cl, &found); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("produce to %d of %d partitions", writtenPartitions, manyTopics*writtenPartitions)
	const beside, alone = "the same cluster, in turn", "the same cluster, before it had any others"
	l.table.add(figure{what, found.setting, "records/s", found.many})
	l.table.add(figure{"produce to 6 partitions beside those", beside, "records/s", found.few})
	l.table.add(figure{"produce to 6 partitions alone", alone, "records/s", found.alone})
	l.table.add(figure{what + ": share of the rate to 6 beside them", found.setting, "%", shares(found.many, found.few)})
	l.table.add(figure{what + ": share of the rate to 6 alone", found.setting, "%", shares(found.many, found.alone)})
	what += ", each record to the next"
	l.table.add(figure{what, found.spreadSetting, "records/s", found.spreadMany})
	l.table.add(figure{"produce to 6 partitions beside those, each record to the next", beside, "records/s", found.spreadFew})
	l.table.add(figure{what + ": share of the rate to 6 beside them", found.spreadSetting, "%", shares(found.spreadMany, found.spreadFew)})
	return nil
}

// manyRun has four turns: to 6 and to 1,000 partitions, in both ways.
func (l *lab) manyRun(ctx context.Context, c *chaos.Cluster, cl *client.Client, found *manyRates) error {
	few, err := l.few(ctx, c)
	if err != nil {
		return err
	}
	many, setting, err := l.written(ctx, c, cl)
	if err != nil {
		return err
	}
	l.say("  %.0f records/s to %d partitions, %.0f to %d", many, writtenPartitions, few, partitions)
	found.few, found.many, found.setting = append(found.few, few), append(found.many, many), setting
	if few, err = l.few(ctx, c, "--spread"); err != nil {
		return err
	}
	if many, setting, err = l.written(ctx, c, cl, "--spread"); err != nil {
		return err
	}
	l.say("  each record to the next: %.0f records/s to %d partitions, %.0f to %d", many, writtenPartitions, few, partitions)
	found.spreadFew, found.spreadMany, found.spreadSetting = append(found.spreadFew, few), append(found.spreadMany, many), setting
	return nil
}

// few is the rate to a topic of 6 partitions.
func (l *lab) few(ctx context.Context, c *chaos.Cluster, args ...string) (float64, error) {
	topic := l.topic("few")
	if err := l.create(ctx, c, topic, partitions, "synced"); err != nil {
		return 0, err
	}
	rate, _, err := l.rate(ctx, c, topic, args...)
	return rate, err
}

// written is the rate to the tenth of the large topics, which is a new one each time:
// its retention could not bound it, with a file a partition.
func (l *lab) written(ctx context.Context, c *chaos.Cluster, cl *client.Client, args ...string) (float64, string, error) {
	topic := l.topic("many")
	if err := l.createMany(ctx, c, cl, topic); err != nil {
		return 0, "", err
	}
	return l.rate(ctx, c, topic, args...)
}

func (l *lab) rate(ctx context.Context, c *chaos.Cluster, topic string, args ...string) (float64, string, error) {
	if err := l.warmMemory(); err != nil {
		return 0, "", err
	}
	r, err := l.load(ctx, c, "produce", append(l.timed(topic), args...)...)
	if err != nil {
		return 0, "", err
	}
	return r.RecordsPerSec, describe(r), l.drop(ctx, c, topic)
}

// createMany makes one of the large topics, and waits until it is in sync.
func (l *lab) createMany(ctx context.Context, c *chaos.Cluster, cl *client.Client, topic string) error {
	if _, err := cl.Admin().CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: writtenPartitions, ReplicationFactor: nodes}); err != nil {
		return err
	}
	return c.WaitHealthy(ctx, manyWait)
}

// shares are percentages, run by run.
func shares(of, whole []float64) []float64 {
	all := make([]float64, 0, len(of))
	for i := range of {
		all = append(all, 100*of[i]/whole[i])
	}
	return all
}
