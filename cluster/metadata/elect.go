package metadata

import (
	"slices"
)

// Source says from which set a leader was elected, in the order of preference.
type Source int32

const (
	// FromISR is an in-sync member that ran without interruption.
	FromISR Source = iota + 1
	// FromRestarted is an in-sync member that registered anew and kept its place.
	FromRestarted
	// FromELR is an eligible leader of KIP-966.
	FromELR
	// FromLastISR is a member of the last set that could hold every acknowledged
	// record, all of whose members are there. Records may be lost.
	FromLastISR
	// FromOrder is any replica, by an operator's order. Records may be lost.
	FromOrder
)

func (s Source) String() string {
	switch s {
	case FromISR:
		return "in-sync"
	case FromRestarted:
		return "in-sync, restarted"
	case FromELR:
		return "eligible (KIP-966)"
	case FromLastISR:
		return "last in-sync set (records may be lost)"
	case FromOrder:
		return "an operator's order (records may be lost)"
	default:
		return "none"
	}
}

// Choice is the outcome of an election.
type Choice struct {
	Leader int32 // NoNode: nobody may lead now
	Source Source
}

// ElectOptions widen an election beyond what Apply does by itself.
type ElectOptions struct {
	// Waited: absent in-sync members got their time; do without them.
	Waited bool
	// LastISR allows FromLastISR.
	LastISR bool
	// Avoid excludes nodes, for example those about to be fenced; nil: none.
	Avoid func(node int32) bool
}

// Elect chooses a leader for p. It is a function of its arguments alone:
//
//  1. in-sync members that ran without interruption, in the order of Replicas;
//  2. where a leader goes that was in office until now, other in-sync members: they followed;
//  3. eligible leaders that ran without interruption;
//  4. of the re-registered members of both sets together, the one that told the
//     greatest (last epoch, log end), of equal ones an in-sync one;
//  5. if allowed, of LastISR once all of them are there, one that ran without
//     interruption (from level 2 on), else the greatest. The former never lost what it held when it
//     left, and what was acknowledged after that only those had who came back,
//     mostly without it: from then on until the leader, at once, has LastISR forgotten. Where all of them are damaged (from level 3 on) records are lost for
//     certain, and any replica may hold more than they still do: then the greatest of
//     all replicas, once all are there and have told what they hold.
//
// A replica whose log failed is passed over until it has told what it recovered.
// While an in-sync member is absent, 2 to 4 are passed over until it was
// waited for, for it may hold the longer log; while an eligible one is, 4.
//
// # Why both sets together
//
// Each member of either set holds every acknowledged record: who is in sync was waited
// for, who is eligible left below the minimum, when nothing more was acknowledged. As long
// as disks keep what they confirm any of them may lead, and the order among them decides
// only what becomes of records that nobody was promised.
//
// A drive that forgets what it confirmed, and the checkpoint with it, breaks that for its
// replica, and no recovery can tell. What it kept is a beginning of what it had. If that
// lacks an acknowledged record, its last epoch and its end are below those of a member
// that has them all: so the greatest of those that came back has them all if any of them
// does. One that never went away has lost nothing to a power cut, and need not be
// compared. Before level 4 in-sync members that came back were compared with each
// other alone, before eligible ones: the only one of them led, with whatever it had left.
//
// What a replica told is exact as long as there is no leader to follow, and old when it has
// followed since. So nothing is compared, and nobody waited for, where a leader goes while
// in-sync followers are there (2). Where an old word loses an election all the same, its
// replica refuses the shorter log (broker/partition), and is heard, if it knows by then
// that what it holds was committed (docs/decisions/0013-forgotten.md, "What stays").
//
// The wait for eligible members costs no acknowledgement with acks=all: as long as there are
// any, the in-sync set is below its minimum, and its leader could only refuse.
func (im *Image) Elect(p *Partition, opts ElectOptions) Choice {
	e := election{im: im, p: p, avoid: opts.Avoid}
	if node, ok := e.uninterrupted(p.ISR); ok {
		return Choice{Leader: node, Source: FromISR}
	}
	if opts.Waited || e.allPresent(p.ISR) {
		choose := e.ofBothSets
		if im.featureLevel < levelCompare {
			choose = e.ofEachSet
		}
		if c := choose(opts.Waited); c.Leader != NoNode {
			return c
		}
	}
	if opts.LastISR && e.allPresent(p.LastISR) {
		if im.featureLevel >= levelDamage && p.lastDamaged() {
			if node, ok := e.bestCopy(); ok {
				return Choice{Leader: node, Source: FromLastISR}
			}
			return Choice{Leader: NoNode}
		}
		if node, ok := e.uninterrupted(p.LastISR); ok {
			if im.featureLevel < levelOperate { // it was waited for until it registered anew
				return Choice{Leader: NoNode}
			}
			return Choice{Leader: node, Source: FromLastISR}
		}
		if node, ok := e.longest(p.LastISR); ok {
			return Choice{Leader: node, Source: FromLastISR}
		}
	}
	return Choice{Leader: NoNode}
}

