package metadata

import (
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// setISR replaces the in-sync set of p, the caller's own copy, and keeps the
// eligible leaders of KIP-966: empty while the set has its minimum; below it,
// everyone who was in either set and has left undamaged. They hold every
// acknowledged record, for below the minimum nothing more is acknowledged.
func (p *Partition) setISR(isr []int32, minISR int, damaged []int32) {
	var elr []int32
	if len(isr) < minISR {
		for _, node := range union(p.ISR, p.ELR) {
			if !slices.Contains(isr, node) && !slices.Contains(damaged, node) {
				elr = append(elr, node)
			}
		}
	}
	p.ISR, p.ELR = isr, elr
}

// changeISR applies the changes that a leader asked for, each on its own.
func (im *Image) changeISR(c *metav1.ChangeIsr, result *Result) *Error {
	b, err := im.session(c.GetNodeId(), c.GetBrokerEpoch())
	if err != nil {
		return err
	}
	if b.Fenced {
		return Errorf(CodeStaleBrokerEpoch, "broker %d is fenced", b.NodeID)
	}
	edit := im.edit()
	for i, change := range c.GetChanges() {
		if err := edit.changeISR(b.NodeID, change); err != nil {
			result.refuse(i, len(c.GetChanges()), err)
		}
	}
	edit.done()
	return nil
}

// refuse records the refusal of change i of n.
func (r *Result) refuse(i, n int, err *Error) {
	if r.Refused == nil {
		r.Refused = make([]*Error, n)
	}
	r.Refused[i] = err
}

func (e *edit) changeISR(node int32, c *metav1.IsrChange) *Error {
	t, p, err := e.find(c.GetTopicId(), c.GetPartition())
	if err != nil {
		return err
	}
	where := func(code Code, format string, args ...any) *Error {
		err := Errorf(code, format, args...)
		err.Message = partitionName(t, c.GetPartition()) + ": " + err.Message
		return err
	}
	switch {
	case p.Leader != node:
		return where(CodeNotLeader, "broker %d does not lead it, %d does", node, p.Leader)
	case c.GetLeaderEpoch() < p.LeaderEpoch:
		return where(CodeFencedLeaderEpoch, "leader epoch %d is over, the present one is %d", c.GetLeaderEpoch(), p.LeaderEpoch)
	case c.GetLeaderEpoch() > p.LeaderEpoch:
		return where(CodeUnknownLeaderEpoch, "leader epoch %d is not known, the present one is %d", c.GetLeaderEpoch(), p.LeaderEpoch)
	case c.GetPartitionEpoch() != p.PartitionEpoch:
		return where(CodeInvalidUpdateVersion, "partition epoch %d is not the present one, %d", c.GetPartitionEpoch(), p.PartitionEpoch)
	}
	isr, err := e.members(p, c, where)
	if err != nil {
		return err
	}
	// A set equal to the present one counts as a change too: the new partition
	// epoch tells the leader that no earlier proposal can be applied any more.
	q := p.clone()
	q.Replicas = slices.Clone(p.Replicas)
	for _, n := range isr {
		if !p.InISR(n) {
			// The leader saw it catch up: what it recovered with is history.
			r := q.Replica(n)
			r.RecoveredEpoch, r.LastEpoch, r.LogEndOffset, r.Damage = 0, -1, -1, DamageNone
		}
	}
	for _, n := range c.GetFailed() {
		if r := q.Replica(n); r != nil && r.Damage == DamageNone {
			r.Damage = DamageFailed
		}
	}
	q.setISR(isr, t.MinISR(p), c.GetDamaged())
	q.LastISR = nil // a leader lives, and its set holds everything
	q.PartitionEpoch++
	if !slices.Contains(isr, p.Leader) {
		// The leader resigned: its log failed. Whoever is there takes over: to wait for an
		// absent eligible member would leave the partition with a leader that cannot lead.
		choice := e.im.Elect(q, ElectOptions{Waited: len(isr) == 0})
		if len(isr) == 0 && choice.Leader == NoNode {
			return where(CodeLeaderNotAvailable, "the leader %d cannot resign: none of the eligible %v is there", p.Leader, q.ELR)
		}
		q.lead(choice)
	}
	e.put(t, c.GetPartition(), q)
	return nil
}

// members checks the proposed set and returns it in ascending order.
func (e *edit) members(p *Partition, c *metav1.IsrChange, where func(Code, string, ...any) *Error) ([]int32, *Error) {
	var isr []int32
	for _, m := range c.GetIsr() {
		b := e.im.Broker(m.GetNodeId())
		switch {
		case p.Replica(m.GetNodeId()) == nil || b == nil:
			return nil, where(CodeInvalidArgument, "broker %d has no replica", m.GetNodeId())
		case b.Epoch != m.GetBrokerEpoch():
			return nil, where(CodeStaleBrokerEpoch, "broker %d has epoch %d, not %d", m.GetNodeId(), b.Epoch, m.GetBrokerEpoch())
		case b.Fenced:
			return nil, where(CodeStaleBrokerEpoch, "broker %d is fenced", m.GetNodeId())
		case slices.Contains(isr, m.GetNodeId()):
			return nil, where(CodeInvalidArgument, "broker %d is named twice", m.GetNodeId())
		case slices.Contains(c.GetDamaged(), m.GetNodeId()):
			return nil, where(CodeInvalidArgument, "broker %d cannot be both in sync and damaged", m.GetNodeId())
		case slices.Contains(c.GetFailed(), m.GetNodeId()):
			return nil, where(CodeInvalidArgument, "broker %d cannot be in sync when its log has failed", m.GetNodeId())
		}
		isr = append(isr, m.GetNodeId())
	}
	// A leader that is the last of its set resigns to the eligible by an empty one.
	resigns := e.im.featureLevel >= levelOperate && len(p.ELR) > 0 &&
		(slices.Contains(c.GetDamaged(), p.Leader) || slices.Contains(c.GetFailed(), p.Leader))
	if len(isr) == 0 && !resigns {
		return nil, where(CodeInvalidArgument, "the in-sync set cannot be empty")
	}
	slices.Sort(isr)
	return isr, checkResigned(p, isr, where)
}

// checkResigned lets a leader leave its own set only to members that are in it
// already: they hold every acknowledged record whatever befell the leader.
func checkResigned(p *Partition, isr []int32, where func(Code, string, ...any) *Error) *Error {
	if slices.Contains(isr, p.Leader) {
		return nil
	}
	for _, node := range isr {
		if !p.InISR(node) {
			return where(CodeInvalidArgument, "the set %v lacks the leader %d, so it cannot add broker %d", isr, p.Leader, node)
		}
	}
	return nil
}

// electLeaders applies the controller's changes, each on its own. What the
// order of Elect forbids is refused, whoever asks.
func (im *Image) electLeaders(c *metav1.ElectLeaders, result *Result) {
	edit := im.edit()
	for i, change := range c.GetChanges() {
		if err := edit.electLeader(change); err != nil {
			result.refuse(i, len(c.GetChanges()), err)
		}
	}
	edit.done()
}

func (e *edit) electLeader(c *metav1.LeaderChange) *Error {
	t, p, err := e.find(c.GetTopicId(), c.GetPartition())
	if err != nil {
		return err
	}
	name := partitionName(t, c.GetPartition())
	if c.GetPartitionEpoch() != p.PartitionEpoch {
		return Errorf(CodeInvalidUpdateVersion, "%s: partition epoch %d is not the present one, %d", name, c.GetPartitionEpoch(), p.PartitionEpoch)
	}
	if c.GetLeader() == p.Leader {
		return Errorf(CodeInvalidArgument, "%s: broker %d is the leader already", name, p.Leader)
	}
	choice, err := e.im.eligible(p, c.GetLeader(), c.GetFromLastIsr())
	if err != nil {
		err.Message = name + ": " + err.Message
		return err
	}
	q := p.clone()
	q.lead(choice)
	q.PartitionEpoch++
	e.put(t, c.GetPartition(), q)
	return nil
}

// eligible says from which set a node may be made leader. Taking the leader
// away (NoNode) is always allowed.
func (im *Image) eligible(p *Partition, node int32, fromLastISR bool) (Choice, *Error) {
	if node == NoNode {
		return Choice{Leader: NoNode}, nil
	}
	el := election{im: im, p: p}
	if r := p.Replica(node); r != nil && r.Damage == DamageFailed {
		return Choice{}, Errorf(CodeLeaderNotAvailable, "the log of broker %d failed, and has not told what it recovered", node)
	}
	b, ok := el.usable(node)
	if !ok || p.Replica(node) == nil {
		return Choice{}, Errorf(CodeLeaderNotAvailable, "broker %d is fenced, unknown, or has no replica", node)
	}
	switch {
	case p.InISR(node) && restarted(p.Replica(node), b):
		return Choice{Leader: node, Source: FromRestarted}, nil
	case p.InISR(node):
		return Choice{Leader: node, Source: FromISR}, nil
	case p.InELR(node) && p.Leader == NoNode:
		return Choice{Leader: node, Source: FromELR}, nil
	case fromLastISR && p.Leader == NoNode && (slices.Contains(p.LastISR, node) || im.featureLevel >= levelDamage && p.lastDamaged()):
		if best := im.Elect(p, ElectOptions{LastISR: true}); best.Leader == node {
			return best, nil
		}
		return Choice{}, Errorf(CodeLeaderNotAvailable, "broker %d has not the longest log of the last in-sync set %v, "+
			"or not all of that set are back", node, p.LastISR)
	default:
		return Choice{}, Errorf(CodeLeaderNotAvailable, "broker %d is neither in sync (%v) nor eligible (%v)", node, p.ISR, p.ELR)
	}
}
