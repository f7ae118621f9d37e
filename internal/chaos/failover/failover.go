package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/chaos/probe"
)

// Options describe a run.
type Options struct {
	Binary string
	Parent string   // where the folder of the run is made
	Only   []string // of Names; none: all
	Kills  int      // of each kind
	Stops  int      // and cuts
	Cuts   int      // of the power
	Steady time.Duration
	Load   int // records/s; 0: half of what the cluster takes
	Out    io.Writer
}

// Names are the measurements.
func Names() []string { return []string{"leader", "controller", "stop", "cut", "steady", "power"} }

const (
	nodes      = 3
	partitions = 6
	session    = 3 * time.Second // broker.session.timeout
	diskSize   = 4 << 30
	trial      = 6 * time.Second
	before     = 2 * time.Second  // load before a fault
	after      = 3 * time.Second  // and after the first write
	limit      = 30 * time.Second // longest wait for a write
	healthWait = 60 * time.Second
	readWait   = 2 * time.Minute
)

// run is a running measurement.
type run struct {
	Options

	lab    *chaos.Lab
	cl     *client.Client
	began  time.Time
	topics int
	result Result
}

// Run measures. What was measured before an error is in the result.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	r := &run{Options: o, began: time.Now(), result: Result{Date: time.Now(), Machine: chaos.Machine(), Revision: chaos.Revision(ctx)}}
	r.lab, err = chaos.NewLab(ctx, chaos.LabOptions{
		Binary: o.Binary, Parent: o.Parent, Nodes: nodes, Disk: diskSize,
		Config: []string{"disk.reserve: 64MiB", "log.retention.check.interval: 1s", "broker.session.timeout: " + session.String()},
	})
	if err != nil {
		return &r.result, err
	}
	defer func() { err = errors.Join(err, r.lab.Close(false)) }()
	if err := errors.Join(r.lab.StartAll(), r.lab.WaitHealthy(ctx, healthWait)); err != nil {
		return &r.result, err
	}
	if r.cl, err = client.New(r.lab.Addrs(), client.WithClientID("failover"), client.WithMetadataMaxAge(5*time.Second)); err != nil {
		return &r.result, err
	}
	defer func() { err = errors.Join(err, r.cl.Close()) }()
	if err := r.chooseLoad(ctx); err != nil {
		return &r.result, err
	}
	return &r.result, r.all(ctx)
}

func (r *run) all(ctx context.Context) error {
	sec := func(d time.Duration) float64 { return d.Seconds() }
	measure := []struct {
		name  string
		times int
		f     Figure
		fault fault
	}{
		{"leader", r.Kills, Figure{What: "SIGKILL of a leader that is not the controller", MedianBudget: 0.5, WorstBudget: 1}, kill{controller: false}},
		{"controller", r.Kills, Figure{What: "SIGKILL of a leader that is the controller", MedianBudget: 1.5, WorstBudget: 3}, kill{controller: true}},
		{"stop", r.Stops, Figure{What: "SIGSTOP of a leader", WorstBudget: sec(session) + 1}, stop{}},
		{"cut", r.Stops, Figure{What: "cut of a leader from everybody", WorstBudget: sec(session) + 1}, cut{}},
		{"steady", 1, Figure{}, nil},
		{"power", r.Cuts, Figure{What: "power cut of the whole cluster, from its start", WorstBudget: 10}, power{}},
	}
	for _, m := range measure {
		if len(r.Only) > 0 && !slices.Contains(r.Only, m.name) {
			continue
		}
		if m.fault == nil {
			if err := r.steady(ctx); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			continue
		}
		m.f.Name, m.f.Unit = m.name, seconds
		for i := range m.times {
			d, err := r.strike(ctx, m.name, m.fault)
			if err != nil {
				return fmt.Errorf("%s, time %d: %w", m.name, i+1, err)
			}
			m.f.Values = append(m.f.Values, d.Seconds())
		}
		r.result.add(m.f)
	}
	return nil
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.Out, "%6.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// topic makes a topic of which little is kept, so that any load fits on the disk.
func (r *run) topic(ctx context.Context, kind string, keep bool) (string, error) {
	r.topics++
	spec := client.TopicSpec{Name: fmt.Sprintf("%s-%d", kind, r.topics), Partitions: partitions, ReplicationFactor: nodes}
	if !keep {
		spec.Configs = map[string]string{"retention.bytes": strconv.Itoa(64 << 20), "segment.bytes": strconv.Itoa(32 << 20)}
	}
	_, err := r.cl.Admin().CreateTopic(ctx, spec)
	return spec.Name, err
}

// load starts `penstock bench produce`; wait waits for its end.
func (r *run) load(ctx context.Context, topic string, rate int, d time.Duration) (wait func() (*bench.Report, error)) {
	args := []string{
		"bench", "produce", "--json", "--topic", topic, "--duration", d.String(), "--data-dir", r.lab.Dir,
		"-b", strings.Join(r.lab.Addrs(), ","),
	}
	if rate > 0 {
		args = append(args, "--rate", strconv.Itoa(rate))
	}
	type outcome struct {
		report *bench.Report
		err    error
	}
	done := make(chan outcome, 1)
	go func() { // ends with the process; wait waits for it
		cmd := exec.CommandContext(ctx, r.Binary, args...)
		out, err := cmd.Output()
		o := outcome{report: &bench.Report{}, err: err}
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			o.err = fmt.Errorf("%w: %s", err, failed.Stderr)
		} else if err == nil {
			o.err = json.Unmarshal(out, o.report)
		}
		if o.err == nil && o.report.Errors > 0 {
			o.err = fmt.Errorf("the load had %d errors", o.report.Errors)
		}
		done <- o
	}()
	return func() (*bench.Report, error) { o := <-done; return o.report, o.err }
}

