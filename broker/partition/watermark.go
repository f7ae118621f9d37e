package partition

import "github.com/penstock/penstock/log/record"

// watermark is the smallest counted offset of the leader and of every follower
// that is in the committed ISR or in a proposal that may be committed. A
// follower without an ack in this epoch and session holds it back entirely.
func watermark(own record.Offset, followers []peer, synced bool) record.Offset {
	w := own
	for i := range followers {
		if f := &followers[i]; f.inSync || f.proposed {
			w = min(w, f.counted(synced))
		}
	}
	return w
}

// enoughInSync reports whether the committed ISR is large enough to commit
// records: min.insync.replicas, which cannot ask for more replicas than exist.
func (r *Replica) enoughInSync() bool {
	n := 0
	for i := range r.assigned.Replicas {
		if r.assigned.Replicas[i].ISR {
			n++
		}
	}
	return n >= min(r.assigned.MinISR, len(r.assigned.Replicas))
}

// updateWatermark is called after everything that may let HW move. It never
// moves back: what was readable once stays so.
func (r *Replica) updateWatermark(out *Effects) {
	if !r.leading() || !r.enoughInSync() {
		return
	}
	w := watermark(r.counted(), r.lead.followers, r.synced())
	if w <= r.hw {
		return
	}
	r.hw = w
	out.add(Effect{Kind: EffectWatermark, HW: w, LogStart: r.logStart})
	r.lead.all.complete(w, out)
	r.checkDrained(out)
}
