package partition

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/log/record"
)

// TestModel runs three replicas of a synced partition against a network that
// reorders, drops and repeats, with power cuts, elections, and ISR changes of
// unknown outcome. What was acknowledged must stay in the log of every member of
// the committed ISR, at its offset, in the part that survives a power cut; what
// was said to be deleted must not be there.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"produce":  w.produce,
			"produce2": w.produce,
			"flush":    w.flush,
			"flush2":   w.flush,
			"begin":    w.begin,
			"push":     w.push,
			"push2":    w.push,
			"ack":      w.reack,
			"deliver":  w.deliver,
			"deliver2": w.deliver,
			"deliver3": w.deliver,
			"decide":   w.decide,
			"image":    w.image,
			"image2":   w.image,
			"tick":     w.tick,
			"truncate": w.truncate,
			"trim":     w.trim,
			"keep":     w.keepStart,
			"keep2":    w.keepStart,
			"crash":    w.crash,
			"elect":    w.elect,
			"settle":   w.settle,
			"settle2":  w.settle,
			"":         w.check,
		})
	})
}

type entry struct {
	epoch record.Epoch
	value int
}

type simNode struct {
	id          int32
	brokerEpoch int64
	r           *Replica
	log         []entry
	flushed     int
	session     uint64
	// pushing is the leader's state of each session.
	pushing map[int32]*simPush
	cut     *Effect // truncation not carried out yet
	// start is the durable log start (the entries below stay in log, as places); startDue
	// the one that was asked for.
	start, startDue record.Offset
}

// trimHandle marks the handles of requests to delete records.
const trimHandle = 1 << 40

type simPush struct {
	session uint64
	epoch   record.Epoch
	next    record.Offset
}

type simMessage struct {
	to, from    int32
	brokerEpoch int64 // of the receiver for replies and pushes: a new process has new connections
	ev          Event
	entries     []entry
}

type simProposal struct {
	node        int32
	brokerEpoch int64
	epoch       record.Epoch
	pe          int32
	members     []Member
}

type world struct {
	t         *rapid.T
	now       time.Time
	nodes     []*simNode
	truth     *Assignment
	bag       []simMessage
	proposals []simProposal
	acked     map[int]record.Offset // value -> offset
	committed []entry
	ends      map[uint64]int // handle (value) -> offset
	values    int
	started   record.Offset // a leader has begun to delete everything below
	trimmed   record.Offset // the deletion of everything below was answered
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: time.Unix(0, 0), acked: make(map[int]record.Offset), ends: make(map[uint64]int)}
	w.truth = &Assignment{Leader: 0, LeaderEpoch: 1, PartitionEpoch: 1, MinISR: 2, Synced: true}
	for i := range int32(3) {
		w.truth.Replicas = append(w.truth.Replicas, Assigned{Node: i, BrokerEpoch: 1, ISR: true})
		n := &simNode{id: i, brokerEpoch: 1, r: New(Config{Node: i}), pushing: make(map[int32]*simPush)}
		w.nodes = append(w.nodes, n)
	}
	for _, n := range w.nodes {
		w.step(n, Assign(w.truth))
	}
	return w
}

func (w *world) pick(t *rapid.T) *simNode {
	return w.nodes[rapid.IntRange(0, 2).Draw(t, "node")]
}

