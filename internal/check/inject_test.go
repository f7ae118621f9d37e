package check_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/check"
)

// injection is a history into which one fault is put, at a place drawn at random.
type injection struct {
	h   check.History
	rng *rand.Rand
}

// places draws one of the indexes of ops that pass, -1 if none does.
func (in *injection) place(pass func(i int, op *check.Op) bool) int {
	var at []int
	for i := range in.h {
		if pass(i, &in.h[i]) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return -1
	}
	return at[in.rng.IntN(len(at))]
}

// insert puts ops before place i.
func (in *injection) insert(i int, ops ...check.Op) { in.h = slices.Insert(in.h, i, ops...) }

// final is where the final phase begins.
func (in *injection) final() int {
	for i := range in.h {
		if in.h[i].Final {
			return i
		}
	}
	panic("no final phase")
}

// promised is an acked send of an idempotent producer, found by its completion.
func promised(op *check.Op) bool {
	return op.F == check.FSend && op.Type == check.OK && op.Acks == check.AcksAll && !op.Plain
}

func goodPoll(op *check.Op) bool { return op.F == check.FPoll && op.Type == check.OK }

// unread takes a value out of all polls from place i on.
func (in *injection) unread(i int, key check.Key, v check.Value) {
	for ; i < len(in.h); i++ {
		for j := range in.h[i].Parts {
			if p := &in.h[i].Parts[j]; p.Key == key {
				p.Reads = slices.DeleteFunc(slices.Clone(p.Reads), func(r check.Read) bool { return r.Value == v })
			}
		}
	}
}

// read draws a place of a poll after first, one of its parts, and one of that
// part's reads that has at least so many before and after it.
func (in *injection) read(first, before, after int) (i int, p *check.Part, r int) {
	i = in.place(func(i int, op *check.Op) bool {
		return i >= first && goodPoll(op) && slices.ContainsFunc(op.Parts, func(p check.Part) bool { return len(p.Reads) > before+after })
	})
	if i < 0 {
		return i, nil, 0
	}
	for j := range in.h[i].Parts {
		if p := &in.h[i].Parts[j]; len(p.Reads) > before+after {
			p.Reads = slices.Clone(p.Reads)
			return i, p, before + in.rng.IntN(len(p.Reads)-before-after)
		}
	}
	panic("unreachable")
}

// nextFinalPart finds, in the final phase, the part that the same reader got next.
func (in *injection) nextFinalPart(i int, key check.Key) *check.Part {
	for j := i + 1; j < len(in.h); j++ {
		if in.h[j].Process != in.h[i].Process {
			continue
		}
		for k := range in.h[j].Parts {
			if p := &in.h[j].Parts[k]; p.Key == key && len(p.Reads) > 0 {
				p.Reads = slices.Clone(p.Reads)
				return p
			}
		}
	}
	return nil
}

func (in *injection) offsetsAt(i int, key check.Key, b check.Bounds) {
	op := check.Op{Process: 90, F: check.FOffsets}
	begin, end := op, op
	begin.Type, end.Type, end.Parts = check.Invoke, check.OK, []check.Part{{Key: key, Bounds: &b}}
	in.insert(i, begin, end)
}

