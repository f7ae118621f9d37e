package check_test

import (
	"time"

	"github.com/penstock/penstock/internal/check"
)

// builder writes histories by hand. Unless something else is said, everything is
// about one partition and one group.
type builder struct{ h check.History }

const unknown = -1

func orders(partition int32) check.Key { return check.Key{Topic: "orders", Partition: partition} }

// add appends an op and returns its index.
func (b *builder) add(op check.Op) int64 {
	op.Index = int64(len(b.h) + 1)
	op.Time = time.Duration(op.Index) * time.Millisecond
	b.h = append(b.h, op)
	return op.Index
}

// pair appends an invocation and its completion.
func (b *builder) pair(op check.Op) {
	begin := op
	begin.Type, begin.Parts = check.Invoke, nil
	if op.F == check.FCommitted {
		begin.Keys = nil
	}
	b.add(begin)
	if op.Type == "" {
		op.Type = check.OK
	}
	b.add(op)
}

func sends(values ...int64) []check.Send { // offset, value ...
	var out []check.Send
	for i := 0; i < len(values); i += 2 {
		out = append(out, check.Send{Key: orders(0), Offset: values[i], Value: check.Value(values[i+1])})
	}
	return out
}

// invoke begins sends of a process, done completes them: pairs of offset and value.
func (b *builder) invoke(p int32, values ...int64) {
	b.add(check.Op{Process: p, Type: check.Invoke, F: check.FSend, Sends: sends(values...)})
}

func (b *builder) done(p int32, t check.Type, values ...int64) {
	b.add(check.Op{Process: p, Type: t, F: check.FSend, Sends: sends(values...)})
}

func (b *builder) send(p int32, values ...int64) {
	b.invoke(p, values...)
	b.done(p, check.OK, values...)
}

// sendAs is one send of a producer of another kind.
func (b *builder) sendAs(kind check.Op, offset, value int64) {
	kind.F, kind.Sends = check.FSend, sends(offset, value)
	b.pair(kind)
}

func part(values ...int64) check.Part {
	p := check.Part{Key: orders(0)}
	for i := 0; i < len(values); i += 2 {
		p.Reads = append(p.Reads, check.Read{Offset: values[i], Value: check.Value(values[i+1])})
	}
	return p
}

func bounds(start, high int64, epoch int32) check.Part {
	return check.Part{Key: orders(0), Bounds: &check.Bounds{LogStart: start, HighWatermark: high, LeaderEpoch: epoch}}
}

func (b *builder) poll(p int32, values ...int64) {
	b.pair(check.Op{Process: p, F: check.FPoll, Parts: []check.Part{part(values...)}})
}

func (b *builder) assign(p int32, offset int64) {
	b.add(check.Op{Process: p, Type: check.OK, F: check.FAssign, Keys: at(offset)})
}

// final begins a part of the final phase.
func (b *builder) final(p int32) {
	b.add(check.Op{Process: p, Type: check.Info, F: check.FCrash})
	b.add(check.Op{Process: p, Type: check.OK, F: check.FAssign, Final: true, Keys: at(0)})
}

func (b *builder) offsets(p int32, start, high int64, epoch int32) {
	b.pair(check.Op{Process: p, F: check.FOffsets, Parts: []check.Part{bounds(start, high, epoch)}})
}

func at(offset int64) []check.Position { return []check.Position{{Key: orders(0), Offset: offset}} }

// member is an event, or a call, of a member of the group.
func member(p int32, f check.F, epoch int32, offset int64) check.Op {
	return check.Op{
		Process: p, Type: check.OK, F: f, Group: "g", Member: string('a' + p - 1), Epoch: epoch, Keys: at(offset),
	}
}

func (b *builder) assigned(p, epoch int32, offset int64) {
	b.add(member(p, check.FAssigned, epoch, offset))
}
func (b *builder) revoked(p, epoch int32) { b.add(member(p, check.FRevoked, epoch, unknown)) }
func (b *builder) lost(p, epoch int32)    { b.add(member(p, check.FLost, epoch, unknown)) }
func (b *builder) commit(p, epoch int32, offset int64) {
	b.pair(member(p, check.FCommit, epoch, offset))
}

// reset is a commit by a tool.
func (b *builder) reset(p int32, offset int64) {
	op := member(p, check.FCommit, unknown, offset)
	op.Member = ""
	b.pair(op)
}

func (b *builder) committed(p int32, offset int64) {
	b.pair(check.Op{Process: p, F: check.FCommitted, Group: "g", Keys: at(offset)})
}

// overlapped is a look-up that found what was committed before it, while two newer
// commits were stored.
func (b *builder) overlapped() {
	b.commit(1, 1, 3)
	b.add(check.Op{Process: 2, Type: check.Invoke, F: check.FCommitted, Group: "g"})
	b.commit(1, 1, 7)
	b.commit(1, 1, 5)
	b.add(check.Op{Process: 2, Type: check.OK, F: check.FCommitted, Group: "g", Keys: at(3)})
}

// trim asks to delete below an offset, and is acknowledged for another.
func (b *builder) trim(p int32, asked, kept int64) {
	b.add(check.Op{Process: p, Type: check.Invoke, F: check.FTrim, Keys: at(asked)})
	b.add(check.Op{Process: p, Type: check.OK, F: check.FTrim, Keys: at(kept)})
}
