package storm

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/chaos"
)

// Action is one fault.
type Action struct {
	Kind Kind `json:"kind"`
	Role Role `json:"role,omitempty"`
	// Node is the one that is hit. A run fills it in; where it is set already, the
	// role does not matter.
	Node int `json:"node,omitempty"`

	Direction chaos.Direction `json:"direction,omitempty"`
	Port      int             `json:"port,omitempty"` // 0: all
	Reset     bool            `json:"reset,omitempty"`
	// Partial leaves the node one other, its next by number; otherwise it is cut from all.
	Partial bool `json:"partial,omitempty"`
	// Clients are cut off too.
	Clients bool `json:"clients,omitempty"`
	// Leave is what is left: bytes of a disk or of memory, or files that may be opened.
	Leave int64 `json:"leave,omitempty"`
	// Leads: the damage is in partitions that the node led when it was stopped.
	Leads bool `json:"leads,omitempty"`
	// Running: the damage is done while the node runs, which is ended after it.
	Running bool `json:"running,omitempty"`
	// Orderly: the node whose files are damaged is stopped in order, not killed.
	Orderly bool `json:"orderly,omitempty"`
	// Rate is what passes a slow link, in bytes a second.
	Rate int64 `json:"rate,omitempty"`
	// Percent of a node's packets get lost.
	Percent int `json:"percent,omitempty"`
	// Least and Most are how long a node's packets take.
	Least time.Duration `json:"least,omitempty"`
	Most  time.Duration `json:"most,omitempty"`
	// Seed places the flipped bits and torn bytes, and chooses the partition that is moved.
	Seed uint64 `json:"seed,omitempty"`
	// Skew is how far the clock jumps.
	Skew time.Duration `json:"skew,omitempty"`
}

