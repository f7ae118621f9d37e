package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/log/record"
)

const (
	produceTimeout = 1500 * time.Millisecond
	produceWait    = 10 * time.Second
	// maxWindow is how many requests an idempotent producer may have under way:
	// logs remember so many of its batches.
	maxWindow = 5
)

// producer is an idempotent producer of one partition. It has a few requests under
// way, each of one record, and repeats each until it knows how it ended.
type producer struct {
	w        *World
	part     *part
	id       int64
	sequence int32 // the next one
	sends    []*send
	// known is the newest leader epoch that answered: the client goes to no older one.
	known record.Epoch
	// lastAcked is the last sequence that was acknowledged; -1: none.
	lastAcked int32
	// acked counts what was acknowledged since the cluster was healed.
	acked int
	// due: the next record comes by itself; again: what is under way is sent again soon.
	due, again bool
	// node is where the last request went, and arrives is when: one connection, in order.
	node    int32
	arrives time.Time
}

// send is one record on its way.
type send struct {
	c        *producer
	value    int64
	sequence int32
	attempt  int
	done     bool
	timeout  *event
}

// produce is one attempt of a send, at one broker.
type produce struct {
	*send
	attempt  int
	e        entry
	offset   int
	appended bool
	acks     partition.Acks
	by       record.Epoch // of the leader that took it
}

func (w *World) startClients() {
	for _, p := range w.parts {
		w.startClientsOf(p)
	}
}

func (w *World) startClientsOf(p *part) {
	for range 2 {
		c := &producer{w: w, part: p}
		w.clients = append(w.clients, c)
		c.renew()
		c.due = true
		w.after(time.Second+w.between(0, 500*time.Millisecond), "producer begins", c.next)
	}
	r := &consumer{w: w, part: p}
	w.readers = append(w.readers, r)
	w.after(time.Second, "consumer begins", r.poll)
}

// renew takes another producer id: the old one's sequence is lost, and what is under
// way given up.
func (c *producer) renew() {
	c.w.number++
	c.id, c.sequence, c.lastAcked = int64(c.w.number), 0, -1
	for _, s := range c.sends {
		s.end()
	}
	c.sends = nil
}

// soon lets the next record begin, if the window has room for it: the log remembers so
// many records back from the last one, whichever of them were acknowledged.
func (c *producer) soon() {
	if !c.due && (len(c.sends) == 0 || int(c.sequence-c.sends[0].sequence) < c.w.mix.window) {
		c.due = true
		c.w.after(c.w.between(0, c.w.mix.rest), "next record", c.next)
	}
}

// next begins with another record.
func (c *producer) next() {
	if c.part.closed {
		return
	}
	c.w.number++
	s := &send{c: c, value: int64(c.w.number), sequence: c.sequence}
	c.w.sent[s.value] = c.part.index
	c.sequence++
	c.sends = append(c.sends, s)
	s.send()
	c.due = false
	c.soon()
}

func (s *send) send() {
	if s.c.part.closed {
		s.end()
		return
	}
	s.attempt++
	attempt, c, w := s.attempt, s.c, s.c.w
	s.timeout.callOff()
	s.timeout = w.after(produceTimeout, "produce timeout", func() {
		if !s.done && s.attempt == attempt {
			c.sendAgain()
		}
	})
	p := &produce{send: s, attempt: attempt, e: entry{value: s.value, producer: c.id, sequence: s.sequence}, acks: partition.AcksAll}
	if c.part.acksOne {
		p.acks = partition.AcksLeader
	}
	if s == c.sends[0] {
		c.choose()
	}
	n := w.nodes[c.node]
	arrive := func() {
		if n.up {
			q := *p // the one that arrives twice is two requests
			n.run(func() { n.produce(&q) })
		}
	}
	at := w.now.Add(w.net.delay())
	if at.Before(c.arrives) {
		at = c.arrives
	}
	c.arrives = at
	what := fmt.Sprintf("produce %d to %d/%d", s.value, n.id, c.part.index)
	w.after(at.Sub(w.now), what, arrive)
	if w.chance(0.5) { // as a request does that was given up and repeated
		w.after(at.Sub(w.now)+w.between(0, 4*time.Second), what+" again", arrive)
	}
}

// choose goes to another broker if need be: mostly to the leader.
func (c *producer) choose() {
	node := c.w.replicas(c.part)[c.w.rng.IntN(len(c.w.replicas(c.part)))]
	if l := c.w.leaderOf(c.part); l != nil && c.w.chance(90) {
		node = l.id
	}
	if node != c.node {
		c.node, c.arrives = node, c.w.now
	}
}

// sendAgain sends all that is under way again, in order, after a short rest.
func (c *producer) sendAgain() {
	if c.again {
		return
	}
	c.again = true
	c.w.after(c.w.between(10*time.Millisecond, 300*time.Millisecond), "produce again", func() {
		c.again = false
		for _, s := range c.sends {
			s.send()
		}
	})
}