// injections put each anomaly into a history; false: there is no place for it.
func injections() map[check.Anomaly]func(*injection) bool {
	return map[check.Anomaly]func(*injection) bool{
		check.Malformed: func(in *injection) bool {
			i := in.place(func(_ int, op *check.Op) bool { return op.F == check.FSend && op.Type != check.Invoke })
			if i >= 0 {
				in.insert(i+1+in.rng.IntN(len(in.h)-i), in.h[i])
			}
			return i >= 0
		},
		check.InconsistentOffsets: func(in *injection) bool {
			_, p, r := in.read(in.final(), 0, 1) // so that another reader has seen it as well
			if p == nil || p.Reads[r].Value == p.Reads[r+1].Value {
				return false
			}
			p.Reads[r].Value = p.Reads[r+1].Value
			return true
		},
		check.Duplicate: func(in *injection) bool {
			i := in.place(func(_ int, op *check.Op) bool {
				return promised(op) && op.Sends[0].Offset >= in.start(op.Sends[0].Key)
			})
			if i < 0 {
				return false
			}
			in.h[i].Sends = slices.Clone(in.h[i].Sends)
			in.h[i].Sends[0].Offset += int64(1 + in.rng.IntN(100))
			return true
		},
		check.G1a: func(in *injection) bool {
			_, p, r := in.read(0, 0, 0)
			if p == nil {
				return false
			}
			i := in.place(func(_ int, op *check.Op) bool {
				return op.F == check.FSend && op.Type != check.Invoke && op.Sends[0].Key == p.Key && op.Sends[0].Value == p.Reads[r].Value
			})
			if i < 0 {
				return false // it was never completed
			}
			in.h[i].Type = check.Fail
			return true
		},
		check.UnwrittenRead: func(in *injection) bool {
			_, p, r := in.read(0, 0, 0)
			if p != nil {
				p.Reads[r].Value |= 1 << 62
			}
			return p != nil
		},
		check.LostWrite: func(in *injection) bool {
			read := map[check.Key]int64{}
			for i := range in.h[:len(in.h)-1] {
				if promised(&in.h[i]) {
					s := in.h[i].Sends[0]
					read[s.Key] = max(read[s.Key], s.Offset)
				}
			}
			i := in.place(func(_ int, op *check.Op) bool {
				return promised(op) && op.Sends[0].Offset < read[op.Sends[0].Key] && op.Sends[0].Offset >= in.start(op.Sends[0].Key)
			})
			if i < 0 {
				return false
			}
			in.unread(0, in.h[i].Sends[0].Key, in.h[i].Sends[0].Value)
			return true
		},
		check.Unseen: func(in *injection) bool {
			op := check.Op{Process: 90, Type: check.Invoke, F: check.FSend, Sends: []check.Send{{Key: orders(0), Value: 1 << 40, Offset: -1}}}
			done := op
			done.Type = check.OK
			if in.rng.IntN(2) == 0 {
				done.Sends = []check.Send{{Key: orders(0), Value: 1 << 40, Offset: 1 << 30}}
			}
			in.insert(in.final(), op, done)
			return true
		},
		check.Vanished: func(in *injection) bool {
			_, p, r := in.read(0, 0, 0)
			if p == nil || p.Reads[r].Offset < in.start(p.Key) || in.failedValue(p.Key, p.Reads[r].Value) {
				return false
			}
			// One that is read before the final phase, and stays in the log that a part of
			// it sees.
			for i := range in.h[:in.final()] {
				for _, q := range in.h[i].Parts {
					if goodPoll(&in.h[i]) && q.Key == p.Key && slices.Contains(q.Reads, p.Reads[r]) {
						in.unread(in.final(), p.Key, p.Reads[r].Value)
						return true
					}
				}
			}
			return false
		},
		check.PollSkip: func(in *injection) bool {
			i, p, _ := in.read(in.final(), 0, 0)
			if p == nil {
				return false
			}
			q := in.nextFinalPart(i, p.Key)
			if q == nil || len(q.Reads) < 2 || q.Reads[0].Offset < in.start(p.Key) {
				return false
			}
			q.Reads = q.Reads[1:]
			return true
		},
		check.NonmonotonicPoll: func(in *injection) bool {
			i, p, _ := in.read(in.final(), 0, 0)
			if p == nil {
				return false
			}
			q := in.nextFinalPart(i, p.Key)
			if q == nil {
				return false
			}
			q.Reads = slices.Insert(q.Reads, 0, p.Reads[len(p.Reads)-1])
			return true
		},
		check.IntPollSkip: func(in *injection) bool {
			_, p, r := in.read(in.final(), 1, 1)
			if p == nil || p.Reads[r].Offset < in.start(p.Key) {
				return false
			}
			p.Reads = slices.Delete(p.Reads, r, r+1)
			return true
		},
		check.IntNonmonotonicPoll: func(in *injection) bool {
			_, p, r := in.read(in.final(), 0, 1)
			if p == nil {
				return false
			}
			p.Reads[r], p.Reads[r+1] = p.Reads[r+1], p.Reads[r]
			return true
		},
		check.NonmonotonicSend:    func(in *injection) bool { return in.swapSends(false) },
		check.IntNonmonotonicSend: func(in *injection) bool { return in.swapSends(true) },
		check.StaleSend: func(in *injection) bool {
			high := map[check.Key]int64{}
			i := in.place(func(_ int, op *check.Op) bool {
				if !promised(op) {
					return false
				}
				s := op.Sends[0]
				was := high[s.Key]
				high[s.Key] = max(was, s.Offset)
				return was > 0
			})
			if i < 0 {
				return false
			}
			// The same send again, by another, after this one and at its offset.
			op := check.Op{Process: 91, Type: check.Invoke, F: check.FSend, Sends: []check.Send{{Key: in.h[i].Sends[0].Key, Value: 1 << 41, Offset: in.h[i].Sends[0].Offset}}}
			done := op
			done.Type = check.OK
			in.insert(i+1, op, done)
			return true
		},
		check.ReadPastWatermark: func(in *injection) bool {
			_, p, r := in.read(0, 0, 0)
			if p == nil {
				return false
			}
			b := *p.Bounds
			b.HighWatermark = p.Reads[r].Offset
			p.Bounds = &b
			return true
		},
		check.WatermarkRegress: func(in *injection) bool {
			i, p, r := in.read(0, 0, 0)
			if p == nil || p.Reads[r].Offset == 0 {
				return false
			}
			in.offsetsAt(i+1+in.rng.IntN(len(in.h)-i), p.Key, check.Bounds{LogStart: -1, HighWatermark: p.Reads[r].Offset, LeaderEpoch: -1})
			return true
		},
		check.LogStartRegress: func(in *injection) bool {
			i := in.place(func(_ int, op *check.Op) bool {
				return len(op.Parts) > 0 && op.Parts[0].Bounds != nil && op.Parts[0].Bounds.LogStart > 0
			})
			if i < 0 {
				return false
			}
			p := in.h[i].Parts[0]
			in.offsetsAt(i+1+in.rng.IntN(len(in.h)-i), p.Key, check.Bounds{LogStart: p.Bounds.LogStart - 1, HighWatermark: -1, LeaderEpoch: -1})
			return true
		},
		check.LogStartOverrun: func(in *injection) bool {
			i := in.place(func(_ int, op *check.Op) bool { return op.F == check.FTrim && op.Type == check.Invoke })
			if i < 0 {
				return false
			}
			key, asked := in.h[i].Keys[0].Key, int64(0)
			at := i + 1 + in.rng.IntN(len(in.h)-i)
			for j := range in.h[:at] {
				if op := &in.h[j]; op.F == check.FTrim && op.Type == check.Invoke && op.Keys[0].Key == key {
					asked = max(asked, op.Keys[0].Offset)
				}
			}
			in.offsetsAt(at, key, check.Bounds{LogStart: asked + 1, HighWatermark: -1, LeaderEpoch: -1})
			return true
		},
		check.ReadBelowStart: func(in *injection) bool {
			i := in.place(func(_ int, op *check.Op) bool {
				return op.F == check.FTrim && op.Type == check.OK && op.Keys[0].Offset > 0
			})
			if i < 0 {
				return false
			}
			gone := in.h[i].Keys[0]
			for _, op := range in.h[:i] { // somebody had read it before
				for _, p := range op.Parts {
					if p.Key != gone.Key || !goodPoll(&op) || len(p.Reads) == 0 || p.Reads[0].Offset >= gone.Offset {
						continue
					}
					begin := check.Op{Process: 94, Type: check.OK, F: check.FAssign, Keys: []check.Position{{Key: gone.Key, Offset: p.Reads[0].Offset}}}
					poll := check.Op{Process: 94, Type: check.Invoke, F: check.FPoll}
					done := poll
					done.Type, done.Parts = check.OK, []check.Part{{Key: gone.Key, Reads: p.Reads[:1]}}
					begin.Time = in.h[i].Time + 1
					in.insert(i+1, begin, poll, done)
					return true
				}
			}
			return false
		},
		check.OverlappingOwnership: func(in *injection) bool {
			i := in.place(func(_ int, op *check.Op) bool { return op.F == check.FAssigned })
			if i < 0 {
				return false
			}
			op := in.h[i]
			op.Process, op.Member = 92, "intruder"
			in.insert(i+1+in.rng.IntN(len(in.h)-i), op)
			return true
		},
		check.ZombieCommit: func(in *injection) bool {
			i := in.place(func(_ int, op *check.Op) bool { return op.F == check.FCommit && op.Type == check.OK })
			if i < 0 {
				return false
			}
			given := in.h[i]
			given.Process, given.F, given.Member, given.Epoch = 92, check.FAssigned, "intruder", 1<<20
			for in.h[i].Process != in.h[i-1].Process || in.h[i-1].F != check.FCommit || in.h[i-1].Type != check.Invoke {
				in.h[i-1], in.h[i] = in.h[i], in.h[i-1] // bring the completion to its invocation
				i--
			}
			in.insert(i-1, given)
			return true
		},
		check.CommittedRegress:   func(in *injection) bool { return in.lookAfterCommit(-1) },
		check.CommittedUnwritten: func(in *injection) bool { return in.lookAfterCommit(1 << 30) },
	}
}

