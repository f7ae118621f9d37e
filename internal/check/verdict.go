package check

import (
	"cmp"
	"maps"
	"slices"
	"sort"
)

// Report judges what only a whole history shows and sums up. Nothing may be added
// after it.
func (c *Checker) Report() *Report {
	r := &c.rep
	r.Processes, r.Partitions = len(c.processes), len(c.order)
	slices.SortFunc(c.order, func(a, b *partition) int {
		return cmp.Or(cmp.Compare(a.key.Topic, b.key.Topic), cmp.Compare(a.key.Partition, b.key.Partition))
	})
	for _, k := range c.order {
		c.places(k)
		c.values(k)
		c.sendOrder(k)
	}
	c.skips()
	r.Findings = nil
	for _, a := range Anomalies() {
		if f := c.found[a]; f != nil {
			r.Findings = append(r.Findings, *f)
			if !f.Allowed {
				r.Anomalies += f.Count
			}
		}
	}
	return r
}

// places judges offsets that hold several values, and values at several offsets.
func (c *Checker) places(k *partition) {
	for _, offset := range slices.Sorted(maps.Keys(k.clashes)) {
		values := []Value{k.entries[k.at[offset]].value}
		for _, at := range k.clashes[offset] {
			values = append(values, k.entries[at].value)
		}
		c.report(InconsistentOffsets, Example{Key: k.key, Offsets: []int64{offset}, Values: values, Ops: k.witnesses(values)},
			"offset %d holds the values %d", offset, values)
	}
	for _, at := range slices.Sorted(maps.Keys(k.copies)) {
		e := &k.entries[at]
		kind := Duplicate
		switch {
		case e.outcome == unwritten:
			continue
		case e.plain && (e.retried || e.outcome == indefinite || e.outcome == pending):
			kind = DuplicatePlain
		}
		c.report(kind, Example{Key: k.key, Ops: k.witnesses([]Value{e.value}), Offsets: k.copies[at], Values: []Value{e.value}},
			"value %d, sent by op %d, is at the offsets %d", e.value, e.invoke, k.copies[at])
	}
}

// witnesses are the ops that sent and first read values.
func (k *partition) witnesses(values []Value) []int64 {
	var ops []int64
	for _, v := range values {
		e := &k.entries[k.byValue[v]]
		for _, op := range []int64{e.invoke, e.reader} {
			if op > 0 {
				ops = append(ops, op)
			}
		}
	}
	return ops
}

func (k *partition) example(e *entry, ops ...int64) Example {
	return Example{Key: k.key, Ops: append(k.witnesses([]Value{e.value}), ops...), Offsets: []int64{max(e.offset, e.last)}, Values: []Value{e.value}}
}

// values judges who has read each value, and who should have.
func (c *Checker) values(k *partition) {
	var far *entry // read, and its first offset is the greatest
	for i := range k.entries {
		if e := &k.entries[i]; e.reads > 0 && (far == nil || e.first > far.first) {
			far = e
		}
	}
	for i := range k.entries {
		e := &k.entries[i]
		c.count(e)
		switch {
		case e.reads > 0 && e.outcome == unwritten:
			c.report(UnwrittenRead, k.example(e), "op %d read value %d at offset %d, which nobody sent", e.reader, e.value, e.last)
		case e.reads > 0 && e.outcome == failed:
			c.report(G1a, k.example(e), "op %d read value %d at offset %d, whose send by op %d failed", e.reader, e.value, e.last, e.invoke)
		case k.compacted || e.outcome == unwritten:
		case e.reads > 0:
			if k.final && !e.finalRead && !c.opt.Unfinished && e.last >= k.start.max() {
				c.report(Vanished, k.example(e), "value %d at offset %d, read by op %d, was not read in the final phase", e.value, e.last, e.reader)
			}
		case e.outcome == acked:
			c.missing(k, e, far)
		}
	}
}

// missing judges an acked value that nobody read.
func (c *Checker) missing(k *partition, e, far *entry) {
	lost, unseen := LostWrite, Unseen
	if e.acks != acksAll {
		lost, unseen = LostWriteWeak, UnseenWeak
	}
	at, start := max(e.offset, e.last), k.start.max()
	if c.opt.ReadFirst && !k.retained {
		start = 0
	}
	switch {
	case start > 0 && at < start && (at >= 0 || e.acks != acksAll):
		// It may have been deleted in good order.
	case at >= 0 && far != nil && at <= far.first:
		c.report(lost, k.example(e, e.done, far.reader), "value %d was acked at offset %d by op %d and never read, op %d read offset %d", e.value, e.offset, e.done, far.reader, far.first)
	case !c.opt.Unfinished:
		c.report(unseen, k.example(e, e.done), "value %d was acked at offset %d by op %d and never read", e.value, e.offset, e.done)
	}
}

// count takes e into the sums of the report.
func (c *Checker) count(e *entry) {
	switch e.outcome {
	case acked:
		if e.acks != acksAll {
			c.rep.AckedWeak++
		}
		c.rep.Consumed[min(int(e.grouped), len(c.rep.Consumed)-1)]++
	case pending, indefinite:
		c.rep.Indefinite++
	case failed:
		c.rep.Failed++
	case unwritten:
	}
}

// sendOrder compares each process's acked sends, in the order in which they began.
func (c *Checker) sendOrder(k *partition) {
	latest := map[int32]*entry{}
	for i := range k.entries {
		e := &k.entries[i]
		if !e.promised() || e.offset < 0 {
			continue
		}
		prev := latest[e.process]
		latest[e.process] = e
		if prev == nil || prev.offset < e.offset || (prev.plain || e.plain) && prev.done > e.invoke {
			continue
		}
		kind := NonmonotonicSend
		if prev.invoke == e.invoke {
			kind = IntNonmonotonicSend
		}
		c.report(kind, Example{Key: k.key, Ops: []int64{prev.invoke, e.invoke}, Offsets: []int64{prev.offset, e.offset}, Values: []Value{prev.value, e.value}},
			"process %d sent value %d by op %d and then %d by op %d, they are at the offsets %d and %d",
			e.process, prev.value, prev.invoke, e.value, e.invoke, prev.offset, e.offset)
	}
}

// skips looks whether what readers jumped over was empty.
func (c *Checker) skips() {
	logs := map[*partition][]int64{}
	for _, g := range c.gaps {
		if g.k.compacted {
			continue
		}
		log := logs[g.k]
		if log == nil {
			log = slices.Sorted(maps.Keys(g.k.at))
			logs[g.k] = log
		}
		first := sort.Search(len(log), func(i int) bool { return log[i] >= g.from })
		count := sort.Search(len(log), func(i int) bool { return log[i] >= g.to }) - first
		if count <= 0 {
			continue
		}
		missed := g.k.entries[g.k.at[log[first]]].value
		c.report(g.kind, Example{Key: g.k.key, Ops: []int64{g.op}, Offsets: []int64{g.from, g.to}, Values: []Value{missed}},
			"op %d of process %d read offset %d where %d was next: %d records between, value %d at offset %d the first",
			g.op, g.process, g.to, g.from, count, missed, log[first])
	}
}
