package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
	if err := l.fits(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	l.result = result{
		Machine: chaos.Machine(), FS: bench.FileSystem(dir), GitRev: chaos.Revision(ctx), Date: time.Now().UTC().Format(time.DateOnly), Quote: o.quoted(),
		Rounds: o.rounds, Duration: o.duration.String(), Warmup: o.warmup.String(), Warm: o.warm.String(), Touched: o.touch,
		Settings: map[string]string{}, Absent: map[string]string{},
	}
	return l, nil
}

// reserve is the part of a disk that Penstock's servers do not write to by default.
const reserve = 0.05

// fits refuses a disk that a turn would fill, or so far that Penstock refuses to write.
func (l *lab) fits() error {
	free, err := bench.FreeBytes(l.dir)
	var disk syscall.Statfs_t
	if err == nil {
		err = syscall.Statfs(l.dir, &disk)
	}
	if err != nil {
		return err
	}
	kept := reserve * float64(disk.Blocks) * float64(disk.Bsize)
	if most := (float64(free) - kept) / (1 << 30); l.gib > most {
		return &flagError{"gib", fmt.Sprint(l.gib), fmt.Sprintf("at most %.0f, which is free on the disk of %s beyond the %.0f %% that Penstock leaves; -dir names another", math.Floor(max(most, 0)), l.dir, 100*reserve)}
	}
	return nil
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
	for i := range p.contenders {
		l.result.Settings[p.contenders[i].name] = p.contenders[i].described()
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
		reads := slices.Contains(l.rows, consume.name) && l.readsAt(d)
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

// readsAt reports whether anybody reads what was acknowledged in this way. How that was
// says nothing about reading, so it is done once, where the run begins, but for a system
// that has another kind of queue for each: it reads both, and Penstock beside it.
func (l *lab) readsAt(d durability) bool {
	if string(d) == l.durabilities[0] {
		return true
	}
	for _, p := range l.installed {
		if slices.ContainsFunc(p.contenders, func(c contender) bool { return c.only == d }) {
			return true
		}
	}
	return false
}

// takes reports whether a contender has a turn at a row.
func (l *lab) takes(p *peer, ct *contender, r *row, d durability) bool {
	switch {
	case !ct.takes(r.name, d):
		return false
	case r.workload != load.Consume || string(d) == l.durabilities[0]:
		return true
	default:
		return ct.only == d || p.name == "penstock" && l.readsAt(d)
	}
}

// joins reports whether a contender has a turn at any row that counts.
func (l *lab) joins(p *peer, ct *contender, g *group, d durability) bool {
	for i := range g.rows {
		if (i > 0 || !g.fill) && l.takes(p, ct, &g.rows[i], d) {
			return true
		}
	}
	return false
}

const turnOverhead = 9 * time.Second // memory, topic, counting, deletion

func (l *lab) estimate() time.Duration {
	total := 20 * time.Second
	for _, p := range l.installed {
		if p.warms {
			total += l.warm
		}
		for _, d := range l.durabilities {
			for _, g := range l.groups(durability(d)) {
				for i := range p.contenders {
					ct := &p.contenders[i]
					if !l.joins(p, ct, &g, durability(d)) {
						continue
					}
					turn := turnOverhead + l.warmup + l.duration
					if len(g.rows) > 1 && l.takes(p, ct, &g.rows[1], durability(d)) {
						turn += retentionCheck + l.duration
					}
					total += time.Duration(l.options.rounds) * turn
				}
			}
		}
	}
	return total
}

// player is who has a turn.
type player struct {
	p  *peer
	ct *contender
}

// order is in which the contenders of a group have their turns of a round. Each round
// begins with another one, and every second goes the other way round, so that nobody
// always comes after the same one, whose traces on the disk and in memory he would find.
func (l *lab) order(d durability, g group, round int) []player {
	var all []player
	for _, p := range l.installed {
		for i := range p.contenders {
			if ct := &p.contenders[i]; l.joins(p, ct, &g, d) {
				all = append(all, player{p, ct})
			}
		}
	}
	turns := make([]player, len(all))
	for i := range turns {
		at := round + i
		if round%2 == 1 {
			at = round - i + len(all)
		}
		turns[i] = all[at%len(all)]
	}
	return turns
}

// rounds gives each contender its turns at a group. A peer whose servers die is left out
// from then on; without Penstock there is nothing to compare.
func (l *lab) rounds(ctx context.Context, d durability, g group) error {
	for round := range l.options.rounds {
		for _, who := range l.order(d, g, round) {
			c := l.clusters[who.p.name]
			if c == nil { // died in this round
				continue
			}
			err := l.turn(ctx, c, who, d, g, round)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				l.say("  %s: %s", who.ct.name, err)
				l.result.fail(who.ct, d, g.rows[0].name, round, err)
			}
			died := c.alive()
			if died == nil {
				continue
			}
			if who.p.name == "penstock" {
				return fmt.Errorf("%s: %w", who.p.name, died)
			}
			l.absent(who.p, fmt.Errorf("round %d of %s, %s: %w", round+1, g.rows[0].name, d, died))
			if err := l.stop(who.p); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn is a contender's work on one group in one round, on a topic of its own.
func (l *lab) turn(ctx context.Context, c *cluster, who player, d durability, g group, round int) (err error) {
	ct := who.ct
	t, drop, err := l.topic(ctx, c, ct, d, &g.rows[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	for i := range g.rows {
		r := &g.rows[i]
		if fills := g.fill && i == 0; !fills && !l.takes(who.p, ct, r, d) {
			continue
		}
		if i > 0 { // what retention is about to take goes before it is read
			if err := pause(ctx, retentionCheck+time.Second); err != nil {
				return err
			}
		}
		if err := bench.TouchMemory(l.touch << 30); err != nil {
			return err
		}
		j := l.job(c, ct, t, r)
		if g.fill && i == 0 {
			j.Warmup, j.Duration = 0, min(j.Duration, fillMost)
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

const (
	// recordOverhead is about what a system keeps beside a value.
	recordOverhead = 20
	// fillMost is how long a topic is filled that is only read.
	fillMost = 10 * time.Second
	// retentionCheck is how often servers look for what retention.bytes lets go: by
	// default some look every five minutes, and a long turn would fill the disk.
	retentionCheck = 5 * time.Second
)

func (l *lab) job(c *cluster, ct *contender, t *load.Topic, r *row) *load.Job {
	j := &load.Job{
		Client: ct.client, Addresses: c.addresses(ct), Topic: *t, Workload: r.workload, Size: r.size, Rate: latencyRate,
		Duration: l.duration, Warmup: l.warmup, Pids: c.pids,
	}
	if ct.keeps {
		j.Records = int64(l.gib * (1 << 30) / float64(nodes*(r.size+recordOverhead)))
	}
	for _, other := range l.clusters {
		if other != c {
			j.Others = append(j.Others, other.pids...)
		}
	}
	return j
}

// retained is the part of -gib that retention leaves; the rest is for files that are
// begun, and for what comes between two of its rounds.
const retained = 2.0 / 3

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
		Retention: int64(l.gib*retained*(1<<30)) / int64(nodes*partitions),
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
				if e != nil && e.IsDir() && strings.Contains(strings.ToLower(e.Name()), topic) { // RabbitMQ has 2F_PEERS0001...
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

// workMost is how long a job may take beside its times: to settle, to be counted.
const workMost = 6 * time.Minute

// work has a job done by a process of its own, which is killed when it hangs.
func (l *lab) work(ctx context.Context, j *load.Job) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, j.Warmup+j.Duration+workMost)
	defer cancel()
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
		return nil, fmt.Errorf("%w: %s", errors.Join(ctx.Err(), err), tail(errOut.String()))
	}
	found := &outcome{workload: j.Workload}
	return found, json.Unmarshal(out.Bytes(), &found.Outcome)
}
