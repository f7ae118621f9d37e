package metadata

import (
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// recoverReplica takes in what a replica holds whose log failed, for want of space,
// and was opened anew while its broker went on, or one that turned out to be damaged, or
// that an election asks for (WantsPosition). It is a restart of that replica
// alone: it is told by what recovery found, leaves the sets that count on it when it
// may lack what it acknowledged, and every leader begins another epoch, so that no
// proposal of before the failure can bring it into the in-sync set, and it resumes no
// epoch in which others have acknowledged what it lost.
func (im *Image) recoverReplica(c *metav1.RecoverReplica) *Error {
	b, err := im.session(c.GetNodeId(), c.GetBrokerEpoch())
	if err != nil {
		return err
	}
	if b.Fenced {
		return Errorf(CodeStaleBrokerEpoch, "broker %d is fenced", b.NodeID)
	}
	r := c.GetReplica()
	e := im.edit()
	t, p, err := e.find(r.GetTopicId(), r.GetPartition())
	if err != nil {
		return err
	}
	name := partitionName(t, r.GetPartition())
	switch {
	case p.Replica(b.NodeID) == nil:
		return Errorf(CodeInvalidArgument, "%s: broker %d has no replica", name, b.NodeID)
	case c.GetLeaderEpoch() != p.LeaderEpoch:
		return Errorf(CodeFencedLeaderEpoch, "%s: leader epoch %d is not the present one, %d", name, c.GetLeaderEpoch(), p.LeaderEpoch)
	case r.GetLastEpoch() < -1 || r.GetLogEndOffset() < 0:
		return Errorf(CodeInvalidArgument, "%s: last epoch %d, log end %d: an epoch is from -1 on, a log end from 0", name, r.GetLastEpoch(), r.GetLogEndOffset())
	}
	q := p.clone()
	q.Replicas = slices.Clone(p.Replicas)
	mine := q.Replica(b.NodeID)
	mine.RecoveredEpoch, mine.LastEpoch, mine.LogEndOffset, mine.Damage = b.Epoch, r.GetLastEpoch(), r.GetLogEndOffset(), Damage(r.GetDamage())
	if mine.Damage != DamageNone || c.GetUnflushed() || t.settings.Durability == Replicated {
		if q.distrust(b.NodeID) && mine.Damage != DamageNone && im.featureLevel >= levelDamage {
			q.forgetPositions()
		}
	}
	if !im.reelect(q, p.Leader == b.NodeID) && q.LeaderEpoch == p.LeaderEpoch {
		q.LeaderEpoch++
	}
	q.PartitionEpoch++
	e.put(t, r.GetPartition(), q)
	e.done()
	return nil
}
