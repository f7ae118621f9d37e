package check

import (
	"cmp"
	"math"
	"slices"
)

type groupKey struct {
	group string
	key   Key
}

// holding is what the history says of one partition in one group: who holds it,
// and what is committed.
type holding struct {
	groupKey
	stints  []*stint         // not ended
	newest  map[string]int32 // member -> epoch of its latest stint
	byEpoch map[int32]string // epoch -> the member that was given the partition in it
	top     stint            // of the highest epoch; op 0: none

	writes   []*commit // by invoke
	recorded bool      // some commit is in the history
}

// stint is the time in which a member believes to hold the partition.
type stint struct {
	member string
	epoch  int32
	op     int64
	rival  int64 // op that gave the partition to another in a later epoch; 0: none
}

// commit is a value of the register that a committed offset is: stored by a
// commit, or found there.
type commit struct {
	invoke, done int64 // done is math.MaxInt64 while it may still take effect
	offset       int64
	failed       bool
	echo         bool // found there, and another explains it
}

type pendingCommit struct {
	h       *holding
	w       *commit
	at      Position
	current stint // that another member had begun in a later epoch than the committer's; op 0: none
}

func (c *Checker) holding(group string, key Key) *holding {
	gk := groupKey{group, key}
	h := c.holdings[gk]
	if h == nil {
		h = &holding{groupKey: gk, newest: map[string]int32{}, byEpoch: map[int32]string{}}
		c.holdings[gk] = h
	}
	return h
}

func (c *Checker) assigned(p *process, op *Op) {
	p.grouped = true
	for _, at := range op.Keys {
		k, h := c.partition(at.Key), c.holding(op.Group, at.Key)
		if p.open[FPoll] != nil && p.cursors[at.Key] != nil {
			p.disturbed[at.Key] = true
		}
		p.cursors[at.Key] = &cursor{k: k, next: at.Offset, gone: c.gone(k, p, op)}
		if at.Offset >= 0 && op.Epoch > h.top.epoch {
			// Whoever held the partition before cannot commit any more, so all that
			// was accepted from them is older than what the member found. After a
			// later owner, the event is only late, and shows nothing.
			c.fetched(op, h, op.Index, at)
		}
		c.begin(h, stint{member: op.Member, epoch: op.Epoch, op: op.Index})
	}
}

// begin compares a new stint with those of others.
func (c *Checker) begin(h *holding, s stint) {
	h.stints = slices.DeleteFunc(h.stints, func(o *stint) bool { return o.member == s.member })
	h.stints = append(h.stints, &s)
	if s.epoch < 0 {
		return
	}
	h.newest[s.member] = s.epoch
	if other, taken := h.byEpoch[s.epoch]; taken && other != s.member {
		c.report(OverlappingOwnership, Example{Key: h.key, Ops: []int64{s.op}},
			"group %s: op %d gave the partition to member %s in epoch %d, in which member %s was given it", h.group, s.op, s.member, s.epoch, other)
	}
	h.byEpoch[s.epoch] = s.member
	for _, o := range h.stints {
		if o.member != s.member && o.epoch >= 0 && o.epoch < s.epoch && o.rival == 0 {
			o.rival = s.op
		}
	}
	if s.epoch >= h.top.epoch {
		h.top = s
	}
}

// revoked ends stints. Only one that ends in good order shows that the member
// was in the group until then: one that was lost may have been for long.
func (c *Checker) revoked(p *process, op *Op) {
	for _, at := range op.Keys {
		if p.open[FPoll] != nil {
			p.disturbed[at.Key] = true
		}
		delete(p.cursors, at.Key)
		h := c.holding(op.Group, at.Key)
		for _, s := range h.stints {
			if s.member == op.Member && s.rival != 0 && op.F == FRevoked {
				c.report(OverlappingOwnership, Example{Key: h.key, Ops: []int64{s.op, s.rival, op.Index}},
					"group %s: member %s held the partition from op %d to op %d, another got it by op %d", h.group, s.member, s.op, op.Index, s.rival)
			}
		}
		h.stints = slices.DeleteFunc(h.stints, func(s *stint) bool { return s.member == op.Member })
	}
}

func (c *Checker) beginCommit(op *Op, inv *invocation) {
	for _, at := range op.Keys {
		h := c.holding(op.Group, at.Key)
		pc := pendingCommit{h: h, at: at, w: &commit{invoke: op.Index, done: math.MaxInt64, offset: at.Offset}}
		h.writes, h.recorded = append(h.writes, pc.w), true
		if op.Member != "" {
			own, ever := h.newest[op.Member]
			if h.top.op != 0 && (!ever || h.top.epoch > own) {
				pc.current = h.top
			}
		}
		inv.commits = append(inv.commits, pc)
	}
}

func (c *Checker) endCommit(inv *invocation, op *Op) {
	for _, pc := range inv.commits {
		switch op.Type {
		case OK:
			c.rep.Commits++
			pc.w.done = op.Index
			if s := pc.current; s.op != 0 {
				c.report(ZombieCommit, Example{Key: pc.h.key, Ops: []int64{s.op, inv.index, op.Index}, Offsets: []int64{pc.at.Offset}},
					"group %s: op %d of member %s committed offset %d after op %d had given the partition to member %s in epoch %d",
					pc.h.group, op.Index, op.Member, pc.at.Offset, s.op, s.member, s.epoch)
			}
		case Fail:
			pc.w.failed = true
		default:
		}
	}
}

// fetched judges what was found committed, between invoke and op. A committed
// offset is a register: a write may be found unless it was done before another,
// done before the look-up began, was begun.
func (c *Checker) fetched(op *Op, h *holding, invoke int64, at Position) {
	var newest *commit // of those done before the look-up, the one begun last
	found, ever := false, false
	for _, w := range slices.Backward(h.writes) {
		if newest == nil && w.done < invoke && !w.failed && (!w.echo || w.offset != at.Offset) {
			newest = w
		}
		if w.offset == at.Offset && !w.failed && !w.echo {
			ever = true
			if newest == nil || w.done >= newest.invoke {
				found = true
				break
			}
		}
	}
	ex := Example{Key: h.key, Ops: []int64{op.Index}, Offsets: []int64{at.Offset}}
	switch {
	case found || newest == nil && at.Offset < 0:
	case newest != nil && (at.Offset < newest.offset || ever):
		ex.Ops, ex.Offsets = []int64{newest.invoke, op.Index}, []int64{newest.offset, at.Offset}
		c.report(CommittedRegress, ex, "group %s: op %d found committed offset %d (-1: none), op %d had stored or found %d before",
			h.group, op.Index, at.Offset, newest.invoke, newest.offset)
	case h.recorded:
		c.report(CommittedUnwritten, ex, "group %s: op %d found committed offset %d, which nobody committed", h.group, op.Index, at.Offset)
	}
	if at.Offset >= 0 {
		w := &commit{invoke: invoke, done: op.Index, offset: at.Offset, echo: found}
		i, _ := slices.BinarySearchFunc(h.writes, invoke, func(w *commit, index int64) int { return cmp.Compare(w.invoke, index) })
		h.writes = slices.Insert(h.writes, i, w)
	}
}