// step feeds ev to n and carries out what follows.
func (w *world) step(n *simNode, ev Event) []Effect {
	var out Effects
	n.r.Step(w.now, ev, &out)
	for _, e := range out.List {
		switch e.Kind {
		case EffectComplete:
			switch {
			case e.Outcome == OutcomeOK && e.Handle >= trimHandle:
				w.trimmed = max(w.trimmed, record.Offset(e.Handle-trimHandle))
			case e.Outcome == OutcomeOK:
				w.acked[int(e.Handle)] = record.Offset(w.ends[e.Handle])
			}
		case EffectWatermark:
			if n.r.Role() == RoleLeader {
				w.commit(n, e.HW)
			}
		case EffectProposeISR:
			w.proposals = append(w.proposals, simProposal{n.id, n.brokerEpoch, e.Epoch, e.PartitionEpoch, append([]Member(nil), out.Members...)})
		case EffectEndSession:
			delete(n.pushing, e.Node)
		case EffectAck:
			w.bag = append(w.bag, simMessage{to: n.r.Leader(), from: n.id, ev: Ack(n.id, e.Epoch, e.Session, e.Offset, e.Flushed, e.LogStart)})
		case EffectLogStart:
			n.startDue = e.Offset
		case EffectTruncate, EffectReset:
			n.cut = &e
		case EffectRefusedLead, EffectRefusedTruncation, EffectFollowerDamaged, EffectFollowerLeaves, EffectRebuild, EffectOffline:
			w.t.Fatalf("node %d: effect %s", n.id, describe(e, &Effects{}))
		default:
		}
	}
	return out.List
}

// commit checks that what consumers may read never changes.
func (w *world) commit(n *simNode, hw record.Offset) {
	for i := range int(hw) {
		switch {
		case i >= len(n.log):
			w.t.Fatalf("leader %d: HW %d beyond its log %v", n.id, hw, n.log)
		case i >= len(w.committed):
			w.committed = append(w.committed, n.log[i])
		case i >= int(n.start) && w.committed[i] != n.log[i]:
			w.t.Fatalf("leader %d: committed entry %d was %v, is %v", n.id, i, w.committed[i], n.log[i])
		}
	}
}

func (w *world) produce(t *rapid.T) {
	n := w.pick(t)
	if n.r.Admit(AcksAll) != OutcomeOK {
		return
	}
	w.values++
	n.log = append(n.log, entry{n.r.Epoch(), w.values})
	w.ends[uint64(w.values)] = len(n.log) - 1
	w.step(n, Appended(record.Offset(len(n.log)-1), record.Offset(len(n.log)), AcksAll, uint64(w.values), time.Time{}))
}

func (w *world) flush(t *rapid.T) {
	n := w.pick(t)
	n.flushed = rapid.IntRange(n.flushed, len(n.log)).Draw(t, "flushed")
	w.step(n, Progress(record.Offset(len(n.log)), record.Offset(n.flushed)))
}

func (w *world) begin(t *rapid.T) { w.start(w.pick(t)) }

func (w *world) start(n *simNode) {
	n.session++
	for _, e := range w.step(n, Begin(n.session, lastEpoch(n.log))) {
		if e.Kind == EffectHandshake && e.HW == 0 {
			w.bag = append(w.bag, simMessage{to: n.r.Leader(), from: n.id, ev: Handshake(
				n.id, n.brokerEpoch, e.Epoch, e.Session, e.AnswerEpoch, e.Offset, e.Flushed, 0, 0, 0, 0)})
		}
	}
}

// push sends what a session has, whole or in part.
func (w *world) push(t *rapid.T) {
	n := w.pick(t)
	for _, other := range w.nodes {
		if p := n.pushing[other.id]; p != nil && int(p.next) <= len(n.log) {
			w.pushTo(n, other, rapid.IntRange(int(p.next), len(n.log)).Draw(t, "to"))
		}
	}
}

func (w *world) pushTo(n, other *simNode, to int) {
	p := n.pushing[other.id]
	epoch, session, ok := n.r.SessionOf(other.id)
	if p == nil || !ok || epoch != p.epoch || session != p.session {
		return
	}
	if p.next < n.start { // it is deleted: a new handshake says where to begin
		delete(n.pushing, other.id)
		w.step(other, StreamGone(p.session))
		return
	}
	w.bag = append(w.bag, simMessage{
		to: other.id, from: n.id, brokerEpoch: other.brokerEpoch,
		ev:      Push(epoch, session, p.next, record.Offset(to), n.r.HighWatermark(), n.start),
		entries: append([]entry(nil), n.log[p.next:to]...),
	})
	p.next = record.Offset(to)
}

