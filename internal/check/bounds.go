package check

import (
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
}

func (r *rising) observe(op *Op, value int64) {
	if n := len(r.steps); n == 0 && value > 0 || n > 0 && value > r.steps[n-1].value {
		r.steps = append(r.steps, step{op.Index, op.Time, value})
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
		if was := k.start.before(inv.index); b.LogStart >= 0 && b.LogStart < was.value {
			c.report(LogStartRegress, Example{Key: k.key, Ops: []int64{was.op, op.Index}, Offsets: []int64{was.value, b.LogStart}},
				"op %d was told log start %d, op %d had shown %d before", op.Index, b.LogStart, was.op, was.value)
		}
		k.learn(op, b)
	}
}

// learn takes bounds into what is known.
func (k *partition) learn(op *Op, b *Bounds) {
	k.start.observe(op, b.LogStart)
	k.high.observe(op, b.HighWatermark)
	if b.LeaderEpoch >= 0 {
		k.epoch(b.LeaderEpoch).observe(op, b.HighWatermark)
	}
}

func (k *partition) epoch(e int32) *rising {
	r := k.epochs[e]
	if r == nil {
		r = &rising{}
		k.epochs[e] = r
	}
	return r
}
