package check_test

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/check"
)

// model is a cluster that keeps every promise, seen through its clients. What may
// differ in a real one is drawn: how calls overlap, what is lost when a leader
// goes, which answers never come, who is thought dead while alive.
type model struct {
	rng     *rand.Rand
	h       check.History
	parts   []*modelLog
	flights []*flight
	readers []*modelReader
	members []*modelMember
	commits []*modelCommit
	looks   []*modelLook
	trims   []*modelTrim
	value   check.Value
	epoch   int32 // of the group
}

// modelLog is one partition. Its leader serves what is below raw, its own
// watermark; high is the greatest watermark that any leader had.
type modelLog struct {
	key              check.Key
	log              []check.Value
	raw, high, start int
	retained         bool // records go by retention; otherwise by deletions
	epoch            int32
	owner            *modelMember // in the eyes of the coordinator
	ownerEpoch       int32
	committed        int64
}

// flight is a send that is not settled, or gave up and may still arrive.
type flight struct {
	process  int32
	l        *modelLog
	value    check.Value
	kind     check.Op
	offset   int // -1: not in the log
	retried  bool
	gaveUp   bool
	answered bool
}

type modelReader struct {
	id      int32
	at      map[*modelLog]int
	polling bool
	final   bool
}

type modelMember struct {
	id      int32
	name    string
	epoch   int32
	at      map[*modelLog]int
	polling bool
	taken   map[*modelLog]bool // while a poll is open
	given   []gift             // not delivered
	fenced  bool
	lives   int
}

// gift is an assignment on its way to the member.
type gift struct {
	l       *modelLog
	epoch   int32
	fetched int64 // what the member will find committed, -2: not yet looked up
}

type modelCommit struct {
	m      *modelMember
	name   string
	epoch  int32
	l      *modelLog
	offset int64
	state  check.Type // OK: applied, Fail: refused, Invoke: on its way
	open   bool
}

// modelTrim is a deletion under way.
type modelTrim struct {
	process int32
	l       *modelLog
	before  int
	applied bool
}

type modelLook struct {
	process int32
	l       *modelLog
	found   int64 // -2: not yet
}

const group = "g"

func (m *model) n(from, to int) int { return from + m.rng.IntN(to-from+1) }

func (m *model) maybe() bool { return m.n(0, 1) == 1 }

func (m *model) add(op check.Op) {
	op.Index = int64(len(m.h) + 1)
	op.Time = time.Duration(op.Index) * time.Millisecond
	m.h = append(m.h, op)
}

// pick draws one of those that pass.
func pick[T any](m *model, all []T, pass func(T) bool) (T, bool) {
	var some []T
	for _, x := range all {
		if pass(x) {
			some = append(some, x)
		}
	}
	if len(some) == 0 {
		var none T
		return none, false
	}
	return some[m.n(0, len(some)-1)], true
}

func anyOf[T any](T) bool { return true }

// generate draws a history of a healthy cluster, final phase included. Its choices
// come from a seed and not from rapid one by one, because rapid prefers small
// numbers: few steps, and the first action in most of them.
func generate(t *rapid.T) check.History {
	seed := rapid.Uint64().Draw(t, "seed")
	m := &model{rng: rand.New(rand.NewPCG(seed, 0))}
	for p := range m.n(1, 3) {
		m.parts = append(m.parts, &modelLog{key: orders(int32(p)), epoch: 1, committed: -1, retained: m.maybe()})
	}
	for i := range 2 {
		m.readers = append(m.readers, &modelReader{id: int32(20 + i), at: map[*modelLog]int{}})
	}
	for i := range 3 {
		m.members = append(m.members, &modelMember{id: int32(30 + i), name: "m" + strconv.Itoa(i), at: map[*modelLog]int{}, taken: map[*modelLog]bool{}})
	}
	actions := []func(){
		m.invokeSend, m.invokeSend, m.arrive, m.arrive, m.arrive, m.arrive, m.arrive, m.replicate, m.replicate, m.replicate,
		m.answer, m.answer, m.answer, m.answer, m.answer, m.giveUp,
		m.failover, m.retain, m.trim, m.applyTrim, m.endTrim, m.assignReader, m.pollReader, m.pollReader, m.pollReader, m.offsets,
		m.give, m.give, m.deliver, m.deliver, m.revoke, m.expire, m.pollMember, m.pollMember, m.pollMember,
		m.commit, m.commit, m.applyCommit, m.applyCommit, m.endCommit, m.endCommit, m.look, m.look,
	}
	for range m.n(100, 1500) {
		actions[m.n(0, len(actions)-1)]()
	}
	m.finalPhase()
	return m.h
}

