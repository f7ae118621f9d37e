package storm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/chaos/load"
	"github.com/penstock/penstock/internal/check/record"
)

// Options describe a run.
type Options struct {
	Binary   string
	Parent   string // where the folder of the run is made
	Duration time.Duration
	Schedule *Schedule
	Short    bool
	Rate     int
	MinAcked int64
	Keep     bool // the folder, even when all is well
	Nodes    int  // three vote; the others bear replicas
	Out      io.Writer
}

const (
	partitions  = 6
	replicas    = 3
	voterCount  = 3
	diskSize    = 4 << 30
	recoverWait = 60 * time.Second // longest time from the end of a fault to a cluster that is whole
	endingWait  = 5 * time.Second  // between looks for who ended by himself, while the cluster is not whole
	finalWait   = 90 * time.Second
	warm        = 500 // acknowledged records before the first fault
)

// storm is one run.
type storm struct {
	o       Options
	lab     *chaos.Lab
	admin   *client.Client
	load    *load.Load
	flipped int
	hurts   []hurt
	spoiled []spoiled // small files that were damaged in this step
	missing []Kind    // faults of the step that did not take place, though they were injected
	moot    []Kind    // faults of the step that had nothing to hit
	report  Report
}

// Kinds lists the faults that can be had here, and says why not the others. skewed: the
// binary has a clock that can be moved.
func Kinds(nodes int, skewed bool) (can []Kind, missing map[Kind]string) {
	missing = map[Kind]string{}
	_, noStrace := exec.LookPath("strace")
	for _, t := range traits() {
		switch {
		case noStrace != nil && (t.kind == FsyncFails || t.kind == FsyncSlow || t.kind == FsyncHangs):
			missing[t.kind] = "the tool strace is missing"
		case t.kind == Slow && !chaos.CanSlow():
			missing[t.kind] = "the kernel has no queue for packets (NFQUEUE)"
		case t.kind == Loss && !chaos.CanLose():
			missing[t.kind] = "the packet filter cannot lose packets at random"
		case t.kind == SlowLink && !chaos.CanNarrow():
			missing[t.kind] = "the kernel has no token bucket filter, or the tool tc is missing"
		case t.kind == LittleMemory && !chaos.CanLimitMemory():
			missing[t.kind] = "there are no memory groups of version 1"
		case t.kind == Clock && !skewed:
			missing[t.kind] = "the binary is not built with a clock that moves"
		case t.member && nodes <= replicas:
			missing[t.kind] = "no node to spare"
		default:
			can = append(can, t.kind)
		}
	}
	return can, missing
}

// Run makes a cluster, loads it, breaks it by the schedule, and judges the history.
// The report is there even when the error is not nil, as far as the run got.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	s := &storm{o: o}
	s.report = Report{Began: time.Now(), Seed: o.Schedule.Seed, MinAcked: o.MinAcked, Machine: chaos.Machine(), Revision: chaos.Revision(ctx)}
	s.lab, err = chaos.NewLab(ctx, chaos.LabOptions{
		Binary: o.Binary, Parent: o.Parent, Nodes: o.Nodes, Voters: voterCount, Disk: diskSize,
		Config: []string{"disk.reserve: 64MiB", "shutdown.timeout: 5s", "offsets.topic.num.partitions: 6", "log.level: info", "log.retention.check.interval: 1s"},
	})
	if err != nil {
		return nil, err
	}
	s.report.Dir = s.lab.Dir
	s.say("data, logs and history in %s", s.lab.Dir)
	err = s.run(ctx)
	if err != nil && ctx.Err() == nil {
		s.report.Failures = append(s.report.Failures, err.Error())
		err = nil
	}
	s.report.finish()
	keep := o.Keep || !s.report.Good() && ctx.Err() == nil
	if keep {
		s.report.Kept = s.lab.Dir
		err = errors.Join(err, s.report.write(filepath.Join(s.lab.Dir, "report.json")))
	}
	return &s.report, errors.Join(err, s.lab.Close(keep))
}