// chooseLoad finds half of what the cluster takes.
func (r *run) chooseLoad(ctx context.Context) error {
	r.result.Load = r.Load
	if r.Load > 0 {
		return nil
	}
	topic, err := r.topic(ctx, "trial", false)
	if err != nil {
		return err
	}
	report, err := r.load(ctx, topic, 0, trial)()
	if err != nil {
		return fmt.Errorf("trial of the load: %w", err)
	}
	r.result.Load = int(report.RecordsPerSec) / 2
	r.say("the cluster takes %.0f records/s; half of it is the load", report.RecordsPerSec)
	return r.cl.Admin().DeleteTopic(ctx, topic)
}

// fault is something that stops writes.
type fault interface {
	// victim chooses a node; 0: it hits all.
	victim(controller int, leads map[int][]int32) int
	// inject makes it happen and returns the moment from which the outage counts.
	inject(ctx context.Context, lab *chaos.Lab, node int) (time.Time, error)
	heal(ctx context.Context, lab *chaos.Lab, node int) error
}

// strike measures one outage under load.
func (r *run) strike(ctx context.Context, name string, f fault) (outage time.Duration, err error) {
	probed, err := r.topic(ctx, "probe", true)
	if err != nil {
		return 0, err
	}
	loaded, err := r.topic(ctx, "load", false)
	if err != nil {
		return 0, err
	}
	if err := r.lab.WaitHealthy(ctx, healthWait); err != nil {
		return 0, err
	}
	p, err := probe.Start(ctx, r.cl, probed, partitions)
	if err != nil {
		return 0, err
	}
	loading, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	wait := r.load(loading, loaded, r.result.Load, before+limit)
	node, outage, err := r.measure(ctx, f, p, probed)
	if err == nil {
		err = sleep(ctx, after)
	}
	// The load is asked whether it survives by benchrun, with a fixed time; here it goes
	// as soon as it is not needed.
	stopLoad()
	_, _ = wait()
	err = errors.Join(err, f.heal(context.WithoutCancel(ctx), r.lab, node))
	if err != nil {
		return 0, errors.Join(err, p.Stop(ctx))
	}
	if err := r.lab.WaitHealthy(ctx, healthWait); err != nil {
		return 0, errors.Join(err, p.Stop(ctx))
	}
	if err := p.Stop(ctx); err != nil {
		return 0, err
	}
	reading, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	if err := p.Check(reading, r.cl); err != nil {
		return 0, err
	}
	r.say("%-10s node %d: every partition it led takes writes after %s; %d acknowledged records are all there",
		name, node, outage.Round(time.Millisecond), p.Acked())
	return outage, errors.Join(r.cl.Admin().DeleteTopic(ctx, probed), r.cl.Admin().DeleteTopic(ctx, loaded))
}

