package sim

import (
	"fmt"

	"github.com/penstock/penstock/broker/partition"
)

// checkAble: without one node, and without logs that failed, whoever could lead does.
func (w *World) checkAble() {
	if missing := w.unable(true); missing != "" && w.err == nil {
		w.fail(Live, "healed but for %v, for %v, and still: %s", w.goneName(), partialTime, missing)
	}
}

func (w *World) goneName() string {
	if w.gone == nil {
		return "failed logs"
	}
	return fmt.Sprintf("node %d", w.gone.id)
}

// unable says which partition takes no records although a healthy replica is there
// from which the leader may come, and enough others that follow it: who refuses a leader whose
// drive forgot what is committed waits for one of the sets that has it.
func (w *World) unable(tell bool) string {
	for _, n := range w.nodes {
		if n != w.gone && (!n.up || n.brokerEpoch == 0) {
			return fmt.Sprintf("node %d is not registered", n.id)
		}
	}
	for _, p := range w.parts {
		t := w.meta.latest().TopicByID(p.topic)
		if t == nil || p.unseen {
			continue
		}
		q := t.Partitions[0]
		healthy, able := 0, false
		for _, id := range w.replicas(p) {
			if r := w.healthy(id, p); r != nil {
				if r.refuses != r.state.Epoch() {
					healthy++
				}
				able = able || q.InISR(id) || q.InELR(id)
			}
		}
		if !able {
			continue
		}
		acks := partition.AcksAll
		if healthy < t.MinISR(q) {
			acks = partition.AcksLeader
		}
		if l := w.leaderOf(p); l == nil || w.healthy(l.id, p) == nil || l.replicas[p.index].state.Admit(acks) != partition.OutcomeOK {
			if !tell {
				return "not yet"
			}
			return fmt.Sprintf("partition %d: leader %d, in sync %v, eligible %v, last %v; %s", p.index, q.Leader, q.ISR, q.ELR, q.LastISR, w.describe(p))
		}
	}
	return ""
}

// healthy is a replica whose process is there and whose log is well; nil: it is not.
func (w *World) healthy(id int32, p *part) *replica {
	n := w.nodes[id]
	if !n.up || p.index >= len(n.replicas) || n.replicas[p.index] == nil || n.replicas[p.index].state.Damage() != partition.DamageNone {
		return nil
	}
	return n.replicas[p.index]
}

// settled: the healed cluster is whole again.
func (w *World) settled() bool { return w.unsettled(false) == "" }

// unsettled says what is still missing; at length if told so.
func (w *World) unsettled(tell bool) string {
	say := func(format string, args ...any) string {
		if !tell {
			return "not yet"
		}
		return fmt.Sprintf(format, args...)
	}
	for _, n := range w.nodes {
		if !n.up || n.brokerEpoch == 0 {
			return say("node %d is not registered", n.id)
		}
	}
	for _, p := range w.parts {
		t := w.meta.latest().TopicByID(p.topic)
		if p.deletedAt != 0 {
			if left := w.leftOf(p); left != "" {
				return say("%s", left)
			}
			continue
		}
		if t == nil {
			return say("topic %s is missing", p.name)
		}
		if p.unseen {
			continue
		}
		if q := t.Partitions[0]; q.Leader < 0 || len(q.ISR) != len(q.Replicas) || q.Moving() {
			return say("partition %d: leader %d, in sync %v, eligible %v, last %v; %s", p.index, q.Leader, q.ISR, q.ELR, q.LastISR, w.describe(p))
		}
		for _, id := range w.replicas(p) {
			if have := len(w.nodes[id].log(p.index)); have < len(p.committed) {
				return say("partition %d: node %d holds %d of %d", p.index, id, have, len(p.committed))
			}
		}
	}
	for i, c := range w.clients {
		if c.acked < 3 && c.part.deletedAt == 0 && !c.part.unseen {
			return say("producer %d of partition %d got %d acknowledgements", i, c.part.index, c.acked)
		}
	}
	return ""
}

// describe says what the replicas of a partition do.
func (w *World) describe(p *part) (out string) {
	for _, id := range w.replicas(p) {
		n := w.nodes[id]
		if !n.up || p.index >= len(n.replicas) || n.replicas[p.index] == nil {
			out += fmt.Sprintf("node %d: none; ", id)
			continue
		}
		r := n.replicas[p.index]
		session, on := r.state.Session()
		out += fmt.Sprintf("node %d: %v of epoch %d (%d), end %d, flushed %d, watermark %d, damage %d, session %d (on %v), image %d, followers %+v; ",
			id, r.state.Role(), r.state.Epoch(), r.state.PartitionEpoch(), r.state.End(), r.disk.durable, r.state.HighWatermark(), r.state.Damage(),
			session, on, n.image.Index(), r.state.Followers(nil))
	}
	return out
}

// checkEnd: all that was acknowledged is on every replica, and all logs are the same
// as far as they are committed.
func (w *World) checkEnd() {
	if w.err != nil {
		return
	}
	if missing := w.unsettled(true); missing != "" {
		w.fail(Live, "healed for %v, and still: %s", livenessTime, missing)
		return
	}
	for _, p := range w.parts {
		if p.deletedAt != 0 || p.unseen {
			continue
		}
		for _, id := range w.replicas(p) {
			w.checkWhole(p, id)
		}
	}
}

func (w *World) checkWhole(p *part, id int32) {
	log, start := w.nodes[id].log(p.index), w.nodes[id].logStart(p.index)
	for _, a := range p.acked {
		if a.offset < start {
			continue // deleted, as checkStart knows
		}
		if a.offset >= len(log) || log[a.offset] != a.e {
			w.fail(Acked, "partition %d: acknowledged %+v is not at offset %d of node %d", p.index, a.e, a.offset, id)
			return
		}
	}
	for i, e := range p.committed {
		if i >= start && log[i] != e {
			w.fail(StrongISR, "partition %d: node %d holds %+v at %d, committed is %+v", p.index, id, log[i], i, e)
			return
		}
	}
}