// election holds what the steps of one Elect share.
type election struct {
	im    *Image
	p     *Partition
	avoid func(int32) bool
}

// ofBothSets chooses from the in-sync and the eligible members, of which no in-sync one ran
// without interruption.
func (e *election) ofBothSets(waited bool) Choice {
	if e.succeeds() {
		if node, ok := e.longest(e.p.ISR); ok {
			return Choice{Leader: node, Source: FromRestarted}
		}
	}
	if node, ok := e.uninterrupted(e.p.ELR); ok {
		return Choice{Leader: node, Source: FromELR}
	}
	if !waited && e.awaits(e.p.ELR) {
		return Choice{Leader: NoNode}
	}
	best, ok := e.longest(e.p.ISR)
	source := FromRestarted
	if other, eligible := e.longest(e.p.ELR); eligible && (!ok || e.p.Replica(other).longer(e.p.Replica(best))) {
		best, ok, source = other, true, FromELR
	}
	if !ok {
		return Choice{Leader: NoNode}
	}
	return Choice{Leader: best, Source: source}
}

// succeeds reports whether a leader was in office until now and goes: it is fenced, avoided
// or leaves the set. One that came back is a candidate like others.
func (e *election) succeeds() bool {
	if e.p.Leader == NoNode {
		return false
	}
	_, ok := e.usable(e.p.Leader)
	return !ok || !e.p.InISR(e.p.Leader)
}

// ofEachSet is what ofBothSets was before level 4.
func (e *election) ofEachSet(bool) Choice {
	if node, ok := e.longest(e.p.ISR); ok {
		return Choice{Leader: node, Source: FromRestarted}
	}
	if node, ok := e.uninterrupted(e.p.ELR); ok {
		return Choice{Leader: node, Source: FromELR}
	}
	if node, ok := e.longest(e.p.ELR); ok {
		return Choice{Leader: node, Source: FromELR}
	}
	return Choice{Leader: NoNode}
}

// awaits reports whether somebody of set is absent. A member whose log failed comes back
// with its process alone, and is not waited for.
func (e *election) awaits(set []int32) bool {
	return slices.ContainsFunc(set, func(node int32) bool {
		_, ok := e.usable(node)
		return !ok && e.p.Replica(node).Damage != DamageFailed
	})
}

// longer reports whether r told a greater (last epoch, log end offset) than o.
func (r *Replica) longer(o *Replica) bool {
	return r.LastEpoch > o.LastEpoch || r.LastEpoch == o.LastEpoch && r.LogEndOffset > o.LogEndOffset
}

// usable returns the broker when it may lead.
func (e *election) usable(node int32) (*Broker, bool) {
	b, r := e.im.Broker(node), e.p.Replica(node)
	if b == nil || b.Fenced || r == nil || r.Damage == DamageFailed || (e.avoid != nil && e.avoid(node)) {
		return nil, false
	}
	return b, true
}

// restarted reports whether the replica came back with the present session of
// its broker and was not added to the in-sync set since.
func restarted(r *Replica, b *Broker) bool { return r.RecoveredEpoch == b.Epoch }

func (e *election) uninterrupted(set []int32) (int32, bool) {
	for i := range e.p.Replicas {
		r := &e.p.Replicas[i]
		if !slices.Contains(set, r.NodeID) {
			continue
		}
		if b, ok := e.usable(r.NodeID); ok && !restarted(r, b) {
			return r.NodeID, true
		}
	}
	return NoNode, false
}

