package sim

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/broker/partition"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// fault is something that goes wrong, and is put right after a while.
type fault struct {
	weight int
	name   string
	do     func(w *World)
}

func faults() []fault {
	return []fault{
		{20, "kill", (*World).faultKill},
		{14, "power cut", (*World).faultPower},
		{5, "power cut of all", (*World).faultAllDown},
		{10, "pause", (*World).faultPause},
		{20, "cut", (*World).faultCut},
		{8, "clean stop", (*World).faultStop},
		{10, "failed flush", (*World).faultFlush},
		{5, "hung flush", (*World).faultHang},
		{8, "slow disk", (*World).faultSlowDisk},
		{4, "full disk", (*World).faultFull},
		{6, "lost bytes", (*World).faultBytes},
		{5, "damage found", (*World).faultFound},
		{8, "lying disk", (*World).faultLies},
		{4, "clock step", (*World).faultClock},
		{8, "slow link", (*World).faultSlowLink},
		{10, "frozen link", (*World).faultFreeze},
		{8, "late images", (*World).faultImages},
		{5, "controller changes", (*World).faultController},
		{3, "controllers flap", (*World).faultFlap},
		{3, "minimum changes", (*World).faultMinISR},
		{4, "leader dies while a follower is behind", (*World).faultBehind},
		{5, "leaders die in a row", (*World).faultSeries},
		{10, "leaderships move", (*World).faultMoves},
		{6, "reassignment", (*World).faultReassign},
		{3, "topic deleted", (*World).faultDelete},
		{4, "the others lose power behind one that died", (*World).faultCascade},
		{6, "the last words of a follower come late", (*World).faultLastWords},
	}
}

// nextFault lets something go wrong and goes on.
func (w *World) nextFault() {
	if w.healed {
		return
	}
	all := faults()
	total := 0
	for i, f := range all {
		total += f.weight * w.mix.weights[i]
	}
	k := w.rng.IntN(max(total, 1))
	for i, f := range all {
		if k -= f.weight * w.mix.weights[i]; k < 0 {
			w.trace("FAULT " + f.name)
			f.do(w)
			break
		}
	}
	w.after(w.between(50*time.Millisecond, w.mix.pause), "next fault", w.nextFault)
}

func (w *World) anyNode() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }

// anyPart is a partition whose topic was not deleted.
func (w *World) anyPart() *part {
	for { // a deleted one has a successor, at once
		if p := w.parts[w.rng.IntN(len(w.parts))]; p.deletedAt == 0 {
			return p
		}
	}
}

func (w *World) restart(n *node, d time.Duration) {
	w.after(d, fmt.Sprintf("%d starts", n.id), n.start)
}

func (w *World) downTime() time.Duration {
	if w.chance(30) {
		return w.between(3*time.Second, 9*time.Second)
	}
	return w.between(50*time.Millisecond, 2*time.Second)
}

func (w *World) faultKill() {
	n := w.anyNode()
	if n.up {
		w.counts.Kills++
		n.kill()
		w.restart(n, w.downTime())
	}
}

func (w *World) faultPower() {
	n := w.anyNode()
	if n.up {
		w.counts.PowerCuts++
		n.powerCut()
		w.restart(n, w.downTime())
	}
}

// faultAllDown stops all nodes at once: by a power cut, by a kill, or some by this
// and some by that; one of them may come back much later than the others.
func (w *World) faultAllDown() {
	w.counts.AllDown++
	how, late := w.rng.IntN(4), w.rng.IntN(3*len(w.nodes))
	for i, n := range w.nodes {
		if how < 2 || how == 2 && w.chance(50) {
			n.powerCut()
		} else {
			n.kill()
		}
		down := w.between(50*time.Millisecond, 3*time.Second)
		if i == late {
			down += w.between(time.Second, 12*time.Second)
		}
		w.restart(n, down)
	}
}

func (w *World) faultPause() {
	n := w.anyNode()
	if !n.up || n.paused {
		return
	}
	w.counts.Pauses++
	n.pause()
	w.after(w.between(200*time.Millisecond, 6*time.Second), fmt.Sprintf("%d goes on", n.id), n.resume)
}

