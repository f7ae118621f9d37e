package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/broker"
	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	brokerreplica "github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Topics that are deleted, and made again under the same name with another id. A part is
// one topic id: the new topic is another part, which begins empty, and of whose values
// the old one knows nothing. In the worlds with real logs both want the same folder.

// faultDelete deletes a topic while something is wrong with one of its brokers, or while
// it moves; whoever asked for it may ask again later, by the topic's id.
func (w *World) faultDelete() {
	p := w.anyPart()
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil {
		return
	}
	n := w.nodes[w.replicas(p)[w.rng.IntN(len(w.replicas(p)))]]
	if l := w.leaderOf(p); l != nil && w.chance(30) {
		n = l
	}
	switch w.rng.IntN(6) {
	case 0:
		if n.up { // gone until long after
			w.endOf(n)
			w.restart(n, w.between(2*time.Second, 12*time.Second))
		}
	case 1:
		if n.up { // it comes back while the others hear of it
			w.endOf(n)
			w.restart(n, w.between(0, 300*time.Millisecond))
		}
	case 2:
		w.counts.LateImages++
		n.blind = w.now.Add(w.between(500*time.Millisecond, 6*time.Second))
	case 3:
		w.counts.Cuts++
		for i := range w.nodes {
			w.net.cut[n.id][i], w.net.cut[i][n.id] = i != int(n.id), i != int(n.id)
		}
		w.after(w.between(time.Second, 8*time.Second), "links heal", w.net.heal)
	case 4:
		w.faultReassignOf(p)
	case 5: // while records are under way
	}
	w.after(w.between(0, 400*time.Millisecond), fmt.Sprintf("partition %d is to be deleted", p.index), func() {
		if w.healed {
			return
		}
		w.meta.later(deletion(p))
		for range w.rng.IntN(3) {
			w.after(w.between(0, 9*time.Second), "deletion asked for again", func() {
				if !w.healed {
					w.meta.later(deletion(p))
				}
			})
		}
	})
}

func deletion(p *part) *metav1.Command {
	return &metav1.Command{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: p.name, TopicId: p.topic[:]}}}
}

// noteDeletion is called when a command took a topic away. Its clients go on for a while;
// another topic of its name is asked for.
func (w *World) noteDeletion(p *part, was *metadata.Topic, cmd *metav1.Command) {
	if c := cmd.GetDeleteTopic(); c == nil || metadata.ID(c.GetTopicId()) != p.topic {
		w.fail(Gone, "partition %d: its topic is deleted by %v", p.index, cmd)
		return
	}
	w.counts.Deletions++
	if was.Partitions[0].Moving() {
		w.counts.DeletedMoving++
	}
	p.deletedAt = w.meta.latest().Index()
	away := false
	for i := range was.Partitions[0].Replicas {
		id := was.Partitions[0].Replicas[i].NodeID
		p.deletedFrom = append(p.deletedFrom, id)
		away = away || !w.nodes[id].up
	}
	if away {
		w.counts.DeletedAway++
	}
	w.after(w.between(0, 3*time.Second), fmt.Sprintf("clients of %d give up", p.index), func() { p.closed = true })
	q := &part{index: len(w.parts), name: p.name, synced: p.synced, acksOne: p.acksOne, minISR: p.minISR, values: map[int64]int{}}
	q.topic[0], q.topic[15] = 0x70, byte(q.index+1)
	for _, id := range w.rng.Perm(len(w.nodes))[:len(p.replicas)] {
		q.replicas = append(q.replicas, int32(id))
	}
	w.parts = append(w.parts, q)
	w.after(w.between(0, 4*time.Second), fmt.Sprintf("topic %s again", q.name), func() {
		w.counts.Recreated++
		w.meta.createTopics()
		w.startClientsOf(q)
		w.startTrimsOf(q)
	})
}

// dropAll takes the replicas out of service that the image does not place here any more,
// and removes what they kept, or sets it aside, as package broker judges.
func (n *node) dropAll() {
	for i, r := range n.replicas {
		if r == nil {
			continue
		}
		p := n.w.parts[i]
		key := brokerreplica.Key{Topic: api.TopicID(p.topic)}
		first := n.reconciled == 0
		switch broker.FateOf(n.image, key, n.id, r.disk.lastEpoch(), first) {
		case broker.FateStay:
		case broker.FateMoved:
			n.w.counts.Dropped++
			n.depart(r)
		case broker.FateDelete:
			if first {
				n.w.counts.RemovedLater++
			}
			if p.deletedAt == 0 || n.image.Index() < p.deletedAt {
				n.w.fail(Gone, "partition %d: node %d deletes its records by image %d, its topic is there", i, n.id, n.image.Index())
			}
			n.drop(r, n.remove)
		case broker.FateSetAside:
			n.w.checkSetAside(p, n)
			n.drop(r, n.setAside)
		}
	}
	n.leave()
}

// departed is a replica that was moved away and has ended, whose log is still there.
type departed struct {
	r    *replica
	asOf uint64 // the image that has the last word on it; 0: not known yet
}

// depart ends a replica and asks the metadata whether its log may go.
func (n *node) depart(r *replica) {
	r.withdraw()
	r.die()
	r.gone = true
	n.replicas[r.part] = nil
	d := &departed{r: r}
	n.departed = append(n.departed, d)
	n.ask(d)
}