// trim deletes records below some offset.
func (w *world) trim(t *rapid.T) {
	n := w.pick(t)
	before := record.Offset(rapid.Int64Range(-1, int64(len(n.log))).Draw(t, "before"))
	before, outcome := n.r.AdmitTrim(before)
	if outcome != OutcomeOK {
		return
	}
	n.start, w.started = max(n.start, before), max(w.started, before)
	w.step(n, LogStart(n.start))
	w.step(n, Trim(before, trimHandle+uint64(before), time.Time{}))
}

// keepStart makes a log start durable that was asked for.
func (w *world) keepStart(t *rapid.T) {
	if n := w.pick(t); n.cut == nil && n.startDue <= record.Offset(len(n.log)) {
		n.start = max(n.start, n.startDue)
		w.step(n, LogStart(n.start))
	}
}

// reack makes lost acks come again, as the next batch's would.
func (w *world) reack(t *rapid.T) {
	n := w.pick(t)
	if f := n.r.follow; n.r.Role() == RoleFollower && f.phase == phaseOn {
		w.bag = append(w.bag, simMessage{to: n.r.Leader(), from: n.id, ev: Ack(n.id, n.r.Epoch(), f.session, n.r.end, n.r.flushed, n.start)})
	}
}

// settle lets one node follow without trouble for a while, so that runs get to
// where trouble matters.
func (w *world) settle(t *rapid.T) {
	n := w.pick(t)
	w.step(n, Assign(w.truth))
	if n.cut != nil || n.r.Role() != RoleFollower {
		return
	}
	leader := w.nodes[n.r.Leader()]
	w.step(leader, Assign(w.truth))
	kept := w.bag
	for range rapid.IntRange(1, 4).Draw(t, "rounds") {
		w.bag = nil
		if n.r.follow.phase == phaseIdle {
			w.start(n)
			w.carry()
			if n.cut != nil {
				break
			}
		}
		w.pushTo(leader, n, len(leader.log))
		w.carry()
		if rapid.Bool().Draw(t, "keep") {
			n.start = max(n.start, n.startDue)
			w.step(n, LogStart(n.start))
			w.carry()
		}
		if rapid.Bool().Draw(t, "flush") {
			n.flushed = len(n.log)
			w.step(n, Progress(record.Offset(len(n.log)), record.Offset(n.flushed)))
			w.carry()
		}
	}
	w.bag = append(kept, w.bag...)
}

// carry delivers everything in order.
func (w *world) carry() {
	for len(w.bag) > 0 {
		m := w.bag[0]
		w.bag = w.bag[1:]
		w.hand(m)
	}
}

func (w *world) deliver(t *rapid.T) {
	if len(w.bag) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.bag)-1).Draw(t, "message")
	m := w.bag[i]
	switch rapid.IntRange(0, 9).Draw(t, "fate") {
	case 0: // lost
		w.bag = append(w.bag[:i], w.bag[i+1:]...)
		return
	case 1: // will come again
	default:
		w.bag = append(w.bag[:i], w.bag[i+1:]...)
	}
	w.hand(m)
}

// hand gives a message to its receiver.
func (w *world) hand(m simMessage) {
	if m.to < 0 {
		return
	}
	n := w.nodes[m.to]
	if m.brokerEpoch != 0 && m.brokerEpoch != n.brokerEpoch {
		return
	}
	switch m.ev.Kind {
	case EventHandshake:
		m.ev.AnswerEpoch, m.ev.AnswerEnd = n.epochEnd(m.ev.LastEpoch)
		m.ev.LogStart, m.ev.FirstBatch = n.start, n.start // entries are batches of one
		w.answer(n, m)
	case EventReply:
		m.ev.LocalEpoch, m.ev.LocalEnd = n.epochEnd(m.ev.AnswerEpoch)
		w.step(n, m.ev)
	case EventPush:
		for _, e := range w.step(n, m.ev) {
			if e.Kind == EffectAppend {
				n.log = append(n.log, m.entries...)
				w.step(n, AppendedFollower(record.Offset(len(n.log))))
			}
		}
	default:
		w.step(n, m.ev)
	}
}

