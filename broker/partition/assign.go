package partition

import "time"

// assign puts a newer assignment in force. Metadata is level-triggered: images
// in between may never be seen, so nothing here depends on the step from one to
// the next, only on what differs.
func (r *Replica) assign(now time.Time, a *Assignment, out *Effects) {
	for _, known := range [...]*Assignment{r.assigned, r.deferred} {
		if known != nil && (a.PartitionEpoch < known.PartitionEpoch || a.LeaderEpoch < known.LeaderEpoch) {
			return
		}
	}
	if r.follow.phase == phaseTruncating {
		r.deferred = a
		return
	}
	old := r.assigned
	r.assigned = a
	r.unsafe = r.unsafe || !a.Synced
	if old == nil || a.LeaderEpoch != old.LeaderEpoch || a.Leader != old.Leader || r.self() == nil && r.role != RoleNone {
		r.changeRole(now, out)
		return
	}
	switch r.role {
	case RoleLeader:
		r.refreshLeader(now, a.PartitionEpoch != old.PartitionEpoch, out)
	case RoleFollower:
		r.maybeRebuild(out)
	case RoleNone:
		if old.PartitionEpoch != a.PartitionEpoch {
			r.changeRole(now, out)
		}
	}
}

// RefusesLead reports whether the metadata has this replica lead and it does not: it
// resigns, for which it needs Tick as a leader does.
func (r *Replica) RefusesLead() bool {
	return r.role == RoleNone && r.assigned != nil && r.assigned.Leader == r.cfg.Node && r.self() != nil
}

// changeRole begins a leader epoch: all that belonged to the old one ends.
func (r *Replica) changeRole(now time.Time, out *Effects) {
	if r.role == RoleLeader {
		r.stepDown(out)
	}
	if r.follow.phase != phaseStopped {
		r.follow.phase = phaseIdle
	}
	r.follow.session = 0
	r.lead.proposal = proposal{}
	a := r.assigned
	switch {
	case r.self() == nil:
		r.role = RoleNone
	case a.Leader != r.cfg.Node:
		r.role = RoleFollower
	case !r.mayLead():
		// A hole in what this replica acknowledged would become everybody's hole.
		r.role = RoleNone
		out.add(Effect{
			Kind: EffectRefusedLead, Epoch: a.LeaderEpoch, Damage: r.damage, Offset: r.end,
			End: max(r.cfg.Log.HW, r.cfg.Log.MustHave, r.hw),
		})
	default:
		r.role = RoleLeader
	}
	out.add(Effect{Kind: EffectRole, Role: r.role, Node: a.Leader, Epoch: a.LeaderEpoch})
	switch r.role {
	case RoleLeader:
		r.startLeading(now, out)
	case RoleFollower:
		r.maybeRebuild(out)
	case RoleNone:
		r.updateISR(now, out)
	}
}

// mayLead reports whether the log holds what this replica ever acknowledged, or
// an administrator ordered it to lead with what there is. A log that refuses
// work never leads.
func (r *Replica) mayLead() bool {
	if r.damage == DamageFailed {
		return false
	}
	if r.assigned.MayLeadDamaged {
		r.damage = DamageNone
	}
	return r.damage == DamageNone
}

// maybeRebuild lets a damaged follower start over once nobody counts on what it
// still holds: it is outside of every set that may hold acknowledged records, and
// another leads, from whom it can get them. The last holder is never emptied.
func (r *Replica) maybeRebuild(out *Effects) {
	if r.damage == DamageNone || r.damage == DamageFailed || r.untold {
		return
	}
	if s := r.self(); s != nil && !s.ISR && !s.ELR && !s.LastISR && r.assigned.Leader >= 0 {
		out.add(Effect{Kind: EffectRebuild, Damage: r.damage, Offset: r.end})
	}
}

// opened takes the log that replaced a damaged one.
func (r *Replica) opened(now time.Time, l LogState, out *Effects) {
	if r.damage == DamageNone || r.damage == DamageFailed || r.role == RoleLeader {
		return
	}
	r.cfg.Log = l
	r.damage, r.untold = l.Damage, false
	r.adoptLog(l)
	if r.assigned == nil {
		return
	}
	if r.role == RoleNone && r.self() != nil {
		r.changeRole(now, out)
		return
	}
	if r.role == RoleFollower {
		out.add(Effect{Kind: EffectAgain})
	}
}

// self is this broker's entry in the assignment, nil if it has none.
func (r *Replica) self() *Assigned {
	if r.assigned == nil {
		return nil
	}
	for i := range r.assigned.Replicas {
		if a := &r.assigned.Replicas[i]; a.Node == r.cfg.Node {
			return a
		}
	}
	return nil
}
