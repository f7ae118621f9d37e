package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/loopback"

	"github.com/penstock/penstock/bench/peers/load"
)

// lab is one comparison.
type lab struct {
	*options

	dir       string
	java      string
	installed []*peer
	clusters  map[string]*cluster // that run, by their peer
	started   int
	topics    int
	free      loopback.Addresses
	result    result
}

// errTurns means that some turns failed; the result says which.
var errTurns = errors.New("some turns failed, see the result")

func newLab(ctx context.Context, o *options) (*lab, error) {
	if err := os.MkdirAll(o.tools, 0o755); err != nil { //nolint:gosec // an ordinary folder
		return nil, err
	}
	dir, err := bench.DataFolder(o.dir, "penstock-peers-")
	if err != nil {
		return nil, err
	}
	l := &lab{options: o, dir: dir, clusters: map[string]*cluster{}}
	l.result = result{
		Machine: chaos.Machine(), FS: bench.FileSystem(dir), GitRev: chaos.Revision(ctx), Date: time.Now().UTC().Format(time.DateOnly),
		Rounds: o.rounds, Duration: o.duration.String(), Warmup: o.warmup.String(), Warm: o.warm.String(), Touched: o.touch,
		Settings: map[string]string{}, Absent: map[string]string{},
	}
	return l, nil
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// addresses are n that nothing uses.
func (l *lab) addresses(n int) (all []string, err error) {
	for range n {
		a, err := l.free.Next()
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// measure has every contender do every row.
func (l *lab) measure(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, l.stopAll()) }()
	l.install(ctx)
	l.say("data in %s, file system %s; %s; about %s", l.dir, l.result.FS, l.result.Machine, l.estimate().Round(time.Minute))
	for _, d := range l.durabilities {
		if err := l.start(ctx, durability(d)); err != nil {
			return err
		}
		for _, g := range l.groups(durability(d)) {
			if err := l.rounds(ctx, durability(d), g); err != nil {
				return err
			}
		}
	}
	if len(l.result.Failures) > 0 {
		return errTurns
	}
	return nil
}

// install leaves the peers that can be compared in l.installed.
func (l *lab) install(ctx context.Context) {
	for _, p := range all() {
		if p.name != "penstock" && !slices.Contains(l.peers, p.name) {
			l.result.Absent[p.name] = "not chosen by -peers"
			continue
		}
		l.say("install %s", p.name)
		if err := p.install(ctx, l); err != nil {
			l.absent(p, err)
			continue
		}
		l.installed = append(l.installed, p)
	}
}

func (l *lab) absent(p *peer, err error) {
	l.say("without %s: %s", p.name, err)
	l.result.Absent[p.name] = strings.Join(strings.Fields(err.Error()), " ")
	l.installed = slices.DeleteFunc(l.installed, func(i *peer) bool { return i == p })
}

// start starts what does not run yet, and anew what has durability as a setting of
// its servers.
func (l *lab) start(ctx context.Context, d durability) error {
	for _, p := range slices.Clone(l.installed) {
		old := l.clusters[p.name]
		if old != nil && !p.perDurability {
			continue
		}
		if old != nil {
			if err := l.stop(p); err != nil {
				return err
			}
		}
		l.say("start %s", p.name)
		l.started++
		dir := filepath.Join(l.dir, fmt.Sprintf("%s%d", p.name, l.started))
		if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // an ordinary folder
			return err
		}
		c, err := p.start(ctx, l, dir, d)
		if err != nil {
			if ctx.Err() != nil || p.name == "penstock" {
				return err
			}
			l.absent(p, err)
			continue
		}
		c.peer = p
		l.clusters[p.name] = c
		l.settings(p, c, d)
		if p.warms {
			if err := l.warmUp(ctx, p, c); err != nil {
				if ctx.Err() != nil {
					return err
				}
				l.absent(p, err)
				if err := l.stop(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (l *lab) settings(p *peer, c *cluster, d durability) {
	name := p.name
	if p.perDurability {
		name = fmt.Sprintf("%s (%s)", p.name, d)
	}
	l.result.Settings[name] = c.settings
	for _, ct := range p.contenders {
		l.result.Settings[ct.name] = ct.settings
	}
}

func (l *lab) stop(p *peer) error {
	c := l.clusters[p.name]
	delete(l.clusters, p.name)
	return c.stop()
}

func (l *lab) stopAll() error {
	var errs []error
	for _, c := range l.clusters {
		errs = append(errs, c.stop())
	}
	return errors.Join(errs...)
}

// group is rows that share a topic: a produce row and the consume row of its size.
type group struct {
	rows []row
	fill bool // the produce row only fills the topic
}

func (l *lab) groups(d durability) (all []group) {
	wanted := rows()
	for i := 0; i < len(wanted); i++ {
		r := wanted[i]
		chosen := slices.Contains(l.rows, r.name)
		if r.workload != load.Produce {
			if chosen {
				all = append(all, group{rows: []row{r}})
			}
			continue
		}
		i++ // what is next consumes it
		consume := wanted[i]
		// How a record was acknowledged says nothing about how it is read.
		reads := slices.Contains(l.rows, consume.name) && string(d) == l.durabilities[0]
		switch {
		case chosen && reads:
			all = append(all, group{rows: []row{r, consume}})
		case chosen:
			all = append(all, group{rows: []row{r}})
		case reads:
			all = append(all, group{rows: []row{r, consume}, fill: true})
		}
	}
	return all
}

const turnOverhead = 9 * time.Second // memory, topic, deletion

func (l *lab) estimate() time.Duration {
	total := 20 * time.Second
	for _, p := range l.installed {
		if p.warms {
			total += l.warm
		}
		for _, d := range l.durabilities {
			for _, g := range l.groups(durability(d)) {
				for _, ct := range p.contenders {
					if !ct.takes(g.rows[0].name, durability(d)) {
						continue
					}
					total += time.Duration(l.options.rounds) * (turnOverhead + l.warmup + time.Duration(len(g.rows))*l.duration)
				}
			}
		}
	}
	return total
}

// rounds gives each contender its turns at a group.
func (l *lab) rounds(ctx context.Context, d durability, g group) error {
	for round := range l.options.rounds {
		for _, p := range slices.Clone(l.installed) {
			for i := range p.contenders {
				ct := &p.contenders[i]
				if !ct.takes(g.rows[0].name, d) {
					continue
				}
				err := l.turn(ctx, l.clusters[p.name], ct, d, g, round)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					l.say("  %s: %s", ct.name, err)
					l.result.fail(ct, d, g.rows[0].name, round, err)
				}
				if died := l.clusters[p.name].alive(); died != nil {
					return fmt.Errorf("%s: %w", p.name, died)
				}
			}
		}
	}
	return nil
}

// turn is a contender's work on one group in one round, on a topic of its own.
func (l *lab) turn(ctx context.Context, c *cluster, ct *contender, d durability, g group, round int) (err error) {
	t, drop, err := l.topic(ctx, c, ct, d, &g.rows[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	for i := range g.rows {
		r := &g.rows[i]
		if err := bench.TouchMemory(l.touch << 30); err != nil {
			return err
		}
		j := l.job(c, ct, t, r)
		if g.fill && i == 0 {
			j.Warmup = 0
		}
		found, err := l.work(ctx, j)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		l.say("  %s, %s, %s, round %d: %s", r.name, d, ct.name, round+1, found)
		if !g.fill || i > 0 {
			l.result.add(&turn{Row: r.name, What: r.what, Workload: r.workload, Durability: d, Contender: ct.name, Round: round, Outcome: found.Outcome})
		}
	}
	return nil
}

// recordOverhead is about what a system keeps beside a value.
const recordOverhead = 20

func (l *lab) job(c *cluster, ct *contender, t *load.Topic, r *row) *load.Job {
	j := &load.Job{
		Client: ct.client, Addresses: c.addresses(ct), Topic: *t, Workload: r.workload, Size: r.size, Rate: latencyRate,
		Duration: l.duration, Warmup: l.warmup, Pids: c.pids,
		Records: int64(l.gib * (1 << 30) / float64(nodes*(r.size+recordOverhead))),
	}
	for _, other := range l.clusters {
		if other != c {
			j.Others = append(j.Others, other.pids...)
		}
	}
	return j
}

// topic makes one, and returns how to drop it.
func (l *lab) topic(ctx context.Context, c *cluster, ct *contender, d durability, r *row) (t *load.Topic, drop func() error, err error) {
	admin, err := c.admin(ctx, ct)
	if err != nil {
		return nil, nil, err
	}
	l.topics++
	partitions := cmp.Or(ct.parts, r.partitions)
	t = &load.Topic{
		Name: fmt.Sprintf("peers%04d", l.topics), Partitions: partitions, Replicas: nodes, Synced: d == synced,
		Retention: int64(l.gib*(1<<30)) / int64(nodes*partitions),
	}
	if err := admin.Create(ctx, t); err != nil {
		return nil, nil, errors.Join(err, admin.Close())
	}
	return t, func() error {
		err := admin.Drop(ctx, t)
		if err == nil {
			err = l.gone(ctx, c, t.Name)
		}
		return errors.Join(err, admin.Close())
	}, nil
}

const goneWait = time.Minute

// gone waits until nothing on the disk has the topic's name, so that the next turn
// neither runs out of the disk nor shares it with the deletion.
func (l *lab) gone(ctx context.Context, c *cluster, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, goneWait)
	defer cancel()
	for {
		found := ""
		for _, dir := range c.dirs {
			_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, _ error) error { // files go while it walks
				if e != nil && e.IsDir() && strings.HasPrefix(e.Name(), topic) {
					found = path
					return fs.SkipAll
				}
				return nil
			})
		}
		if found == "" {
			return nil
		}
		if pause(ctx, readyPoll) != nil {
			return fmt.Errorf("topic %s was dropped, but after %s %s is still there", topic, goneWait, found)
		}
	}
}

const (
	warmProduce = 10 * time.Second
	warmConsume = 4 * time.Second
)

// warmUp loads a peer until its compiler has seen everything, in slices that fit the disk.
func (l *lab) warmUp(ctx context.Context, p *peer, c *cluster) error {
	l.say("warm %s for %s", p.name, l.warm)
	ct, r := &p.contenders[0], rows()[0]
	for began := time.Now(); time.Since(began) < l.warm; {
		t, drop, err := l.topic(ctx, c, ct, synced, &r)
		if err != nil {
			return err
		}
		produce, consume := l.job(c, ct, t, &r), l.job(c, ct, t, &r)
		produce.Warmup, produce.Duration = 0, min(warmProduce, l.warm)
		consume.Workload, consume.Duration = load.Consume, min(warmConsume, l.warm)
		found, err := l.work(ctx, produce)
		if err == nil {
			_, err = l.work(ctx, consume)
		}
		if err := errors.Join(err, drop()); err != nil {
			return fmt.Errorf("warm %s: %w", p.name, err)
		}
		l.say("  %s", found)
	}
	return nil
}

// outcome prints itself for people.
type outcome struct {
	load.Outcome

	workload string
}

func (o *outcome) String() string {
	if o.workload == load.Latency || o.workload == load.Single {
		return fmt.Sprintf("p50 %.2f, p99 %.2f ms", o.P50, o.P99)
	}
	return number(float64(o.Records)/o.Seconds) + " records/s"
}

// work has a job done by a process of its own.
func (l *lab) work(ctx context.Context, j *load.Job) (*outcome, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-worker") //nolint:gosec // itself
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, tail(errOut.String()))
	}
	found := &outcome{workload: j.Workload}
	return found, json.Unmarshal(out.Bytes(), &found.Outcome)
}