func (w *world) answer(n *simNode, m simMessage) {
	follower := w.nodes[m.from]
	for _, e := range w.step(n, m.ev) {
		if e.Kind != EffectHandshakeReply {
			continue
		}
		if e.Matched {
			n.pushing[m.from] = &simPush{e.Session, e.Epoch, m.ev.To}
		}
		w.bag = append(w.bag, simMessage{to: m.from, from: n.id, brokerEpoch: follower.brokerEpoch, ev: Reply(
			e.Epoch, e.Session, e.Outcome, e.Matched, e.Begin, e.AnswerEpoch, e.Offset, e.LogStart, e.HW, 0, 0)})
	}
}

// truncate carries out a cut that was asked for.
func (w *world) truncate(t *rapid.T) {
	n := w.pick(t)
	if n.cut == nil {
		return
	}
	if n.cut.Kind == EffectReset {
		n.log = make([]entry, n.cut.Offset) // deleted at the leader: nothing is known of it
		for i := range n.log {
			n.log[i].epoch = record.UnknownEpoch
		}
		n.start = n.cut.Offset
	}
	n.log = n.log[:n.cut.Offset]
	n.startDue = 0
	n.flushed = len(n.log) // a cut is synced
	n.cut = nil
	w.step(n, Truncated(w.logState(n, 0)))
}

func (w *world) logState(n *simNode, hw record.Offset) LogState {
	return LogState{
		Start: n.start, End: record.Offset(len(n.log)), Flushed: record.Offset(n.flushed), LastEpoch: lastEpoch(n.log),
		HW: hw, MustHave: record.Offset(n.flushed),
	}
}

// decide lets the controller take up a proposal; the proposer may never hear of it.
func (w *world) decide(t *rapid.T) {
	if len(w.proposals) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.proposals)-1).Draw(t, "proposal")
	p := w.proposals[i]
	w.proposals = append(w.proposals[:i], w.proposals[i+1:]...)
	outcome := OutcomeUnknown
	lost := rapid.IntRange(0, 3).Draw(t, "lost") == 0
	if !lost && p.pe == w.truth.PartitionEpoch && p.epoch == w.truth.LeaderEpoch && p.node == w.truth.Leader {
		outcome = OutcomeOK
		next := w.next()
		for r := range next.Replicas {
			next.Replicas[r].ISR = false
			for _, m := range p.members {
				if m.Node != next.Replicas[r].Node {
					continue
				}
				if m.BrokerEpoch != next.Replicas[r].BrokerEpoch {
					outcome = OutcomeRefused
				}
				next.Replicas[r].ISR = true
			}
		}
		if outcome == OutcomeOK {
			w.truth = next
		}
	}
	if outcome == OutcomeOK && rapid.Bool().Draw(t, "unheard") {
		outcome = OutcomeUnknown
	}
	if n := w.nodes[p.node]; n.brokerEpoch == p.brokerEpoch {
		w.step(n, ProposalResult(p.pe, outcome))
	}
}

// next is a copy of the truth with a new partition epoch.
func (w *world) next() *Assignment {
	a := *w.truth
	a.Replicas = append([]Assigned(nil), w.truth.Replicas...)
	a.PartitionEpoch++
	return &a
}

func (w *world) image(t *rapid.T) { w.step(w.pick(t), Assign(w.truth)) }

func (w *world) tick(t *rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(100, 2000).Draw(t, "ms")) * time.Millisecond)
	n := w.pick(t)
	var heard []Heard
	for _, other := range w.nodes {
		if rapid.Bool().Draw(t, "heard") {
			heard = append(heard, Heard{other.id, w.now})
		}
	}
	w.step(n, Tick(heard))
}

