package sim

import (
	"container/heap"
	"encoding/binary"
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
	// Nodes is the number of brokers, 3 to 5; the first three are voters. 0: the seed says.
	Nodes int
	// Calm: nothing goes wrong.
	Calm bool
	// Quiet waits until all other goroutines rest: synctest.Wait. If it is set, the
	// nodes' logs are those of package log, and the run needs a synctest bubble.
	Quiet func()
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
	// Err is the first broken promise; nil: all kept. Broken says which one it is.
	Err    error
	Broken Invariant
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
	mix    mix
	counts Counts
	err    error
	broken Invariant

	nodes   []*node
	net     *network
	meta    *metalog
	parts   []*part
	sent    map[int64]int // the partition that a value was sent to
	clients []*producer
	readers []*consumer
	healed  bool  // the liveness phase
	gone    *node // stays away in the first part of it; nil: nobody
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

// after schedules something. Whoever keeps the event may call it off.
func (w *World) after(d time.Duration, what string, do func()) *event {
	w.number++
	e := &event{at: w.now.Add(max(d, 0)), number: w.number, what: what, do: do}
	heap.Push(&w.queue, e)
	return e
}

// callOff makes an event one that does not happen.
func (e *event) callOff() {
	if e != nil {
		e.do = nil
	}
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
	return between(w.rng, low, high)
}

func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(high-low)+1))
}

func (w *World) chance(percent float64) bool { return w.rng.Float64()*100 < percent }

// fail keeps the first broken promise.
func (w *World) fail(broken Invariant, format string, args ...any) {
	if w.err == nil {
		w.broken = broken
		w.err = fmt.Errorf("%s: at %v, event %d: %s", broken, w.now.Sub(w.start), w.steps, fmt.Sprintf(format, args...))
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
	if e.do == nil {
		return true
	}
	if w.opts.Quiet != nil {
		time.Sleep(e.at.Sub(w.now))
	}
	w.now = e.at
	w.rest()
	w.steps++
	w.note(e)
	w.trace(e.what)
	if e.do != nil { // what rested may have called it off
		e.do()
	}
	w.rest()
	return true
}

// note takes an event into the hash of the trace.
func (w *World) note(e *event) {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(e.at.UnixNano()))
	_, _ = w.hash.Write(at[:]) // a hash takes everything
	_, _ = io.WriteString(w.hash, e.what)
}

// The simulated time that a cluster gets to become writable without one node, and then
// to become whole.
const (
	partialTime  = 45 * time.Second
	livenessTime = 90 * time.Second
)

// newWorld makes a cluster that is about to start.
func newWorld(opts Options) *World {
	if opts.Nodes == 0 {
		opts.Nodes = 3 + int(opts.Seed%3)
	}
	w := &World{
		opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x70656e73746f636b)),
		start: time.Unix(1_700_000_000, 0).UTC(), hash: fnv.New64a(), sent: map[int64]int{},
	}
	w.now = w.start
	w.mix = newMix(w.rng)
	w.begin()
	return w
}

// until runs until something holds or the time is over.
func (w *World) until(d time.Duration, holds func() bool) {
	for end := w.now.Add(d); w.err == nil && w.now.Before(end) && !holds(); {
		for range 16 { // looking is dear
			w.step()
		}
	}
}

// Run simulates one cluster.
func Run(opts Options) Result {
	w := newWorld(opts)
	for w.steps < opts.Events && w.err == nil && w.step() {
	}
	if w.err == nil {
		w.heal()
		w.until(partialTime, func() bool { return w.unable(false) == "" })
		w.checkAble()
	}
	if w.err == nil {
		w.healAll()
		w.until(livenessTime, w.settled)
		w.checkEnd()
	}
	for _, n := range w.nodes {
		if n.data != nil {
			_ = n.data.close(false) // nobody looks at it any more
		}
	}
	return Result{
		Options: w.opts, Hash: w.hash.Sum64(), Steps: w.steps, Virtual: w.now.Sub(w.start),
		Counts: w.counts, Err: w.err, Broken: w.broken,
	}
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
	w.after(500*time.Millisecond, "topics", w.meta.createTopics)
	w.startClients()
	if !w.opts.Calm {
		w.startTrims()
		w.after(2*time.Second, "faults begin", w.nextFault)
	}
}
