package sim

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/log/record"
)

const (
	produceTimeout = 1500 * time.Millisecond
	produceWait    = 10 * time.Second
)

// producer is an idempotent producer of one partition with one request under way,
// which it repeats until it knows.
type producer struct {
	w        *World
	part     *part
	id       int64
	sequence int32
	value    int64
	attempt  int
	// known is the newest leader epoch that answered: the client goes to no older one.
	known record.Epoch
	// acked counts what was acknowledged since the cluster was healed.
	acked int
}

// produce is one request at one broker.
type produce struct {
	c       *producer
	attempt int
	e       entry
	offset  int
	acks    partition.Acks
	by      record.Epoch // of the leader that took it
}

func (w *World) startClients() {
	for _, p := range w.parts {
		for range 2 {
			c := &producer{w: w, part: p}
			w.clients = append(w.clients, c)
			c.renew()
			w.after(3*time.Second+w.between(0, 500*time.Millisecond), "producer begins", c.next)
		}
		r := &consumer{w: w, part: p}
		w.readers = append(w.readers, r)
		w.after(3*time.Second, "consumer begins", r.poll)
	}
}

// renew takes another producer id: the old one's sequence is lost.
func (c *producer) renew() {
	c.w.number++
	c.id, c.sequence = int64(c.w.number), 0
}

// next begins with another record.
func (c *producer) next() {
	c.w.number++
	c.value = int64(c.w.number)
	c.send()
}

func (c *producer) send() {
	c.attempt++
	attempt := c.attempt
	c.w.after(produceTimeout, "produce timeout", func() {
		if c.attempt == attempt {
			c.send()
		}
	})
	p := &produce{c: c, attempt: attempt, e: entry{value: c.value, producer: c.id, sequence: c.sequence}, acks: partition.AcksAll}
	if c.part.acksOne {
		p.acks = partition.AcksLeader
	}
	n := c.w.nodes[c.target()]
	c.w.after(c.w.net.delay(), fmt.Sprintf("produce %d to %d/%d", c.value, n.id, c.part.index), func() {
		if n.up {
			n.run(func() { n.produce(p) })
		}
	})
}

// target is mostly the leader.
func (c *producer) target() int32 {
	if t := c.w.meta.latest().TopicByID(c.part.topic); t != nil && c.w.chance(90) && t.Partitions[0].Leader >= 0 {
		return t.Partitions[0].Leader
	}
	return c.part.replicas[c.w.rng.IntN(len(c.part.replicas))]
}

// produce is the broker's part.
func (n *node) produce(p *produce) {
	if p.c.part.index >= len(n.replicas) || n.replicas[p.c.part.index] == nil {
		p.answer(partition.OutcomeNotLeader)
		return
	}
	r := n.replicas[p.c.part.index]
	if r.state.Epoch() < p.c.known {
		p.answer(partition.OutcomeNotLeader)
		return
	}
	if o := r.state.Admit(p.acks); o != partition.OutcomeOK {
		p.answer(o)
		return
	}
	at, last := r.disk.find(p.e.producer, p.e.sequence)
	deadline := n.clock().Add(produceWait)
	r.handles++
	handle := r.handles
	r.waiters[handle] = p
	p.by = r.state.Epoch()
	p.e.epoch = p.by
	switch {
	case at >= 0:
		n.w.counts.Duplicates++
		p.offset = at
		p.e.epoch = r.disk.entries[at].epoch
		r.step(partition.Wait(offsetOf(at+1), p.acks, handle, deadline))
	case last+1 != p.e.sequence:
		delete(r.waiters, handle)
		if !p.c.part.lossy && !p.c.part.acksOne {
			n.w.fail("partition %d: producer %d sends sequence %d to node %d, whose log has %d: an acknowledged record is missing",
				r.part, p.e.producer, p.e.sequence, n.id, last)
		}
		n.w.after(n.w.net.delay(), "out of order", func() {
			if p.c.attempt == p.attempt {
				p.c.renew()
				p.c.next()
			}
		})
	default:
		p.offset = len(r.disk.entries)
		r.disk.entries = append(r.disk.entries, p.e)
		r.step(partition.Appended(offsetOf(p.offset), offsetOf(p.offset+1), p.acks, handle, deadline))
		r.flush()
	}
}

// answer goes back to the client, which repeats what it does not know.
func (p *produce) answer(o partition.Outcome) {
	c := p.c
	c.w.after(c.w.net.delay(), fmt.Sprintf("answer %d: %s", p.e.value, o), func() {
		switch {
		case c.attempt != p.attempt:
		case o != partition.OutcomeOK:
			c.attempt++
			attempt := c.attempt
			c.w.after(c.w.between(10*time.Millisecond, 200*time.Millisecond), "produce again", func() {
				if c.attempt == attempt {
					c.send()
				}
			})
		default:
			c.w.counts.Acked++
			c.known = max(c.known, p.by)
			c.acked++
			c.sequence++
			c.attempt++
			c.w.after(c.w.between(0, 400*time.Millisecond), "next record", c.next)
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
	defer c.w.after(c.w.between(20*time.Millisecond, 200*time.Millisecond), "poll", c.poll)
	n := c.w.nodes[c.part.replicas[c.w.rng.IntN(len(c.part.replicas))]]
	if !n.up || n.paused || n.suspended || c.part.index >= len(n.replicas) {
		return
	}
	r := n.replicas[c.part.index]
	if r == nil || r.state.Role() != partition.RoleLeader || c.part.lossy {
		return
	}
	hw := int(r.state.HighWatermark())
	for ; c.at < hw; c.at++ {
		c.w.counts.Read++
		if c.at >= len(c.part.committed) || r.disk.entries[c.at] != c.part.committed[c.at] {
			c.w.fail("partition %d: node %d lets offset %d be read, which holds something else than was committed", r.part, n.id, c.at)
			return
		}
	}
}
