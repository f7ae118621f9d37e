package sim

import (
	"fmt"
	"time"
)

// network decides what arrives. Messages between two replicas are one stream:
// they arrive in the order in which they were sent, but for a few that come again
// later; one that is lost breaks the stream.
type network struct {
	w    *World
	cut  [][]bool // from, to
	slow time.Duration
	last map[streamKey]time.Time // when the newest message of a stream arrives
}

type streamKey struct {
	from, to int32
	part     int
}

func newNetwork(w *World) *network {
	n := &network{w: w, slow: 2 * time.Millisecond, last: map[streamKey]time.Time{}}
	for range w.opts.Nodes {
		n.cut = append(n.cut, make([]bool, w.opts.Nodes))
	}
	return n
}

func (n *network) open(from, to int32) bool { return from == to || !n.cut[from][to] }

func (n *network) both(a, b int32) bool { return n.open(a, b) && n.open(b, a) }

func (n *network) heal() {
	for i := range n.cut {
		clear(n.cut[i])
	}
}

// delay draws how long a message takes.
func (n *network) delay() time.Duration {
	if n.w.chance(1) {
		return n.w.between(0, 200*time.Millisecond)
	}
	return n.w.between(50*time.Microsecond, n.slow)
}

// send lets a message of a replication stream travel. do runs at the receiver;
// lost runs when it did not arrive.
func (n *network) send(from, to *node, part int, what string, do, lost func()) {
	key := streamKey{from.id, to.id, part}
	if !n.open(from.id, to.id) || n.w.chance(0.1) {
		lost()
		return
	}
	at := n.w.now.Add(n.delay())
	if last := n.last[key]; at.Before(last) {
		at = last
	}
	n.last[key] = at
	generation := to.generation
	deliver := func() {
		if !n.open(from.id, to.id) || !to.up || to.generation != generation {
			lost()
			return
		}
		to.run(do)
	}
	name := fmt.Sprintf("%d>%d/%d %s", from.id, to.id, part, what)
	n.w.after(at.Sub(n.w.now), name, deliver)
	if n.w.chance(0.5) {
		n.w.after(at.Sub(n.w.now)+n.w.between(0, time.Second), name+" again", deliver)
	}
}
