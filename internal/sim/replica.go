package sim

import (
	"slices"
	"time"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// replica is the shell around one state machine, as package broker's is.
type replica struct {
	n     *node
	part  int
	disk  *disk
	state *partition.Replica
	out   partition.Effects

	// pushing are the sessions of followers, by node.
	pushing []*pushing
	waiters map[uint64]*produce
	trims   map[uint64]record.Offset // requests to delete records
	// below and producers are what the leader said of the producers of records that
	// this log will not get, in the two worlds.
	below     []entry
	producers []byte
	handles   uint64
	beginDue  bool
	session   uint64        // as follower: the newest begun
	asked     record.Offset // as leader: the log end in the handshake that is answered
	flushing  bool
	turn      *flushTurn // of the real log; nil: none
	cutting   bool
	cutTo     int // what will be left then
	failed    bool
	damaged   bool
	// shown is the watermark that this process showed in the present epoch.
	shown      record.Offset
	shownEpoch record.Epoch
	// refuses is the epoch whose leader's log is shorter than what this replica knows to be
	// committed: it follows nobody in it.
	refuses record.Epoch
	// suspended: the state machine was told that the broker has no controller; heard
	// is the newest leader epoch that a follower named.
	suspended bool
	heard     record.Epoch
	// reporting: the metadata is being told what this replica holds, at toldAt (0: not
	// yet); until the image shows it the replica gets no assignment.
	reporting bool
	hurt      bool // damage was found in this process
	givesUp   bool // as leader, by an operator's order, what is behind it
	gone      bool // it is out of service: what was on its way comes to nothing
	toldAt    uint64
}

type pushing struct {
	node    int32
	session uint64
	epoch   record.Epoch
	next    record.Offset
	queued  bool
}

func newReplica(n *node, part int, d *disk) *replica {
	return &replica{
		n: n, part: part, disk: d, waiters: map[uint64]*produce{}, trims: map[uint64]record.Offset{}, damaged: d.damage != partition.DamageNone,
		state:      partition.New(partition.Config{Node: n.id, SessionTimeout: sessionTimeout, Log: d.state()}),
		shownEpoch: record.UnknownEpoch, refuses: record.UnknownEpoch,
	}
}

func (r *replica) w() *World { return r.n.w }

// step feeds an event and carries out what follows.
func (r *replica) step(ev partition.Event) {
	if r.gone {
		return
	}
	r.out.Reset()
	r.state.Step(r.n.clock(), ev, &r.out)
	effects := slices.Clone(r.out.List)
	of := proposed{slices.Clone(r.out.Members), slices.Clone(r.out.Damaged), slices.Clone(r.out.Failed)}
	for i := range effects {
		r.carryOut(&effects[i], of)
	}
}

// proposed is what belongs to an EffectProposeISR.
type proposed struct {
	members         []partition.Member
	damaged, failed []int32
}

func (r *replica) carryOut(e *partition.Effect, of proposed) {
	switch e.Kind {
	case partition.EffectRole:
		r.pushing = nil
		if e.Role == partition.RoleLeader {
			r.w().counts.Failovers++
			r.w().checkLeader(r, e.Epoch)
		}
		if e.Role == partition.RoleFollower {
			r.follow()
		}
	case partition.EffectComplete:
		r.complete(e.Handle, e.Outcome)
	case partition.EffectWatermark:
		r.w().checkWatermark(r, e.HW)
		if r.disk.real != nil {
			r.disk.real.SetHighWatermark(e.HW)
		}
		r.pushAll()
	case partition.EffectPushable:
		r.pushAll()
	case partition.EffectHandshakeReply:
		r.sendReply(e)
	case partition.EffectEndSession:
		r.dropPushing(e.Node, e.Session)
		r.sendOver(e.Node, e.Session)
	case partition.EffectProposeISR:
		r.propose(e, of)
	case partition.EffectHandshake:
		r.sendHandshake(e)
	case partition.EffectTruncate:
		r.cut(int(e.Offset))
	case partition.EffectReset:
		r.beginAnew(int(e.Offset))
	case partition.EffectLogStart:
		r.followStart(int(e.Offset))
	case partition.EffectRefusedTruncation:
		r.w().counts.RefusedTruncations++
		r.w().checkRefused(r, e)
		r.refuses = e.Epoch
		r.followAfter(r.w().between(time.Millisecond, 100*time.Millisecond))
	case partition.EffectAppend:
		// push appends
	case partition.EffectAck:
		r.sendAck(partition.Ack(r.n.id, e.Epoch, e.Session, e.Offset, e.Flushed, e.LogStart))
	case partition.EffectAgain:
		r.followAfter(r.w().between(time.Millisecond, 100*time.Millisecond))
	case partition.EffectRebuild:
		r.rebuild()
	case partition.EffectOffline:
		r.failed = r.failed || e.Damage == partition.DamageFailed
		r.withdraw()
	case partition.EffectFollowing:
		r.w().checkPushed(r)
	case partition.EffectFollowerDamaged, partition.EffectFollowerLeaves, partition.EffectLostCommitted, partition.EffectDrained, partition.EffectRefusedLead,
		partition.EffectDrop, partition.EffectHold:
	}
}

// die is the end of the process: requests get no answer.
func (r *replica) die() {
	for _, h := range sortedHandles(r.waiters) {
		r.waiters[h].lost()
	}
	r.waiters, r.trims = nil, nil
}

func sortedHandles(m map[uint64]*produce) []uint64 {
	out := make([]uint64, 0, len(m))
	for h := range m {
		out = append(out, h)
	}
	slices.Sort(out)
	return out
}

// follow opens a session if none is open.
func (r *replica) follow() {
	r.followAfter(r.w().between(0, 20*time.Millisecond))
}

func (r *replica) followAfter(d time.Duration) {
	if r.beginDue || r.cutting || r.failed || r.n.full.After(r.w().now) || r.state.Role() != partition.RoleFollower || r.state.Leader() < 0 {
		return
	}
	if r.following() {
		return
	}
	r.beginDue = true
	r.n.after(d, "begins", func() {
		r.beginDue = false
		if r.following() {
			return
		}
		r.n.sessions++
		r.session = r.n.sessions
		r.step(partition.Begin(r.session, r.disk.lastEpoch()))
	})
}

// following says that the newest session is open, or being opened.
func (r *replica) following() bool {
	session, _ := r.state.Session()
	return session != 0
}

// at is the same partition's replica in another node's present process.
func (r *replica) at(id int32) *replica {
	if n := r.w().nodes[id]; n.up && r.part < len(n.replicas) {
		return n.replicas[r.part]
	}
	return nil
}

func (r *replica) sendHandshake(e *partition.Effect) {
	id, ev, session := r.state.Leader(), *e, e.Session
	for _, l := range r.w().replicas(r.w().parts[r.part]) { // leaders of earlier epochs, too
		r.w().net.replay(l, r.n.id, r.part, session, "reply")
	}
	from, brokerEpoch := r.n.id, r.n.brokerEpoch
	r.toLeader(id, session, "handshake", func(l *replica) {
		epoch, end := l.disk.epochEnd(ev.AnswerEpoch)
		l.asked = ev.Offset
		l.heard = max(l.heard, ev.Epoch)
		if ev.HW != 0 {
			l.step(partition.Refused(from, brokerEpoch, ev.Epoch, session, ev.HW, ev.Offset, end, record.Offset(l.disk.start)))
			return
		}
		l.step(partition.Handshake(from, brokerEpoch, ev.Epoch, session, ev.AnswerEpoch, ev.Offset, ev.Flushed, epoch, end,
			record.Offset(l.disk.start), record.Offset(l.disk.start)))
	})
	// A leader that does not answer is asked again.
	r.n.after(r.w().between(200*time.Millisecond, 2*time.Second), "waits for an answer", func() {
		if now, on := r.state.Session(); now == session && !on {
			r.step(partition.StreamGone(session))
			r.follow()
		}
	})
}

func (r *replica) sendAck(ev partition.Event) {
	r.toLeader(r.state.Leader(), ev.Session, "ack", func(l *replica) { l.step(ev) })
}

// toLeader sends something on the stream of a session.
func (r *replica) toLeader(id int32, session uint64, what string, do func(*replica)) {
	if id < 0 {
		return
	}
	to := r.w().nodes[id]
	generation := r.n.generation
	broken := func() { r.broken(generation, id, session) }
	r.w().net.send(r.n, to, r.part, session, what, func() {
		if l := r.at(id); l != nil {
			do(l)
		}
	}, broken)
}

// broken lets both ends of a session's stream find out, each in its time.
func (r *replica) broken(generation int, leader int32, session uint64) {
	n := r.n
	if n.up && n.generation == generation {
		n.after(n.w.between(10*time.Millisecond, 1500*time.Millisecond), "stream is gone", func() { r.streamGone(session) })
	}
	// The leader's end of it belongs to this process of the follower alone.
	l := r.at(leader)
	if l == nil {
		return
	}
	for _, p := range l.pushing {
		if p.node == n.id && p.session == session {
			l.n.after(n.w.between(10*time.Millisecond, 2500*time.Millisecond), "session is gone", func() {
				if slices.Contains(l.pushing, p) {
					l.dropPushing(n.id, session)
					l.step(partition.SessionGone(n.id, session, false))
				}
			})
		}
	}
}

// sendOver tells a follower that a session which it believes open is over.
func (r *replica) sendOver(node int32, session uint64) {
	if f := r.at(node); f != nil {
		r.toFollower(f, session, "over", func() { f.streamGone(session) })
	}
}

// streamGone lets a session end, and another begin.
func (r *replica) streamGone(session uint64) {
	if r.session == session {
		r.step(partition.StreamGone(session))
		r.follow()
	}
}

func (r *replica) dropPushing(node int32, session uint64) {
	r.pushing = slices.DeleteFunc(r.pushing, func(p *pushing) bool { return p.node == node && p.session == session })
}

// sendReply answers a handshake.
func (r *replica) sendReply(e *partition.Effect) {
	f := r.at(e.Node)
	if f == nil {
		return
	}
	ev := *e
	if ev.Matched {
		r.pushing = slices.DeleteFunc(r.pushing, func(p *pushing) bool { return p.node == ev.Node })
		r.pushing = append(r.pushing, &pushing{node: ev.Node, session: ev.Session, epoch: ev.Epoch, next: r.asked})
		r.w().checkMatched(r, f, ev.Session)
		r.w().net.replay(f.n.id, r.n.id, r.part, ev.Session, "ack")
	}
	below, state, ok := r.producersAt(&ev)
	if !ok {
		return // it asks again
	}
	r.toFollower(f, ev.Session, "reply", func() {
		f.below, f.producers = below, state
		epoch, end := f.disk.epochEnd(ev.AnswerEpoch)
		f.step(partition.Reply(ev.Epoch, ev.Session, ev.Outcome, ev.Matched, ev.Begin, ev.AnswerEpoch, ev.Offset, ev.LogStart, ev.HW, epoch, end))
	})
	if ev.Matched {
		r.pushAll()
	}
}

// producersAt is what is known of producers where a follower is told to begin anew.
func (r *replica) producersAt(ev *partition.Effect) (below []entry, state []byte, ok bool) {
	if !ev.Begin || ev.LogStart == 0 {
		return nil, nil, true
	}
	if l := r.disk.real; l != nil {
		state, err := l.ProducerState(ev.LogStart)
		return nil, state, err == nil
	}
	return slices.Clone(r.disk.entries[:min(int(ev.LogStart), len(r.disk.entries))]), nil, true
}

func (r *replica) toFollower(f *replica, session uint64, what string, do func()) {
	generation := f.n.generation
	r.w().net.send(r.n, f.n, r.part, session, what, func() {
		if f.n.replicas != nil && f.n.replicas[r.part] == f {
			do()
		}
	}, func() { f.broken(generation, r.n.id, session) })
}

// pushAll sends each open session what is new, soon.
func (r *replica) pushAll() {
	for _, p := range r.pushing {
		if p.queued {
			continue
		}
		p.queued = true
		r.n.after(r.w().between(0, time.Millisecond), "pushes", func() {
			p.queued = false
			r.push(p)
		})
	}
}

func (r *replica) push(p *pushing) {
	epoch, session, ok := r.state.SessionOf(p.node)
	if !slices.Contains(r.pushing, p) || !ok || epoch != p.epoch || session != p.session || int(p.next) > len(r.disk.entries) {
		return
	}
	f := r.at(p.node)
	if f == nil {
		return
	}
	if int(p.next) < r.disk.start { // it is deleted: a new handshake says where to begin
		r.dropPushing(p.node, p.session)
		r.sendOver(p.node, p.session)
		return
	}
	to := min(int(p.next)+1+r.w().rng.IntN(16), len(r.disk.entries))
	from, entries := p.next, slices.Clone(r.disk.entries[p.next:to])
	p.next = record.Offset(to)
	ev := partition.Push(epoch, session, from, p.next, r.state.HighWatermark(), record.Offset(r.disk.start))
	r.toFollower(f, session, "push", func() { f.pushed(ev, entries) })
	if to < len(r.disk.entries) {
		r.pushAll()
	}
}

// pushed takes a push.
func (r *replica) pushed(ev partition.Event, entries []entry) {
	r.out.Reset()
	r.state.Step(r.n.clock(), ev, &r.out)
	effects := slices.Clone(r.out.List)
	for i := range effects {
		if effects[i].Kind != partition.EffectAppend {
			r.carryOut(&effects[i], proposed{})
			continue
		}
		if int(ev.From) != len(r.disk.entries) {
			r.w().fail(Immutable, "partition %d: node %d was let append at %d, its log ends at %d", r.part, r.n.id, ev.From, len(r.disk.entries))
			return
		}
		if r.n.full.After(r.w().now) { // it leaves the in-sync set until there is room
			r.w().counts.PausedFull++
			r.withdraw()
			r.step(partition.StreamGone(ev.Session))
			return
		}
		if r.disk.real != nil {
			if err := r.disk.takeReal(r.w(), int(ev.From), entries); err != nil {
				r.refused(ev.Session)
				return
			}
		}
		r.disk.entries = append(r.disk.entries, entries...)
		r.w().checkPushed(r)
		r.step(partition.AppendedFollower(ev.To))
		r.flush()
	}
}

// refused is what a follower does whose log took nothing: it failed, or another
// handshake finds out why.
func (r *replica) refused(session uint64) {
	if r.disk.real.Err() != nil || r.disk.real.Damage() != commitlog.DamageNone {
		r.step(partition.LogFailed())
		return
	}
	r.streamGone(session)
}

// propose asks the controller for another in-sync set.
func (r *replica) propose(e *partition.Effect, of proposed) {
	c := &metav1.IsrChange{
		TopicId: r.w().parts[r.part].topic[:], LeaderEpoch: int32(e.Epoch), PartitionEpoch: e.PartitionEpoch,
		Damaged: of.damaged, Failed: of.failed,
	}
	if len(of.failed) > 0 {
		r.w().counts.FailedResigns++
	}
	for _, m := range of.members {
		c.Isr = append(c.Isr, &metav1.IsrMember{NodeId: m.Node, BrokerEpoch: m.BrokerEpoch})
	}
	cmd := &metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
		NodeId: r.n.id, BrokerEpoch: r.n.brokerEpoch, Changes: []*metav1.IsrChange{c},
	}}}
	pe := e.PartitionEpoch
	r.w().meta.propose(r.n, r.w().meta.command(cmd), func(o outcome) {
		out := partition.OutcomeUnknown
		switch {
		case !o.known || o.err != nil:
			r.w().counts.UnknownISR++
		case len(o.result.Refused) == 0 || o.result.Refused[0] == nil:
			out = partition.OutcomeOK
			r.w().counts.ISRChanges++
		default:
			switch o.result.Refused[0].Code {
			case metadata.CodeInvalidUpdateVersion, metadata.CodeFencedLeaderEpoch, metadata.CodeUnknownLeaderEpoch:
			default:
				out = partition.OutcomeRefused
			}
		}
		r.step(partition.ProposalResult(pe, out))
	})
}

