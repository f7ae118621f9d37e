package e2e

import (
	"bufio"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/chaos"
)

// Storms of consumers: GROUP_STORM says how long one lasts, GROUP_STORM_RECORD in which
// folder its result is left.
const (
	stormEnv       = "GROUP_STORM"
	stormRecordEnv = "GROUP_STORM_RECORD"
	stormMembers   = 20
	stormSession   = 10 * time.Second // the default of penstock consume
	// stillness is for how long a reader of a partition that stays may print nothing
	// of it, in records of one key that are acknowledged meanwhile: 2 s at full speed,
	// where some 50 ms are what is seen. A pause for a rebalance would be as long as a
	// sleeping member's session, five times that; a machine that is slow takes its time
	// from the writer too.
	stillness = int(2 * time.Second / loadTick)
	// lastWords is how old what a process printed may be when it is killed or put to
	// sleep, and be printed again by others, in records of one key as above: a second.
	// It commits what it printed before it polls again, so that next to nothing is this
	// old and not committed.
	lastWords = int(time.Second / loadTick)
	// waking is for how long a sleeper may print what it had fetched, once it is awake:
	// soon it hears that it is no member any more.
	waking = 3 * time.Second
)

// consumerProcess is one `penstock consume`.
type consumerProcess struct {
	number int
	cmd    *exec.Cmd
	stderr strings.Builder
	done   chan struct{} // closed when it ended and all it printed is noted
	gone   bool          // of the storm's goroutine: it was told to end

	// Guarded by storm.mu; zero: it did not happen.
	died         time.Time // killed
	slept, woken time.Time // stopped for longer than its session
}

// wellBehaved: it ran until it was asked to leave.
func (p *consumerProcess) wellBehaved() bool { return p.died.IsZero() && p.slept.IsZero() }

// reading is one record as a consumer printed it.
type reading struct {
	process   *consumerProcess
	partition int32
	offset    int64
	at        time.Time
}

// uncommitted: it may be that what was printed was not committed, as the process was
// killed or put to sleep at once.
func (r *reading) uncommitted(l *load) bool {
	p, at := r.process, place{r.partition, r.offset}
	return !p.died.IsZero() && l.ticks(at, r.at, p.died) < lastWords ||
		!p.slept.IsZero() && r.at.Before(p.slept) && l.ticks(at, r.at, p.slept) < lastWords || r.drowsy()
}

// drowsy: the process had just slept, and did not know yet that its partitions are others'.
func (r *reading) drowsy() bool {
	p := r.process
	return !p.slept.IsZero() && !r.at.Before(p.slept) && (p.woken.IsZero() || r.at.Before(p.woken.Add(waking)))
}

// storm is a group whose members come and go.
type storm struct {
	t         *testing.T
	brokers   string
	rng       *rand.Rand
	processes []*consumerProcess
	wg        sync.WaitGroup

	mu       sync.Mutex // guards what follows
	readings []reading
	seen     map[place]bool
}

func (s *storm) start() {
	s.t.Helper()
	p := &consumerProcess{number: len(s.processes), done: make(chan struct{})}
	p.cmd = exec.Command("penstock", "consume", "storm", "-g", "storm", "-b", s.brokers, "-o", "{{.Partition}} {{.Offset}}")
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, p.cmd.Start())
	s.processes = append(s.processes, p)
	s.wg.Go(func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r := reading{process: p, at: time.Now()}
			if _, err := fmt.Sscan(lines.Text(), &r.partition, &r.offset); err != nil {
				continue // cut off in the middle
			}
			s.mu.Lock()
			s.readings = append(s.readings, r)
			s.seen[place{r.partition, r.offset}] = true
			s.mu.Unlock()
		}
		_ = p.cmd.Wait()
	})
}

// running lists the processes that were not told to end.
func (s *storm) running() (list []*consumerProcess) {
	for _, p := range s.processes {
		if !p.gone {
			list = append(list, p)
		}
	}
	return list
}

func (s *storm) end(p *consumerProcess, signal syscall.Signal) {
	s.t.Helper()
	p.gone = true
	if signal == syscall.SIGKILL {
		s.mu.Lock()
		p.died = time.Now()
		s.mu.Unlock()
	}
	require.NoError(s.t, p.cmd.Process.Signal(signal))
}

// nap stops a process for longer than its session, and wakes it: it is a zombie
// then, that still believes in its partitions.
func (s *storm) nap(p *consumerProcess) {
	s.t.Helper()
	s.mu.Lock()
	p.slept = time.Now()
	s.mu.Unlock()
	require.NoError(s.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	s.wg.Go(func() {
		time.Sleep(stormSession * 3 / 2)
		s.mu.Lock()
		p.woken = time.Now()
		s.mu.Unlock()
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
	})
}

// blow lets members come, leave, be killed and sleep, at random, for a while.
func (s *storm) blow(length time.Duration) {
	s.t.Helper()
	for range 8 {
		s.start()
	}
	turn := time.NewTicker(500 * time.Millisecond)
	defer turn.Stop()
	for until := time.Now().Add(length); time.Now().Before(until); <-turn.C {
		running := s.running()
		p := running[s.rng.IntN(len(running))]
		switch n := s.rng.IntN(10); {
		case n < 4 && len(running) < stormMembers:
			s.start()
		case len(running) < 5:
			s.start()
		case n < 6:
			s.end(p, syscall.SIGTERM)
		case n < 9:
			s.end(p, syscall.SIGKILL)
		case p.slept.IsZero():
			s.nap(p)
		}
	}
}

// settle waits until everything that was acknowledged was read, and ends the group.
func (s *storm) settle(acked map[place]string) {
	s.t.Helper()
	unread := slices.Collect(maps.Keys(acked))
	allRead := func() bool {
		var left []place
		for some := range slices.Chunk(unread, 10_000) {
			// A little at a time: whoever prints waits for the lock, and what it printed
			// has the time at which it was let in.
			s.mu.Lock()
			for _, at := range some {
				if !s.seen[at] {
					left = append(left, at)
				}
			}
			s.mu.Unlock()
		}
		unread = left
		return len(left) == 0
	}
	require.Eventually(s.t, allRead, testWait, 200*time.Millisecond, "acknowledged records were not read")
	for _, p := range s.running() {
		s.end(p, syscall.SIGTERM)
	}
	s.wg.Wait()
	for _, p := range s.processes {
		if p.wellBehaved() && !s.diedYoung(p) {
			require.Zero(s.t, p.cmd.ProcessState.ExitCode(), "consumer %d: %s", p.number, &p.stderr)
		}
	}
}

// diedYoung reports whether a process that was asked to leave ended before it could
// be asked: it had read nothing, and the signal ended it.
func (s *storm) diedYoung(p *consumerProcess) bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGTERM &&
		!slices.ContainsFunc(s.readings, func(r reading) bool { return r.process == p })
}