func (m *model) invokeSend() {
	kinds := []check.Op{{}, {}, {Plain: true}, {Acks: check.AcksLeader}, {Acks: check.AcksNone, Plain: true}}
	i := m.n(0, len(kinds)-1)
	l, _ := pick(m, m.parts, anyOf)
	op := kinds[i]
	op.Process, op.Type, op.F = int32(1+i), check.Invoke, check.FSend
	for range m.n(1, 3) {
		m.value++
		op.Sends = append(op.Sends, check.Send{Key: l.key, Value: m.value, Offset: -1})
		m.flights = append(m.flights, &flight{process: op.Process, l: l, value: m.value, kind: kinds[i], offset: -1})
	}
	m.add(op)
}

// arrive appends a send to the leader's log. Those of an idempotent producer
// arrive in their order; others, sometimes, twice.
func (m *model) arrive() {
	f, ok := pick(m, m.flights, func(f *flight) bool {
		if f.offset >= 0 {
			return f.kind.Plain && !f.answered && !f.gaveUp && m.n(0, 9) == 0
		}
		for _, other := range m.flights {
			if other == f {
				return true
			}
			if !f.kind.Plain && !f.gaveUp && !other.gaveUp && other.process == f.process && other.l == f.l && other.offset < 0 {
				return false
			}
		}
		return true
	})
	if !ok {
		return
	}
	f.retried = f.retried || f.offset >= 0
	f.offset = len(f.l.log)
	f.l.log = append(f.l.log, f.value)
}

func (m *model) replicate() {
	l, _ := pick(m, m.parts, anyOf)
	l.raw = m.n(l.raw, len(l.log))
	l.high = max(l.high, l.raw)
}

func (m *model) answer() {
	f, ok := pick(m, m.flights, func(f *flight) bool {
		switch {
		case f.gaveUp || f.answered:
			return false
		case f.kind.Acks == check.AcksNone:
			return true
		case f.kind.Acks == check.AcksLeader:
			return f.offset >= 0
		}
		return f.offset >= 0 && f.offset < f.l.raw
	})
	if !ok {
		return
	}
	offset := int64(f.offset)
	if f.kind.Acks == check.AcksNone {
		offset = -1
	}
	m.settle(f, check.OK, offset)
	// A send without acks may still be on its way.
	f.answered = true
	if f.offset >= 0 {
		m.forget(f)
	}
}

func (m *model) settle(f *flight, t check.Type, offset int64) {
	op := f.kind
	op.Process, op.Type, op.F, op.Retried = f.process, t, check.FSend, f.retried || f.kind.Acks == check.AcksNone
	op.Sends = []check.Send{{Key: f.l.key, Value: f.value, Offset: offset}}
	m.add(op)
}

func (m *model) forget(f *flight) {
	m.flights = slices.DeleteFunc(m.flights, func(o *flight) bool { return o == f })
}

// giveUp ends a send without an answer, or with a refusal. One without an answer
// may arrive later, or never.
func (m *model) giveUp() {
	f, ok := pick(m, m.flights, func(f *flight) bool { return !f.gaveUp && !f.answered })
	switch {
	case !ok:
	case f.offset < 0 && !f.retried && m.maybe():
		m.settle(f, check.Fail, -1)
		m.forget(f)
	default:
		m.settle(f, check.Info, -1)
		f.gaveUp = true
		if m.maybe() || f.offset >= 0 {
			m.forget(f)
		}
	}
}

// failover gives a partition another leader, which has all that a watermark
// covered and not all of the rest.
func (m *model) failover() {
	l, _ := pick(m, m.parts, anyOf)
	end := m.n(l.high, len(l.log))
	l.log = l.log[:end:end]
	l.raw = m.n(l.start, l.high)
	l.epoch++
	for _, f := range m.flights {
		if f.l == l && f.offset >= end {
			f.offset, f.retried = -1, true
		}
	}
}

func (m *model) retain() {
	l, _ := pick(m, m.parts, anyOf)
	if l.retained && m.n(0, 3) == 0 {
		l.start = m.n(l.start, l.raw)
	}
}

// trim asks to delete records, one request at a time of each process.
func (m *model) trim() {
	l, ok := pick(m, m.parts, func(l *modelLog) bool { return !l.retained })
	process := int32(42 + m.n(0, 1))
	if !ok || m.n(0, 3) > 0 || slices.ContainsFunc(m.trims, func(t *modelTrim) bool { return t.process == process }) {
		return
	}
	t := &modelTrim{process: process, l: l, before: m.n(0, l.raw)}
	m.trims = append(m.trims, t)
	m.add(check.Op{Process: process, Type: check.Invoke, F: check.FTrim, Keys: []check.Position{{Key: l.key, Offset: int64(t.before)}}})
}

func (m *model) applyTrim() {
	if t, ok := pick(m, m.trims, func(t *modelTrim) bool { return !t.applied && t.before <= t.l.raw }); ok {
		t.applied, t.l.start = true, max(t.l.start, t.before)
	}
}

