package sim

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

// Options of a run.
type Options struct {
	Seed uint64
	// Events is how many events the safety phase lasts.
	Events int
	// Nodes is the number of brokers, 3 to 7; the first three are voters.
	Nodes int
	// Trace, if not nil, gets a line for each event.
	Trace io.Writer
}

// Result of a run.
type Result struct {
	Options
	// Hash of the trace: equal for equal options.
	Hash uint64
	// Steps is the number of events in both phases, Virtual the simulated time.
	Steps   int
	Virtual time.Duration
	Counts  Counts
	// Err is the first broken promise; nil: all kept.
	Err error
}

// Counts says what a run went through.
type Counts struct {
	Acked, Read                                         int
	Kills, PowerCuts, AllDown, Pauses, Cuts, CleanStops int
	FailedFlushes, HungFlushes, LostBytes, ClockSteps   int
	ControllerChanges, SkippedImages                    int
	Truncations, RefusedTruncations, Rebuilds           int
	ISRChanges, UnknownISR                              int
	ELRElections, LastISRElections, RestartElections    int
	Duplicates, Failovers, Superseded                   int
}

// World is one simulated cluster.
type World struct {
	opts   Options
	rng    *rand.Rand
	now    time.Time
	start  time.Time
	queue  eventQueue
	number int
	hash   hashWriter
	steps  int
	counts Counts
	err    error

	nodes   []*node
	net     *network
	meta    *metalog
	parts   []*part
	clients []*producer
	readers []*consumer
	healed  bool // the liveness phase
}

type event struct {
	at     time.Time
	number int
	what   string
	do     func()
}

type eventQueue []*event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].number < q[j].number
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *eventQueue) Push(x any) { *q = append(*q, x.(*event)) }

// Pop implements heap.Interface.
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}

type hashWriter interface {
	io.Writer
	Sum64() uint64
}

// after schedules something.
func (w *World) after(d time.Duration, what string, do func()) {
	w.number++
	heap.Push(&w.queue, &event{at: w.now.Add(max(d, 0)), number: w.number, what: what, do: do})
}

// every repeats something until the run ends.
func (w *World) every(d time.Duration, what string, do func()) {
	w.after(d, what, func() {
		do()
		w.every(d, what, do)
	})
}

// between draws a duration.
func (w *World) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)+1))
}

func (w *World) chance(percent float64) bool { return w.rng.Float64()*100 < percent }

// fail keeps the first broken promise.
func (w *World) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %v, event %d: %s", w.now.Sub(w.start), w.steps, fmt.Sprintf(format, args...))
		w.trace("BROKEN: " + w.err.Error())
	}
}

func (w *World) trace(line string) {
	if w.opts.Trace != nil {
		fmt.Fprintf(w.opts.Trace, "%12v %s\n", w.now.Sub(w.start), line)
	}
}

// step runs the next event; false: there is none.
func (w *World) step() bool {
	if w.queue.Len() == 0 {
		return false
	}
	e := heap.Pop(&w.queue).(*event)
	w.now = e.at
	w.steps++
	fmt.Fprintf(w.hash, "%d %s\n", e.at.UnixNano(), e.what)
	w.trace(e.what)
	e.do()
	return true
}

// livenessTime is how much simulated time a healed cluster gets.
const livenessTime = 90 * time.Second

// Run simulates one cluster.
func Run(opts Options) Result {
	if opts.Nodes == 0 {
		opts.Nodes = 3 + int(opts.Seed%3)
	}
	w := &World{
		opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x70656e73746f636b)),
		start: time.Unix(1_700_000_000, 0).UTC(), hash: fnv.New64a(),
	}
	w.now = w.start
	w.begin()
	for w.steps < opts.Events && w.err == nil && w.step() {
	}
	if w.err == nil {
		w.heal()
		for end := w.now.Add(livenessTime); w.err == nil && w.now.Before(end) && !w.settled(); {
			w.step()
		}
		if w.err == nil {
			w.checkEnd()
		}
	}
	return Result{Options: opts, Hash: w.hash.Sum64(), Steps: w.steps, Virtual: w.now.Sub(w.start), Counts: w.counts, Err: w.err}
}

// begin starts the nodes, creates the topics and lets clients and faults loose.
func (w *World) begin() {
	w.net = newNetwork(w)
	w.meta = newMetalog(w)
	for i := range w.opts.Nodes {
		w.nodes = append(w.nodes, newNode(w, int32(i)))
	}
	w.makeParts()
	for _, n := range w.nodes {
		n.start()
	}
	w.every(100*time.Millisecond, "controller looks", w.meta.tick)
	w.after(2*time.Second, "topics", w.meta.createTopics)
	w.startClients()
	w.after(4*time.Second, "faults begin", w.nextFault)
}
