// Command peers compares Penstock with other systems, on this machine, in one run,
// and prints the ratios. `make peers` at the top of the repository runs it.
//
// It installs what can be installed here (Apache Kafka's jars by Maven, the NATS
// server as a Go module, Redis and RabbitMQ by apt), starts three nodes of each system
// that replicates, and gives each the same work by its best-known client: the same
// records at the same durability, from one process, with data on one disk. In every
// round each contender has its turn, so that whatever the machine does meanwhile
// strikes all of them; a ratio is of two turns of one round, and its spread is over
// the rounds.
//
// Two pairs are compared. In synced, an acknowledgement means the disks: Penstock's
// durability=synced, Kafka's flush.messages=1, JetStream's sync_interval: always,
// Redis's appendfsync always, RabbitMQ's quorum queues. In replicated it means what it
// means by each system's default. Nothing is tuned against a peer: settings are their
// defaults or what their documentation recommends, and are printed with the result. A
// system that cannot be installed is named with the reason. -quote takes the times and
// counts under which a figure may be quoted.
//
// Who begins, and the direction, change from round to round. Servers of all systems stay up, without load, while one has its turn; the processor
// time that they take is printed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/bench/peers/load"
)

type options struct {
	binary, dir, tools, module string

	peers, rows  []string
	durabilities []string
	rounds       int
	duration     time.Duration
	warmup       time.Duration
	warm         time.Duration
	touch        int // GiB
	gib          float64
	asJSON       bool
	jsonFile     string
	keep         bool
	quote        bool
	worker       bool
}

// The rule for quoted figures.
const (
	quoteRounds   = 5
	quoteDuration = time.Minute
	quoteWarmup   = 10 * time.Second
)

// quoted reports whether the rule is obeyed.
func (o *options) quoted() bool {
	return o.rounds >= quoteRounds && o.duration >= quoteDuration && o.warmup >= quoteWarmup && o.touch > 0
}

const (
	allDurabilities = "synced,replicated"
	shortPeers      = "penstock,kafka,jetstream"
	shortRows       = "produce-100,consume-100,latency,single"
)

func parse(args []string, usage io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.SetOutput(usage)
	var peers, rows, durabilities string
	var short bool
	f.StringVar(&o.binary, "penstock", "bin/penstock", "the binary of Penstock")
	f.StringVar(&o.module, "module", "bench/peers", "this command's source, where the NATS server is built")
	f.StringVar(&o.tools, "tools", "bin/peers", "where peers are installed")
	f.StringVar(&o.dir, "dir", "", "where the data goes; a new folder in it is used and removed (default: TMPDIR, or bin/ when that is tmpfs)")
	f.StringVar(&peers, "peers", strings.Join(peerNames(), ","), "which; penstock always takes part")
	f.StringVar(&rows, "rows", strings.Join(rowNames(), ","), "which")
	f.StringVar(&durabilities, "durability", allDurabilities, "synced, replicated or both")
	f.IntVar(&o.rounds, "rounds", 5, "rounds in which each contender has a turn")
	f.DurationVar(&o.duration, "duration", 20*time.Second, "how long a turn is measured")
	f.DurationVar(&o.warmup, "warmup", 5*time.Second, "not counted, at the start of each turn")
	f.DurationVar(&o.warm, "warm", 2*time.Minute, "load on a peer that gets faster for minutes (Kafka's JIT), once, before the first round")
	f.IntVar(&o.touch, "touch", 4, "GiB of memory touched before each turn; 0: none")
	f.Float64Var(&o.gib, "gib", 20, "about what a topic may take of the disk, GiB, all replicas: by retention, or, of queues that keep everything, by an earlier end of the turn")
	f.BoolVar(&o.quote, "quote", false, "turns of 1m0s after 10s, 5 rounds: figures fit to be quoted")
	f.BoolVar(&short, "short", false, "some five minutes, unless other flags say otherwise: "+shortPeers+"; "+shortRows+"; synced; 2 rounds of 5s after 2s, 45s of -warm")
	f.BoolVar(&o.asJSON, "json", false, "print JSON instead of tables")
	f.StringVar(&o.jsonFile, "json-file", "", "also write JSON to this file")
	f.BoolVar(&o.keep, "keep", false, "keep data and logs")
	f.BoolVar(&o.worker, "worker", false, "used by peers itself: do the job on standard input")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if short {
		given := map[string]bool{}
		f.Visit(func(set *flag.Flag) { given[set.Name] = true })
		unless(given["peers"], &peers, shortPeers)
		unless(given["rows"], &rows, shortRows)
		unless(given["durability"], &durabilities, string(synced))
		unless(given["rounds"], &o.rounds, 2)
		unless(given["duration"], &o.duration, 5*time.Second)
		unless(given["warmup"], &o.warmup, 2*time.Second)
		unless(given["warm"], &o.warm, 45*time.Second)
	}
	if o.quote {
		o.rounds, o.duration, o.warmup = quoteRounds, quoteDuration, quoteWarmup
	}
	if f.NArg() > 0 {
		return nil, &flagError{value: f.Arg(0), want: "flags only; lists have commas and no spaces"}
	}
	var errs [3]error
	o.peers, errs[0] = choose("peers", peers, peerNames())
	o.rows, errs[1] = choose("rows", rows, rowNames())
	o.durabilities, errs[2] = choose("durability", durabilities, strings.Split(allDurabilities, ","))
	return o, errors.Join(o.validate(), errors.Join(errs[:]...))
}