// start is the greatest log start that the history shows.
func (in *injection) start(key check.Key) int64 {
	start := int64(0)
	for i := range in.h {
		for _, p := range in.h[i].Parts {
			if p.Key == key && p.Bounds != nil {
				start = max(start, p.Bounds.LogStart)
			}
		}
		for _, at := range in.h[i].Keys {
			if in.h[i].F == check.FTrim && in.h[i].Type == check.OK && at.Key == key {
				start = max(start, at.Offset)
			}
		}
	}
	return start
}

func (in *injection) failedValue(key check.Key, v check.Value) bool {
	return in.place(func(_ int, op *check.Op) bool {
		return op.F == check.FSend && op.Type == check.Fail && op.Sends[0].Key == key && op.Sends[0].Value == v
	}) >= 0
}

// swapSends exchanges the offsets of two acked sends of a process, of one op or
// not, with no other of its between them.
func (in *injection) swapSends(inside bool) bool {
	invoked := map[check.Value]int{}
	for i := range in.h {
		if in.h[i].F == check.FSend && in.h[i].Type == check.Invoke {
			for _, s := range in.h[i].Sends {
				invoked[s.Value] = i
			}
		}
	}
	type by struct {
		key     check.Key
		process int32
	}
	done := map[by][]int{}
	var order []by
	for i := range in.h {
		if promised(&in.h[i]) {
			k := by{in.h[i].Sends[0].Key, in.h[i].Process}
			if done[k] == nil {
				order = append(order, k)
			}
			done[k] = append(done[k], i)
		}
	}
	for _, k := range order {
		at := done[k]
		slices.SortFunc(at, func(a, b int) int { return int(in.h[a].Sends[0].Value) - int(in.h[b].Sends[0].Value) })
		for j := 1; j < len(at); j++ {
			a, b := &in.h[at[j-1]], &in.h[at[j]]
			if inside == (invoked[a.Sends[0].Value] == invoked[b.Sends[0].Value]) {
				a.Sends, b.Sends = slices.Clone(a.Sends), slices.Clone(b.Sends)
				a.Sends[0].Offset, b.Sends[0].Offset = b.Sends[0].Offset, a.Sends[0].Offset
				return true
			}
		}
	}
	return false
}