// longest returns the usable re-registered member with the greatest (last
// epoch, log end offset), of equal ones the most preferred.
func (e *election) longest(set []int32) (int32, bool) {
	var best *Replica
	for i := range e.p.Replicas {
		r := &e.p.Replicas[i]
		if !slices.Contains(set, r.NodeID) {
			continue
		}
		if b, ok := e.usable(r.NodeID); !ok || !restarted(r, b) {
			continue
		}
		if best == nil || r.longer(best) {
			best = r
		}
	}
	if best == nil {
		return NoNode, false
	}
	return best.NodeID, true
}

// lastDamaged reports whether there is a LastISR and nobody in it is intact.
func (p *Partition) lastDamaged() bool {
	for _, node := range p.LastISR {
		if !p.Replica(node).Damage.lost() {
			return false
		}
	}
	return len(p.LastISR) > 0
}

// bestCopy returns the replica with the greatest (last epoch, log end offset) of all,
// of equal ones an intact, then the most preferred. A replica that is absent, or has
// not told what it holds, may be the best: then there is no choice. Those that a
// reassignment added are not waited for.
func (e *election) bestCopy() (int32, bool) {
	var best *Replica
	for i := range e.p.Replicas {
		r := &e.p.Replicas[i]
		if _, ok := e.usable(r.NodeID); !ok || r.LogEndOffset < 0 {
			if slices.Contains(e.p.Adding, r.NodeID) {
				continue
			}
			return NoNode, false
		}
		if best == nil || r.longer(best) || !best.longer(r) && best.Damage.lost() && !r.Damage.lost() {
			best = r
		}
	}
	if best == nil {
		return NoNode, false
	}
	return best.NodeID, true
}

// WantsPosition reports whether an election waits for node to tell what its replica
// of p holds (RecoverReplica): bestCopy does not know.
func (im *Image) WantsPosition(p *Partition, node int32) bool {
	r := p.Replica(node)
	return im.featureLevel >= levelDamage && r != nil && r.LogEndOffset < 0 &&
		p.Leader == NoNode && len(p.ISR)+len(p.ELR) == 0 && p.lastDamaged()
}

// forgetPositions is called on the caller's own copy of p when a replica turns out to
// be damaged: what those outside of all sets once told has changed since, for they have
// followed.
func (p *Partition) forgetPositions() {
	for i := range p.Replicas {
		r := &p.Replicas[i]
		if !p.InISR(r.NodeID) && !p.InELR(r.NodeID) && !slices.Contains(p.LastISR, r.NodeID) {
			r.LastEpoch, r.LogEndOffset = -1, -1
		}
	}
}

func (e *election) allPresent(set []int32) bool {
	for _, node := range set {
		if _, ok := e.usable(node); !ok {
			return false
		}
	}
	return true
}

// lead makes node the leader of p, which is the caller's own copy: a new leader
// epoch, and the in-sync set that follows from where the leader came from.
func (p *Partition) lead(c Choice) {
	p.Leader = c.Leader
	p.LeaderEpoch++
	switch c.Source {
	case FromELR:
		// An absent in-sync member holds every acknowledged record as well.
		p.ELR = without(union(p.ISR, p.ELR), c.Leader)
		p.ISR = []int32{c.Leader}
	case FromLastISR, FromOrder:
		// From here on its log is the partition, whatever it lost.
		p.ISR, p.ELR, p.LastISR, p.Lost = []int32{c.Leader}, nil, nil, false
		p.LossyEpoch = p.LeaderEpoch
		p.Replicas = slices.Clone(p.Replicas)
		p.Replica(c.Leader).Damage = DamageNone
	case FromISR, FromRestarted:
	}
}

// reelect elects a leader for p, the caller's own copy, when it has none or
// when ended says that its leader's time is over.
func (im *Image) reelect(p *Partition, ended bool) (changed bool) {
	if p.Leader != NoNode && !ended {
		return false
	}
	c := im.Elect(p, ElectOptions{})
	if c.Leader == NoNode && p.Leader == NoNode {
		return false
	}
	p.lead(c)
	return true
}

// without returns a copy of an ascending set that lacks node; nil when empty.
func without(set []int32, node int32) []int32 {
	var out []int32
	for _, n := range set {
		if n != node {
			out = append(out, n)
		}
	}
	return out
}

// union returns the ascending union of sets; nil when empty.
func union(sets ...[]int32) []int32 {
	out := slices.Concat(sets...)
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) == 0 {
		return nil
	}
	return out
}
