package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/client"
)

func newBench(s *shared) *cobra.Command {
	cmd := group("bench", "Measure throughput and latency",
		"Measure a running cluster. The topic is created when it does not exist.\n\n"+
			"A figure worth quoting comes from three separate server processes, a real disk,\n"+
			"at least 60 s after a warm-up of 10 s, and several runs.",
		newWorkload(s, "produce", "Records/s from first send to last acknowledgement",
			"  penstock bench produce --replicas 3 --duration 60s --warmup 10s\n"+
				"  penstock bench produce --records 5000000 --record-size 1024 --acks 1 -o json", bench.Produce),
		newWorkload(s, "consume", "Records/s read from the start of the topic",
			"  penstock bench consume --topic bench --records 5000000", bench.Consume),
		newWorkload(s, "latency", "Latency at a fixed rate, open loop",
			"  penstock bench latency --rate 1000 --duration 60s --partitions 3", bench.OpenLoop),
		newWorkload(s, "single", "Latency of one record at a time",
			"  penstock bench single --duration 20s --partitions 1", bench.OneAtATime),
		newWorkload(s, "e2e", "Produce while a consumer reads along: both rates, and the time from one to the other",
			"  penstock bench e2e --duration 60s\n"+
				"  penstock bench e2e --rate 1000 --partitions 3", bench.EndToEnd),
	)
	return s.prints(s.connects(cmd))
}

type workload func(context.Context, bench.Options) (*bench.Report, error)

func newWorkload(s *shared, name, short, example string, run workload) *cobra.Command {
	var o bench.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use: name, Short: short, Example: example, Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Brokers, o.GitRev = s.brokers, gitRev
			if term.IsTerminal(int(os.Stderr.Fd())) {
				o.Progress = os.Stderr
			}
			report, err := run(cmd.Context(), o)
			if err != nil {
				if errors.Is(err, bench.ErrOptions) {
					return &usageError{err: err}
				}
				return err
			}
			write := report.WriteText
			if asJSON || s.output == "json" {
				write = report.WriteJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if report.Errors > 0 {
				return fmt.Errorf("%d records failed", report.Errors)
			}
			return nil
		},
	}
	benchFlags(cmd, &o, &asJSON)
	return cmd
}

func benchFlags(cmd *cobra.Command, o *bench.Options, asJSON *bool) {
	f := cmd.Flags()
	f.StringVar(&o.Topic, "topic", "bench", "topic")
	f.IntVar(&o.Partitions, "partitions", 6, "partitions, if the topic is created")
	f.IntVar(&o.Replicas, "replicas", 0, "replicas, if the topic is created; 0: 3 or as many as there are brokers")
	f.Int64Var(&o.Records, "records", 0, "records after the warm-up; 0: as many as fit --duration")
	f.DurationVar(&o.Duration, "duration", 0, "how long after the warm-up (default 60s without --records)")
	f.DurationVar(&o.Warmup, "warmup", 0, "not counted, first")
	f.IntVar(&o.RecordSize, "record-size", 100, "bytes of a value")
	f.IntVar(&o.Payloads, "payloads", 10_000, "distinct values, at least 10000")
	f.StringVar(&o.Payload, "payload", "random", "values of random letters, or orders in JSON")
	f.Int64Var(&o.Newest, "newest", 0, "consume: only the newest so many bytes of values; 0: from the start")
	f.IntVar(&o.Readers, "readers", 0, "consume: so many consumers each read everything; 0: --producers share the partitions")
	f.StringVar(&o.Acks, "acks", "all", "all, 1 or 0")
	f.StringVar(&o.Durability, "durability", "synced", "synced or replicated, if the topic is created")
	f.BoolVar(&o.Spread, "spread", false, "each record to the next partition, instead of a batch here and a batch there")
	f.IntVar(&o.Producers, "producers", 1, "producers, or consumers of consume")
	f.StringVar(&o.Compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	f.IntVar(&o.BatchSize, "batch-size", client.DefaultBatchBytes, "bytes of a batch at most")
	f.DurationVar(&o.Linger, "linger", linger(cmd.Name()), "how long a batch that is not full waits while others are under way")
	f.IntVar(&o.Rate, "rate", 0, "records/s, of produce, latency and e2e; 0: as fast as it goes (latency: 1000)")
	f.IntSliceVar(&o.BrokerPids, "broker-pids", nil, "broker processes on this machine, for their processor time")
	f.StringSliceVar(&o.MetricsURLs, "metrics-urls", nil, "/metrics of brokers elsewhere, for their processor time")
	f.StringVar(&o.DataDir, "data-dir", "", "folder of the brokers' data on this machine, for its file system and size")
	f.BoolVar(asJSON, "json", false, "-o json")
}

// linger is the default of a benchmark: the client's own, or none where a record's latency
// at a low rate is asked for.
func linger(name string) time.Duration {
	if name == "latency" || name == "e2e" {
		return 0
	}
	return client.DefaultLinger
}
