package partition

import "github.com/penstock/penstock/log/record"

// AdmitTrim says whether the records below before may be deleted, and makes
// before exact: -1 means HW. Nothing past HW is deleted, for it may yet turn out
// not to be in the log. Below min.insync.replicas nothing is, as nothing is committed:
// those who left the in-sync set since may lead next, and still hold what the others
// would have deleted.
func (r *Replica) AdmitTrim(before record.Offset) (record.Offset, Outcome) {
	_, known := r.Latest()
	switch {
	case r.damage == DamageFailed:
		return before, OutcomeStorageFailed
	case !r.leading() || r.lead.draining:
		return before, OutcomeNotLeader
	case !r.enoughInSync():
		return before, OutcomeNotEnoughReplicas
	case !known && (before == record.UnknownOffset || before > r.hw):
		return before, OutcomeOffsetNotAvailable
	case before == record.UnknownOffset:
		return r.hw, OutcomeOK
	case before < 0 || before > r.hw:
		return before, OutcomeOffsetOutOfRange
	default:
		return before, OutcomeOK
	}
}

// trim queues a request to delete records, or answers it at once.
func (r *Replica) trim(ev Event, out *Effects) {
	outcome := OutcomeOK
	switch {
	case r.damage == DamageFailed:
		outcome = OutcomeStorageFailed
	case !r.leading():
		outcome = OutcomeNotLeader
	case !r.enoughInSync():
		outcome = OutcomeNotEnoughReplicasAfterAppend
	}
	if outcome != OutcomeOK {
		out.add(Effect{Kind: EffectComplete, Handle: ev.Handle, Outcome: outcome, End: ev.To})
		return
	}
	r.lead.trims.add(waiter{end: ev.To, handle: ev.Handle, deadline: ev.Deadline})
	r.updateTrims(out)
}

// LowWatermark is where the logs of this leader and of everyone who may be in the
// ISR begin at the least, durably; -1 when some have not said yet. Whoever leads
// next keeps nothing below it.
func (r *Replica) LowWatermark() record.Offset {
	low := r.keptStart
	for i := range r.lead.followers {
		if f := &r.lead.followers[i]; f.inSync || f.proposed {
			low = min(low, f.logStart)
		}
	}
	return low
}

// updateTrims is called after everything that may let the low watermark move.
func (r *Replica) updateTrims(out *Effects) {
	if r.lead.trims.len() > 0 && r.leading() {
		r.lead.trims.complete(r.LowWatermark(), out)
	}
}