// crash cuts a node's power and starts it again: its registration ends its
// leaderships.
func (w *world) crash(t *rapid.T) {
	n := w.pick(t)
	keep := rapid.IntRange(n.flushed, len(n.log)).Draw(t, "kept")
	hw := record.Offset(rapid.Int64Range(0, min(int64(n.r.HighWatermark()), int64(n.flushed))).Draw(t, "hw"))
	// Recovery writes what it keeps again and syncs it.
	n.log, n.flushed = n.log[:keep:keep], keep
	n.brokerEpoch++
	n.startDue = 0
	n.cut, n.session, n.pushing = nil, uint64(n.brokerEpoch)<<24, make(map[int32]*simPush)
	n.r = New(Config{Node: n.id, Log: w.logState(n, hw)})
	next := w.next()
	next.Replicas[n.id].BrokerEpoch = n.brokerEpoch
	if next.Leader == n.id {
		w.elected(t, next)
	}
	w.truth = next
	w.step(n, Assign(w.truth))
}

// elect changes the leader; the old one leaves the ISR as a fenced broker would.
func (w *world) elect(t *rapid.T) {
	next := w.next()
	if rapid.Bool().Draw(t, "fence") {
		members := 0
		for _, a := range next.Replicas {
			if a.ISR {
				members++
			}
		}
		if members > 1 {
			next.Replicas[next.Leader].ISR = false
		}
	}
	w.elected(t, next)
	w.truth = next
}

func (w *world) elected(t *rapid.T, a *Assignment) {
	var members []int32
	for _, r := range a.Replicas {
		if r.ISR {
			members = append(members, r.Node)
		}
	}
	a.Leader = rapid.SampledFrom(members).Draw(t, "leader")
	a.LeaderEpoch++
}

// check holds every committed in-sync log against what was acknowledged and
// against what was readable.
func (w *world) check(t *rapid.T) {
	for _, a := range w.truth.Replicas {
		if !a.ISR {
			continue
		}
		n := w.nodes[a.Node]
		if n.start > w.started {
			t.Fatalf("the log of in-sync node %d begins at %d, no leader has deleted beyond %d", n.id, n.start, w.started)
		}
		if n.start < w.trimmed {
			t.Fatalf("records below %d were deleted, the log of in-sync node %d begins at %d", w.trimmed, n.id, n.start)
		}
		for value, off := range w.acked {
			if off < n.start {
				continue // deleted
			}
			if int(off) >= n.flushed || n.log[off].value != value {
				t.Fatalf("acknowledged value %d (offset %d) is not durable on in-sync node %d: flushed %d, log %v",
					value, off, n.id, n.flushed, n.log)
			}
		}
		for i, e := range w.committed {
			if i >= n.flushed || i >= int(n.start) && n.log[i] != e {
				t.Fatalf("readable entry %d %v is not durable on in-sync node %d: flushed %d, log %v", i, e, n.id, n.flushed, n.log)
			}
		}
	}
	for _, n := range w.nodes {
		if n.cut == nil && (int(n.r.End()) != len(n.log) || n.r.HighWatermark() > n.r.End()) {
			t.Fatalf("node %d: %s", n.id, fmt.Sprint(n.r.End(), n.r.HighWatermark(), n.log))
		}
	}
}

func lastEpoch(log []entry) record.Epoch {
	if len(log) == 0 {
		return record.UnknownEpoch
	}
	return log[len(log)-1].epoch
}

// epochEnd is the largest epoch in the log not above e, and its end. A log that lost all
// its batches to deletion still knows its last epoch.
func (n *simNode) epochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	for i, x := range slices.Backward(n.log) {
		if i < int(n.start) && i < len(n.log)-1 {
			break
		}
		if x.epoch <= e {
			return x.epoch, record.Offset(i + 1)
		}
	}
	return record.UnknownEpoch, n.start
}
