package e2e

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/chaos"
)

// Storms of consumers: GROUP_STORM says how long one lasts.
const (
	stormEnv     = "GROUP_STORM"
	stormMembers = 20
	stormSession = 10 * time.Second // the default of penstock consume
	// stillness is for how long a reader of a partition that stays may print nothing
	// of it, in records of one key that are acknowledged meanwhile: 2 s at full speed,
	// where some 50 ms are what is seen. A pause for a rebalance would be as long as a
	// sleeping member's session, five times that; a machine that is slow takes its time
	// from the writer too.
	stillness = int(2 * time.Second / loadTick)
)

// fate is what befell a consumer.
type fate int

const (
	wellBehaved fate = iota // runs, or was asked to leave
	killed
	paused // slept past its session
)

// consumerProcess is one `penstock consume`.
type consumerProcess struct {
	number int
	cmd    *exec.Cmd
	done   chan struct{} // closed when it ended and all it printed is noted
	fate   fate          // guarded by storm.mu
	gone   bool          // of the storm's goroutine: it was told to end
}

// reading is one record as a consumer printed it.
type reading struct {
	process   *consumerProcess
	partition int32
	offset    int64
	at        time.Time
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
	//nolint:gosec // our own binary
	p.cmd = exec.Command("penstock", "consume", "storm", "-g", "storm", "-b", s.brokers, "-o", "{{.Partition}} {{.Offset}}")
	p.cmd.Stderr = &strings.Builder{}
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
		p.fate = killed
		s.mu.Unlock()
	}
	require.NoError(s.t, p.cmd.Process.Signal(signal))
}

// nap stops a process for longer than its session, and wakes it: it is a zombie
// then, that still believes in its partitions.
func (s *storm) nap(p *consumerProcess) {
	s.t.Helper()
	s.mu.Lock()
	p.fate = paused
	s.mu.Unlock()
	require.NoError(s.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	s.wg.Go(func() {
		time.Sleep(stormSession * 3 / 2)
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
		case p.fate != paused:
			s.nap(p)
		}
	}
}

// settle waits until everything that was acknowledged was read, and ends the group.
func (s *storm) settle(acked map[place]string) {
	s.t.Helper()
	unread := func() (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for at := range acked {
			if !s.seen[at] {
				n++
			}
		}
		return n
	}
	require.Eventually(s.t, func() bool { return unread() == 0 }, testWait, 200*time.Millisecond, "acknowledged records were not read")
	for _, p := range s.running() {
		s.end(p, syscall.SIGTERM)
	}
	s.wg.Wait()
	for _, p := range s.processes {
		if p.fate == wellBehaved && !s.diedYoung(p) {
			require.Zero(s.t, p.cmd.ProcessState.ExitCode(), "consumer %d: %s", p.number, p.cmd.Stderr)
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

// verify looks at who printed what, partition by partition, in the order of
// arrival.
func (s *storm) verify(l *load) {
	s.t.Helper()
	first := map[place]*consumerProcess{}
	last := map[int32]*reading{}
	duplicates, handovers := 0, 0
	longest := 0
	for i := range s.readings {
		r := &s.readings[i]
		at := place{r.partition, r.offset}
		if before := first[at]; before != nil {
			duplicates++
			// One that slept prints what it had fetched when it wakes, after others did.
			require.True(s.t, before.fate != wellBehaved || r.process.fate == paused,
				"partition %d, offset %d was printed by consumer %d, which commits what it printed, and again by %d\n%s\n%s",
				r.partition, r.offset, before.number, r.process.number, before.cmd.Stderr, r.process.cmd.Stderr)
		} else {
			first[at] = r.process
		}
		before := last[r.partition]
		last[r.partition] = r
		switch {
		case before == nil:
		case before.process != r.process:
			handovers++
		case r.process.fate != paused:
			require.LessOrEqual(s.t, r.offset, before.offset+1, "consumer %d skipped in partition %d", r.process.number, r.partition)
			still := l.ticks(at, before.at, r.at)
			longest = max(longest, still)
			require.Less(s.t, still, stillness, "consumer %d read partition %d, which stayed with it, and stood still before offset %d, for %s",
				r.process.number, r.partition, r.offset, r.at.Sub(before.at))
		}
	}
	require.Greater(s.t, handovers, len(s.processes)/2, "the storm moved next to nothing")
	s.t.Logf("%d consumers, %d readings of %d records, %d duplicates of the killed and the sleeping, %d handovers, longest stillness of a partition that stayed: %d records of a key",
		len(s.processes), len(s.readings), len(first), duplicates, handovers, longest)
}

// Twenty consumers join, leave, are killed and sleep at random under load: every
// record is read, twice only where its first reader had no time to commit, and
// nobody who keeps a partition stops reading it.
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
	w := start(t, chaos.Options{Nodes: 3, Config: []string{"session.grace: 500ms"}})
	w.createTopic("storm", 12, 3)
	l := w.startLoad("storm")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
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
	s.verify(l)
}