func (s *storm) say(format string, args ...any) {
	fmt.Fprintf(s.o.Out, "%6.1fs  %s\n", time.Since(s.report.Began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *storm) run(ctx context.Context) (err error) {
	if err := s.lab.StartAll(); err != nil {
		return err
	}
	if err := s.lab.WaitHealthy(ctx, recoverWait); err != nil {
		return err
	}
	if s.admin, err = client.New(s.lab.Addrs(), client.WithClientID("storm"), client.WithRequestTimeout(2*time.Second)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.admin.Close()) }()
	history := filepath.Join(s.lab.Dir, "history.jsonl")
	logger, closeLog, err := logTo(filepath.Join(s.lab.Dir, "clients.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	life := 20 * time.Second
	if s.o.Short {
		life = 6 * time.Second
	}
	s.load, err = load.Start(ctx, load.Options{
		Brokers: s.lab.Addrs(), History: history, Partitions: partitions, Replicas: replicas, Rate: s.o.Rate, Life: life, Logger: logger,
	})
	if err != nil {
		return err
	}
	err = s.faults(ctx)
	err = errors.Join(err, s.finish(ctx))
	err = errors.Join(err, s.load.Close())
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	s.gather()
	s.say("checking %d ops", s.load.Ops())
	verdict, bad := record.Check(history, load.Judged())
	if bad != nil {
		return errors.Join(err, bad)
	}
	s.report.History = verdict
	return err
}

func logTo(path string) (*slog.Logger, func() error, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(slog.NewTextHandler(f, nil)), f.Close, nil
}

// faults goes through the schedule until the time is over.
func (s *storm) faults(ctx context.Context) error {
	until := time.Now().Add(s.o.Duration)
	if err := s.waitAcked(ctx, warm); err != nil {
		return err
	}
	played := &Schedule{Seed: s.o.Schedule.Seed}
	defer func() { s.report.Schedule = played }()
	for i := range s.o.Schedule.Steps {
		if time.Now().After(until) || ctx.Err() != nil {
			return nil
		}
		step := s.o.Schedule.Steps[i]
		step.Actions = slices.Clone(step.Actions)
		err := s.step(ctx, &step)
		played.Steps = append(played.Steps, step)
		if err := played.Write(filepath.Join(s.lab.Dir, "schedule.json")); err != nil {
			return err
		}
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.Name(), err)
		}
	}
	return nil
}

// waitAcked waits for so many more acknowledged records.
func (s *storm) waitAcked(ctx context.Context, n int64) error {
	from := s.load.Outages.Acked()
	for deadline := time.Now().Add(recoverWait); ; {
		if s.load.Outages.Acked()-from >= n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d records were acknowledged in %s, want %d", s.load.Outages.Acked()-from, recoverWait, n)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// step injects the faults of a step, holds them, takes them back, and sees the
// cluster whole.
func (s *storm) step(ctx context.Context, step *Step) error {
	// Some faults are survived because the other copies are whole.
	if slices.ContainsFunc(step.Actions, func(a Action) bool { return needsWhole(a.Kind) }) {
		if err := s.whole(ctx); err != nil {
			return err
		}
	}
	event := Event{Name: step.Name(), From: time.Now()}
	s.missing, s.moot = nil, nil
	var heals, last []heal
	var errs []error
	taken := map[int]bool{}
	for i := range step.Actions {
		a := &step.Actions[i]
		if i > 0 {
			errs = append(errs, sleep(ctx, step.Gap))
		}
		s.aim(ctx, a, taken)
		taken[a.Node] = true
		s.say("%s", a)
		h, err := s.inject(ctx, *a)
		errs = append(errs, err)
		if a.Kind == Move || a.Kind == Vote {
			last = append(last, h) // it ends by itself, once the others are healed
		} else {
			heals = append(heals, h)
		}
		event.Kinds = append(event.Kinds, a.Kind)
	}
	errs = append(errs, sleep(ctx, step.Hold))
	for _, h := range slices.Backward(heals) {
		errs = append(errs, h(context.WithoutCancel(ctx)))
	}
	errs = append(errs, s.startEnded())
	for _, h := range last {
		errs = append(errs, h(ctx))
	}
	event.Healed = time.Now()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !step.Eager {
		if err := s.whole(ctx); err != nil {
			return err
		}
	}
	event.To = time.Now()
	if err := s.noticed(ctx); err != nil {
		return err
	}
	if len(s.missing) > 0 && len(step.Actions) == 1 {
		return fmt.Errorf("no %s took place", s.missing[0]) // of a pair, the other may have been in its way
	}
	for _, k := range slices.Concat(s.missing, s.moot) {
		i := slices.Index(event.Kinds, k)
		event.Kinds = slices.Delete(event.Kinds, i, i+1)
	}
	s.report.Events = append(s.report.Events, event)
	s.say("  healed after %.1f s, whole %.1f s later; %d acked", event.Healed.Sub(event.From).Seconds(), event.To.Sub(event.Healed).Seconds(), s.load.Outages.Acked())
	return nil
}

// absent notes that a fault of this step was injected and did nothing.
func (s *storm) absent(k Kind) {
	s.say("  no %s took place", k)
	s.missing = append(s.missing, k)
}

// startEnded starts who ended by himself, as one does whose disk failed: the
// operator's part.
func (s *storm) startEnded() error {
	for _, id := range s.all() {
		if !s.lab.Running(id) {
			s.report.Exits++
			s.say("node %d had ended by itself", id)
		}
	}
	return s.lab.StartAll()
}

// whole waits until every partition has its leader and replicas, and takes writes.
func (s *storm) whole(ctx context.Context) error {
	deadline := time.Now().Add(recoverWait)
	err := s.lab.WaitHealthy(ctx, endingWait)
	for err != nil && ctx.Err() == nil && time.Now().Before(deadline) {
		// Who had given up on a disk that hung ends only when it is let go.
		if err := s.startEnded(); err != nil {
			return err
		}
		err = s.lab.WaitHealthy(ctx, endingWait)
	}
	if err != nil && ctx.Err() == nil {
		s.dump()
		return fmt.Errorf("the cluster did not recover: %w", err)
	}
	if err != nil {
		return err
	}
	return s.waitAcked(ctx, warm/5)
}

// dump ends every node with SIGQUIT, so that its log says what each goroutine waits for.
func (s *storm) dump() {
	for _, id := range s.all() {
		if err := s.signal(id, syscall.SIGQUIT); err != nil {
			s.say("no goroutines of node %d: %v", id, err)
		}
	}
	for deadline := time.Now().Add(stopWait); len(s.lab.Pids()) > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	s.say("the goroutines of all nodes are in their logs")
}

// aim chooses the node that an action hits, if it has none yet, by its role; of a pair
// each has its own.
func (s *storm) aim(ctx context.Context, a *Action, taken map[int]bool) {
	if a.Role == "" || a.Node > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	controller, led := 0, map[int]int{}
	if c, err := s.admin.Admin().Cluster(ctx); err == nil {
		controller = int(c.Controller)
	}
	if t, err := s.admin.Admin().DescribeTopic(ctx, load.Strict); err == nil {
		for _, p := range t.Partitions {
			led[int(p.Leader)]++
		}
	}
	score := func(id int) int {
		switch {
		case taken[id]:
			return -1000
		case a.Role == Controller && id == controller:
			return 1000
		case a.Role == Leader && id != controller:
			return led[id]
		case a.Role == Follower:
			return -led[id]
		default:
			return -100
		}
	}
	a.Node = slices.MaxFunc(s.all(), func(x, y int) int { return score(x) - score(y) })
}

// leads names the partitions of the strict topic that a node leads.
func (s *storm) leads(ctx context.Context, node int) (map[int32]bool, error) {
	t, err := s.admin.Admin().DescribeTopic(ctx, load.Strict)
	if err != nil {
		return nil, err
	}
	led := map[int32]bool{}
	for _, p := range t.Partitions {
		led[p.Partition] = int(p.Leader) == node
	}
	return led, nil
}

// finish heals everything and runs the final phase.
func (s *storm) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, finalWait)
	defer cancel()
	if err := errors.Join(s.healAll(ctx), s.whole(ctx)); err != nil {
		return err
	}
	s.say("final phase: all faults are healed, writers stop")
	s.load.StopWriters()
	return s.load.Final(ctx)
}

func (s *storm) healAll(ctx context.Context) error {
	var errs []error
	for _, id := range s.all() {
		errs = append(errs, s.lab.Network.Mend(ctx, id), s.lab.Network.Widen(ctx, id), s.lab.Disks[id-1].Thaw(), s.lab.Disks[id-1].Drain())
	}
	return errors.Join(append(errs, s.lab.StartAll())...)
}

// gather takes what the load knows into the report.
func (s *storm) gather() {
	r := &s.report
	r.Errors, r.FlippedBits = s.load.Errors(), s.flipped
	r.Failures = append(r.Failures, s.load.Violations()...)
	r.Deletions, r.Deleted = s.load.Deleted()
	r.Retentions = s.load.Retentions()
	r.WritableEvery, r.WritableAny, r.Seconds = s.load.Outages.Writable()
	for i := range r.Events {
		until := r.Events[i].To
		if i+1 < len(r.Events) {
			until = r.Events[i+1].From
		}
		for _, out := range s.load.Outages.Between(r.Events[i].From, until) {
			r.Events[i].Longest = max(r.Events[i].Longest, out.To.Sub(out.From))
		}
	}
	for _, id := range s.all() {
		r.Failures = append(r.Failures, crashes(s.lab.LogFile(id))...)
	}
}

// crashes finds panics in what a node printed.
func crashes(path string) (found []string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "DATA RACE") {
			found = append(found, fmt.Sprintf("%s: %s", filepath.Base(path), strings.TrimSpace(line)))
		}
	}
	return found
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