// cut truncates the log a little later, as a disk does.
func (r *replica) cut(to int) {
	r.cutting, r.cutTo = true, to
	wait := r.w().between(time.Millisecond, 50*time.Millisecond)
	if r.n.slow.After(r.w().now) || r.w().chance(20) {
		wait += r.w().between(0, time.Second)
	}
	r.n.after(wait, "truncates", func() {
		r.w().counts.Truncations++
		r.w().checkCut(r, to)
		r.disk.truncate(min(to, len(r.disk.entries)))
		r.cutting = false
		if l := r.disk.real; l != nil {
			if err := r.still(func() error { return l.TruncateTo(record.Offset(to)) }); err != nil {
				r.step(partition.LogFailed())
				return
			}
			r.disk.durable = int(l.Flushed())
		}
		r.step(partition.Truncated(r.disk.state()))
		r.follow()
	})
}

// rebuild empties a damaged log that nobody counts on any more.
func (r *replica) rebuild() {
	r.w().counts.Rebuilds++
	r.w().checkRebuild(r)
	*r.disk = disk{version: r.disk.version + 1, real: r.disk.real}
	if l := r.disk.real; l != nil {
		if err := r.still(func() error { _, err := l.Rebuild(false); return err }); err != nil {
			r.step(partition.LogFailed())
			return
		}
	}
	r.damaged, r.shown = false, 0
	r.step(partition.Opened(r.disk.state()))
	r.follow()
}

