package check

import (
	"slices"
	"sort"
	"time"
)

// rising is a quantity that only rises: the greatest value that the history has
// shown at each place. It keeps the places where that grew.
type rising struct{ steps []step }

type step struct {
	op    int64
	time  time.Duration
	value int64
	epoch int32 // the greatest that had been seen; of what was deleted
}

func (r *rising) observe(op *Op, value int64) {
	if n := len(r.steps); n == 0 && value > 0 || n > 0 && value > r.steps[n-1].value {
		r.steps = append(r.steps, step{op: op.Index, time: op.Time, value: value})
	}
}

// before is the greatest value that was shown before an index.
func (r *rising) before(index int64) step {
	i := sort.Search(len(r.steps), func(i int) bool { return r.steps[i].op >= index })
	if i == 0 {
		return step{}
	}
	return r.steps[i-1]
}

// by is the greatest value that was shown before a moment.
func (r *rising) by(moment time.Duration) step {
	i := sort.Search(len(r.steps), func(i int) bool { return r.steps[i].time >= moment })
	if i == 0 {
		return step{}
	}
	return r.steps[i-1]
}

// reached is where the history first showed value or more.
func (r *rising) reached(value int64) (step, bool) {
	i := sort.Search(len(r.steps), func(i int) bool { return r.steps[i].value >= value })
	if i == len(r.steps) {
		return step{}, false
	}
	return r.steps[i], true
}

func (r *rising) max() int64 {
	if len(r.steps) == 0 {
		return 0
	}
	return r.steps[len(r.steps)-1].value
}

// offsets compares what a leader says with what was known before it was asked.
func (c *Checker) offsets(inv *invocation, op *Op) {
	if op.Type != OK {
		return
	}
	for i := range op.Parts {
		b := op.Parts[i].Bounds
		if b == nil {
			continue
		}
		k := c.partition(op.Parts[i].Key)
		known := &k.high
		if b.LeaderEpoch >= 0 {
			known = k.epoch(b.LeaderEpoch)
		}
		if was := known.before(inv.index); b.HighWatermark >= 0 && b.HighWatermark < was.value {
			c.report(WatermarkRegress, Example{Key: k.key, Ops: []int64{was.op, op.Index}, Offsets: []int64{was.value, b.HighWatermark}},
				"op %d was told watermark %d of leader epoch %d, op %d had shown %d before", op.Index, b.HighWatermark, b.LeaderEpoch, was.op, was.value)
		}
		c.startWent(k, inv, op, b)
		k.learn(op, b)
		c.overrun(k, op, b.LogStart)
	}
}

// startWent compares a log start with what was known of it.
func (c *Checker) startWent(k *partition, inv *invocation, op *Op, b *Bounds) {
	was := k.start.before(inv.index)
	if b.LogStart < 0 || b.LogStart >= was.value {
		return
	}
	kind := LogStartRegress
	if b.LeaderEpoch >= 0 && b.LogStart >= k.startIn(b.LeaderEpoch).before(inv.index).value && b.LogStart >= c.mustBegin(k, inv, b.LeaderEpoch) {
		kind = LogStartRewound
	}
	c.report(kind, Example{Key: k.key, Ops: []int64{was.op, op.Index}, Offsets: []int64{was.value, b.LogStart}},
		"op %d was told log start %d of leader epoch %d, op %d had shown %d before", op.Index, b.LogStart, b.LeaderEpoch, was.op, was.value)
}

// mustBegin is where the log of a leader must begin, by the deletions that were
// acknowledged. A leader that was replaced and does not know it need not have
// heard of the newest. One of an epoch beyond all that had been seen until then must have.
func (c *Checker) mustBegin(k *partition, inv *invocation, epoch int32) int64 {
	for _, d := range slices.Backward(k.deleted.steps) {
		if d.op < inv.index && (d.epoch < epoch || d.time < inv.time-c.opt.Stale) {
			return d.value
		}
	}
	return 0
}

// overrun judges a log start that was told: records go by the deletions that were
// asked for, and by nothing else.
func (c *Checker) overrun(k *partition, op *Op, start int64) {
	if k.trimmed && !k.retained && start > k.asked {
		c.report(LogStartOverrun, Example{Key: k.key, Ops: []int64{op.Index}, Offsets: []int64{k.asked, start}},
			"op %d was told that the log starts at %d, nobody had asked to delete beyond %d", op.Index, start, k.asked)
	}
}

func (c *Checker) beginTrim(op *Op, inv *invocation) {
	inv.trims = slices.Clone(op.Keys)
	for _, at := range op.Keys {
		k := c.partition(at.Key)
		k.trimmed, k.asked = true, max(k.asked, at.Offset)
	}
}

// endTrim takes what a deletion was acknowledged for.
func (c *Checker) endTrim(inv *invocation, op *Op) {
	if op.Type != OK {
		return
	}
	for _, at := range op.Keys {
		k := c.partition(at.Key)
		for _, asked := range inv.trims {
			if asked.Key == at.Key && at.Offset < asked.Offset {
				c.report(LogStartRegress, Example{Key: k.key, Ops: []int64{inv.index, op.Index}, Offsets: []int64{asked.Offset, at.Offset}},
					"op %d asked to delete below %d, op %d acknowledged that nothing below %d is kept", inv.index, asked.Offset, op.Index, at.Offset)
			}
		}
		c.overrun(k, op, at.Offset)
		k.start.observe(op, at.Offset)
		if k.deleted.observe(op, at.Offset); len(k.deleted.steps) > 0 {
			if d := &k.deleted.steps[len(k.deleted.steps)-1]; d.op == op.Index {
				d.epoch = k.newest
			}
		}
	}
}

// learn takes bounds into what is known.
func (k *partition) learn(op *Op, b *Bounds) {
	k.start.observe(op, b.LogStart)
	k.high.observe(op, b.HighWatermark)
	if b.LeaderEpoch >= 0 {
		k.newest = max(k.newest, b.LeaderEpoch)
		k.epoch(b.LeaderEpoch).observe(op, b.HighWatermark)
		k.startIn(b.LeaderEpoch).observe(op, b.LogStart)
	}
}

func (k *partition) startIn(e int32) *rising {
	r := k.starts[e]
	if r == nil {
		r = &rising{}
		k.starts[e] = r
	}
	return r
}

func (k *partition) epoch(e int32) *rising {
	r := k.epochs[e]
	if r == nil {
		r = &rising{}
		k.epochs[e] = r
	}
	return r
}
