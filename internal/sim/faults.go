package sim

import (
	"fmt"
	"slices"
	"time"
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
		{8, "failed flush", (*World).faultFlush},
		{5, "hung flush", (*World).faultHang},
		{6, "lost bytes", (*World).faultBytes},
		{4, "clock step", (*World).faultClock},
		{5, "controller changes", (*World).faultController},
	}
}

// nextFault lets something go wrong and goes on.
func (w *World) nextFault() {
	if w.healed {
		return
	}
	all := faults()
	total := 0
	for _, f := range all {
		total += f.weight
	}
	k := w.rng.IntN(total)
	for _, f := range all {
		if k -= f.weight; k < 0 {
			w.trace("FAULT " + f.name)
			f.do(w)
			break
		}
	}
	w.after(w.between(50*time.Millisecond, 1500*time.Millisecond), "next fault", w.nextFault)
}

func (w *World) anyNode() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }

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

func (w *World) faultAllDown() {
	w.counts.AllDown++
	power := w.chance(70)
	for _, n := range w.nodes {
		if power {
			n.powerCut()
		} else {
			n.kill()
		}
		w.restart(n, w.between(50*time.Millisecond, 3*time.Second))
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
	w.counts.Cuts++
	a, b := w.anyNode().id, w.anyNode().id
	switch w.rng.IntN(4) {
	case 0:
		w.net.cut[a][b] = a != b
	case 1:
		w.net.cut[a][b], w.net.cut[b][a] = a != b, a != b
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

func (w *World) faultFlush() {
	if n := w.anyNode(); n.up {
		n.failing = true
		w.after(w.between(time.Second, 5*time.Second), fmt.Sprintf("%d is restarted for its log", n.id), func() {
			if n.up && slices.ContainsFunc(n.replicas, func(r *replica) bool { return r != nil && r.failed }) {
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

// faultBytes takes durable bytes away from a replica of a node that is down, as
// a bad sector does; only while the others hold everything, for no system survives
// the loss of all copies.
func (w *World) faultBytes() {
	for _, p := range w.parts {
		t := w.meta.latest().TopicByID(p.topic)
		if !p.synced || p.acksOne || t == nil {
			continue
		}
		for _, id := range p.replicas {
			if w.mayWound(p, id) {
				d := w.nodes[id].disks[p.index]
				w.counts.LostBytes++
				d.wound(w.rng.IntN(d.promised))
				return
			}
		}
	}
}

// mayWound: the node is down with something to lose, and all others are in sync
// and unhurt.
func (w *World) mayWound(p *part, id int32) bool {
	n := w.nodes[id]
	if n.up || p.index >= len(n.disks) || n.disks[p.index] == nil || n.disks[p.index].promised == 0 {
		return false
	}
	q := w.meta.latest().TopicByID(p.topic).Partitions[0]
	for _, other := range p.replicas {
		o := w.nodes[other]
		if other == id {
			continue
		}
		if !o.up || p.index >= len(o.disks) || o.disks[p.index] == nil || o.disks[p.index].wounded || !q.InISR(other) ||
			o.disks[p.index].durable < len(p.committed) {
			return false
		}
	}
	return !n.disks[p.index].wounded
}

func (w *World) faultClock() {
	w.counts.ClockSteps++
	w.anyNode().skew += w.between(-20*time.Second, 20*time.Second)
}

func (w *World) faultController() { w.meta.elect() }

// heal puts everything right: the liveness phase begins.
func (w *World) heal() {
	w.trace("HEAL")
	w.healed = true
	w.net.heal()
	for _, c := range w.clients {
		c.acked = 0
	}
	for _, n := range w.nodes {
		n.resume()
		n.hung, n.failing = time.Time{}, false
		if n.up && (n.stopping || slices.ContainsFunc(n.replicas, func(r *replica) bool { return r != nil && (r.failed || r.flushing) })) {
			n.kill()
		}
		if !n.up {
			w.restart(n, w.between(0, time.Second))
		}
	}
}