// produce is the broker's part.
func (n *node) produce(p *produce) {
	part := p.c.part
	if part.index >= len(n.replicas) || n.replicas[part.index] == nil {
		p.answer(partition.OutcomeNotLeader)
		return
	}
	r := n.replicas[part.index]
	if r.state.Epoch() < p.c.known {
		p.answer(partition.OutcomeNotLeader)
		return
	}
	if o := r.state.Admit(p.acks); o != partition.OutcomeOK {
		p.answer(o)
		return
	}
	if n.full.After(n.w.now) {
		n.w.counts.RefusedFull++
		p.answer(partition.OutcomeNotEnoughReplicas) // an error of its own, before anything is appended
		return
	}
	n.w.checkActing(r, "takes a record")
	p.by = r.state.Epoch()
	p.e.epoch = p.by
	at, last := r.look(p.e)
	if r.disk.real != nil && r.disk.real.Err() != nil {
		r.step(partition.LogFailed())
		p.answer(partition.OutcomeStorageFailed)
		return
	}
	deadline := n.clock().Add(produceWait)
	r.handles++
	handle := r.handles
	r.waiters[handle] = p
	switch {
	case at >= 0:
		n.w.counts.Duplicates++
		p.offset, p.appended = at, true
		if at < len(r.disk.entries) {
			p.e.epoch = r.disk.entries[at].epoch
		}
		r.step(partition.Wait(offsetOf(at+1), p.acks, handle, deadline))
	case last+1 != p.e.sequence:
		delete(r.waiters, handle)
		n.w.counts.OutOfOrder++
		n.w.checkSequence(r, p, last)
		p.outOfOrder(last)
	default:
		p.offset, p.appended = len(r.disk.entries), true
		r.disk.entries = append(r.disk.entries, p.e)
		r.step(partition.Appended(offsetOf(p.offset), offsetOf(p.offset+1), p.acks, handle, deadline))
		r.flush()
	}
}

// look says where a record is that the log has, else -1, and the last sequence of its
// producer; -1: none. A real log, whose appends say that, has taken the record if it is
// the next one.
func (r *replica) look(e entry) (at int, last int32) {
	if r.disk.real == nil {
		return r.disk.find(e.producer, e.sequence)
	}
	at, dup, last, err := r.disk.appendReal(r.w(), e)
	switch {
	case dup:
		return at, 0
	case err != nil:
		return -1, last
	case at != len(r.disk.entries):
		r.w().fail(Immutable, "partition %d: node %d appends at %d, its log ends at %d", r.part, r.n.id, at, len(r.disk.entries))
	}
	return -1, e.sequence - 1
}

// outOfOrder answers a sequence that does not follow the log's last one. An earlier
// record may be on its way; if one was acknowledged and is gone, which may be with
// acks=1 or after an election that may lose records, the producer begins anew.
func (p *produce) outOfOrder(last int32) {
	c := p.c
	c.w.after(c.w.net.delay(), "out of order", func() {
		switch {
		case p.done || p.send.attempt != p.attempt:
		case last < c.lastAcked:
			c.renew()
			c.soon()
		default:
			c.sendAgain()
		}
	})
}

func (s *send) end() {
	s.done = true
	s.timeout.callOff()
}

// answer goes back to the client, which repeats what it does not know.
func (p *produce) answer(o partition.Outcome) {
	c := p.c
	c.w.after(c.w.net.delay(), fmt.Sprintf("answer %d: %s", p.e.value, o), func() {
		switch {
		case p.done:
		case o == partition.OutcomeOK: // of whatever attempt
			p.end()
			c.sends = slices.DeleteFunc(c.sends, func(s *send) bool { return s == p.send })
			c.w.counts.Acked++
			c.known = max(c.known, p.by)
			c.lastAcked = max(c.lastAcked, p.sequence)
			c.acked++
			c.soon()
		case p.send.attempt == p.attempt:
			c.sendAgain()
		}
	})
}

// lost: the process died and answers nobody.
func (*produce) lost() {}

// consumer reads from whoever leads.
type consumer struct {
	w    *World
	part *part
	at   int
}

func (c *consumer) poll() {
	if c.part.closed {
		return
	}
	defer c.w.after(c.w.between(50*time.Millisecond, 600*time.Millisecond), "poll", c.poll)
	n := c.w.nodes[c.w.replicas(c.part)[c.w.rng.IntN(len(c.w.replicas(c.part)))]]
	if !n.up || n.paused || n.suspended || c.part.index >= len(n.replicas) {
		return
	}
	r := n.replicas[c.part.index]
	if r == nil || r.state.Role() != partition.RoleLeader || r.state.Epoch() < c.part.lossyEpoch || c.part.unseen {
		return
	}
	hw := int(r.state.HighWatermark())
	if c.at < r.disk.start { // out of range: it goes on with the earliest record
		c.w.counts.OutOfRange++
		t := c.w.meta.latest().TopicByID(c.part.topic) // one that was replaced asks the controller first
		c.w.checkStart(c.part, n, t != nil && t.Partitions[0].InISR(n.id))
		c.at = r.disk.start
	}
	for ; c.at < hw; c.at++ {
		c.w.counts.Read++
		if c.at >= len(c.part.committed) || c.at >= len(r.disk.entries) || r.disk.entries[c.at] != c.part.committed[c.at] {
			c.w.fail(Visible, "partition %d: node %d lets offset %d be read, which holds something else than was committed", r.part, n.id, c.at)
			return
		}
	}
}
