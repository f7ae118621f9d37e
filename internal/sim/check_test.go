package sim

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// calm is a cluster in which nothing went wrong, with committed records in the
// first partition, and the replica that leads it.
func calm(t *testing.T) (w *World, p *part, leader *replica) {
	t.Helper()
	w = newWorld(Options{Seed: 7, Calm: true, Nodes: 3})
	for w.step() && w.steps < 4000 && w.err == nil {
	}
	require.NoError(t, w.err)
	p = w.parts[0]
	leader = w.leaderOf(p).replicas[p.index]
	require.Greater(t, len(p.committed), 3)
	require.NotEmpty(t, p.acked)
	return w, p, leader
}

// follower is an in-sync replica that does not lead.
func follower(w *World, p *part, leader *replica) *replica {
	for _, id := range p.replicas {
		if id != leader.n.id {
			return w.nodes[id].replicas[p.index]
		}
	}
	return nil
}

// TestChecksFire breaks each promise by hand and expects the check of it to say so.
func TestChecksFire(t *testing.T) {
	isrChange := func(w *World, p *part, edit func(*metav1.ChangeIsr)) *metav1.ChangeIsr {
		q := w.meta.latest().TopicByID(p.topic).Partitions[0]
		c := &metav1.IsrChange{TopicId: p.topic[:], LeaderEpoch: q.LeaderEpoch, PartitionEpoch: q.PartitionEpoch}
		for _, id := range q.ISR {
			c.Isr = append(c.Isr, &metav1.IsrMember{NodeId: id, BrokerEpoch: w.meta.latest().Broker(id).Epoch})
		}
		out := &metav1.ChangeIsr{NodeId: q.Leader, BrokerEpoch: w.meta.latest().Broker(q.Leader).Epoch, Changes: []*metav1.IsrChange{c}}
		edit(out)
		return out
	}
	checkISR := func(w *World, p *part, edit func(*metav1.ChangeIsr)) {
		q := w.meta.latest().TopicByID(p.topic).Partitions[0]
		w.checkISRChange(p, q, q, isrChange(w, p, edit), w.meta.latest())
	}
	request := func(r *replica) *produce {
		c := r.w().clients[0]
		e := r.disk.entries[0]
		return &produce{send: &send{c: c, sequence: e.sequence}, e: e, acks: partition.AcksAll}
	}
	for _, c := range []struct {
		name   string
		want   Invariant
		breaks func(w *World, p *part, l *replica)
	}{
		{"nothing", "", func(w *World, p *part, l *replica) {
			w.checkWatermark(l, l.state.HighWatermark())
			w.checkMembers(p)
			w.checkAck(l, request(l))
			w.checkMatched(l, follower(w, p, l), 0)
			w.checkCut(follower(w, p, l), len(follower(w, p, l).disk.entries))
			w.checkPushed(follower(w, p, l))
			checkISR(w, p, func(*metav1.ChangeIsr) {})
			w.checkWhole(p, l.n.id)
		}},
		{"an acknowledged record is not below the watermark", Acked, func(w *World, _ *part, l *replica) {
			q := request(l)
			q.offset = len(l.disk.entries)
			l.disk.entries = append(l.disk.entries, q.e)
			w.checkAck(l, q)
		}},
		{"an acknowledged record is not there", Acked, func(w *World, _ *part, l *replica) {
			q := request(l)
			q.offset = 1
			w.checkAck(l, q)
		}},
		{"an acknowledged record is missing in the end", Acked, func(w *World, p *part, l *replica) {
			p.committed = nil
			l.disk.entries = l.disk.entries[:p.acked[len(p.acked)-1].offset]
			w.checkWhole(p, l.n.id)
		}},
		{"a producer's acknowledged record is missing", Acked, func(w *World, _ *part, l *replica) {
			q := request(l)
			q.e.producer, q.c.lastAcked = q.c.id, 9
			w.checkSequence(l, q, 5)
		}},
		{"an election of a synced partition loses records", Acked, func(w *World, p *part, l *replica) {
			l.disk.entries = l.disk.entries[:p.acked[0].offset]
			w.adopt(p, w.meta.latest().TopicByID(p.topic).Partitions[0])
		}},
		{"a record whose deletion was answered is still there", Immutable, func(w *World, p *part, _ *replica) {
			p.started, p.deleted = 2, 2
			w.checkMembers(p)
		}},
		{"a follower deletes what its leader keeps", Immutable, func(w *World, p *part, l *replica) {
			follower(w, p, l).disk.start = 2
			w.checkMembers(p)
		}},
		{"a log begins anew beyond where any leader's does", ByEpoch, func(w *World, p *part, l *replica) {
			w.checkBegin(follower(w, p, l), 1)
		}},
		{"a member of the in-sync set begins anew", ByEpoch, func(w *World, p *part, l *replica) {
			w.checkBegin(follower(w, p, l), 0)
		}},
		{"a watermark falls", Visible, func(w *World, _ *part, l *replica) {
			w.checkWatermark(l, l.shown-1)
		}},
		{"a watermark lies beyond the log", Visible, func(w *World, p *part, l *replica) {
			f := follower(w, p, l)
			w.checkWatermark(f, offsetOf(len(f.disk.entries)+1))
		}},
		{"a watermark lies beyond what is durable", Visible, func(w *World, _ *part, l *replica) {
			l.disk.durable--
			w.checkWatermark(l, offsetOf(len(l.disk.entries)))
		}},
		{"a watermark moves below the minimum", Visible, func(w *World, p *part, l *replica) {
			for _, id := range p.replicas[1:] {
				w.meta.commit(w.meta.command(&metav1.Command{Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{
					NodeId: id, BrokerEpoch: w.meta.latest().Broker(id).Epoch, Reason: "test",
				}}}))
			}
			l.n.image = w.meta.latest()
			l.n.reconcile()
			w.checkWatermark(l, l.shown)
		}},
		{"a consumer reads what was not committed", Visible, func(w *World, _ *part, l *replica) {
			for _, r := range w.readers {
				r.at = 0
			}
			l.disk.entries[0].value++
			for w.err == nil {
				w.readers[0].poll()
			}
		}},
		{"an in-sync log is short", StrongISR, func(w *World, p *part, l *replica) {
			follower(w, p, l).disk.truncate(len(p.committed) - 1)
			w.checkMembers(p)
		}},
		{"an in-sync log is not durable", StrongISR, func(w *World, p *part, l *replica) {
			follower(w, p, l).disk.durable = len(p.committed) - 1
			w.checkMembers(p)
		}},
		{"an in-sync log differs", StrongISR, func(w *World, p *part, l *replica) {
			follower(w, p, l).disk.entries[len(p.committed)-1].epoch++
			w.checkMembers(p)
		}},
		{"a log differs in the end", StrongISR, func(w *World, p *part, l *replica) {
			p.acked = nil
			l.disk.entries[0].value++
			w.checkWhole(p, l.n.id)
		}},
		{"a follower follows with another log", ByEpoch, func(w *World, p *part, l *replica) {
			f := follower(w, p, l)
			f.disk.entries[len(f.disk.entries)-1].epoch++
			session, _ := f.state.Session()
			w.checkMatched(l, f, session)
		}},
		{"a follower takes what its leader has not", ByEpoch, func(w *World, p *part, l *replica) {
			f := follower(w, p, l)
			f.disk.entries = append(slices.Clone(l.disk.entries), entry{})
			w.checkPushed(f)
		}},
		{"a truncation takes what is committed", ByEpoch, func(w *World, p *part, l *replica) {
			w.checkCut(follower(w, p, l), len(p.committed)-1)
		}},
		{"a follower must truncate below its watermark", ByEpoch, func(w *World, p *part, l *replica) {
			w.checkRefused(follower(w, p, l), &partition.Effect{})
		}},
		{"an epoch has two leaders", Deposed, func(w *World, p *part, l *replica) {
			w.checkLeader(follower(w, p, l), l.state.Epoch())
		}},
		{"a leader without a controller acknowledges", Deposed, func(w *World, _ *part, l *replica) {
			l.suspended = true
			w.checkAck(l, request(l))
		}},
		{"a leader that has heard of a newer epoch moves the watermark", Deposed, func(w *World, _ *part, l *replica) {
			l.heard = l.state.Epoch() + 1
			w.checkWatermark(l, l.shown)
		}},
		{"another node changes the in-sync set", Deposed, func(w *World, p *part, _ *replica) {
			checkISR(w, p, func(c *metav1.ChangeIsr) { c.NodeId++ })
		}},
		{"an earlier leader epoch changes the in-sync set", Deposed, func(w *World, p *part, _ *replica) {
			checkISR(w, p, func(c *metav1.ChangeIsr) { c.Changes[0].LeaderEpoch-- })
		}},
		{"an earlier partition epoch changes the in-sync set", Deposed, func(w *World, p *part, _ *replica) {
			checkISR(w, p, func(c *metav1.ChangeIsr) { c.Changes[0].PartitionEpoch-- })
		}},
		{"an earlier process changes the in-sync set", Deposed, func(w *World, p *part, _ *replica) {
			checkISR(w, p, func(c *metav1.ChangeIsr) { c.BrokerEpoch-- })
		}},
		{"an earlier process joins", Deposed, func(w *World, p *part, _ *replica) {
			checkISR(w, p, func(c *metav1.ChangeIsr) { c.Changes[0].Isr[0].BrokerEpoch-- })
		}},
		{"a damaged replica stays in sync", Unclean, func(w *World, p *part, l *replica) {
			checkISR(w, p, func(c *metav1.ChangeIsr) { c.Changes[0].Damaged = []int32{l.n.id} })
		}},
		{"a leader resumes its epoch", Unclean, func(w *World, p *part, l *replica) {
			q := w.meta.latest().TopicByID(p.topic).Partitions[0]
			w.checkRegistration(p, q, q, &metav1.RegisterBroker{NodeId: l.n.id}, w.meta.latest())
		}},
		{"who lost its memory stays in sync", Unclean, func(w *World, _ *part, _ *replica) {
			p := w.parts[1] // replicated
			q := *w.meta.latest().TopicByID(p.topic).Partitions[0]
			after := q
			after.LeaderEpoch++
			w.checkRegistration(p, &q, &after, &metav1.RegisterBroker{NodeId: q.ISR[0]}, w.meta.latest())
		}},
		{"a leader comes from nowhere", Unclean, func(w *World, p *part, _ *replica) {
			before := *w.meta.latest().TopicByID(p.topic).Partitions[0]
			after := before
			before.ISR = nil
			w.checkElection(p, &before, &after, w.meta.latest(), &metav1.Command{})
		}},
		{"the last in-sync set elects the shorter log", Unclean, func(w *World, p *part, _ *replica) {
			q := *w.meta.latest().TopicByID(p.topic).Partitions[0]
			q.Replicas, q.LastISR = slices.Clone(q.Replicas), q.ISR
			for i := range q.Replicas {
				q.Replicas[i].RecoveredEpoch = w.meta.latest().Broker(q.Replicas[i].NodeID).Epoch
				q.Replicas[i].LogEndOffset = int64(i)
			}
			w.checkLongest(p, &q, q.Replicas[0].NodeID, w.meta.latest())
		}},
		{"the last in-sync set elects one that stopped before one that did not", Unclean, func(w *World, p *part, _ *replica) {
			q := *w.meta.latest().TopicByID(p.topic).Partitions[0]
			q.Replicas, q.LastISR = slices.Clone(q.Replicas), q.ISR
			q.Replicas[0].RecoveredEpoch = w.meta.latest().Broker(q.Replicas[0].NodeID).Epoch
			w.checkLongest(p, &q, q.Replicas[0].NodeID, w.meta.latest())
		}},
		{"a log that is counted on is emptied", Unclean, func(w *World, p *part, l *replica) {
			w.checkRebuild(follower(w, p, l))
		}},
		{"an offset changes what it holds", Immutable, func(w *World, p *part, l *replica) {
			l.disk.entries[len(p.committed)-1].value++
			w.checkWatermark(l, l.shown)
		}},
		{"a value is there twice", Once, func(w *World, p *part, l *replica) {
			l.disk.entries = append(l.disk.entries[:len(p.committed)], l.disk.entries[0])
			l.disk.durable = len(l.disk.entries)
			w.checkWatermark(l, offsetOf(len(l.disk.entries)))
		}},
		{"a record is refused that was there", Once, func(w *World, _ *part, l *replica) {
			q := request(l)
			q.e.producer, q.e.sequence, q.c.lastAcked = q.c.id, 3, 3
			w.checkSequence(l, q, 5)
		}},
		{"an appended record is refused for good", Indefinite, func(w *World, _ *part, l *replica) {
			w.checkOutcome(l, request(l), partition.OutcomeNotEnoughReplicas)
		}},
		{"a command takes effect twice", Image, func(w *World, _ *part, _ *replica) {
			cmd := w.meta.command(&metav1.Command{})
			w.checkOnce(w.meta.latest(), cmd, metadata.Result{Index: 3})
			w.checkOnce(w.meta.latest(), cmd, metadata.Result{Index: 4})
		}},
		{"a leader goes on that knows of the deletion", Gone, func(w *World, p *part, l *replica) {
			w.meta.commit(w.meta.command(deletion(p)))
			l.n.reconciled = w.meta.latest().Index()
			w.checkWatermark(l, l.shown)
		}},
		{"a topic shows what was sent to another", Gone, func(w *World, p *part, l *replica) {
			last := len(p.committed) - 1
			delete(p.values, p.committed[last].value)
			w.sent[p.committed[last].value] = 99
			p.committed = p.committed[:last]
			w.checkWatermark(l, l.shown)
		}},
		{"a log of a deleted topic is set aside", Gone, func(w *World, p *part, l *replica) {
			w.meta.commit(w.meta.command(deletion(p)))
			w.checkSetAside(p, l.n)
		}},
		{"a member's log is set aside", Gone, func(w *World, p *part, l *replica) {
			w.checkSetAside(p, l.n)
		}},
		{"another topic is deleted", Gone, func(w *World, p *part, _ *replica) {
			w.noteDeletion(p, w.meta.latest().TopicByID(p.topic), deletion(w.parts[1]))
		}},
		{"a topic is deleted of which its broker has not heard", Gone, func(_ *World, p *part, l *replica) {
			im := l.w().meta.latest()
			l.w().meta.commit(l.w().meta.command(deletion(p)))
			l.n.image = l.w().meta.latest()
			p.deletedAt = im.Index() + 2 // as if by a later command
			l.n.dropAll()
		}},
		{"a deleted topic stays on a disk", Live, func(w *World, p *part, _ *replica) {
			w.meta.commit(w.meta.command(deletion(p)))
			w.checkEnd()
		}},
		{"a cluster stays broken", Live, func(w *World, _ *part, l *replica) {
			l.n.kill()
			w.checkEnd()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, p, l := calm(t)
			c.breaks(w, p, l)
			require.Equal(t, c.want, w.broken, "%v", w.err)
		})
	}
}
