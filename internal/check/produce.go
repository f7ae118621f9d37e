package check

import "slices"

// partition is what the history says of one partition.
type partition struct {
	key     Key
	entries []entry // one a value, in the order in which they were sent
	byValue map[Value]int32

	// The log, as far as it was seen: at maps an offset to the first value seen
	// there, clashes to the others. Values at more than one offset are in copies.
	at      map[int64]int32
	clashes map[int64][]int32
	copies  map[int32][]int64

	high      rising // ends of the log that consumers may read to
	epochs    map[int32]*rising
	start     rising
	starts    map[int32]*rising // by leader epoch
	newest    int32             // leader epoch; -1: none was told
	deleted   rising            // below it records are gone: it was acknowledged
	asked     int64             // the greatest offset below which they were to be deleted
	trimmed   bool              // some deletion is in the history
	compacted bool
	retained  bool
	final     bool // some process reads it in the final phase
}

// entry is one value of a partition.
type entry struct {
	value        Value
	invoke, done int64 // ops
	offset       int64 // that the producer was told
	first, last  int64 // where it was seen in the log; -1: nowhere
	reader       int64 // first op that read it
	process      int32
	reads        uint32 // polls that ended OK
	grouped      uint32 // of these, by members of groups
	outcome      outcome
	acks         acks
	plain        bool
	retried      bool
	finalRead    bool
}

type outcome uint8

const (
	unwritten  outcome = iota // nobody sent it
	pending                   // invoked, not completed
	indefinite                // Info
	acked                     // OK
	failed                    // Fail
)

type acks uint8

const (
	acksAll acks = iota
	acksLeader
	acksNone
)

func parseAcks(a Acks) acks {
	switch a {
	case AcksLeader:
		return acksLeader
	case AcksNone:
		return acksNone
	default:
		return acksAll
	}
}

// promised reports whether the system owes the value to the readers.
func (e *entry) promised() bool { return e.outcome == acked && e.acks == acksAll }

func (c *Checker) send(op *Op) {
	for i := range op.Sends {
		s := &op.Sends[i]
		k := c.partition(s.Key)
		at, known := k.byValue[s.Value]
		switch {
		case op.Type != Invoke:
			c.settle(op, s, k)
		case known:
			c.malformed(op, "value %d is sent to %s a second time, first by op %d", s.Value, s.Key, k.entries[at].invoke)
		default:
			e := k.add(s.Value)
			e.outcome, e.invoke, e.process, e.acks, e.plain = pending, op.Index, op.Process, parseAcks(op.Acks), op.Plain
		}
	}
}

// settle completes one send.
func (c *Checker) settle(op *Op, s *Send, k *partition) {
	at, known := k.byValue[s.Value]
	if !known || k.entries[at].outcome != pending {
		c.malformed(op, "the send of value %d to %s was not under way", s.Value, s.Key)
		return
	}
	e := &k.entries[at]
	e.done, e.offset, e.retried = op.Index, s.Offset, op.Retried
	switch op.Type {
	case OK:
		e.outcome = acked
	case Info:
		e.outcome = indefinite
	default:
		e.outcome = failed
	}
	if !e.promised() {
		// Its offset says nothing: what acks=1 acknowledged may be gone, and its
		// offset another's. Only readers can put it into the log.
		return
	}
	c.rep.Acked++
	if s.Offset < 0 {
		return
	}
	k.see(at, s.Offset)
	if was := k.high.before(e.invoke); s.Offset < was.value {
		c.report(StaleSend, Example{Key: k.key, Ops: []int64{was.op, e.invoke, op.Index}, Offsets: []int64{was.value, s.Offset}, Values: []Value{s.Value}},
			"value %d, sent by op %d, was acked at offset %d, op %d had shown watermark %d before", s.Value, e.invoke, s.Offset, was.op, was.value)
	}
	k.high.observe(op, s.Offset+1)
}

// add makes the entry of a value that is new.
func (k *partition) add(v Value) *entry {
	k.byValue[v] = int32(len(k.entries))
	k.entries = append(k.entries, entry{value: v, offset: -1, first: -1, last: -1, done: -1})
	return &k.entries[len(k.entries)-1]
}

// see puts a value into the log at an offset.
func (k *partition) see(at int32, offset int64) {
	e := &k.entries[at]
	if other, taken := k.at[offset]; !taken {
		k.at[offset] = at
	} else if other != at {
		if slices.Contains(k.clashes[offset], at) {
			return
		}
		k.clashes[offset] = append(k.clashes[offset], at)
	}
	switch {
	case e.first < 0:
		e.first, e.last = offset, offset
		return
	case e.first == offset || e.last == offset:
		return
	case k.copies[at] == nil:
		k.copies[at] = []int64{e.first}
	}
	if slices.Contains(k.copies[at], offset) {
		return
	}
	k.copies[at] = append(k.copies[at], offset)
	e.first, e.last = min(e.first, offset), max(e.last, offset)
}