// lookAfterCommit lets a tool find an offset right after a commit.
func (in *injection) lookAfterCommit(found int64) bool {
	i := in.place(func(_ int, op *check.Op) bool { return op.F == check.FCommit && op.Type == check.OK })
	if i < 0 {
		return false
	}
	op := check.Op{Process: 93, Type: check.Invoke, F: check.FCommitted, Group: group}
	done := op
	done.Type, done.Keys = check.OK, []check.Position{{Key: in.h[i].Keys[0].Key, Offset: found}}
	in.insert(i+1, op, done)
	return true
}

// Each anomaly is found wherever it is put into the history of a healthy cluster.
func TestInjectedAnomaliesAreFound(t *testing.T) {
	injections := injections()
	for _, a := range check.Anomalies() {
		if a == check.DuplicatePlain || a == check.LostWriteWeak || a == check.UnseenWeak || a == check.LogStartRewound {
			continue // allowed, and shown by the model itself
		}
		t.Run(string(a), func(t *testing.T) {
			tried := 0
			rapid.Check(t, func(rt *rapid.T) {
				in := &injection{h: generate(rt), rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "place"), 0))}
				if !injections[a](in) {
					return
				}
				tried++
				for i := range in.h {
					in.h[i].Index = int64(i + 1)
				}
				if r := check.Check(in.h, check.Options{}); r.Count(a) == 0 {
					rt.Fatalf("%s is not found:\n%s", a, r.Text())
				}
			})
			assert.Positive(t, tried)
		})
	}
}
