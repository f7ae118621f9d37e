package partition

import "github.com/penstock/penstock/log/record"

// Role is what the replica does now.
func (r *Replica) Role() Role { return r.role }

// Epoch is the leader epoch in force, -1 before the first assignment.
func (r *Replica) Epoch() record.Epoch {
	if r.assigned == nil {
		return record.UnknownEpoch
	}
	return r.assigned.LeaderEpoch
}

// PartitionEpoch is that of the assignment in force, -1 before the first one.
func (r *Replica) PartitionEpoch() int32 {
	if r.assigned == nil {
		return -1
	}
	return r.assigned.PartitionEpoch
}

// Leader is the node that leads by the assignment in force; -1: none.
func (r *Replica) Leader() int32 {
	if r.assigned == nil {
		return -1
	}
	return r.assigned.Leader
}

// HighWatermark is how far consumers may read, exclusive.
func (r *Replica) HighWatermark() record.Offset { return r.hw }

// End is the LEO.
func (r *Replica) End() record.Offset { return r.end }

// Damage is what is wrong with the replica's log.
func (r *Replica) Damage() Damage { return r.damage }

// InSync reports whether the committed ISR holds this replica: a follower then
// belongs on the in-sync stream.
func (r *Replica) InSync() bool {
	if r.assigned == nil {
		return false
	}
	for i := range r.assigned.Replicas {
		if a := &r.assigned.Replicas[i]; a.Node == r.cfg.Node {
			return a.ISR
		}
	}
	return false
}

// Latest answers a look-up of the latest offset or of a timestamp: HW, and
// whether it may be used. It may not before HW reached the LEO at election: a
// consumer would be told an offset below one it has read (KIP-207).
func (r *Replica) Latest() (record.Offset, bool) {
	return r.hw, r.leading() && r.hw >= r.lead.startOffset
}

// Admit says whether a produce request may be appended: OutcomeOK, or why not.
// The shell asks, appends and feeds Appended under one hold of its lock.
func (r *Replica) Admit(acks Acks) Outcome {
	switch {
	case r.damage == DamageFailed:
		return OutcomeStorageFailed
	case !r.leading() || r.lead.draining:
		return OutcomeNotLeader
	case acks == AcksAll && !r.enoughInSync():
		return OutcomeNotEnoughReplicas
	default:
		return OutcomeOK
	}
}

// Waiting is the number of produce requests that wait.
func (r *Replica) Waiting() int { return r.lead.all.len() + r.lead.one.len() }

// SessionOf returns the session that a follower may be pushed in, if there is
// one. The leader's shell checks it after it read the bytes of a push, so that
// what was read across a change of epoch is never sent.
func (r *Replica) SessionOf(node int32) (epoch record.Epoch, session uint64, ok bool) {
	if f := r.lead.find(node); r.role == RoleLeader && f != nil && f.matched {
		return r.Epoch(), f.session, true
	}
	return record.UnknownEpoch, 0, false
}

// FollowerState is what a leader knows of one follower, for metrics and for describe.
type FollowerState struct {
	Node     int32
	InSync   bool
	Proposed bool
	Session  uint64        // 0: none
	Appended record.Offset // -1: unknown in this epoch and session
	Flushed  record.Offset // likewise
}

// Followers appends what a leader knows of its followers to dst.
func (r *Replica) Followers(dst []FollowerState) []FollowerState {
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		dst = append(dst, FollowerState{
			Node: f.node, InSync: f.inSync, Proposed: f.proposed, Session: f.session,
			Appended: f.appended, Flushed: f.flushed,
		})
	}
	return dst
}

// Session is the session that a follower has opened, or asked for; 0: none. on says
// that the logs match and pushes are taken.
func (r *Replica) Session() (session uint64, on bool) {
	return r.follow.session, r.follow.phase == phaseOn
}
