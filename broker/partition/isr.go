package partition

import (
	"cmp"
	"slices"
	"time"
)

// proposal is what is under way to change the ISR, at one partition epoch.
// The metadata log accepts a change only at the partition epoch it was made for,
// so a newer one settles every earlier proposal.
type proposal struct {
	partitionEpoch int32
	inFlight       bool // no result yet
	// unresolved: one at this partition epoch may have been committed.
	unresolved bool
	retryAt    time.Time
}

// settleProposals is called when a newer partition epoch is in force.
func (r *Replica) settleProposals() {
	r.lead.proposal = proposal{}
	r.clearProposed()
}

func (r *Replica) clearProposed() {
	for i := range r.lead.followers {
		r.lead.followers[i].proposed = false
	}
}

// eligible reports whether f may be proposed for the ISR: it acknowledged, in
// this epoch and session, everything committed and everything before this epoch,
// and that its log begins where this one does: leading next, it must not bring
// back records whose deletion was answered. One that fell silent is not proposed
// until it is heard: as a member it would be proposed out again at once.
func (r *Replica) eligible(now time.Time, f *peer) bool {
	counted := f.counted(r.synced())
	return f.matched && !f.fenced && !f.withdrawn && !f.damaged &&
		counted >= r.hw && counted >= r.lead.startOffset && f.logStart >= r.keptStart && !r.lagging(now, f) && !r.silent(now, f)
}

// wants reports whether f belongs in the ISR as the leader sees it.
func (r *Replica) wants(now time.Time, f *peer) bool {
	if !f.inSync {
		return r.eligible(now, f)
	}
	return !f.fenced && !f.withdrawn && !f.damaged && !f.leaves && !r.silent(now, f) && !r.fellBehind(now, f)
}

// updateISR proposes the ISR that the leader wants when it differs from the
// committed one, when an earlier proposal was left without an outcome, or when the
// image still keeps the last set that may hold every record: that a leader lives
// and which set holds everything is what lets the others start over. A leader that is
// not well resigns as soon as another could lead. One proposal is under way at a time.
func (r *Replica) updateISR(now time.Time, out *Effects) {
	p := &r.lead.proposal
	if r.role != RoleLeader && !r.RefusesLead() || r.superseded() || r.lead.suspended || p.inFlight || now.Before(p.retryAt) {
		return
	}
	if (r.damage != DamageNone || r.lead.lost) && r.resign(now, out) || r.role != RoleLeader {
		return
	}
	changed := p.unresolved || r.lastSetKept()
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		changed = changed || r.wants(now, f) != f.inSync || f.leaves
	}
	if changed {
		r.propose(now, out)
	}
}

// resign proposes the ISR without this replica, if somebody there could lead or, with
// an empty set, an eligible leader outside of it. It reports whether it did. Only
// members of the committed set are in it: a log that is not well vouches for nobody.
func (r *Replica) resign(now time.Time, out *Effects) bool {
	out.Members, out.Damaged, out.Failed = out.Members[:0], out.Damaged[:0], out.Failed[:0]
	if r.damage == DamageFailed && r.assigned.KeepsFailed && !r.unsafe && !r.lead.lost {
		out.Failed = append(out.Failed, r.cfg.Node) // what it acknowledged was flushed
	} else {
		out.Damaged = append(out.Damaged, r.cfg.Node)
	}
	eligible := false
	for i := range r.assigned.Replicas {
		a := &r.assigned.Replicas[i]
		if a.Node == r.cfg.Node || a.Fenced {
			continue
		}
		f := r.lead.find(a.Node) // nil if it refused to lead
		if f != nil && f.damaged {
			out.Damaged = append(out.Damaged, a.Node)
			continue
		}
		if a.ISR && (f == nil || r.wants(now, f)) {
			out.Members = append(out.Members, Member{Node: a.Node, BrokerEpoch: a.BrokerEpoch})
		}
		eligible = eligible || a.ELR && !a.Failed
	}
	if len(out.Members) == 0 && !eligible {
		out.Damaged, out.Failed = out.Damaged[:0], out.Failed[:0]
		return false
	}
	r.addProposal(out)
	return true
}

// lastSetKept reports whether the assignment keeps a LastISR.
func (r *Replica) lastSetKept() bool {
	for i := range r.assigned.Replicas {
		if r.assigned.Replicas[i].LastISR {
			return true
		}
	}
	return false
}

func (r *Replica) propose(now time.Time, out *Effects) {
	self := r.self()
	out.Members, out.Damaged = append(out.Members[:0], Member{Node: self.Node, BrokerEpoch: self.BrokerEpoch}), out.Damaged[:0]
	out.Failed = out.Failed[:0]
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		if f.damaged || f.leaves {
			out.Damaged = append(out.Damaged, f.node)
		}
		if !r.wants(now, f) {
			continue
		}
		f.proposed = f.proposed || !f.inSync
		out.Members = append(out.Members, Member{Node: f.node, BrokerEpoch: f.brokerEpoch})
	}
	r.addProposal(out)
}

func (r *Replica) addProposal(out *Effects) {
	slices.SortFunc(out.Members, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	p := &r.lead.proposal
	p.inFlight, p.partitionEpoch = true, r.assigned.PartitionEpoch
	out.add(Effect{Kind: EffectProposeISR, Epoch: r.assigned.LeaderEpoch, PartitionEpoch: r.assigned.PartitionEpoch})
}

// proposalResult takes the answer. A committed change takes effect with the
// image that shows it; until then it is counted like one of unknown outcome.
func (r *Replica) proposalResult(now time.Time, ev Event, out *Effects) {
	p := &r.lead.proposal
	if !p.inFlight || ev.PartitionEpoch != p.partitionEpoch {
		return
	}
	p.inFlight = false
	p.retryAt = now.Add(r.cfg.ProposalRetry)
	if ev.Outcome != OutcomeRefused {
		p.unresolved = true
		return
	}
	if !p.unresolved && r.role == RoleLeader {
		r.clearProposed()
		r.updateWatermark(out)
		r.updateTrims(out)
	}
}