// String tells the fault in a few words.
func (a Action) String() string {
	parts := []string{string(a.Kind)}
	add := func(yes bool, format string, args ...any) {
		if yes {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(a.Role != "", "of the %s", a.Role)
	add(a.Node > 0, "(node %d)", a.Node)
	if a.Kind == Cut {
		add(true, "%s", a.Direction)
		add(a.Reset, "with resets")
		add(a.Port > 0, "on port %d", a.Port)
		add(a.Partial, "from one peer")
		add(a.Clients, "and from clients")
	}
	add(a.Kind == DiskFull || a.Kind == LittleMemory, "%d bytes left", a.Leave)
	add(a.Kind == FewFiles, "%d left", a.Leave)
	add(a.Kind == SlowLink, "%d bytes a second", a.Rate)
	add(a.Leads, "in what it led")
	add(a.Running, "while it runs")
	add(a.Orderly, "stopped in order")
	add(a.Kind == Loss, "%d in 100", a.Percent)
	add(a.Kind == Slow, "by %s to %s", a.Least, a.Most)
	add(a.Skew != 0, "by %s", a.Skew)
	return strings.Join(parts, " ")
}

// Step is a fault, or some at once.
type Step struct {
	Actions []Action      `json:"actions"`
	Gap     time.Duration `json:"gap"`  // between one action and the next
	Hold    time.Duration `json:"hold"` // with all of them in force
	// Eager: the next step does not wait until the cluster is whole.
	Eager bool `json:"eager,omitempty"`
}

// Name names the kinds of a step.
func (s *Step) Name() string {
	kinds := make([]string, 0, len(s.Actions))
	for _, a := range s.Actions {
		kinds = append(kinds, string(a.Kind))
	}
	slices.Sort(kinds)
	return strings.Join(kinds, " + ")
}

// Schedule is what happens in a run.
type Schedule struct {
	Seed  uint64 `json:"seed"`
	Steps []Step `json:"steps"`
}

// Draw makes a schedule of n steps from a seed, of the kinds that can be had here.
func Draw(seed uint64, n int, short bool, kinds []Kind) *Schedule {
	d := &dealer{rng: rand.New(rand.NewPCG(seed, 0x5eed)), short: short, kinds: kinds}
	s := &Schedule{Seed: seed}
	for i := range n {
		s.Steps = append(s.Steps, d.step(i))
	}
	return s
}

// dealer deals kinds from a shuffled deck, so that every kind comes up before one
// comes up too often.
type dealer struct {
	rng   *rand.Rand
	short bool
	kinds []Kind
	deck  []trait
}

func (d *dealer) deal() trait {
	if len(d.deck) == 0 {
		for _, t := range traits() {
			if !slices.Contains(d.kinds, t.kind) || d.short && !t.short {
				continue
			}
			copies := t.weight
			if d.short {
				copies = 1
			}
			for range copies {
				d.deck = append(d.deck, t)
			}
		}
		d.rng.Shuffle(len(d.deck), func(i, j int) { d.deck[i], d.deck[j] = d.deck[j], d.deck[i] })
	}
	t := d.deck[0]
	d.deck = d.deck[1:]
	return t
}

func (d *dealer) step(i int) Step {
	first := d.deal()
	s := Step{Actions: []Action{d.action(first)}, Hold: d.between(first.hold)}
	if d.short {
		s.Hold = min(s.Hold, 1500*time.Millisecond)
	}
	// Singles and pairs by turns; a card that cannot be one of a pair stays alone.
	if i%2 == 1 && !first.alone {
		second := d.deal()
		switch {
		case second.alone || second.whole && first.whole || tooMuch(first.kind, second.kind):
			d.deck = append(d.deck, second)
		case touchesDisks(first) && touchesDisks(second) && (first.whole || second.whole):
			// A disk that hangs cannot lose its power in order.
			d.deck = append(d.deck, second)
		default:
			s.Actions = append(s.Actions, d.action(second))
			s.Gap = d.between([2]time.Duration{0, 2 * time.Second})
			if first.whole && asksWhoLeads(second.kind) {
				slices.Reverse(s.Actions) // somebody has to be there to say who leads what
			}
		}
	}
	// Bits are flipped only in a cluster that is whole, and what follows them waits
	// until it is again: two damaged copies of a record are more than is promised.
	s.Eager = !d.short && !slices.ContainsFunc(s.Actions, func(a Action) bool { return needsWhole(a.Kind) }) && d.rng.IntN(5) == 0
	return s
}

// needsWhole reports whether a fault takes a copy of the records away, or hurts it:
// what comes before has to be over, and what comes after waits.
func needsWhole(k Kind) bool { return asksWhoLeads(k) || k == Replace || k == Rolling }

// asksWhoLeads reports whether a fault is in what its node leads or follows.
func asksWhoLeads(k Kind) bool {
	patterns, _ := smallFiles(k)
	return k == FlipBits || len(patterns) > 0
}

// tooMuch reports whether two faults together could take two copies of a record.
func tooMuch(a, b Kind) bool {
	takes := func(k Kind) bool { return k == FlipBits || k == BadTopicID || k == BadCheckpoint }
	return takes(a) && takes(b) || a != FlipBits && b == Replace && takes(a) || b != FlipBits && a == Replace && takes(b)
}

func touchesDisks(t trait) bool {
	return slices.Contains([]Kind{PowerOne, PowerAll, DiskFull, DiskHang, DiskDead, FsyncFails, FsyncHangs, FlipBits, Replace, TornRaft, BadRaft}, t.kind)
}

// harsh is how many of three strengths are drawn from: after the strongest TCP takes
// seconds to come back, which a short run does not have.
func (d *dealer) harsh() int {
	if d.short {
		return 2
	}
	return 3
}

func (d *dealer) between(r [2]time.Duration) time.Duration {
	if r[1] <= r[0] {
		return r[0]
	}
	return (r[0] + time.Duration(d.rng.Int64N(int64(r[1]-r[0])))).Round(time.Millisecond)
}

func (d *dealer) action(t trait) Action {
	a := Action{Kind: t.kind}
	if !t.whole {
		a.Role = []Role{Controller, Leader, Leader, Follower}[d.rng.IntN(4)]
	}
	switch t.kind {
	case Cut:
		a.Direction = []chaos.Direction{chaos.Both, chaos.In, chaos.Out}[d.rng.IntN(3)]
		a.Port = []int{0, 0, 0, chaos.PortRaft, chaos.PortPeer, chaos.PortGRPC}[d.rng.IntN(6)]
		a.Reset = d.rng.IntN(3) == 0
		a.Partial = d.rng.IntN(4) == 0
		a.Clients = d.rng.IntN(3) == 0 || a.Port == chaos.PortGRPC
	case DiskFull:
		a.Leave = []int64{0, 4 << 20, 24 << 20}[d.rng.IntN(3)]
	case FlipBits:
		a.Seed, a.Leads = d.rng.Uint64(), d.rng.IntN(2) == 0
		a.Role = map[bool]Role{true: Leader, false: Follower}[a.Leads]
	case Clock:
		// Beyond an hour a leader refuses the records of clients, and beyond the time of
		// retention it deletes: that is as configured.
		a.Skew = []time.Duration{-50 * time.Minute, -10 * time.Second, 10 * time.Second, 50 * time.Minute, 5 * time.Hour}[d.rng.IntN(5)]
	case Move, TornRaft, BadRaft:
		a.Seed = d.rng.Uint64()
	case BadIndex, BadEpochs, BadSnapshot, BadTopicID, BadCheckpoint:
		a.Seed, a.Leads = d.rng.Uint64(), d.rng.IntN(2) == 0
		a.Role = map[bool]Role{true: Leader, false: Follower}[a.Leads]
		a.Running, a.Orderly = d.rng.IntN(3) == 0, d.rng.IntN(2) == 0
	case SlowLink:
		a.Rate = []int64{512 << 10, 128 << 10, 32 << 10}[d.rng.IntN(d.harsh())]
	case FewFiles:
		a.Leave = []int64{0, 3, 12}[d.rng.IntN(3)]
	case LittleMemory:
		a.Leave = []int64{0, 8 << 20}[d.rng.IntN(2)]
	case Loss:
		a.Percent = []int{3, 10, 30}[d.rng.IntN(d.harsh())]
	case Slow:
		ms := time.Millisecond
		span := [][2]time.Duration{{5 * ms, 20 * ms}, {30 * ms, 120 * ms}, {150 * ms, 400 * ms}}[d.rng.IntN(d.harsh())]
		a.Least, a.Most = span[0], span[1]
	default:
	}
	return a
}

// ReadSchedule reads what Write wrote.
func ReadSchedule(path string) (*Schedule, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Schedule{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s is no schedule: %w", path, err)
	}
	return s, nil
}

// Write writes the schedule to a file.
func (s *Schedule) Write(path string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}
