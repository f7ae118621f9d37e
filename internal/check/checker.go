package check

import (
	"fmt"
	"slices"
	"time"
)

// Options say what kind of history it is. The zero value is the strictest.
type Options struct {
	// Allow lists anomalies that are reported and not counted.
	Allow []Anomaly
	// Compacted lists topics whose records may go for a newer one of their key:
	// there nothing is lost, unseen, vanished or skipped.
	Compacted []string
	// Retained lists topics whose oldest records go by themselves.
	Retained []string
	// ReadFirst: outside of Retained records are deleted only after all readers have
	// read them, so that below the log start they are missed like anywhere else.
	ReadFirst bool
	// Stale is for how long a broker that was replaced as leader may go on to serve
	// what it holds to who asks it.
	Stale time.Duration
	// Unfinished: the run was cut off before its final phase had read everything,
	// so what nobody has seen, or seen again, is not missed.
	Unfinished bool
	// Examples bounds how many examples of each anomaly are kept. Default 8.
	Examples int
}

// Check checks a whole history.
func Check(h History, o Options) *Report {
	c := New(o)
	for i := range h {
		c.Add(&h[i])
	}
	return c.Report()
}

// Checker checks a history as it comes: Add each op, then ask for the Report. It
// keeps about 200 bytes a record, and nothing of an op but what it names.
type Checker struct {
	opt   Options
	rep   Report
	found map[Anomaly]*Finding

	partitions map[Key]*partition
	order      []*partition // as they appeared
	processes  map[int32]*process
	holdings   map[groupKey]*holding
	gaps       []gap
	last       int64 // index of the latest op
}

// New returns a Checker that has seen nothing.
func New(o Options) *Checker {
	if o.Examples <= 0 {
		o.Examples = 8
	}
	return &Checker{
		opt: o, found: map[Anomaly]*Finding{},
		partitions: map[Key]*partition{}, processes: map[int32]*process{}, holdings: map[groupKey]*holding{},
	}
}

// process is one client.
type process struct {
	id      int32
	open    map[F]*invocation
	cursors map[Key]*cursor
	grouped bool // a group says what it reads
	final   bool // it is in the final phase
	// disturbed are the keys that were taken away while the open poll ran, so that
	// nobody knows which of its records came before.
	disturbed map[Key]bool
}

// invocation is an operation that is not completed.
type invocation struct {
	index   int64
	time    time.Duration
	commits []pendingCommit
	trims   []Position
}

// Add takes the next op. It keeps no reference to it.
func (c *Checker) Add(op *Op) {
	if op.Index <= c.last {
		c.malformed(op, "index %d after %d", op.Index, c.last)
		return
	}
	c.last = op.Index
	c.rep.Ops++
	c.rep.Duration = max(c.rep.Duration, op.Time)
	if !slices.Contains([]Type{Invoke, OK, Info, Fail}, op.Type) {
		c.malformed(op, "type %q", op.Type)
		return
	}
	p := c.processes[op.Process]
	if p == nil {
		p = &process{id: op.Process, open: map[F]*invocation{}, cursors: map[Key]*cursor{}, disturbed: map[Key]bool{}}
		c.processes[op.Process] = p
	}
	switch op.F {
	case FSend:
		c.send(op)
	case FPoll, FOffsets, FCommit, FCommitted, FTrim:
		c.call(p, op)
	case FAssign, FSubscribe, FCrash, FAssigned, FRevoked, FLost:
		if op.Type == OK || op.F == FCrash && op.Type != Invoke {
			c.event(p, op)
		}
	default:
		c.malformed(op, "function %q", op.F)
	}
}

// call takes the ops that have an invocation and one completion.
func (c *Checker) call(p *process, op *Op) {
	inv := p.open[op.F]
	switch {
	case op.Type == Invoke && inv != nil:
		c.malformed(op, "process %d invokes a %s, its one of op %d is not completed", p.id, op.F, inv.index)
		return
	case op.Type == Invoke:
		inv = &invocation{index: op.Index, time: op.Time}
		p.open[op.F] = inv
		switch op.F {
		case FCommit:
			c.beginCommit(op, inv)
		case FTrim:
			c.beginTrim(op, inv)
		default:
		}
		return
	case inv == nil:
		c.malformed(op, "process %d completes a %s that it has not invoked", p.id, op.F)
		return
	}
	delete(p.open, op.F)
	switch op.F {
	case FPoll:
		c.poll(p, inv, op)
	case FOffsets:
		c.offsets(inv, op)
	case FCommit:
		c.endCommit(inv, op)
	case FTrim:
		c.endTrim(inv, op)
	case FCommitted:
		if op.Type == OK {
			for _, at := range op.Keys {
				c.fetched(op, c.holding(op.Group, at.Key), inv.index, at)
			}
		}
	default:
	}
}

// event takes what changes which partitions a process reads.
func (c *Checker) event(p *process, op *Op) {
	switch op.F {
	case FAssign:
		c.assign(p, op)
	case FSubscribe:
		p.grouped, p.final = true, false
		clear(p.cursors)
	case FCrash:
		p.grouped, p.final = false, false
		clear(p.open)
		clear(p.cursors)
		clear(p.disturbed)
	case FAssigned:
		c.assigned(p, op)
	case FRevoked, FLost:
		c.revoked(p, op)
	default:
	}
}

// Unfinished says what Options.Unfinished does, of a history that turned out to be
// cut off.
func (c *Checker) Unfinished() { c.opt.Unfinished = true }

func (c *Checker) partition(key Key) *partition {
	k := c.partitions[key]
	if k == nil {
		k = &partition{
			key: key, byValue: map[Value]int32{}, at: map[int64]int32{},
			compacted: slices.Contains(c.opt.Compacted, key.Topic), retained: slices.Contains(c.opt.Retained, key.Topic),
			clashes: map[int64][]int32{}, copies: map[int32][]int64{}, epochs: map[int32]*rising{}, starts: map[int32]*rising{}, newest: -1,
		}
		c.partitions[key] = k
		c.order = append(c.order, k)
	}
	return k
}

func (c *Checker) malformed(op *Op, format string, args ...any) {
	c.report(Malformed, Example{Ops: []int64{op.Index}}, format, args...)
}

// report counts an anomaly and keeps it as an example while there is room.
func (c *Checker) report(a Anomaly, ex Example, format string, args ...any) {
	f := c.found[a]
	if f == nil {
		f = &Finding{Anomaly: a, Allowed: allowed(a) || slices.Contains(c.opt.Allow, a)}
		c.found[a] = f
	}
	f.Count++
	if len(f.Examples) < c.opt.Examples {
		ex.Text = fmt.Sprintf(format, args...)
		f.Examples = append(f.Examples, ex)
	}
}
