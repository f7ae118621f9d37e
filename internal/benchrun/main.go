// Command benchrun measures the figures that docs/performance.md quotes, on
// three `penstock server` processes on loopback TCP with their data on a real
// disk, and prints one table:
//
//	start     exec of `penstock dev --nodes 3` to the first acknowledged record
//	idle      resident memory of each server process that has nothing to do
//	produce   records/s, acks=all, flushed on three disks before the ack; processor
//	          time; resident memory of the largest node meanwhile; reads from disks
//	memory    the same, in three memories (durability=replicated)
//	kib       records of 1 KiB, beside a third of what the bare disk takes
//	consume   records/s from the start of a topic
//	tail      the newest 32 MiB to 1, 4, 16 readers, the newest MiB to one, and what was
//	          read from disks
//	both      produce while a consumer reads along
//	latency   open loop at 1,000 records/s, beside what the bare disk takes for
//	          the same pattern of syncs within the same minute
//	latency-memory  the same with durability=replicated
//	single    one record at a time, each when the one before is acknowledged
//	half      latency at half of the rate of produce
//	e2e       from produce to a consumer at 1,000 records/s
//	many      1,000 of 10,000 partitions written, beside 6 and beside 6 alone, by the
//	          client's choice and each record to the next; only when it is named
//	failover  SIGKILL of a leader under half of the load that it could take
//	catchup   a follower that was away gets what it missed, beside what the bare
//	          disk takes for it; only when it is named, for it writes tens of GiB
//
// The load comes from `penstock bench`, a process of its own. The defaults suit
// a laptop and a few minutes; -quote takes the times and counts under which a
// figure may be quoted. How long it takes is said first. Topics that are written for
// long have retention.bytes, so that they keep to -disk.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

type options struct {
	binary   string
	dir      string
	only     string
	runs     int
	kills    int
	duration time.Duration
	warmup   time.Duration
	warm     int // GiB
	batch    int
	segment  int
	load     int
	gib      float64
	disk     float64
	quote    bool
	asJSON   bool
	markdown bool
	benchfmt bool
	keep     bool
	config   []string // lines
	raw      string
	rawBegin int64
	rawWhat  string
}

// The rule for quoted figures.
const (
	quoteRuns     = 5
	quoteKills    = 20
	quoteDuration = time.Minute
	quoteWarmup   = 10 * time.Second
)

// quoted reports whether the rule is obeyed.
func (o *options) quoted() bool {
	return o.runs >= quoteRuns && o.kills >= quoteKills && o.duration >= quoteDuration && o.warmup >= quoteWarmup && o.warm > 0
}

func parse() (*options, error) {
	o := &options{}
	flag.StringVar(&o.binary, "penstock", "bin/penstock", "the binary")
	flag.StringVar(&o.dir, "dir", "", "where the data goes; a new folder in it is used and removed (default: TMPDIR, or bin/ when that is tmpfs)")
	flag.StringVar(&o.only, "only", "", "some of "+strings.Join(names(), ",")+" (default all but many and catchup)")
	flag.IntVar(&o.runs, "runs", 1, "runs of each figure")
	flag.IntVar(&o.kills, "kills", 3, "kills of each kind")
	flag.DurationVar(&o.duration, "duration", 8*time.Second, "how long a run is measured")
	flag.DurationVar(&o.warmup, "warmup", 3*time.Second, "not counted, first")
	flag.IntVar(&o.warm, "warm", 4, "GiB of memory touched before each run; 0: none")
	flag.IntVar(&o.batch, "batch-size", client.DefaultBatchBytes, "bytes of a batch at most")
	flag.IntVar(&o.segment, "segment-bytes", 0, "segment.bytes of the topics; 0: the default")
	flag.IntVar(&o.load, "load", 0, "records/s while brokers are killed or catch up; 0: half of what produce reaches")
	flag.Float64Var(&o.gib, "gib", 10, "how much the follower of catchup missed, GiB; five times that is needed on the disk")
	flag.Float64Var(&o.disk, "disk", 12, "about what a topic that is written may take of the disk, GiB, all replicas; what is older goes (many and catchup take more)")
	flag.Func("config", "a line for the servers' configuration, name: value; may be repeated", func(line string) error {
		o.config = append(o.config, line)
		return nil
	})
	flag.BoolVar(&o.quote, "quote", false, "60 s after 10 s, 5 runs, 20 kills: figures fit to be quoted")
	flag.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	flag.BoolVar(&o.markdown, "markdown", false, "print the table for docs/performance.md")
	flag.BoolVar(&o.benchfmt, "bench-format", false, "print Go's benchmark format, a line a run, for benchstat")
	flag.BoolVar(&o.keep, "keep", false, "keep data and logs")
	flag.Int64Var(&o.rawBegin, rawBeginFlag, 0, "used by benchrun itself: when the bare disk's first record is due, nanoseconds since 1970")
	flag.StringVar(&o.rawWhat, rawPatternFlag, latencyPattern().String(), "used by benchrun itself: what to ask the bare disk for")
	flag.StringVar(&o.raw, rawFlag, "", "used by benchrun itself: a folder to measure the bare disk in")
	flag.Parse()
	if o.quote {
		o.runs, o.kills, o.duration, o.warmup = quoteRuns, quoteKills, quoteDuration, quoteWarmup
	}
	if flag.NArg() > 0 || o.runs < 1 || o.kills < 1 || o.duration <= 0 || o.warmup < 0 || o.warm < 0 || o.load < 0 || o.gib <= 0 || o.disk <= 0 {
		return nil, errors.New("runs, kills, duration, gib and disk must be positive, and no argument may follow the flags")
	}
	for _, name := range o.chosen() {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("-only names %q, want some of %s", name, strings.Join(names(), ","))
		}
	}
	return o, nil
}