// faultCut cuts links: one way, both ways, one node off, or one that still
// reaches somebody.
func (w *World) faultCut() {
	a, b := w.anyNode().id, w.anyNode().id
	kind := w.rng.IntN(5)
	if a == b && kind < 2 {
		return // no link
	}
	w.counts.Cuts++
	switch kind {
	case 4: // nobody hears it, it hears all
		w.counts.OneWayCuts++
		for i := range w.nodes {
			w.net.cut[a][i] = i != int(a)
		}
	case 0:
		w.counts.OneWayCuts++
		w.net.cut[a][b] = true
	case 1:
		w.net.cut[a][b], w.net.cut[b][a] = true, true
	case 2:
		for i := range w.nodes {
			w.net.cut[a][i], w.net.cut[i][a] = i != int(a), i != int(a)
		}
	case 3:
		for i := range w.nodes {
			if i != int(a) && i != int(b) {
				w.net.cut[a][i], w.net.cut[i][a] = true, true
			}
		}
	}
	w.after(w.between(500*time.Millisecond, 8*time.Second), "links heal", w.net.heal)
}

func (w *World) faultStop() {
	n := w.anyNode()
	if n.up && !n.paused && !n.stopping && n.brokerEpoch != 0 {
		n.stop()
		w.restart(n, w.between(6*time.Second, 9*time.Second))
	}
}

// faultFlush fails the next flush of a node.
func (w *World) faultFlush() {
	n := w.anyNode()
	if l := w.leaderOf(w.anyPart()); l != nil && w.chance(50) {
		n = l
	}
	if n.up {
		n.failing = true
		w.after(w.between(time.Second, 15*time.Second), fmt.Sprintf("%d is restarted for its log", n.id), func() {
			if n.up && n.failedLog() && !w.healed {
				n.kill()
				w.restart(n, w.between(50*time.Millisecond, time.Second))
			}
		})
	}
}

func (w *World) faultHang() {
	if n := w.anyNode(); n.up {
		w.counts.HungFlushes++
		n.hung = w.now.Add(w.between(time.Second, 9*time.Second))
	}
}

// faultSlowDisk makes each flush of a node take long.
func (w *World) faultSlowDisk() {
	if n := w.anyNode(); n.up {
		w.counts.SlowDisks++
		n.slow = w.now.Add(w.between(time.Second, 6*time.Second))
	}
}

// faultFull leaves no room on the disk of a node, or of several, as load does that is
// the same everywhere.
func (w *World) faultFull() {
	w.counts.FullDisks++
	until := w.now.Add(w.between(500*time.Millisecond, 5*time.Second))
	all := w.chance(20)
	for _, n := range w.nodes {
		if all && w.chance(70) {
			n.full = until
		}
	}
	w.anyNode().full = until
}

// faultSlowLink lets the messages between two nodes, or all of one node, take long.
func (w *World) faultSlowLink() {
	w.counts.SlowLinks++
	a, b := w.anyNode().id, w.anyNode().id
	lag := w.between(20*time.Millisecond, time.Second)
	all := w.chance(30)
	for i := range w.nodes {
		if all || i == int(b) {
			w.net.lag[a][i] = lag
			if w.chance(50) {
				w.net.lag[i][a] = lag
			}
		}
	}
	w.after(w.between(time.Second, 6*time.Second), "links quicken", w.net.quicken)
}

// faultFreeze lets nothing arrive from one node at another for a while, and then
// everything at once; often while the sender begins anew.
func (w *World) faultFreeze() {
	w.counts.FrozenLinks++
	a, b := w.anyNode(), w.anyNode()
	if p := w.anyPart(); w.chance(70) {
		a = w.nodes[w.replicas(p)[w.rng.IntN(len(w.replicas(p)))]]
		if l := w.leaderOf(p); l != nil {
			b = l
		}
	}
	until := w.now.Add(w.between(200*time.Millisecond, 3*time.Second))
	w.net.frozen[a.id][b.id] = until
	if w.chance(20) {
		w.net.frozen[b.id][a.id] = until
	}
	if w.chance(50) { // what the other answers takes long, too
		w.net.lag[b.id][a.id] = w.between(50*time.Millisecond, 800*time.Millisecond)
		w.after(until.Sub(w.now)+time.Second, "links quicken", w.net.quicken)
	}
	if a != b && a.up && w.chance(60) {
		w.after(w.between(10*time.Millisecond, 500*time.Millisecond), fmt.Sprintf("%d dies behind its frozen link", a.id), func() {
			if a.up && !w.healed {
				w.endOf(a)
				w.restart(a, w.between(50*time.Millisecond, 300*time.Millisecond))
			}
		})
	}
}

