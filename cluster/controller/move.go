package controller

import (
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
	d.moves = append(d.moves, &metav1.Command{
		TimeMs: d.now.UnixMilli(),
		Kind:   &metav1.Command_FinishReassignments{FinishReassignments: &metav1.FinishReassignments{Partitions: finished}},
	})
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
