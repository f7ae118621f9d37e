package sim

import (
	"fmt"
	"slices"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

func offsetOf(i int) record.Offset { return record.Offset(i) }

// checkWatermark is called when a leader or a follower moved its watermark.
func (w *World) checkWatermark(r *replica, hw record.Offset) {
	p := w.parts[r.part]
	epoch := r.state.Epoch()
	if epoch == r.shownEpoch && hw < r.shown {
		w.fail("partition %d: node %d's watermark fell from %d to %d in epoch %d", r.part, r.n.id, r.shown, hw, epoch)
	}
	r.shown, r.shownEpoch = hw, epoch
	if r.state.Role() != partition.RoleLeader || epoch < p.lossyEpoch {
		return
	}
	for i := range int(hw) {
		switch {
		case i >= len(r.disk.entries):
			w.fail("partition %d: leader %d's watermark is %d, its log ends at %d", r.part, r.n.id, hw, len(r.disk.entries))
			return
		case i >= len(p.committed):
			p.committed = append(p.committed, r.disk.entries[i])
		case p.committed[i] != r.disk.entries[i]:
			w.fail("partition %d: offset %d held %+v and holds %+v at leader %d of epoch %d", r.part, i, p.committed[i], r.disk.entries[i], r.n.id, epoch)
			return
		}
	}
	w.checkStrongISR(p, r, int(hw))
}

// checkStrongISR: below the watermark of anyone who believes to lead, the logs of
// all committed in-sync members are the same, as safe as the topic asks.
func (w *World) checkStrongISR(p *part, r *replica, hw int) {
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil {
		return
	}
	for _, id := range t.Partitions[0].ISR {
		n := w.nodes[id]
		if p.index >= len(n.disks) || n.disks[p.index] == nil {
			w.fail("partition %d: in-sync member %d has no log", p.index, id)
			return
		}
		d := n.disks[p.index]
		if d.wounded || !p.synced && (!n.up || n.brokerEpoch == 0) {
			continue
		}
		have := len(d.entries)
		if p.synced {
			have = d.durable
		}
		if have < hw {
			w.fail("partition %d: node %d of epoch %d shows %d, in-sync member %d holds %d (durable %d)", p.index, r.n.id, r.state.Epoch(), hw, id, len(d.entries), d.durable)
			return
		}
		if i := differ(d.entries[:hw], p.committed[:hw]); i >= 0 {
			w.fail("partition %d: in-sync member %d holds %+v at %d, committed is %+v", p.index, id, d.entries[i], i, p.committed[i])
			return
		}
	}
}

// differ returns the first place at which two logs differ, looking from the end
// back to where they surely agree; -1: none. Logs that agree in an entry agree in
// all before it.
func differ(a, b []entry) int {
	for i := range slices.Backward(a) {
		if a[i] == b[i] {
			return -1
		}
		if i == 0 || a[i-1] == b[i-1] {
			return i
		}
	}
	return -1
}

// checkAck: what is acknowledged is where it is said to be, and with acks=all
// below the watermark.
func (w *World) checkAck(r *replica, q *produce) {
	p := w.parts[r.part]
	if q.offset >= len(r.disk.entries) || r.disk.entries[q.offset].value != q.e.value {
		w.fail("partition %d: node %d acknowledged value %d at %d, which is not there", r.part, r.n.id, q.e.value, q.offset)
		return
	}
	if q.acks != partition.AcksAll {
		return
	}
	if int(r.state.HighWatermark()) <= q.offset {
		w.fail("partition %d: node %d acknowledged offset %d, its watermark is %d", r.part, r.n.id, q.offset, r.state.HighWatermark())
	}
	if r.state.Epoch() >= p.lossyEpoch {
		p.acked = append(p.acked, ackedRecord{q.offset, r.disk.entries[q.offset]})
	}
}

// checkMatched: when a leader lets a session begin, the follower's log is a
// beginning of the leader's.
func (w *World) checkMatched(l, f *replica, session uint64) {
	if open, _ := f.state.Session(); open != session || f.cutting {
		return // it does something else by now, and will drop the reply
	}
	if len(f.disk.entries) > len(l.disk.entries) {
		w.fail("partition %d: node %d follows %d with a longer log", l.part, f.n.id, l.n.id)
		return
	}
	if i := differ(f.disk.entries, l.disk.entries[:len(f.disk.entries)]); i >= 0 {
		w.fail("partition %d: node %d follows %d, and differs at %d", l.part, f.n.id, l.n.id, i)
	}
}

// checkLeader: a leader epoch has one leader, in one process.
func (w *World) checkLeader(r *replica, epoch record.Epoch) {
	p := w.parts[r.part]
	who := leading{r.n.id, r.n.generation}
	for int(epoch) >= len(p.leaders) {
		p.leaders = append(p.leaders, leading{node: -1})
	}
	if old := p.leaders[epoch]; old.node >= 0 && old != who {
		w.fail("partition %d: epoch %d is led by %+v and by %+v", r.part, epoch, old, who)
	}
	p.leaders[epoch] = who
}

type leading struct {
	node       int32
	generation int
}

// checkRefused: a leader that was elected cleanly holds everything that anybody
// ever showed.
func (w *World) checkRefused(r *replica, e *partition.Effect) {
	if p := w.parts[r.part]; p.synced && !p.lossy && !r.disk.wounded {
		w.fail("partition %d: node %d should truncate to %d, below its watermark %d", r.part, r.n.id, e.Offset, e.HW)
	}
}

// checkImage looks at what a command changed.
func (w *World) checkImage(old, im *metadata.Image, cmd *metav1.Command) {
	for _, p := range w.parts {
		was, is := old.TopicByID(p.topic), im.TopicByID(p.topic)
		if was == nil || is == nil || was == is {
			continue
		}
		a, b := was.Partitions[0], is.Partitions[0]
		if b.LeaderEpoch < a.LeaderEpoch || b.PartitionEpoch < a.PartitionEpoch {
			w.fail("partition %d: epochs fell", p.index)
		}
		if r := cmd.GetRegisterBroker(); r != nil {
			w.checkRegistration(p, a, b, r, old)
		}
		if b.LeaderEpoch > a.LeaderEpoch && b.Leader >= 0 {
			w.countElection(p, a, b, im, cmd)
		}
	}
}

func (w *World) checkRegistration(p *part, a, b *metadata.Partition, r *metav1.RegisterBroker, old *metadata.Image) {
	id := r.GetNodeId()
	if a.Leader == id && b.LeaderEpoch == a.LeaderEpoch {
		w.fail("partition %d: node %d came back and leads epoch %d again", p.index, id, a.LeaderEpoch)
	}
	clean := r.GetCleanStop() && old.Broker(id) != nil && r.GetCleanStopEpoch() == old.Broker(id).Epoch
	if !p.synced && !clean && (b.InISR(id) || b.InELR(id)) && b.Leader != id {
		w.fail("partition %d: node %d may have lost memory and is in sync", p.index, id)
	}
}

// countElection notes where a leader came from. An election from the last in-sync
// set may lose records: from here on its log is the truth.
func (w *World) countElection(p *part, a, b *metadata.Partition, im *metadata.Image, cmd *metav1.Command) {
	from := slices.ContainsFunc(cmd.GetElectLeaders().GetChanges(), func(c *metav1.LeaderChange) bool {
		return metadata.ID(c.GetTopicId()) == p.topic && c.GetFromLastIsr() && c.GetLeader() == b.Leader
	})
	switch {
	case from && !a.InISR(b.Leader) && !a.InELR(b.Leader):
		w.counts.LastISRElections++
		w.adopt(p, b)
	case a.InELR(b.Leader) && !a.InISR(b.Leader):
		w.counts.ELRElections++
	case a.Replica(b.Leader).RecoveredEpoch == im.Broker(b.Leader).Epoch:
		w.counts.RestartElections++
	}
}

// adopt makes the log of a leader from the last in-sync set the truth. In a synced
// partition the set may have been lost for having had nothing to lose, as when its
// brokers stopped before they heard of the topic; records are not lost.
func (w *World) adopt(p *part, b *metadata.Partition) {
	kept := w.nodes[b.Leader].log(p.index)
	lost := slices.ContainsFunc(p.acked, func(r ackedRecord) bool { return r.offset >= len(kept) || kept[r.offset] != r.e })
	if p.synced {
		if lost {
			w.fail("partition %d: an election in a synced partition lost acknowledged records", p.index)
		}
		return
	}
	p.lossy, p.lossyEpoch = true, record.Epoch(b.LeaderEpoch)
	p.committed = slices.Clone(kept)
	p.acked = slices.DeleteFunc(p.acked, func(r ackedRecord) bool { return r.offset >= len(kept) || kept[r.offset] != r.e })
}

// settled: the healed cluster is whole again.
func (w *World) settled() bool { return w.unsettled() == "" }

// unsettled says what is still missing.
func (w *World) unsettled() string {
	for _, n := range w.nodes {
		if !n.up || n.brokerEpoch == 0 {
			return fmt.Sprintf("node %d is not registered", n.id)
		}
	}
	for _, p := range w.parts {
		t := w.meta.latest().TopicByID(p.topic)
		if t == nil {
			return fmt.Sprintf("topic %s is missing", p.name)
		}
		q := t.Partitions[0]
		if q.Leader < 0 || len(q.ISR) != len(p.replicas) {
			return fmt.Sprintf("partition %d: leader %d, in sync %v, eligible %v, last %v; %s", p.index, q.Leader, q.ISR, q.ELR, q.LastISR, w.describe(p))
		}
		for _, id := range p.replicas {
			if d := w.nodes[id].disks[p.index]; len(d.entries) < len(p.committed) {
				return fmt.Sprintf("partition %d: node %d holds %d of %d", p.index, id, len(d.entries), len(p.committed))
			}
		}
	}
	for i, c := range w.clients {
		if c.acked < 3 {
			return fmt.Sprintf("producer %d of partition %d got %d acknowledgements", i, c.part.index, c.acked)
		}
	}
	return ""
}

// describe says what the replicas of a partition do.
func (w *World) describe(p *part) (out string) {
	for _, id := range p.replicas {
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

// checkEnd: all that was acknowledged is on every replica, once.
func (w *World) checkEnd() {
	if missing := w.unsettled(); missing != "" {
		w.fail("healed for %v, and still: %s", livenessTime, missing)
		return
	}
	for _, p := range w.parts {
		for _, id := range p.replicas {
			d := w.nodes[id].disks[p.index]
			for _, a := range p.acked {
				if a.offset >= len(d.entries) || d.entries[a.offset] != a.e {
					w.fail("partition %d: acknowledged %+v is not at offset %d of node %d", p.index, a.e, a.offset, id)
					return
				}
			}
			if i := differ(d.entries[:len(p.committed)], p.committed); i >= 0 {
				w.fail("partition %d: node %d differs from what was committed at %d", p.index, id, i)
				return
			}
		}
		seen := map[int64]int{}
		for i, e := range p.committed {
			if first, twice := seen[e.value]; twice && !p.lossy && !p.acksOne {
				w.fail("partition %d: value %d is at %d and at %d", p.index, e.value, first, i)
			}
			seen[e.value] = i
		}
	}
}