// leaderOf is the node that leads a partition by the newest image; nil: none.
func (w *World) leaderOf(p *part) *node {
	if t := w.meta.latest().TopicByID(p.topic); t != nil && t.Partitions[0].Leader >= 0 {
		return w.nodes[t.Partitions[0].Leader]
	}
	return nil
}

// endOf kills a process or cuts its machine's power.
func (w *World) endOf(n *node) {
	if w.chance(50) {
		w.counts.Kills++
		n.kill()
	} else {
		w.counts.PowerCuts++
		n.powerCut()
	}
}

// faultSeries ends the leader of a partition, and soon the next one, while the
// replicas hear from each other late: logs of several epochs that nobody else has.
func (w *World) faultSeries() {
	p := w.anyPart()
	w.counts.LeaderSeries++
	w.slowReplicas(p)
	at := time.Duration(0)
	for range 2 + w.rng.IntN(3) {
		at += w.between(150*time.Millisecond, 900*time.Millisecond)
		w.after(at, "the leader dies", func() {
			if n := w.leaderOf(p); n != nil && n.up && !w.healed {
				w.endOf(n)
				w.restart(n, w.between(50*time.Millisecond, 1500*time.Millisecond))
			}
		})
	}
	w.after(at+w.between(0, 2*time.Second), "links quicken", w.net.quicken)
}

// faultCascade ends one replica of a partition, and a moment later the machines of
// all others, which are back first.
func (w *World) faultCascade() {
	p := w.anyPart()
	first := w.nodes[w.replicas(p)[w.rng.IntN(len(w.replicas(p)))]]
	if !first.up {
		return
	}
	w.counts.Cascades++
	w.endOf(first)
	w.restart(first, w.between(3*time.Second, 9*time.Second))
	w.after(w.between(120*time.Millisecond, 900*time.Millisecond), "the others lose power", func() {
		for _, id := range w.replicas(p) {
			if n := w.nodes[id]; n.up && !w.healed {
				w.counts.PowerCuts++
				n.powerCut()
				w.restart(n, w.between(50*time.Millisecond, time.Second))
			}
		}
	})
}

// faultLastWords ends the machine of a follower of a topic that is not synced, so that it
// comes back with less than it acknowledged; what it said before arrives when it
// follows again, and what it lacks comes late.
func (w *World) faultLastWords() {
	for _, i := range w.rng.Perm(len(w.parts)) {
		p := w.parts[i]
		l := w.leaderOf(p)
		if p.synced || l == nil || !l.up {
			continue
		}
		f := w.nodes[w.replicas(p)[w.rng.IntN(len(w.replicas(p)))]]
		if f == l || !f.up || f.paused {
			continue
		}
		w.counts.LastWords++
		f.powerCut()
		w.restart(f, w.between(50*time.Millisecond, 400*time.Millisecond))
		w.net.insist[linkKey{f.id, l.id, p.index}] = w.now.Add(3 * time.Second)
		return
	}
}

// slowReplicas lets some replicas of a partition hear late from some others.
func (w *World) slowReplicas(p *part) {
	for _, a := range w.replicas(p) {
		for _, b := range w.replicas(p) {
			if w.chance(50) {
				w.net.lag[a][b] = w.between(20*time.Millisecond, 600*time.Millisecond)
			}
		}
	}
}

// faultMoves gives the leadership of a partition to one in-sync member after another,
// as balancing does, faster than the replicas or even their leaders hear of it.
func (w *World) faultMoves() {
	p := w.anyPart()
	w.counts.LeaderMoves++
	if w.chance(60) {
		w.slowReplicas(p)
	}
	at := time.Duration(0)
	for range 1 + w.rng.IntN(4) {
		at += w.between(5*time.Millisecond, 600*time.Millisecond)
		w.after(at, "the leadership moves", func() { w.move(p) })
	}
	if l := w.leaderOf(p); l != nil && w.chance(40) {
		w.counts.LateImages++
		l.blind = w.now.Add(at + w.between(0, 500*time.Millisecond))
	}
	w.after(at+w.between(0, time.Second), "links quicken", w.net.quicken)
}