// account is what a storm came to.
type account struct {
	records, duplicates, handovers int
	stillness                      int           // the longest of a partition that stayed, in records of a key
	lastWords                      int           // the oldest that was printed again, before a death or a sleep, in records of a key
	waking                         time.Duration // the latest that a sleeper printed again, after it woke
}

// verify looks at who printed what, partition by partition, in the order of
// arrival.
func (s *storm) verify(l *load) (a account, err error) {
	printed := map[place][]*reading{}
	last := map[int32]*reading{}
	for i := range s.readings {
		r := &s.readings[i]
		at := place{r.partition, r.offset}
		for _, before := range printed[at] {
			if !before.uncommitted(l) && !r.drowsy() {
				return a, fmt.Errorf("partition %d, offset %d was printed by consumer %d, which had committed it since, and again by %d, %s later\n%s\n%s",
					r.partition, r.offset, before.process.number, r.process.number, r.at.Sub(before.at), &before.process.stderr, &r.process.stderr)
			}
			a.repeat(l, before, r)
		}
		if len(printed[at]) > 0 {
			a.duplicates++
		}
		printed[at] = append(printed[at], r)
		before := last[r.partition]
		last[r.partition] = r
		switch {
		case before == nil:
		case before.process != r.process:
			a.handovers++
		case r.process.slept.IsZero():
			if r.offset > before.offset+1 {
				return a, fmt.Errorf("consumer %d skipped in partition %d, from offset %d to %d", r.process.number, r.partition, before.offset, r.offset)
			}
			still := l.ticks(at, before.at, r.at)
			a.stillness = max(a.stillness, still)
			if still >= stillness {
				return a, fmt.Errorf("consumer %d read partition %d, which stayed with it, and stood still before offset %d, for %s and %d records of a key",
					r.process.number, r.partition, r.offset, r.at.Sub(before.at), still)
			}
		}
	}
	a.records = len(printed)
	return a, nil
}

// repeat notes how near a repeat that is allowed was to one that is not.
func (a *account) repeat(l *load, before, r *reading) {
	at := place{r.partition, r.offset}
	switch p := before.process; {
	case r.drowsy():
		a.waking = max(a.waking, r.at.Sub(r.process.woken))
	case before.drowsy():
		a.waking = max(a.waking, before.at.Sub(p.woken))
	case !p.slept.IsZero() && before.at.Before(p.slept):
		a.lastWords = max(a.lastWords, l.ticks(at, before.at, p.slept))
	default:
		a.lastWords = max(a.lastWords, l.ticks(at, before.at, p.died))
	}
}

// Twenty consumers join, leave, are killed and sleep at random under load: every
// record is read, twice only where its first reader had no time to commit, or one that
// slept did not know yet that it is a member no more, and nobody who keeps a partition stops reading it.
func TestConsumersInAStorm(t *testing.T) {
	length := 60 * time.Second
	if testing.Short() {
		length = 10 * time.Second
	}
	if text := os.Getenv(stormEnv); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	result := stormResult{began: time.Now(), length: length, seed: seed, machine: chaos.Machine(), revision: chaos.Revision(t.Context())}
	if folder := os.Getenv(stormRecordEnv); folder != "" {
		t.Cleanup(func() {
			result.failed = t.Failed()
			assert.NoError(t, os.WriteFile(filepath.Join(folder, "storm.md"), []byte(result.text()), 0o644)) //nolint:gosec // documentation
		})
	}
	w := start(t, chaos.Options{Nodes: 3, Config: []string{"session.grace: 500ms"}})
	w.createTopic("storm", 12, 3)
	l := w.startLoad("storm")
	s := &storm{t: t, brokers: strings.Join(w.nodes.Addrs(), ","), rng: rand.New(rand.NewPCG(seed, 0)), seen: map[place]bool{}}
	t.Cleanup(func() {
		for _, p := range s.processes {
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
			_ = p.cmd.Process.Kill()
		}
		s.wg.Wait()
	})
	s.blow(length)
	l.finish(t)
	s.settle(l.acked)
	a, err := s.verify(l)
	result.tell(s, l, a, err)
	require.NoError(t, err)
	require.Greater(t, a.handovers, len(s.processes)/2, "the storm moved next to nothing")
	t.Logf("%s: %d consumers, %d readings of %d records, %d duplicates (printed at most %d records of a key before a death or sleep, or %s after waking), "+
		"%d handovers, longest stillness of a partition that stayed: %d records of a key",
		length, len(s.processes), len(s.readings), a.records, a.duplicates, a.lastWords, a.waking, a.handovers, a.stillness)
}