// withdraw tells the leader that this log takes nothing any more.
func (r *replica) withdraw() {
	session, from := r.session, r.n.id
	if r.state.Role() == partition.RoleFollower && session != 0 {
		r.toLeader(r.state.Leader(), session, "withdraws", func(l *replica) {
			l.dropPushing(from, session)
			l.step(partition.SessionGone(from, session, true))
		})
	}
}

// flush makes durable what is there, some time later. One flush at a time.
func (r *replica) flush() {
	if r.disk.real != nil || r.flushing || r.failed || r.disk.durable >= len(r.disk.entries) {
		return
	}
	r.flushing = true
	if r.n.flushSince.IsZero() {
		r.n.flushSince = r.w().now
	}
	wait := r.flushTime()
	to, version := len(r.disk.entries), r.disk.version
	r.n.after(wait, "flushed", func() {
		r.flushing = false
		r.n.flushSince = time.Time{}
		if r.failed {
			return
		}
		if r.n.failing {
			r.n.flushFailed()
			r.step(partition.LogFailed())
			return
		}
		if r.disk.version == version {
			r.disk.durable = max(r.disk.durable, to)
		}
		r.step(partition.Progress(record.Offset(len(r.disk.entries)), record.Offset(r.disk.durable)))
		if r.w().chance(50) {
			r.checkpoint()
		}
		r.flush()
	})
}

