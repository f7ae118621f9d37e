package sim

import (
	"fmt"
	"time"
)

// network decides what arrives. Messages of one replication session travel on one
// stream: they arrive in the order in which they were sent, but for some that come
// again later; one that is lost breaks the stream, and one that stalls holds up those
// behind it. Other sessions overtake it, even later ones of the same partition, for a
// broken stream's last messages may wait in the receiver's machine.
type network struct {
	w   *World
	cut [][]bool          // from, to
	lag [][]time.Duration // from, to: the longest time of a message
	// frozen: until then nothing arrives, then all that was sent meanwhile at once, the
	// sessions in any order.
	frozen [][]time.Time // from, to
	// last is when the newest message of a stream arrives.
	last map[streamKey]time.Time
	// seen is the newest session that delivered something, to count what comes after.
	seen map[linkKey]uint64
	// kept is the last message of each kind on a link, which may come again when it
	// hurts most.
	kept map[keptKey]keptMessage
	// insist: until then it does.
	insist map[linkKey]time.Time
}

type keptKey struct {
	linkKey
	what string
}

type keptMessage struct {
	session uint64
	deliver func()
}

type linkKey struct {
	from, to int32
	part     int
}

type streamKey struct {
	linkKey
	session uint64
}

// usualLag is the longest time of a message when nothing is wrong.
const usualLag = 2 * time.Millisecond

func newNetwork(w *World) *network {
	n := &network{w: w, last: map[streamKey]time.Time{}, seen: map[linkKey]uint64{}, kept: map[keptKey]keptMessage{}, insist: map[linkKey]time.Time{}}
	for range w.opts.Nodes {
		n.cut = append(n.cut, make([]bool, w.opts.Nodes))
		n.lag = append(n.lag, make([]time.Duration, w.opts.Nodes))
		n.frozen = append(n.frozen, make([]time.Time, w.opts.Nodes))
	}
	n.heal()
	return n
}

func (n *network) open(from, to int32) bool { return from == to || !n.cut[from][to] }

func (n *network) both(a, b int32) bool { return n.open(a, b) && n.open(b, a) }

// heal ends cuts, quicken slowness.
func (n *network) heal() {
	for i := range n.cut {
		clear(n.cut[i])
		clear(n.frozen[i])
	}
	n.quicken()
}

func (n *network) quicken() {
	for i := range n.lag {
		for j := range n.lag[i] {
			n.lag[i][j] = usualLag
		}
	}
}

// delay draws how long a message of a client takes.
func (n *network) delay() time.Duration {
	if n.w.chance(1) {
		return n.w.between(0, 200*time.Millisecond)
	}
	return n.w.between(50*time.Microsecond, usualLag)
}

// between draws how long a message from one node to another takes.
func (n *network) between(from, to int32) time.Duration {
	if n.w.chance(1) {
		return n.w.between(0, 200*time.Millisecond)
	}
	return n.w.between(50*time.Microsecond, n.lag[from][to])
}

// send lets a message of a replication session travel. do runs at the receiver;
// lost runs when it did not arrive.
func (n *network) send(from, to *node, part int, session uint64, what string, do, lost func()) {
	if !n.open(from.id, to.id) || !n.w.healed && n.w.chance(n.w.mix.drop) {
		n.w.counts.DroppedMessages++
		lost()
		return
	}
	link := linkKey{from.id, to.id, part}
	key := streamKey{link, session}
	at := n.w.now
	if frozen := n.frozen[from.id][to.id]; frozen.After(at) {
		at = frozen
	}
	at = at.Add(n.between(from.id, to.id))
	if !n.w.healed && n.w.chance(n.w.mix.stall) {
		n.w.counts.StalledMessages++
		at = at.Add(n.w.between(0, 5*time.Second))
	}
	if last := n.last[key]; at.Before(last) {
		at = last
	}
	n.last[key] = at
	generation := to.generation
	deliver := func() {
		if !n.open(from.id, to.id) && n.w.chance(50) || !to.up || to.generation != generation {
			n.w.counts.DroppedMessages++
			lost()
			return
		}
		if session < n.seen[link] {
			n.w.counts.Overtaken++
		}
		n.seen[link] = max(n.seen[link], session)
		to.run(do)
	}
	name := fmt.Sprintf("%d>%d/%d.%d %s", from.id, to.id, part, session, what)
	n.w.after(at.Sub(n.w.now), name, deliver)
	n.kept[keptKey{link, what}] = keptMessage{session, deliver}
	if !n.w.healed && n.w.chance(n.w.mix.again) {
		n.w.counts.RepeatedMessages++
		n.w.after(at.Sub(n.w.now)+n.w.between(0, 3*time.Second), name+" again", deliver)
	}
}

// replay lets the last message of a kind come again, soon after one of a newer session;
// often what the newer one sends back takes its time.
func (n *network) replay(from, to int32, part int, session uint64, what string) {
	link := linkKey{from, to, part}
	m, ok := n.kept[keptKey{link, what}]
	insists := n.insist[link].After(n.w.now)
	if !ok || m.session == session || n.w.healed || !insists && !n.w.chance(30) {
		return
	}
	n.w.counts.Replays++
	n.w.after(n.w.between(0, 3*time.Millisecond), fmt.Sprintf("%d>%d/%d.%d %s, an old one", from, to, part, m.session, what), m.deliver)
	if insists || n.w.chance(50) {
		n.last[streamKey{linkKey{to, from, part}, session}] = n.w.now.Add(n.w.between(0, 500*time.Millisecond))
	}
}