// faultReassign has a partition move to other nodes, or calls that off.
func (w *World) faultReassign() { w.faultReassignOf(w.anyPart()) }

func (w *World) faultReassignOf(p *part) {
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil {
		return
	}
	w.counts.Reassignments++
	c := &metav1.PartitionReassignment{TopicId: p.topic[:], Cancel: w.chance(25)}
	for _, id := range w.rng.Perm(len(w.nodes))[:2+w.rng.IntN(2)] {
		if !c.Cancel {
			c.Replicas = append(c.Replicas, int32(id))
		}
	}
	w.meta.later(&metav1.Command{Kind: &metav1.Command_ReassignPartitions{ReassignPartitions: &metav1.ReassignPartitions{
		Partitions: []*metav1.PartitionReassignment{c},
	}}})
}

// move gives the leadership of a partition to another in-sync member.
func (w *World) move(p *part) {
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil || w.healed {
		return
	}
	q := t.Partitions[0]
	if len(q.ISR) == 0 || q.Leader < 0 {
		return // where nobody leads the controller compares
	}
	to := q.ISR[w.rng.IntN(len(q.ISR))]
	for _, id := range q.ISR { // above all to one that is cutting its log
		if r := w.healthy(id, p); r != nil && r.cutting {
			to = id
		}
	}
	if to != q.Leader {
		w.meta.later(&metav1.Command{Kind: &metav1.Command_ElectLeaders{ElectLeaders: &metav1.ElectLeaders{Changes: []*metav1.LeaderChange{{
			TopicId: p.topic[:], PartitionEpoch: q.PartitionEpoch, Leader: to, Reason: "moved",
		}}}}})
	}
}

// faultImages keeps newer images from a node, as a Raft follower that catches up
// slowly does, while all else goes on.
func (w *World) faultImages() {
	if n := w.anyNode(); n.up {
		w.counts.LateImages++
		n.blind = w.now.Add(w.between(200*time.Millisecond, 6*time.Second))
	}
}

// faultFlap lets the controller change several times in a row.
func (w *World) faultFlap() {
	w.counts.LeaderFlaps++
	for range 3 + w.rng.IntN(4) {
		w.after(w.between(0, 2*time.Second), "controllers flap", w.meta.elect)
	}
}

// faultMinISR changes the least in-sync set of a topic.
func (w *World) faultMinISR() {
	p := w.anyPart()
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil {
		return
	}
	w.setMinISR(p, 1+w.rng.IntN(min(3, len(w.replicas(p)))))
}

func (w *World) setMinISR(p *part, to int) {
	w.counts.MinISRChanges++
	w.meta.later(&metav1.Command{Kind: &metav1.Command_AlterTopicConfig{AlterTopicConfig: &metav1.AlterTopicConfig{
		Name: p.name, Set: map[string]string{"min.insync.replicas": strconv.Itoa(to)},
	}}})
}

// faultBehind keeps a leader's newest records from one follower for a while, then ends
// the leader's machine: who leads next, and what becomes of the one that was behind?
func (w *World) faultBehind() {
	p := w.anyPart()
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil || t.Partitions[0].Leader < 0 {
		return
	}
	l := t.Partitions[0].Leader
	f := w.replicas(p)[w.rng.IntN(len(w.replicas(p)))]
	if f == l || !w.nodes[l].up {
		return
	}
	w.net.lag[l][f] = w.between(200*time.Millisecond, 2*time.Second)
	w.after(w.between(50*time.Millisecond, 2*time.Second), fmt.Sprintf("%d leads and dies", l), func() {
		n := w.nodes[l]
		if !n.up || w.healed {
			return
		}
		w.counts.Behind++
		w.net.quicken()
		w.endOf(n)
		w.restart(n, w.downTime())
	})
}

// faultBytes takes durable bytes away from a replica of a node that is down, as a bad
// sector does, as long as another that is in sync or eligible keeps everything: no
// system survives the loss of all copies.
func (w *World) faultBytes() {
	for _, p := range w.woundable() {
		for _, id := range w.replicas(p) {
			if !w.nodes[id].up && w.mayWound(p, id) {
				d := w.nodes[id].disks[p.index]
				w.counts.LostBytes++
				w.noteWound(p, id)
				d.wound(d.start + w.rng.IntN(d.promised-d.start))
				return
			}
		}
	}
}