// flushTime draws how long a flush takes, or in a model of a topic that is not synced,
// waits.
func (r *replica) flushTime() time.Duration {
	wait := r.w().between(100*time.Microsecond, 3*time.Millisecond)
	if !r.w().parts[r.part].synced && r.disk.real == nil {
		wait = r.w().between(100*time.Millisecond, time.Second)
	}
	if r.n.slow.After(r.w().now) {
		wait += r.w().between(10*time.Millisecond, 800*time.Millisecond)
	}
	if r.n.hung.After(r.w().now) {
		wait = r.n.hung.Sub(r.w().now) + wait
	}
	return wait
}

// checkpoint writes down what is promised.
func (r *replica) checkpoint() {
	if r.disk.damage == partition.DamageNone {
		r.disk.promised = r.disk.durable
		r.disk.watermark = int(min(r.state.HighWatermark(), record.Offset(len(r.disk.entries))))
	}
}

// complete answers a request.
func (r *replica) complete(handle uint64, o partition.Outcome) {
	if _, trim := r.trims[handle]; trim {
		r.trimmed(handle, o)
		return
	}
	if p := r.waiters[handle]; p != nil {
		delete(r.waiters, handle)
		r.w().checkOutcome(r, p, o)
		if o == partition.OutcomeOK {
			r.w().checkAck(r, p)
		}
		p.answer(o)
	}
}
