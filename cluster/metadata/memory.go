package metadata

import "cmp"

// MemorySize is the number of commands whose outcome an image remembers. A
// retry that comes later than that many other commands is taken for a new
// command; at 1,000 commands a second that is ten seconds, and proposers give
// up long before.
const MemorySize = 10_000

// Outcome is what a command came to: a result, or the reason of its refusal.
type Outcome struct {
	Result Result
	Err    *Error // nil: applied
}

// memory maps the ids of the last MemorySize commands to their outcomes, first
// in, first out. It is part of the image because every node must give a retry
// the same answer, also one that began from a snapshot.
type memory struct {
	indexes  ordered[ID, uint64]
	outcomes ordered[uint64, remembered] // by Raft index, so the first is the oldest
}

type remembered struct {
	id ID
	Outcome
}

func newMemory() memory {
	return memory{
		indexes:  newOrdered[ID, uint64](compareIDs),
		outcomes: newOrdered[uint64, remembered](cmp.Compare[uint64]),
	}
}

func (m memory) get(id ID) (Outcome, bool) {
	index, ok := m.indexes.get(id)
	if !ok {
		return Outcome{}, false
	}
	r, ok := m.outcomes.get(index)
	return r.Outcome, ok
}

// add returns a memory that knows one outcome more, and forgets the oldest when
// there are too many. The index is above all earlier ones.
func (m memory) add(id ID, o Outcome) memory {
	m.indexes = m.indexes.set(id, o.Result.Index)
	m.outcomes = m.outcomes.set(o.Result.Index, remembered{id: id, Outcome: o})
	if m.outcomes.len() > MemorySize {
		index, oldest, _ := m.outcomes.first()
		m.outcomes = m.outcomes.remove(index)
		m.indexes = m.indexes.remove(oldest.id)
	}
	return m
}
