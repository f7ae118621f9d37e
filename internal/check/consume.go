package check

import "time"

// cursor is where a process stands in a partition.
type cursor struct {
	k    *partition
	next int64 // offset to be read next; -1: not known
	op   int64 // the poll that moved it last
	// gone is what had been deleted for so long, when reading began, that nothing below
	// it may be read.
	gone step
}

// gap is a jump of a reader over offsets that may be empty. Only when the whole
// history is in is it known whether something was there.
type gap struct {
	k        *partition
	from, to int64 // [from, to) was jumped over
	op       int64
	process  int32
	kind     Anomaly
}

func (c *Checker) poll(p *process, inv *invocation, op *Op) {
	c.rep.Polls++
	for i := range op.Parts {
		part := &op.Parts[i]
		k := c.partition(part.Key)
		c.watermark(k, op, part)
		if len(part.Reads) > 0 {
			c.read(p, k, op, part)
		}
	}
	if op.Type == OK {
		c.lag(p, inv, op)
	}
	clear(p.disturbed)
}

// watermark compares the records of an answer with its own bounds. Bounds of polls
// are not compared with what was known before the poll: they may be older.
func (c *Checker) watermark(k *partition, op *Op, part *Part) {
	b := part.Bounds
	if b == nil {
		return
	}
	for _, r := range part.Reads {
		if b.HighWatermark >= 0 && r.Offset >= b.HighWatermark {
			c.report(ReadPastWatermark, Example{Key: k.key, Ops: []int64{op.Index}, Offsets: []int64{r.Offset, b.HighWatermark}, Values: []Value{r.Value}},
				"op %d read value %d at offset %d in an answer with watermark %d", op.Index, r.Value, r.Offset, b.HighWatermark)
			break
		}
	}
	k.learn(op, b)
}

// read walks over what a poll got of one partition.
func (c *Checker) read(p *process, k *partition, op *Op, part *Part) {
	cur := p.cursors[k.key]
	next, inside, judged := int64(-1), false, !p.disturbed[k.key]
	if cur != nil && op.Type == OK {
		next, inside = cur.next, cur.op == op.Index
	}
	for _, r := range part.Reads {
		if r.Offset < 0 {
			c.malformed(op, "value %d of %s is read at offset %d", r.Value, k.key, r.Offset)
			continue
		}
		if next >= 0 && r.Offset != next && judged {
			c.jump(k, p, op, next, r.Offset, inside)
		}
		if cur != nil && r.Offset < cur.gone.value && judged && op.Type == OK {
			c.report(ReadBelowStart, Example{Key: k.key, Ops: []int64{cur.gone.op, op.Index}, Offsets: []int64{cur.gone.value, r.Offset}, Values: []Value{r.Value}},
				"op %d of process %d read value %d at offset %d, op %d had acknowledged that everything below %d is deleted before it began to read",
				op.Index, p.id, r.Value, r.Offset, cur.gone.op, cur.gone.value)
		}
		next, inside = r.Offset+1, true
		at, known := k.byValue[r.Value]
		if !known {
			k.add(r.Value)
			at = k.byValue[r.Value]
		}
		k.see(at, r.Offset)
		if op.Type != OK {
			continue
		}
		c.rep.Reads++
		e := &k.entries[at]
		if e.reads++; e.reads == 1 {
			e.reader = op.Index
		}
		if p.grouped {
			e.grouped++
		}
		e.finalRead = e.finalRead || p.final
		k.high.observe(op, next)
	}
	switch {
	case op.Type != OK:
	case !judged && cur != nil:
		cur.next = -1
	case cur != nil:
		cur.next, cur.op = next, op.Index
	case judged && !p.grouped:
		p.cursors[k.key] = &cursor{k: k, next: next, op: op.Index}
	}
}

func (c *Checker) jump(k *partition, p *process, op *Op, next, offset int64, inside bool) {
	skip, back := PollSkip, NonmonotonicPoll
	if inside {
		skip, back = IntPollSkip, IntNonmonotonicPoll
	}
	if offset > next {
		if start := k.start.before(op.Index + 1).value; !c.opt.ReadFirst || k.retained {
			next = max(next, start) // what was below is gone
		}
		if offset <= next {
			return
		}
		c.gaps = append(c.gaps, gap{k, next, offset, op.Index, p.id, skip})
		return
	}
	c.report(back, Example{Key: k.key, Ops: []int64{op.Index}, Offsets: []int64{next, offset}},
		"op %d of process %d read offset %d where %d was next", op.Index, p.id, offset, next)
}

// lag notes for how long the record that the process has not got has been there.
func (c *Checker) lag(p *process, inv *invocation, op *Op) {
	for _, cur := range p.cursors {
		if cur.next < 0 {
			continue
		}
		there, ok := cur.k.high.reached(cur.next + 1)
		if !ok {
			continue
		}
		l := Lag{Key: cur.k.key, Process: p.id, Op: op.Index, Behind: inv.time - there.time}
		if w := c.rep.WorstLag; l.Behind > w.Behind || l.Behind == w.Behind && l.Op == w.Op && l.Key.String() < w.Key.String() {
			c.rep.WorstLag = l
		}
	}
}

// Lag is how long a record that a poll could have returned had been known to exist.
type Lag struct {
	Key     Key           `json:"key"`
	Process int32         `json:"process"`
	Op      int64         `json:"op"`
	Behind  time.Duration `json:"behind"`
}

// assign makes the keys of op the ones that the process reads.
func (c *Checker) assign(p *process, op *Op) {
	old := p.cursors
	p.cursors = make(map[Key]*cursor, len(op.Keys))
	p.grouped, p.final = false, op.Final
	if p.final {
		c.rep.FinalReaders++
	}
	for _, at := range op.Keys {
		k := c.partition(at.Key)
		cur := old[at.Key]
		if cur == nil || at.Offset >= 0 {
			cur = &cursor{k: k, next: at.Offset, gone: c.gone(k, p, op)}
		}
		p.cursors[at.Key] = cur
		k.final = k.final || p.final
	}
}

// gone is what cannot be read any more by a process that begins now: the final phase
// knows no leader that was replaced and does not know it.
func (c *Checker) gone(k *partition, p *process, op *Op) step {
	if p.final {
		return k.deleted.before(op.Index)
	}
	return k.deleted.by(op.Time - c.opt.Stale)
}