func (r *run) measure(ctx context.Context, f fault, p *probe.Prober, topic string) (node int, outage time.Duration, err error) {
	if err := sleep(ctx, before); err != nil {
		return 0, 0, err
	}
	controller, leads, err := r.roles(ctx, topic)
	if err != nil {
		return 0, 0, err
	}
	node = f.victim(controller, leads)
	hit := leads[node]
	if node == 0 {
		for _, led := range leads {
			hit = append(hit, led...)
		}
	}
	if len(hit) == 0 {
		return 0, 0, fmt.Errorf("no node to hit: controller %d, leaders %v", controller, leads)
	}
	from, err := f.inject(ctx, r.lab, node)
	if err != nil {
		return node, 0, err
	}
	for time.Since(from) < limit {
		if writes := p.FirstAfter(from, hit); len(writes) == len(hit) {
			return node, slices.Max(writes), nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return node, 0, err
		}
	}
	return node, 0, fmt.Errorf("after %s, %d of %d partitions take writes", limit, len(p.FirstAfter(from, hit)), len(hit))
}

// roles says who is the controller and who leads what.
func (r *run) roles(ctx context.Context, topic string) (controller int, leads map[int][]int32, err error) {
	c, err := r.cl.Admin().Cluster(ctx)
	if err != nil {
		return 0, nil, err
	}
	t, err := r.cl.Admin().DescribeTopic(ctx, topic)
	if err != nil {
		return 0, nil, err
	}
	leads = map[int][]int32{}
	for _, p := range t.Partitions {
		leads[int(p.Leader)] = append(leads[int(p.Leader)], p.Partition)
	}
	return int(c.Controller), leads, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follower is a leader that is not the controller, any of them.
func follower(controller int, leads map[int][]int32) int {
	var all []int
	for id := 1; id <= nodes; id++ {
		if id != controller && len(leads[id]) > 0 {
			all = append(all, id)
		}
	}
	if len(all) == 0 {
		return -1
	}
	return all[rand.IntN(len(all))]
}

type kill struct{ controller bool }

func (k kill) victim(controller int, leads map[int][]int32) int {
	if k.controller {
		return controller
	}
	return follower(controller, leads)
}

func (kill) inject(_ context.Context, lab *chaos.Lab, node int) (time.Time, error) {
	from := time.Now()
	return from, lab.Kill(node)
}

func (kill) heal(_ context.Context, lab *chaos.Lab, _ int) error { return lab.StartAll() }

type stop struct{}

func (stop) victim(controller int, leads map[int][]int32) int { return follower(controller, leads) }

func (stop) inject(_ context.Context, lab *chaos.Lab, node int) (time.Time, error) {
	from := time.Now()
	return from, lab.Signal(node, syscall.SIGSTOP)
}

func (stop) heal(_ context.Context, lab *chaos.Lab, node int) error {
	return lab.Signal(node, syscall.SIGCONT)
}

type cut struct{}

func (cut) victim(controller int, leads map[int][]int32) int { return follower(controller, leads) }

func (cut) inject(ctx context.Context, lab *chaos.Lab, node int) (time.Time, error) {
	c := chaos.Cut{Node: node, Direction: chaos.Both, Peers: []int{0}}
	for id := 1; id <= nodes; id++ {
		if id != node {
			c.Peers = append(c.Peers, id)
		}
	}
	// From when it is whole: what still gets through while its rules are made is no
	// write after it.
	err := lab.Network.Cut(ctx, c)
	return time.Now(), err
}

func (cut) heal(ctx context.Context, lab *chaos.Lab, node int) error {
	return lab.Network.Mend(ctx, node)
}

type power struct{}

func (power) victim(int, map[int][]int32) int { return 0 }

func (power) inject(ctx context.Context, lab *chaos.Lab, _ int) (time.Time, error) {
	if err := lab.CutPower(ctx, 1, 2, 3); err != nil {
		return time.Time{}, err
	}
	from := time.Now()
	return from, lab.StartAll()
}

func (power) heal(_ context.Context, lab *chaos.Lab, _ int) error { return lab.StartAll() }