func (n *node) ask(d *departed) {
	n.after(n.w.between(time.Millisecond, 300*time.Millisecond), "asks the metadata", func() {
		m := n.w.meta
		if m.controller < 0 || !n.w.net.both(n.id, m.controller) {
			n.ask(d)
			return
		}
		d.asOf = m.latest().Index()
		n.reconcile()
	})
}

// leave removes the logs of departed replicas whose time has come.
func (n *node) leave() {
	n.departed = slices.DeleteFunc(n.departed, func(d *departed) bool {
		r, p := d.r, n.w.parts[d.r.part]
		switch broker.FateOf(n.image, brokerreplica.Key{Topic: api.TopicID(p.topic)}, n.id, r.disk.lastEpoch(), false) {
		case broker.FateStay:
			q := n.image.TopicByID(p.topic).Partitions[0]
			if q.Replica(n.id) == nil {
				return false
			}
			if r.disk.real == nil && !r.failed { // the log is closed and opened again
				r.disk.durable = len(r.disk.entries)
				r.disk.version++
			}
			back := n.open(r.part, partition.DamageNone)
			if back.hurt = r.hurt; r.failed {
				back.step(partition.LogFailed())
			}
		case broker.FateMoved:
			if d.asOf == 0 || n.image.Index() < d.asOf {
				return false
			}
			n.w.checkDrop(p, n)
			n.take(r, n.remove)
		case broker.FateDelete:
			n.take(r, n.remove)
		case broker.FateSetAside:
			n.w.checkSetAside(p, n)
			n.take(r, n.setAside)
		}
		return true
	})
}

// checkDrop: what is removed because the partition was moved away is no member's.
func (w *World) checkDrop(p *part, n *node) {
	t := w.meta.latest().TopicByID(p.topic)
	if t != nil && (t.Partitions[0].InISR(n.id) || t.Partitions[0].InELR(n.id)) {
		w.fail(StrongISR, "partition %d: node %d removes its log, in sync %v, eligible %v", p.index, n.id, t.Partitions[0].ISR, t.Partitions[0].ELR)
	}
}

// drop ends a replica and what is done with its log.
func (n *node) drop(r *replica, do func(part int) error) {
	r.withdraw()
	r.die()
	r.gone = true
	n.take(r, do)
}

// take takes the log of a replica that has ended away.
func (n *node) take(r *replica, do func(part int) error) {
	if r.disk.real != nil {
		if err := r.still(func() error { return do(r.part) }); err != nil {
			n.w.fail(Acked, "partition %d: node %d: remove: %v", r.part, n.id, err)
		}
	}
	n.replicas[r.part], n.disks[r.part] = nil, nil
}

func (n *node) remove(part int) error   { return n.data.remove(part) }
func (n *node) setAside(part int) error { return n.data.setAside(part) }

// checkSetAside: what is set aside is nobody's: neither of a member of a partition, nor
// of a topic whose deletion this broker was to hear of.
func (w *World) checkSetAside(p *part, n *node) {
	t := w.meta.latest().TopicByID(p.topic)
	if t != nil && (t.Partitions[0].InISR(n.id) || t.Partitions[0].InELR(n.id)) {
		w.fail(Gone, "partition %d: node %d sets its log aside, in sync %v, eligible %v", p.index, n.id, t.Partitions[0].ISR, t.Partitions[0].ELR)
	}
	if slices.Contains(p.deletedFrom, n.id) {
		w.fail(Gone, "partition %d: it was deleted at %d, node %d keeps its log aside", p.index, p.deletedAt, n.id)
	}
}

// noteForgotten is called when a registration was applied. One that a dead process left
// behind does not name what a later process put on the disk, and ends the wait for this
// broker: what it keeps of a deleted topic is set aside, when it is back, and not removed.
func (w *World) noteForgotten(r *metav1.RegisterBroker) {
	n := w.nodes[r.GetNodeId()]
	for _, p := range w.parts {
		told := slices.ContainsFunc(r.GetReplicas(), func(rec *metav1.RecoveredReplica) bool { return metadata.ID(rec.GetTopicId()) == p.topic })
		if p.deletedAt != 0 && !told && p.index < len(n.disks) && n.disks[p.index] != nil {
			p.deletedFrom = slices.DeleteFunc(p.deletedFrom, func(id int32) bool { return id == n.id })
		}
	}
}

// leftOf says what is left of a deleted topic; empty: nothing.
func (w *World) leftOf(p *part) string {
	for _, n := range w.nodes {
		if p.index < len(n.disks) && n.disks[p.index] != nil {
			return fmt.Sprintf("partition %d was deleted at %d, node %d keeps it", p.index, p.deletedAt, n.id)
		}
	}
	if d, ok := w.meta.latest().Deletion(p.topic); ok {
		return fmt.Sprintf("partition %d was deleted at %d, and %v are waited for", p.index, p.deletedAt, d.Nodes)
	}
	return ""
}

// reconciledTo is what a broker's heartbeat tells: its session, and the image that its
// replicas are in line with.
type reconciledTo struct {
	brokerEpoch int64
	index       uint64
}

func (m *metalog) reconciledTo(b *metadata.Broker) uint64 {
	if r := m.reconciled[b.NodeID]; r.brokerEpoch == b.Epoch {
		return r.index
	}
	return 0
}