func (o *options) chosen() []string {
	if o.only == "" {
		return slices.DeleteFunc(names(), func(name string) bool { return name == "catchup" || name == "many" })
	}
	return strings.Split(o.only, ",")
}

func main() {
	o, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchrun:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if o.raw != "" {
		err = rawMain(ctx, o, os.Stdout)
	} else {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchrun:", err)
		os.Exit(1)
	}
}

// measurement is one part of the run. A run of it is so many turns of -warmup and
// -duration, and beside all runs it takes extra.
type measurement struct {
	name  string
	run   func(*lab, context.Context) error
	turns int
	extra func(*options) time.Duration
}

func measurements() []measurement {
	some := func(d time.Duration) func(*options) time.Duration { return func(*options) time.Duration { return d } }
	return []measurement{
		{"start", (*lab).start, 0, some(5 * time.Second)},
		{"idle", (*lab).idle, 0, some(2 * idleAfter)},
		{"produce", (*lab).produce, 1, nil},
		{"memory", (*lab).memory, 1, nil},
		{"kib", (*lab).produceKiB, 1, func(o *options) time.Duration { return time.Duration(o.runs) * rawWriteMost }},
		{"consume", (*lab).consume, 1, some(2 * fillMost)},
		{"tail", (*lab).tail, 3, some(2 * fillMost)},
		{"both", (*lab).both, 1, nil},
		{"latency", (*lab).latency, 1, func(o *options) time.Duration { return time.Duration(o.runs) * o.duration }},
		{"latency-memory", (*lab).latencyMemory, 1, nil},
		{"single", (*lab).single, 1, nil},
		{"half", (*lab).half, 1, func(o *options) time.Duration { return time.Duration(o.runs)*o.duration + 2*fillMost }},
		{"e2e", (*lab).endToEnd, 1, nil},
		{"many", (*lab).many, 5, some(2 * time.Minute)},
		{"failover", (*lab).failover, 0, func(o *options) time.Duration { return time.Duration(2*o.kills) * killTakes }},
		{"catchup", (*lab).catchup, 0, func(o *options) time.Duration { return time.Duration(float64(o.runs) * o.gib * float64(time.Minute)) }},
	}
}

// What turns and kills take beside their times, about: memory, topics, deletion.
const (
	turnOverhead = 8 * time.Second
	killTakes    = 20 * time.Second
)

// estimate is about how long everything chosen takes.
func (o *options) estimate() (total time.Duration) {
	for _, m := range measurements() {
		if !slices.Contains(o.chosen(), m.name) {
			continue
		}
		total += time.Duration(o.runs*m.turns) * (o.warmup + o.duration + turnOverhead)
		if m.extra != nil {
			total += m.extra(o)
		}
	}
	return total
}

func names() (all []string) {
	for _, m := range measurements() {
		all = append(all, m.name)
	}
	return all
}

func run(ctx context.Context, o *options, out io.Writer) (err error) {
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	dir, err := bench.DataFolder(o.dir, "penstock-bench-")
	if err != nil {
		return err
	}
	if !o.keep {
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	}
	l := &lab{options: o, dir: dir, table: table{Machine: chaos.Machine(), FS: bench.FileSystem(dir), Quote: o.quoted()}}
	for _, line := range o.config {
		l.table.note("servers are configured with %s", line)
	}
	if o.segment > 0 {
		l.table.note("topics have segment.bytes=%d", o.segment)
	}
	l.say("data in %s, file system %s; %s; about %s", dir, l.table.FS, l.table.Machine, max(o.estimate().Round(time.Minute), time.Minute))
	var failed error
	for _, m := range measurements() {
		if !slices.Contains(o.chosen(), m.name) {
			continue
		}
		l.say("%s", m.name)
		if err := m.run(l, ctx); err != nil {
			failed = fmt.Errorf("%s: %w", m.name, err)
			break
		}
	}
	switch { // What was measured before a failure is worth seeing.
	case o.asJSON:
		err = json.NewEncoder(out).Encode(&l.table)
	case o.benchfmt:
		err = l.table.writeBench(out)
	case o.markdown:
		err = l.table.writeMarkdown(out)
	default:
		err = l.table.writeText(out)
	}
	return errors.Join(failed, err)
}
