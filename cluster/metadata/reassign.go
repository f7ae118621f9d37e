package metadata

import (
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// A reassignment (KIP-455) gives a partition other replicas in three steps, of
// which the image holds the state, so that any controller goes on with it:
//
//  1. ReassignPartitions notes the Target and adds what it has more to Replicas.
//     The added ones follow the leader, outside of the in-sync set.
//  2. The leader takes each into the in-sync set once it has caught up, like any
//     other follower.
//  3. When all of Target are in sync, the controller proposes
//     FinishReassignments: Target becomes Replicas, in its order.
//
// Until the third step every original replica stays, in its place, so nothing
// that happens to the added ones costs a copy. What is dropped without it (an
// added replica, by a cancellation or another target) is dropped only if the
// partition holds enough copies without it.

// Moving reports whether a reassignment is under way.
func (p *Partition) Moving() bool { return len(p.Target) > 0 }

// ReplicationFactor is the number of replicas without those that a reassignment
// under way has added.
func (p *Partition) ReplicationFactor() int { return len(p.Replicas) - len(p.Adding) }

// UnderReplicated reports whether a replica that is not being added is out of
// sync.
func (p *Partition) UnderReplicated() bool {
	inSync := len(p.ISR)
	for _, node := range p.Adding {
		if p.InISR(node) {
			inSync--
		}
	}
	return inSync < p.ReplicationFactor()
}

// Removing are the replicas that go when the reassignment under way is finished.
func (p *Partition) Removing() []int32 {
	if !p.Moving() {
		return nil
	}
	var out []int32
	for i := range p.Replicas {
		if node := p.Replicas[i].NodeID; !slices.Contains(p.Target, node) {
			out = append(out, node)
		}
	}
	return out
}

// Original are the replicas from before the reassignment under way.
func (p *Partition) Original() []int32 {
	out := make([]int32, 0, len(p.Replicas))
	for i := range p.Replicas {
		if node := p.Replicas[i].NodeID; !slices.Contains(p.Adding, node) {
			out = append(out, node)
		}
	}
	return out
}

// Final are the replicas from after the reassignment under way, in the order of
// preference; without one, those that there are.
func (p *Partition) Final() []int32 {
	if p.Moving() {
		return p.Target
	}
	return p.Original()
}

// Switched returns what FinishReassignments makes of p while the leader stays.
// ok is false while it must not: a replica to be is not in sync, the set is below
// its minimum or there is no leader, so that replicas that go may hold what no
// other does.
func (t *Topic) Switched(p *Partition) (q *Partition, ok bool) {
	if !p.Moving() || p.Leader == NoNode || len(p.LastISR) > 0 || len(p.ISR) < t.MinISR(p) {
		return nil, false
	}
	for _, node := range p.Target {
		if !p.InISR(node) {
			return nil, false
		}
	}
	q = p.clone()
	q.Replicas = p.pick(p.Target)
	q.ISR = slices.Sorted(slices.Values(p.Target))
	q.ELR = nil
	q.Target, q.Adding, q.Throttle = nil, nil, 0
	return q, true
}

// pick returns the replicas on nodes, in their order. All must be there.
func (p *Partition) pick(nodes []int32) []Replica {
	out := make([]Replica, len(nodes))
	for i, node := range nodes {
		out[i] = *p.Replica(node)
	}
	return out
}

func (im *Image) reassignPartitions(c *metav1.ReassignPartitions, result *Result) {
	edit := im.edit()
	for i, r := range c.GetPartitions() {
		if err := edit.reassign(r); err != nil {
			result.refuse(i, len(c.GetPartitions()), err)
		}
	}
	edit.done()
}

func (e *edit) reassign(c *metav1.PartitionReassignment) *Error {
	t, p, err := e.find(c.GetTopicId(), c.GetPartition())
	if err != nil {
		return err
	}
	q, err := e.im.reassigned(t, p, c)
	if err != nil {
		err.Message = partitionName(t, c.GetPartition()) + ": " + err.Message
		return err
	}
	if q != p {
		e.put(t, c.GetPartition(), q)
	}
	return nil
}

// reassigned returns what becomes of p, p itself when nothing does.
func (im *Image) reassigned(t *Topic, p *Partition, c *metav1.PartitionReassignment) (*Partition, *Error) {
	switch {
	case c.PartitionEpoch != nil && c.GetPartitionEpoch() != p.PartitionEpoch:
		return nil, Errorf(CodeInvalidUpdateVersion, "partition epoch %d is not the present one, %d", c.GetPartitionEpoch(), p.PartitionEpoch)
	case c.GetThrottle() < 0:
		return nil, Errorf(CodeInvalidArgument, "a throttle of %d bytes a second: must be 0 or greater", c.GetThrottle())
	case c.GetCancel() && len(c.GetReplicas()) > 0:
		return nil, Errorf(CodeInvalidArgument, "a cancellation names no replicas, this one names %v", c.GetReplicas())
	case c.GetCancel() && !p.Moving():
		return nil, Errorf(CodeNoReassignmentInProgress, "no reassignment is under way")
	case c.GetCancel():
		return im.retarget(t, p, p.Original(), 0)
	}
	if err := im.checkTarget(p, c.GetReplicas()); err != nil {
		return nil, err
	}
	return im.retarget(t, p, slices.Clone(c.GetReplicas()), c.GetThrottle())
}

// checkTarget refuses replicas that cannot be. One that is there already may be
// on a fenced broker: it has what it needs to come back.
func (im *Image) checkTarget(p *Partition, target []int32) *Error {
	refuse := func(format string, args ...any) *Error { return Errorf(CodeInvalidReplicaAssignment, format, args...) }
	if n := len(target); n < 1 || n > MaxReplicationFactor {
		return refuse("%d replicas: must be 1 to %d", n, MaxReplicationFactor)
	}
	for i, node := range target {
		b := im.Broker(node)
		switch {
		case b == nil:
			return refuse("broker %d is not registered", node)
		case slices.Contains(target[:i], node):
			return refuse("broker %d is named twice in %v", node, target)
		case b.Decommissioning:
			return refuse("broker %d is being decommissioned", node)
		case b.Fenced && p.Replica(node) == nil:
			return refuse("broker %d is fenced: a new replica on it could not catch up", node)
		}
	}
	return nil
}

// retarget begins or redirects a reassignment. What an earlier one added and this
// one does not want goes at once; where nothing is to be added or removed, all
// that is left to do is the order.
func (im *Image) retarget(t *Topic, p *Partition, target []int32, throttle int64) (*Partition, *Error) {
	if !p.Moving() && slices.Equal(p.Original(), target) || slices.Equal(p.Target, target) && p.Throttle == throttle {
		return p, nil
	}
	original := p.Original()
	kept := slices.Clone(original)
	var adding []int32
	for _, node := range target {
		if !slices.Contains(original, node) {
			adding = append(adding, node)
		}
	}
	kept = append(kept, adding...)
	q := p.clone()
	q.Replicas = make([]Replica, len(kept))
	for i, node := range kept {
		if r := p.Replica(node); r != nil {
			q.Replicas[i] = *r
		} else {
			q.Replicas[i] = Replica{NodeID: node, StorageID: im.Broker(node).StorageID, LastEpoch: -1, LogEndOffset: -1}
		}
	}
	q.Target, q.Adding, q.Throttle = target, adding, throttle
	if err := im.dropAdded(t, p, q); err != nil {
		return nil, err
	}
	if len(adding) == 0 && len(target) == len(original) {
		q.Replicas = q.pick(target)
		q.Target, q.Throttle = nil, 0
	}
	q.PartitionEpoch++
	return q, nil
}

// dropAdded takes the replicas that q has no more out of its sets. They may go if
// no set of who may hold acknowledged records loses a member that it needs.
func (im *Image) dropAdded(t *Topic, p, q *Partition) *Error {
	for _, node := range p.Adding {
		switch {
		case q.Replica(node) != nil:
			continue
		case p.InELR(node) || slices.Contains(p.LastISR, node):
			return Errorf(CodeInvalidReplicaAssignment, "the new replica on broker %d may be the last to hold acknowledged records; "+
				"it cannot go before the partition has its in-sync set back", node)
		}
		q.ISR = without(q.ISR, node)
	}
	if len(q.ISR) == len(p.ISR) {
		return nil
	}
	if len(q.ISR) < t.MinISR(p) {
		return Errorf(CodeInvalidReplicaAssignment, "of the replicas that would stay only %v are in sync, %d must be; "+
			"without the new ones acknowledged records would have too few copies", q.ISR, t.MinISR(p))
	}
	if !q.InISR(p.Leader) && p.Leader != NoNode {
		c := im.Elect(q, ElectOptions{Waited: true})
		if c.Leader == NoNode {
			return Errorf(CodeInvalidReplicaAssignment, "none of the replicas that would stay can lead: %v", q.ISR)
		}
		q.lead(c)
	}
	return nil
}

func (im *Image) finishReassignments(c *metav1.FinishReassignments, result *Result) {
	edit := im.edit()
	for i, f := range c.GetPartitions() {
		if err := edit.finishReassignment(f); err != nil {
			result.refuse(i, len(c.GetPartitions()), err)
		}
	}
	edit.done()
}

func (e *edit) finishReassignment(c *metav1.FinishedReassignment) *Error {
	t, p, err := e.find(c.GetTopicId(), c.GetPartition())
	if err != nil {
		return err
	}
	name := partitionName(t, c.GetPartition())
	if c.GetPartitionEpoch() != p.PartitionEpoch {
		return Errorf(CodeInvalidUpdateVersion, "%s: partition epoch %d is not the present one, %d", name, c.GetPartitionEpoch(), p.PartitionEpoch)
	}
	if !p.Moving() {
		return Errorf(CodeNoReassignmentInProgress, "%s: no reassignment is under way", name)
	}
	q, ok := t.Switched(p)
	if !ok {
		return Errorf(CodeInvalidReplicaAssignment, "%s: the reassignment to %v cannot be finished: in sync are %v, leader %d", name, p.Target, p.ISR, p.Leader)
	}
	if stays := q.Replica(p.Leader) != nil; stays && c.GetLeader() != p.Leader {
		return Errorf(CodeInvalidArgument, "%s: the leader %d stays, so broker %d cannot take over with this command", name, p.Leader, c.GetLeader())
	} else if !stays {
		choice, err := e.im.eligible(q, c.GetLeader(), false)
		if err == nil && choice.Leader == NoNode {
			err = Errorf(CodeLeaderNotAvailable, "somebody must lead")
		}
		if err != nil {
			err.Message = name + ": " + err.Message
			return err
		}
		q.lead(choice)
	}
	q.PartitionEpoch++
	e.put(t, c.GetPartition(), q)
	return nil
}
