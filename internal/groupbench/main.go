// Command groupbench measures what consumer groups are held to, on three
// `penstock server` processes on loopback TCP:
//
//	join     a member joins a group of ten under load: until it reads its first
//	         record, and the longest pause of a partition that stays where it is
//	kill     SIGKILL of a member (`penstock consume`) with session.grace=200ms, or
//	         what -grace says: until its partitions are read again
//	commits  through one coordinator, flushed on three disks before the answer: by
//	         calls and on members' sessions; at full speed, of one partition and of
//	         twelve, and at 5,000/s in an open loop
//	load     a coordinator with a million committed offsets: from the start of its
//	         process until it answers
//	groups   ten thousand groups: what they take of the coordinator's memory
//	offsets  the committed offsets of ten thousand groups, a request each: one after
//	         another, and sixteen at a time
//
// -short tries that it works.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

type options struct {
	binary, dir, only string
	short             bool
	grace             time.Duration
}

func main() {
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "groupbench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err = run(ctx, os.Stdout, *o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "groupbench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("groupbench", flag.ContinueOnError)
	f.StringVar(&o.binary, "binary", "bin/penstock", "the penstock binary")
	f.StringVar(&o.dir, "dir", "", "where the data goes, a disk and not tmpfs (default: TMPDIR, or bin/ when that is tmpfs)")
	f.StringVar(&o.only, "only", "", "one of "+strings.Join(names(), ", ")+"; empty: all")
	f.BoolVar(&o.short, "short", false, "small sizes: does it work")
	f.DurationVar(&o.grace, "grace", 200*time.Millisecond, "session.grace of the brokers; 0: their default, the members' session timeout (10s)")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("argument %q, want flags only", f.Arg(0))
	}
	if o.grace < 0 {
		return nil, fmt.Errorf("-grace is %s, want 0 or more", o.grace)
	}
	if o.only != "" && !slices.Contains(names(), o.only) {
		return nil, fmt.Errorf("-only is %q, want one of %s", o.only, strings.Join(names(), ", "))
	}
	var err error
	o.binary, err = filepath.Abs(o.binary)
	return o, err
}

// figure measures one thing on a cluster of its own.
type figure struct {
	name    string
	measure func(context.Context, *lab) error
}

func figures() []figure {
	return []figure{{"join", join}, {"kill", kill}, {"commits", commits}, {"load", load}, {"groups", groups}, {"offsets", offsets}}
}

func names() (all []string) {
	for _, f := range figures() {
		all = append(all, f.name)
	}
	return all
}

func run(ctx context.Context, out io.Writer, o options) error {
	for _, f := range figures() {
		if o.only != "" && o.only != f.name {
			continue
		}
		if err := o.one(ctx, out, f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

// lab is a cluster and what it is measured with.
type lab struct {
	options
	out     io.Writer
	cluster *chaos.Cluster
	client  *client.Client
}

func (o options) one(ctx context.Context, out io.Writer, f figure) (err error) {
	dir, err := bench.DataFolder(o.dir, "penstock-groupbench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var config []string
	if o.grace > 0 {
		config = append(config, "session.grace: "+o.grace.String())
	}
	cluster, err := chaos.New(chaos.Options{Binary: o.binary, Dir: dir, Nodes: 3, Config: config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	if err := cluster.StartAll(); err != nil {
		return err
	}
	if err := cluster.WaitHealthy(ctx, time.Minute); err != nil {
		return err
	}
	c, err := client.New(cluster.Addrs())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return f.measure(ctx, &lab{options: o, out: out, cluster: cluster, client: c})
}

func (l *lab) say(format string, args ...any) { fmt.Fprintf(l.out, format+"\n", args...) }

// size is n, or few with -short.
func (l *lab) size(n, few int) int {
	if l.short {
		return few
	}
	return n
}

func (l *lab) topic(ctx context.Context, partitions int32) error {
	_, err := l.client.Admin().CreateTopic(ctx, client.TopicSpec{Name: "t", Partitions: partitions, ReplicationFactor: 3})
	return err
}

// percentile of durations, which it sorts.
func percentile(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(float64(len(all))*p), len(all)-1)]
}

func (l *lab) consume(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.binary, "consume", "t", "-g", "g", "-b", strings.Join(l.cluster.Addrs(), ","), "-o", "{{.Partition}}")
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	return cmd
}
