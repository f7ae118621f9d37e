package controller

import (
	"time"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// judgeMoves finishes the reassignments whose replicas are all in sync. The
// leadership goes along when the leader is not among them.
func (d *decider) judgeMoves() {
	var finished []*metav1.FinishedReassignment
	for t := range d.im.Topics() {
		if t.Pending().Moving == 0 {
			continue
		}
		for i, p := range t.Partitions {
			if len(finished) >= d.opts.MaxChanges {
				break
			}
			if !p.Moving() || d.touched(p) || d.electing[partitionKey{t.ID, i}] {
				continue
			}
			if leader := d.finishedLeader(t, p); leader != metadata.NoNode {
				finished = append(finished, &metav1.FinishedReassignment{
					TopicId: t.ID[:], Partition: int32(i), PartitionEpoch: p.PartitionEpoch, Leader: leader,
				})
			}
		}
	}
	if len(finished) == 0 {
		return
	}
	d.move(&metav1.Command{Kind: &metav1.Command_FinishReassignments{
		FinishReassignments: &metav1.FinishReassignments{Partitions: finished},
	}})
}

// finishedLeader is who leads p once its reassignment is finished; NoNode: it
// cannot be yet.
func (d *decider) finishedLeader(t *metadata.Topic, p *metadata.Partition) int32 {
	q, ok := t.Switched(p)
	if !ok {
		return metadata.NoNode
	}
	if q.Replica(p.Leader) != nil {
		return p.Leader
	}
	return d.im.Elect(q, metadata.ElectOptions{Waited: true, Avoid: d.avoided}).Leader
}

func (d *decider) move(cmd *metav1.Command) {
	cmd.TimeMs = d.now.UnixMilli()
	d.moves = append(d.moves, cmd)
}

// judgeDecommissions moves replicas off the brokers that are being decommissioned,
// some at a time, and forgets those that hold none and are gone. What is to be
// fenced or unfenced comes first: the plan is for who is there.
func (d *decider) judgeDecommissions() {
	if len(d.fences) > 0 {
		return
	}
	if moves := Evacuate(d.im, d.opts.MaxReassigning, d.stuck); len(moves) > 0 {
		c := &metav1.ReassignPartitions{}
		for _, m := range moves {
			c.Partitions = append(c.Partitions, m.Reassignment(d.evacuationRate(m)))
		}
		d.move(&metav1.Command{Kind: &metav1.Command_ReassignPartitions{ReassignPartitions: c}})
	}
	for b := range d.im.Brokers() {
		if b.Decommissioning && b.Fenced && d.silentFor(b, d.opts.GoneAfter) && d.im.ReplicasOn(b.NodeID) == 0 &&
			(d.opts.Votes == nil || !d.opts.Votes(b.NodeID)) {
			d.move(&metav1.Command{Kind: &metav1.Command_RemoveBroker{
				RemoveBroker: &metav1.RemoveBroker{NodeId: b.NodeID, StorageId: b.StorageID[:]},
			}})
		}
	}
}

// evacuationRate is what the decommission of the broker that m leaves asked for.
func (d *decider) evacuationRate(m Move) int64 {
	for _, node := range m.From {
		if b := d.im.Broker(node); b != nil && b.Decommissioning {
			return b.DecommissionThrottle
		}
	}
	return m.Topic.Partitions[m.Partition].Throttle
}

// stuck reports whether a broker that a partition is moving to is away for so long
// that another should take its place.
func (d *decider) stuck(node int32) bool {
	b := d.im.Broker(node)
	return b == nil || b.Fenced && d.silentFor(b, d.opts.StuckAfter)
}

func (d *decider) silentFor(b *metadata.Broker, least time.Duration) bool {
	n := d.live.node(b)
	return n != nil && d.live.silence(n, d.now) >= least
}
