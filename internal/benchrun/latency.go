package main

import (
	"context"
	"fmt"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/internal/chaos"
)

const (
	latencyRate       = 1000 // records/s
	latencyPartitions = 3
)

// latencyRow is a workload that measures latencies, on topics of so many partitions.
type latencyRow struct {
	workload   string
	partitions int
	durability string
	note       string // ends the setting
	rows       []quantiles
	args       []string
	// disk is what the bare disk is asked for right after each run; nil: nothing.
	disk func(*bench.Report) rawPattern
}

// quantiles is what to show of a report, and its name.
type quantiles struct {
	what string
	of   func(*bench.Report) bench.Latency
}

func acknowledged(r *bench.Report) bench.Latency { return r.LatencyMS }
func arrived(r *bench.Report) bench.Latency      { return *r.EndToEndMS }

// quantileSeries is p50 and p99 of each run, in milliseconds.
type quantileSeries [2][]float64

func (s *quantileSeries) add(p50, p99 float64) { s[0], s[1] = append(s[0], p50), append(s[1], p99) }

func (l *lab) addQuantiles(what, setting string, s quantileSeries) {
	for i, q := range []string{"p50", "p99"} {
		l.table.add(figure{what + " " + q, setting, "ms", s[i]})
	}
}

// percentiles runs a row, and adds p50 and p99 of each of its latencies, and of the bare disk.
func (l *lab) percentiles(ctx context.Context, row latencyRow) error {
	return l.onCluster(ctx, func(c *chaos.Cluster) error {
		found := make([]quantileSeries, len(row.rows))
		var single, slowest quantileSeries
		var setting string
		var pattern rawPattern
		for range l.runs {
			r, err := l.latencyRun(ctx, c, row)
			if err != nil {
				return err
			}
			for i, q := range row.rows {
				ms := q.of(r)
				l.say("  %s: p50 %.2f ms, p99 %.2f ms", q.what, ms.P50, ms.P99)
				found[i].add(ms.P50, ms.P99)
			}
			setting = describe(r) + row.note
			if row.disk == nil {
				continue
			}
			pattern = row.disk(r)
			disk, err := l.rawDisk(ctx, pattern)
			if err != nil {
				return err
			}
			l.say("  the bare disk: %.2f and %.2f, the slowest of three %.2f and %.2f", disk.single.p50, disk.single.p99, disk.slowest.p50, disk.slowest.p99)
			single.add(disk.single.p50, disk.single.p99)
			slowest.add(disk.slowest.p50, disk.slowest.p99)
		}
		for i, q := range row.rows {
			l.addQuantiles(q.what, setting, found[i])
		}
		if row.disk != nil {
			// Named for the row: benchstat takes figures of one name for one benchmark.
			bare := "bare disk, as " + row.rows[0].what
			l.addQuantiles(bare, pattern.setting(), single)
			l.addQuantiles(bare+", slowest of the three of a batch,", pattern.setting(), slowest)
		}
		return nil
	})
}

func (l *lab) latencyRun(ctx context.Context, c *chaos.Cluster, row latencyRow) (*bench.Report, error) {
	topic := l.topic("latency")
	if err := l.create(ctx, c, topic, row.partitions, row.durability); err != nil {
		return nil, err
	}
	r, err := l.load(ctx, c, row.workload, append(l.timed(topic), row.args...)...)
	if err != nil {
		return nil, err
	}
	return r, l.drop(ctx, c, topic)
}

// openLoop is a row of records at latencyRate.
func openLoop(workload, durability string, rows ...quantiles) latencyRow {
	return latencyRow{
		workload: workload, partitions: latencyPartitions, durability: durability, note: fmt.Sprintf(", %d/s open loop", latencyRate),
		rows: rows, args: []string{"--rate", fmt.Sprint(latencyRate)},
	}
}

// latency measures an open loop, and right after it the bare disk.
func (l *lab) latency(ctx context.Context) error {
	row := openLoop("latency", "synced", quantiles{"latency", acknowledged})
	row.disk = func(*bench.Report) rawPattern { return latencyPattern() }
	return l.percentiles(ctx, row)
}

// latencyMemory is latency with every ack meaning three memories.
func (l *lab) latencyMemory(ctx context.Context) error {
	return l.percentiles(ctx, openLoop("latency", "replicated", quantiles{"latency, not waiting for disks,", acknowledged}))
}

// single sends each record when the one before is acknowledged.
func (l *lab) single(ctx context.Context) error {
	return l.percentiles(ctx, latencyRow{
		workload: "single", partitions: 1, durability: "synced", rows: []quantiles{{"one record at a time", acknowledged}},
	})
}

// endToEnd is the time until a consumer has a record, and beside it that until the
// producer has the acknowledgement of the same record.
func (l *lab) endToEnd(ctx context.Context) error {
	return l.percentiles(ctx, openLoop("e2e", "synced",
		quantiles{"from produce to the consumer", arrived}, quantiles{"the acknowledgements of those records", acknowledged}))
}

// half is latency at half of the rate that produce reaches, and right after it what the
// bare disk takes for as many batches as large.
func (l *lab) half(ctx context.Context) error {
	if l.produced == 0 && l.options.load == 0 {
		if err := l.onCluster(ctx, func(c *chaos.Cluster) error {
			_, err := l.loadRate(ctx, c)
			return err
		}); err != nil {
			return err
		}
	}
	rate, err := l.loadRate(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.warmMemory(); err != nil {
		return err
	}
	return l.percentiles(ctx, latencyRow{
		workload: "produce", partitions: partitions, durability: "synced", note: fmt.Sprintf(", %d/s", rate),
		rows: []quantiles{{"latency at half of the greatest rate", acknowledged}}, args: []string{"--rate", fmt.Sprint(rate)},
		disk: func(r *bench.Report) rawPattern {
			bytes := float64(rate * (r.RecordSize + recordOverhead))
			return rawPattern{partitions, int(r.MeanBatchBytes), max(1, int(bytes/r.MeanBatchBytes))}
		},
	})
}

// recordOverhead is about what a record of 100 B takes in a batch beside its value.
const recordOverhead = 10