// faultFound lets a follower find damage while it runs, as a scrub or a compaction does, or
// in some runs a leader.
func (w *World) faultFound() {
	parts := w.woundable()
	if w.mix.beyond && w.chance(75) {
		w.foundInLeader(parts)
		return
	}
	for _, p := range parts {
		for _, id := range w.replicas(p) {
			n := w.nodes[id]
			if !n.up || n.paused || !w.mayWound(p, id) {
				continue
			}
			r := w.healthy(id, p)
			if r == nil || r.cutting || r.reporting || r.state.Role() == partition.RoleLeader {
				continue
			}
			w.counts.FoundDamage++
			w.noteWound(p, id)
			r.disk.wound(r.disk.start + w.rng.IntN(r.disk.promised-r.disk.start))
			r.disk.damage, r.hurt = partition.DamageCorrupt, true
			r.step(partition.LogDamaged(partition.DamageCorrupt))
			n.after(w.between(0, 100*time.Millisecond), "tells of damage", n.reconcile)
			return
		}
	}
}

// foundInLeader fills the disks of the others of a partition, so that they leave the in-sync set and its
// leader is the last holder, lets that one find damage, and an operator give up what is
// behind it, at once.
func (w *World) foundInLeader(parts []*part) {
	for _, p := range parts {
		l := w.leaderOf(p)
		if l == nil || !l.up || l.paused {
			continue
		}
		w.setMinISR(p, 1) // with more the others are eligible, and nothing is given up
		until := w.now.Add(w.between(time.Second, 3*time.Second))
		for _, id := range w.replicas(p) {
			if id != l.id {
				w.nodes[id].full = until
			}
		}
		w.after(w.between(300*time.Millisecond, time.Second), "the last holder finds damage", func() {
			if !w.healed {
				w.giveUp(p, l)
			}
		})
		return
	}
}

// giveUp lets a leader find damage, and tell of it as it is ordered to. Where others are in
// sync or eligible they lead then.
func (w *World) giveUp(p *part, n *node) {
	now, seen := w.meta.latest().TopicByID(p.topic), n.image.TopicByID(p.topic)
	r := w.healthy(n.id, p)
	if now == nil || seen == nil || seen.Partitions[0].Leader != n.id || n.paused || !w.mayWound(p, n.id) ||
		r == nil || r.cutting || r.reporting || r.state.Role() != partition.RoleLeader {
		return
	}
	w.counts.GivenUp++
	w.noteWound(p, n.id)
	r.disk.wound(r.disk.start + w.rng.IntN(r.disk.promised-r.disk.start))
	r.disk.damage, r.hurt, r.givesUp = partition.DamageCorrupt, true, true
	n.reconcile()
}

// faultLies cuts the power of a node whose drive has confirmed what it kept in a cache of its
// own: what it forgets the checkpoint forgets, too, so that no recovery can tell. Often it is
// the last in sync of a partition whose others died a moment before.
func (w *World) faultLies() {
	parts := slices.DeleteFunc(w.woundable(), func(p *part) bool {
		l := w.leaderOf(p)
		return l == nil || !l.up || !w.mayWound(p, l.id) || !w.quorumWithout(p, l)
	})
	if len(parts) == 0 || w.chance(20) {
		w.forget(w.anyNode())
		return
	}
	l := w.leaderOf(parts[0])
	for _, id := range w.replicas(parts[0]) {
		if o := w.nodes[id]; o != l && o.up {
			w.endOf(o)
			w.restart(o, w.between(time.Second, 3*time.Second))
		}
	}
	w.after(w.between(200*time.Millisecond, 1200*time.Millisecond), "the last in sync loses power", func() {
		if !w.healed {
			w.forget(l)
		}
	})
}

// quorumWithout: with all replicas of a partition down but one, the metadata goes on, so that
// they are fenced.
func (w *World) quorumWithout(p *part, but *node) bool {
	votes := 0
	for _, n := range w.nodes[:voters] {
		if n.up && !n.paused && (n == but || !slices.Contains(w.replicas(p), n.id)) {
			votes++
		}
	}
	return votes > voters/2
}

