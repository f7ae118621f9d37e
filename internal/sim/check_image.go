package sim

import (
	"slices"

	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// checkCommand looks at what a command changed.
func (w *World) checkCommand(old, im *metadata.Image, cmd *metav1.Command, result metadata.Result) {
	if err := im.Check(); err != nil {
		w.fail(Image, "image %d: %v", im.Index(), err)
	}
	w.checkOnce(im, cmd, result)
	if r := cmd.GetRegisterBroker(); r != nil && im.Broker(r.GetNodeId()) != old.Broker(r.GetNodeId()) {
		w.noteForgotten(r)
	}
	for _, e := range result.Refused {
		if e != nil && e.Code == metadata.CodeInvalidUpdateVersion && cmd.GetChangeIsr() != nil {
			w.counts.StaleISR++
		}
	}
	for _, p := range w.parts {
		was, is := old.TopicByID(p.topic), im.TopicByID(p.topic)
		if was != nil && is == nil {
			w.noteDeletion(p, was, cmd)
		}
		if was == nil || is == nil || was == is && cmd.GetRegisterBroker() == nil {
			continue
		}
		a, b := was.Partitions[0], is.Partitions[0]
		if b.LeaderEpoch < a.LeaderEpoch || b.PartitionEpoch < a.PartitionEpoch {
			w.fail(Deposed, "partition %d: epochs fell", p.index)
		}
		if r := cmd.GetRegisterBroker(); r != nil && im.Broker(r.GetNodeId()) != old.Broker(r.GetNodeId()) {
			w.checkRegistration(p, a, b, r, old)
		}
		if c := cmd.GetChangeIsr(); c != nil && a != b {
			w.checkISRChange(p, a, b, c, old)
		}
		if b.LeaderEpoch > a.LeaderEpoch && b.Leader >= 0 {
			w.checkElection(p, a, b, im, cmd)
		}
		if (cmd.GetReassignPartitions() != nil || cmd.GetFinishReassignments() != nil) && a != b && w.wounded(p) {
			p.beyond = true // an operator gives copies away, and nobody knows yet that the others are hurt
		}
		if cmd.GetFinishReassignments() != nil && a != b {
			w.counts.Moved++
		}
		w.checkAnyWhole(p, b)
		w.checkMembers(p)
	}
}

// checkOnce: a command that comes again takes no effect and gets its first answer.
func (w *World) checkOnce(im *metadata.Image, cmd *metav1.Command, result metadata.Result) {
	id, ok := metadata.ParseID(cmd.GetId())
	if !ok {
		return
	}
	if first, again := w.meta.applied[id]; again && result.Index != first {
		w.fail(Image, "image %d: a command that was applied at %d is applied again", im.Index(), first)
	}
	if w.meta.applied == nil {
		w.meta.applied = map[metadata.ID]uint64{}
	}
	if _, again := w.meta.applied[id]; !again {
		w.meta.applied[id] = result.Index
	}
}

// checkRegistration: a broker's return ends what it led, and takes it out of the sets
// if it may have lost what was only in memory.
func (w *World) checkRegistration(p *part, a, b *metadata.Partition, r *metav1.RegisterBroker, old *metadata.Image) {
	id := r.GetNodeId()
	if a.Leader == id && b.LeaderEpoch == a.LeaderEpoch {
		w.fail(Unclean, "partition %d: node %d came back and leads epoch %d again", p.index, id, a.LeaderEpoch)
	}
	clean := r.GetCleanStop() && old.Broker(id) != nil && r.GetCleanStopEpoch() == old.Broker(id).Epoch
	if !p.synced && !clean && (b.InISR(id) || b.InELR(id)) {
		w.fail(Unclean, "partition %d: node %d may have lost memory; in sync %v, eligible %v", p.index, id, b.ISR, b.ELR)
	}
}

// checkISRChange: only the leader of the present epoch changes the set, from the
// present state of it, to brokers of the present sessions.
func (w *World) checkISRChange(p *part, a, b *metadata.Partition, c *metav1.ChangeIsr, old *metadata.Image) {
	for _, change := range c.GetChanges() {
		if metadata.ID(change.GetTopicId()) != p.topic {
			continue
		}
		proposer := old.Broker(c.GetNodeId())
		if a.Leader != c.GetNodeId() || change.GetLeaderEpoch() != a.LeaderEpoch || change.GetPartitionEpoch() != a.PartitionEpoch ||
			proposer == nil || proposer.Fenced || proposer.Epoch != c.GetBrokerEpoch() {
			w.fail(Deposed, "partition %d: led by %d in epoch %d (%d), it takes a change of node %d in epoch %d (%d)", p.index,
				a.Leader, a.LeaderEpoch, a.PartitionEpoch, c.GetNodeId(), change.GetLeaderEpoch(), change.GetPartitionEpoch())
		}
		for _, m := range change.GetIsr() {
			if joins := old.Broker(m.GetNodeId()); joins == nil || joins.Fenced || joins.Epoch != m.GetBrokerEpoch() {
				w.fail(Deposed, "partition %d: node %d joins with the broker epoch %d, which is over", p.index, m.GetNodeId(), m.GetBrokerEpoch())
			}
		}
		for _, id := range change.GetDamaged() {
			if b.InISR(id) || b.InELR(id) {
				w.fail(Unclean, "partition %d: node %d is damaged; in sync %v, eligible %v", p.index, id, b.ISR, b.ELR)
			}
		}
	}
}

// checkElection notes where a leader came from. An election from the last in-sync
// set may lose records: from here on its log is the truth.
func (w *World) checkElection(p *part, a, b *metadata.Partition, im *metadata.Image, cmd *metav1.Command) {
	from := slices.ContainsFunc(cmd.GetElectLeaders().GetChanges(), func(c *metav1.LeaderChange) bool {
		return metadata.ID(c.GetTopicId()) == p.topic && c.GetFromLastIsr() && c.GetLeader() == b.Leader
	})
	switch {
	case from && !a.InISR(b.Leader) && !a.InELR(b.Leader):
		w.counts.LastISRElections++
		w.checkLongest(p, a, b.Leader, im)
		w.adopt(p, b)
	case !a.InISR(b.Leader) && !a.InELR(b.Leader):
		w.fail(Unclean, "partition %d: leader %d was neither in sync %v nor eligible %v", p.index, b.Leader, a.ISR, a.ELR)
	case a.InELR(b.Leader):
		w.counts.ELRElections++
		w.noteCompared(a, b)
		w.checkForgotten(p, a, b, im, cmd)
	case a.Replica(b.Leader).RecoveredEpoch == im.Broker(b.Leader).Epoch:
		w.counts.RestartElections++
		w.checkForgotten(p, a, b, im, cmd)
	}
}

// noteCompared counts the elections in which an eligible leader held more than an in-sync
// member that is there.
func (w *World) noteCompared(a, b *metadata.Partition) {
	led := b.Replica(b.Leader)
	for _, id := range a.ISR {
		if r := b.Replica(id); b.InELR(id) && w.meta.latest().Broker(id).Epoch == r.RecoveredEpoch && !w.meta.latest().Broker(id).Fenced &&
			(led.LastEpoch > r.LastEpoch || led.LastEpoch == r.LastEpoch && led.LogEndOffset > r.LogEndOffset) {
			w.counts.Compared++
			return
		}
	}
}

// checkForgotten: a replica that came back with less than its drive had confirmed leads only
// where nobody is there who told more and has everything, or who never went away. Then
// records may be lost. Where nothing was compared, one that told little when it came back and
// has followed since refuses the shorter log, if it knows that what it holds was
// committed; if nobody does, it is beyond what can be noticed.
func (w *World) checkForgotten(p *part, a, b *metadata.Partition, im *metadata.Image, cmd *metav1.Command) {
	d, led := w.nodes[b.Leader].disk(p), b.Replica(b.Leader)
	if d == nil || led.RecoveredEpoch != im.Broker(b.Leader).Epoch {
		return
	}
	if d.heal(p.committed); !d.forgot {
		return
	}
	// Nothing is compared where the leader goes and others followed it, where somebody moves the
	// leadership, and where the leader goes on with what it leads.
	compared := a.Leader < 0 || cmd.GetRegisterBroker() != nil && (b.InISR(a.Leader) || b.InELR(a.Leader))
	whole := false
	for i := range b.Replicas {
		r := &b.Replicas[i]
		if !a.InISR(r.NodeID) && !a.InELR(r.NodeID) || r.Damage != metadata.DamageNone || !w.hasAll(p, r.NodeID) {
			continue
		}
		if im.Broker(r.NodeID).Fenced {
			if compared && cmd.GetElectLeaders() == nil { // only the controller knows how long somebody was away
				w.fail(Unclean, "partition %d: node %d is elected, whose drive forgot what it confirmed, and nobody waited for node %d: %+v", p.index, b.Leader, r.NodeID, b.Replicas)
			}
			continue
		}
		whole = whole || compared || w.refuses(p, r.NodeID)
		if compared && (r.RecoveredEpoch != im.Broker(r.NodeID).Epoch || r.LastEpoch > led.LastEpoch || r.LastEpoch == led.LastEpoch && r.LogEndOffset > led.LogEndOffset) {
			w.fail(Unclean, "partition %d: node %d is elected, whose drive forgot what it confirmed, and node %d has everything: %+v", p.index, b.Leader, r.NodeID, b.Replicas)
		}
	}
	if !whole {
		w.loseUnseen(p, b)
	}
}

// refuses reports whether a node knows that all that is committed is.
func (w *World) refuses(p *part, id int32) bool {
	known := 0
	if d := w.nodes[id].disk(p); d != nil {
		known = d.watermark
	}
	if r := w.healthy(id, p); r != nil {
		known = max(known, int(r.state.HighWatermark()))
	}
	return known >= len(p.committed)
}

// checkAnyWhole notes that a replica leads whose drive forgot what it confirmed, when
// whoever had it has left: with a minimum of one, nobody who leaves stays eligible.
func (w *World) checkAnyWhole(p *part, b *metadata.Partition) {
	if b.Leader < 0 || !p.synced {
		return
	}
	if d := w.nodes[b.Leader].disk(p); d == nil || !d.forgot {
		return
	}
	for _, id := range slices.Concat(b.ISR, b.ELR) {
		if w.hasAll(p, id) {
			return
		}
	}
	w.loseUnseen(p, b)
}

// loseUnseen makes the log of a leader whose drive forgot records the truth.
func (w *World) loseUnseen(p *part, b *metadata.Partition) {
	if !p.unseen {
		w.counts.LostUnseen++
	}
	p.beyond, p.unseen = true, true
	d := w.nodes[b.Leader].disk(p)
	d.had = 0
	kept := d.entries[:min(len(d.entries), len(p.committed))]
	if at := differ(kept, p.committed[:len(kept)], d.start); at >= 0 {
		kept = kept[:at]
	}
	w.adoptLog(p, b, kept, d.start)
}

// checkLongest: the last in-sync set elects when all of it are there: one that never
// stopped, or else the one with the greatest (last epoch, log end). Where none of it is
// intact, all replicas are there, and the greatest of all leads.
func (w *World) checkLongest(p *part, a *metadata.Partition, leader int32, im *metadata.Image) {
	best, set := a.Replica(leader), a.LastISR
	if !slices.ContainsFunc(set, func(id int32) bool { return a.Replica(id).Damage == metadata.DamageNone }) {
		w.counts.BestCopyElections++
		for _, r := range a.Replicas {
			if slices.Contains(a.Adding, r.NodeID) {
				continue
			}
			if im.Broker(r.NodeID).Fenced {
				w.fail(Unclean, "partition %d: node %d is elected with loss, of %v node %d is away", p.index, leader, a.Replicas, r.NodeID)
			}
			if n := w.nodes[r.NodeID].log(p.index); len(n) > 0 {
				if e := int32(n[len(n)-1].epoch); e > best.LastEpoch || e == best.LastEpoch && int64(len(n)) > best.LogEndOffset {
					w.fail(Unclean, "partition %d: node %d is elected with loss, node %d holds (%d, %d): %+v", p.index, leader, r.NodeID, e, len(n), a.Replicas)
				}
			}
		}
		return
	}
	for _, id := range set {
		if im.Broker(id).Fenced {
			w.fail(Unclean, "partition %d: node %d is elected from the last in-sync set %v, of which node %d is away", p.index, leader, a.LastISR, id)
		}
		r := a.Replica(id)
		stopped, bestStopped := r.RecoveredEpoch == im.Broker(id).Epoch, best.RecoveredEpoch == im.Broker(leader).Epoch
		if bestStopped && (!stopped || r.LastEpoch > best.LastEpoch || r.LastEpoch == best.LastEpoch && r.LogEndOffset > best.LogEndOffset) {
			w.fail(Unclean, "partition %d: of the last in-sync set node %d is elected, node %d has the better log", p.index, leader, id)
		}
	}
}

// adopt makes the log of a leader from the last in-sync set the truth. In a synced
// partition the set may have been lost for having had nothing to lose, as when its
// brokers stopped before they heard of the topic; records are not lost.
func (w *World) adopt(p *part, b *metadata.Partition) {
	kept, start := w.nodes[b.Leader].log(p.index), w.nodes[b.Leader].logStart(p.index)
	if r := w.healthy(b.Leader, p); r != nil && r.cutting { // it leads with what is left
		kept = kept[:min(len(kept), r.cutTo)]
	}
	if d := w.nodes[b.Leader].disk(p); p.synced && d != nil { // one that never stopped may not have flushed its end
		kept = kept[:min(len(kept), d.durable)]
	}
	w.adoptLog(p, b, kept, start)
}

func (w *World) adoptLog(p *part, b *metadata.Partition, kept []entry, start int) {
	lost := func(r ackedRecord) bool { return r.offset >= start && (r.offset >= len(kept) || kept[r.offset] != r.e) }
	if p.synced && !p.beyond {
		if slices.ContainsFunc(p.acked, lost) {
			w.fail(Acked, "partition %d: an election in a synced partition lost acknowledged records", p.index)
		}
		return
	}
	p.lossyEpoch = record.Epoch(b.LeaderEpoch)
	p.deleted = min(p.deleted, start)
	if len(kept) >= len(p.committed) && differ(kept[:len(p.committed)], p.committed, start) < 0 {
		return // it was allowed to lose, and did not
	}
	w.counts.LossyElections++
	p.lossy = true
	for _, r := range w.readers {
		if r.part == p {
			r.at = min(r.at, len(kept))
		}
	}
	p.committed = slices.Clone(kept)
	p.acked = slices.DeleteFunc(p.acked, lost)
	clear(p.values)
	for i := start; i < len(kept); i++ {
		e := kept[i]
		if first, twice := p.values[e.value]; twice {
			w.fail(Once, "partition %d: value %d is at %d and at %d", p.index, e.value, first, i)
		}
		p.values[e.value] = i
	}
}