func unless[T any](given bool, value *T, short T) {
	if !given {
		*value = short
	}
}

// flagError is a flag, or without a name an argument, that cannot be used.
type flagError struct{ name, value, want string }

// Error implements error.
func (e *flagError) Error() string {
	if e.name == "" {
		return fmt.Sprintf("argument %q, want %s", e.value, e.want)
	}
	return fmt.Sprintf("-%s is %q, want %s", e.name, e.value, e.want)
}

// validate checks the numbers.
func (o *options) validate() error {
	var errs []error
	bad := func(ok bool, name string, value any, want string) {
		if !ok {
			errs = append(errs, &flagError{name, fmt.Sprint(value), want})
		}
	}
	bad(o.rounds >= 1, "rounds", o.rounds, "at least 1")
	bad(o.duration > 0, "duration", o.duration, "more than 0s, such as 20s")
	bad(o.warmup >= 0, "warmup", o.warmup, "0s or more")
	bad(o.warm >= 0, "warm", o.warm, "0s or more")
	bad(o.touch >= 0, "touch", o.touch, "0 or more GiB")
	bad(o.gib > 0, "gib", o.gib, "more than 0")
	return errors.Join(errs...)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(2)
	case o.worker:
		err = load.Main(ctx, os.Stdin, os.Stdout)
	default:
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// run measures, and prints what was measured even when something failed. What could
// fail at the end, hours later, is tried first.
func run(ctx context.Context, o *options, out io.Writer) (err error) {
	for _, path := range []*string{&o.binary, &o.tools, &o.module} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if _, err := exec.LookPath(o.binary); err != nil {
		return &flagError{"penstock", o.binary, "the binary that make build makes: " + err.Error()}
	}
	report, err := newReport(o.jsonFile)
	if err != nil {
		return err
	}
	l, err := newLab(ctx, o)
	if err != nil {
		return errors.Join(err, report.discard())
	}
	failed := l.measure(ctx)
	if !o.keep {
		failed = errors.Join(failed, os.RemoveAll(l.dir))
	}
	failed = errors.Join(failed, report.write(&l.result))
	if o.asJSON {
		err = json.NewEncoder(out).Encode(&l.result)
	} else {
		err = l.result.writeMarkdown(out)
	}
	return errors.Join(failed, err)
}