// forget cuts the power of a node, whose disk forgets something of every partition of which
// another has everything.
func (w *World) forget(n *node) {
	if !n.up {
		return
	}
	var lost []*part
	for _, p := range w.woundable() {
		if w.mayWound(p, n.id) {
			lost = append(lost, p)
		}
	}
	if len(lost) == 0 {
		return
	}
	w.counts.LyingDisks++
	n.powerCut()
	w.restart(n, w.downTime())
	for _, p := range lost {
		d := n.disks[p.index]
		w.noteWound(p, n.id)
		d.forgetTo(d.start + w.rng.IntN(d.promised-d.start))
	}
}

// woundable are the partitions whose promise outlives lost bytes, in any order.
func (w *World) woundable() []*part {
	var out []*part
	for _, i := range w.rng.Perm(len(w.parts)) {
		if p := w.parts[i]; p.synced && !p.acksOne && w.meta.latest().TopicByID(p.topic) != nil {
			out = append(out, p)
		}
	}
	return out
}

// noteWound counts the wounds that come on top of another disk's failure, and notes the
// partitions that nobody holds whole any more.
func (w *World) noteWound(p *part, id int32) {
	p.beyond = p.beyond || !w.keeps(p, id)
	if slices.ContainsFunc(w.nodes, func(n *node) bool { return n.id != id && (n.failing || n.failedLog()) }) {
		w.counts.TwoDisks++
	}
}

// mayWound: the replica has something to lose, and another that is in sync or eligible,
// and unhurt, keeps all that anybody was ever shown, whether that one's log takes records
// or not. In some runs no other need be: then the loss must not be a silent one.
func (w *World) mayWound(p *part, id int32) bool {
	d := w.nodes[id].disk(p)
	if w.opts.Quiet != nil || d == nil || d.promised <= d.start || d.wounded || d.damage != partition.DamageNone {
		return false
	}
	return w.mix.beyond || w.keeps(p, id)
}

// wounded reports whether a disk has lost bytes of a partition.
func (w *World) wounded(p *part) bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool {
		d := n.disk(p)
		return d != nil && d.wounded
	})
}

// keeps: some replica but one is in sync or eligible, and holds everything.
func (w *World) keeps(p *part, but int32) bool {
	q := w.meta.latest().TopicByID(p.topic).Partitions[0]
	return !q.Moving() && slices.ContainsFunc(w.replicas(p), func(id int32) bool {
		return id != but && (q.InISR(id) || q.InELR(id)) && w.hasAll(p, id)
	})
}

// hasAll: the disk of a node holds all that anybody was ever shown, unhurt.
func (w *World) hasAll(p *part, id int32) bool {
	d := w.nodes[id].disk(p)
	return d != nil && !d.wounded && d.damage == partition.DamageNone && d.durable >= len(p.committed)
}

func (w *World) faultClock() {
	w.counts.ClockSteps++
	w.anyNode().skew += w.between(-20*time.Second, 20*time.Second)
}

func (w *World) faultController() {
	w.meta.elect()
}

// heal puts everything right: the liveness phase begins. In its first part one node
// may stay away, and logs that failed stay failed: the others must do without.
func (w *World) heal() {
	w.trace("HEAL")
	w.healed = true
	w.net.heal()
	for _, c := range w.clients {
		c.acked = 0
	}
	if w.chance(50) {
		w.gone = w.anyNode()
		w.gone.kill()
	}
	for _, n := range w.nodes {
		n.resume()
		n.hung, n.slow, n.blind, n.full, n.failing = time.Time{}, time.Time{}, time.Time{}, time.Time{}, false
		if n.up && (n.stopping || slices.ContainsFunc(n.replicas, func(r *replica) bool { return r != nil && r.flushing })) {
			n.kill()
		}
		if !n.up {
			w.restart(n, w.between(0, time.Second))
		}
	}
}

// healAll brings the rest back.
func (w *World) healAll() {
	w.trace("HEAL ALL")
	w.gone = nil
	for _, c := range w.clients {
		c.acked = 0
	}
	for _, n := range w.nodes {
		if n.up && n.failedLog() {
			n.kill()
		}
		if !n.up {
			w.restart(n, w.between(0, time.Second))
		}
	}
}