// endTrim answers a deletion, or gives it up; it is not applied later.
func (m *model) endTrim() {
	t, ok := pick(m, m.trims, anyOf)
	if !ok {
		return
	}
	op := check.Op{Process: t.process, Type: check.Info, F: check.FTrim}
	if t.applied && m.n(0, 5) > 0 {
		op.Type, op.Keys = check.OK, []check.Position{{Key: t.l.key, Offset: int64(t.l.start)}}
	}
	m.add(op)
	m.trims = slices.DeleteFunc(m.trims, func(o *modelTrim) bool { return o == t })
}

// serve is an answer to a reader that stands at an offset.
func (m *model) serve(l *modelLog, at int) (check.Part, int) {
	at = max(at, l.start) // out of range: from the earliest
	p := check.Part{Key: l.key, Bounds: &check.Bounds{LogStart: int64(l.start), HighWatermark: int64(l.raw), LeaderEpoch: -1}}
	if m.maybe() {
		p.Bounds.LeaderEpoch = l.epoch
	}
	end := at
	if at < l.raw {
		end = m.n(at, min(l.raw, at+4))
	}
	for o := at; o < end; o++ {
		p.Reads = append(p.Reads, check.Read{Offset: int64(o), Value: l.log[o]})
	}
	return p, end
}

func (m *model) assignReader() {
	r, ok := pick(m, m.readers, func(r *modelReader) bool { return !r.polling })
	if !ok {
		return
	}
	if m.n(0, 3) == 0 {
		m.add(check.Op{Process: r.id, Type: check.Info, F: check.FCrash})
		clear(r.at)
	}
	op := check.Op{Process: r.id, Type: check.OK, F: check.FAssign}
	next := map[*modelLog]int{}
	for _, l := range m.parts {
		if !m.maybe() {
			continue
		}
		pos := check.Position{Key: l.key, Offset: -1}
		at, had := r.at[l]
		switch {
		case m.maybe():
			next[l] = m.n(l.start, max(l.start, l.raw))
			pos.Offset = int64(next[l])
		case had:
			next[l] = at
		}
		if _, ok := next[l]; !ok {
			next[l] = l.start
		}
		op.Keys = append(op.Keys, pos)
	}
	r.at = next
	m.add(op)
}

func (m *model) pollReader() {
	r, _ := pick(m, m.readers, anyOf)
	if !r.polling {
		r.polling = true
		m.add(check.Op{Process: r.id, Type: check.Invoke, F: check.FPoll})
		return
	}
	r.polling = false
	m.add(m.completePoll(r.id, r.at, nil, !r.final && m.n(0, 5) == 0))
}

func (m *model) completePoll(process int32, at map[*modelLog]int, not map[*modelLog]bool, unknown bool) check.Op {
	op := check.Op{Process: process, Type: check.OK, F: check.FPoll}
	if unknown {
		op.Type = check.Info
	}
	for _, l := range m.parts {
		pos, reads := at[l]
		if !reads || not[l] || m.n(0, 3) == 0 {
			continue
		}
		p, end := m.serve(l, pos)
		op.Parts = append(op.Parts, p)
		if !unknown {
			at[l] = end
		}
	}
	return op
}

func (m *model) offsets() {
	l, _ := pick(m, m.parts, anyOf)
	m.add(check.Op{Process: 40, Type: check.Invoke, F: check.FOffsets})
	op := check.Op{Process: 40, Type: check.OK, F: check.FOffsets, Parts: []check.Part{{Key: l.key}}}
	op.Parts[0].Bounds = &check.Bounds{LogStart: int64(l.start), HighWatermark: int64(l.raw), LeaderEpoch: l.epoch}
	if l.raw >= l.high && m.maybe() { // else the answer is that it is not available
		op.Parts[0].Bounds.LeaderEpoch = -1
	}
	m.add(op)
}

func (m *model) finalPhase() {
	for _, l := range m.parts {
		l.raw = len(l.log)
		l.high = l.raw
	}
	for _, id := range []int32{20, 50} {
		r := &modelReader{id: id, at: map[*modelLog]int{}, final: true}
		m.add(check.Op{Process: id, Type: check.Info, F: check.FCrash})
		op := check.Op{Process: id, Type: check.OK, F: check.FAssign, Final: true}
		for _, l := range m.parts {
			op.Keys = append(op.Keys, check.Position{Key: l.key})
			r.at[l] = 0
		}
		m.add(op)
		for slices.ContainsFunc(m.parts, func(l *modelLog) bool { return r.at[l] < l.raw }) {
			m.add(check.Op{Process: id, Type: check.Invoke, F: check.FPoll})
			m.add(m.completePoll(id, r.at, nil, false))
		}
	}
}
