package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stormResult is what a storm leaves for people to see.
type stormResult struct {
	began             time.Time
	length            time.Duration
	seed              uint64
	machine, revision string
	failed            bool

	settled              bool // it came as far as the verdict
	why                  error
	consumers, killed    int
	slept, left          int
	acked, readings      int
	records, duplicates  int
	handovers, lastWords int
	stillness            int
	waking               time.Duration
}

// tell takes in what a storm came to.
func (r *stormResult) tell(s *storm, l *load, a account, verdict error) {
	r.settled, r.why = true, verdict
	r.consumers, r.acked, r.readings = len(s.processes), len(l.acked), len(s.readings)
	for _, p := range s.processes {
		switch {
		case !p.died.IsZero():
			r.killed++
		case !p.slept.IsZero():
			r.slept++
		default:
			r.left++
		}
	}
	r.records, r.duplicates, r.handovers, r.lastWords, r.stillness, r.waking = a.records, a.duplicates, a.handovers, a.lastWords, a.stillness, a.waking
}

// text is the file that is kept.
func (r *stormResult) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	verdict := "passed"
	if r.failed || !r.settled || r.why != nil {
		verdict = "FAILED"
	}
	line("# A storm of consumers: the last long run\n\nWritten by `make storm`.\n")
	line("* %s: %s, seed %d, %s, revision %s", verdict, r.began.UTC().Format(time.RFC3339), r.seed, r.length, r.revision)
	line("* %s", r.machine)
	if !r.settled {
		line("* **failed**: it did not come as far as the verdict")
		return b.String()
	}
	line("* %d consumers of one group on three servers: %d were killed, %d slept for longer than their session and woke, %d left when asked", r.consumers, r.killed, r.slept, r.left)
	line("* %d records acknowledged, %d of them read, in %d readings; partitions changed hands %d times", r.acked, r.records, r.readings, r.handovers)
	line("* %d read again, each because its first reader was killed or put to sleep before it could commit, or had just woken:", r.duplicates)
	line("  at most %d records of a key before a death or a sleep, at most %s after waking", r.lastWords, r.waking.Round(time.Millisecond))
	line("* the longest pause of a reader in a partition that stayed its own: %d records of a key, one each %s", r.stillness, loadTick)
	if r.why != nil {
		line("* **failed**: %s", r.why)
	}
	return b.String()
}

func TestStormResult(t *testing.T) {
	s := newScript(3)
	s.reads(0, 0, 0, 30*time.Second)
	s.killed(0, 30*time.Second)
	s.reads(1, 40*time.Second, 30*time.Second-200*time.Millisecond, 60*time.Second)
	s.slept(2, 0, time.Second)
	r := stormResult{began: time.Unix(0, 0), length: time.Minute, seed: 7, machine: "a machine", revision: "abc"}
	require.Contains(t, r.text(), "FAILED: 1970-01-01T00:00:00Z, seed 7, 1m0s, revision abc", "nothing was judged")
	a, err := s.verify(&s.load)
	r.tell(&s.storm, &s.load, a, err)
	text := r.text()
	require.Contains(t, text, "* passed: 1970-01-01T00:00:00Z, seed 7, 1m0s, revision abc\n* a machine\n")
	require.Contains(t, text, "3 consumers of one group on three servers: 1 were killed, 1 slept for longer than their session and woke, 1 left when asked")
	require.Contains(t, text, "12000 records acknowledged, 12000 of them read, in 12040 readings")
	require.Contains(t, text, "* 40 read again")
	r.failed = true
	require.Contains(t, r.text(), "FAILED")
}
