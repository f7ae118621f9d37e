package controller

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Place assigns the partitions of a new topic to the brokers that are neither
// fenced nor being decommissioned. The
// replicas of a partition are spread over racks first (a broker without a rack
// counts as a rack of its own). Within the topic, with racks of equal size, no
// broker has more than one replica or more than one leadership more than
// another; among equals the broker with less in the whole cluster is taken, and
// then the one that seed says, so that many small topics spread as well. The
// result depends on the arguments alone.
//
// Errors are *metadata.Error with CodeInvalidPartitions or
// CodeInvalidReplicationFactor.
func Place(im *metadata.Image, partitions, rf int, seed uint64) ([]*metav1.PartitionAssignment, error) {
	if partitions < 1 || partitions > metadata.MaxPartitions {
		return nil, metadata.Errorf(metadata.CodeInvalidPartitions, "%d partitions: a topic has 1 to %d", partitions, metadata.MaxPartitions)
	}
	if rf < 1 || rf > metadata.MaxReplicationFactor {
		return nil, metadata.Errorf(metadata.CodeInvalidReplicationFactor, "replication factor %d: must be 1 to %d",
			rf, metadata.MaxReplicationFactor)
	}
	pl := newPlacement(im, seed)
	if rf > len(pl.brokers) {
		return nil, metadata.Errorf(metadata.CodeInvalidReplicationFactor,
			"replication factor %d needs as many brokers; %d of %d registered ones are available", rf, len(pl.brokers), im.BrokerCount())
	}
	return pl.place(partitions, rf), nil
}

// PlaceMore assigns further partitions of a topic by the rules of Place, which
// hold for the topic as a whole as far as the partitions that are there allow.
func PlaceMore(im *metadata.Image, t *metadata.Topic, partitions int, seed uint64) ([]*metav1.PartitionAssignment, error) {
	if have := len(t.Partitions); partitions < 1 || have+partitions > metadata.MaxPartitions {
		return nil, metadata.Errorf(metadata.CodeInvalidPartitions, "%d partitions besides %d: a topic has 1 to %d", partitions, have, metadata.MaxPartitions)
	}
	rf := t.ReplicationFactor()
	pl := newPlacement(im, seed)
	if rf > len(pl.brokers) {
		return nil, metadata.Errorf(metadata.CodeInvalidReplicationFactor,
			"topic %s has %d replicas a partition; %d of %d registered brokers are available", t.Name, rf, len(pl.brokers), im.BrokerCount())
	}
	for _, p := range t.Partitions {
		for i := range p.Replicas {
			at := slices.IndexFunc(pl.brokers, func(s *site) bool { return s.node == p.Replicas[i].NodeID })
			if at < 0 {
				continue
			}
			s := pl.brokers[at]
			s.replicas++
			s.rack.replicas++
			if i == 0 {
				s.leaders++
			}
		}
	}
	return pl.place(partitions, rf), nil
}

func (pl *placement) place(partitions, rf int) []*metav1.PartitionAssignment {
	sets := make([][]*site, partitions)
	for i := range sets {
		sets[i] = pl.replicas(rf)
	}
	return assignments(lead(pl.brokers, sets))
}

// site is a broker on which replicas may be placed.
type site struct {
	node  int32
	order uint64 // from the seed
	rack  *rack

	replicas, leaders           int // of this topic
	allReplicas, allLeaderships int // of the other topics
}

type rack struct {
	name  string
	order uint64
	sites []*site

	used                  int // replicas of the partition being placed
	replicas, allReplicas int // of this topic, of the other topics
}

type placement struct {
	brokers []*site // by order
	racks   []*rack // by order
}

func newPlacement(im *metadata.Image, seed uint64) *placement {
	pl := &placement{}
	byNode, byName := make(map[int32]*site), make(map[string]*rack)
	for b := range im.Brokers() {
		if b.Fenced || b.Decommissioning {
			continue
		}
		s := &site{node: b.NodeID, order: mix(seed ^ uint64(uint32(b.NodeID)))}
		name := "rack " + b.Rack
		if b.Rack == "" {
			name = fmt.Sprintf("broker %d", b.NodeID)
		}
		r := byName[name]
		if r == nil {
			r = &rack{name: name, order: s.order}
			byName[name] = r
			pl.racks = append(pl.racks, r)
		}
		r.order = min(r.order, s.order)
		r.sites, s.rack = append(r.sites, s), r
		byNode[b.NodeID] = s
		pl.brokers = append(pl.brokers, s)
	}
	for t := range im.Topics() {
		for _, p := range t.Partitions {
			for i := range p.Replicas {
				s := byNode[p.Replicas[i].NodeID]
				if s == nil {
					continue
				}
				s.allReplicas++
				s.rack.allReplicas++
				if i == 0 {
					s.allLeaderships++
				}
			}
		}
	}
	slices.SortFunc(pl.brokers, func(a, b *site) int { return compareOrder(a.order, b.order, a.node, b.node) })
	slices.SortFunc(pl.racks, func(a, b *rack) int { return compareOrder(a.order, b.order, a.sites[0].node, b.sites[0].node) })
	return pl
}

// mix spreads the bits of x (the finalizer of SplitMix64), so that brokers come
// in another order with each seed.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func compareOrder(a, b uint64, nodeA, nodeB int32) int {
	return cmp.Or(cmp.Compare(a, b), cmp.Compare(nodeA, nodeB))
}

// replicas chooses the brokers of one partition. Racks are compared by their
// load in relation to their size; balancing racks first and brokers within
// their rack second keeps both within one.
func (pl *placement) replicas(rf int) []*site {
	for _, r := range pl.racks {
		r.used = 0
	}
	set := make([]*site, 0, rf)
	for len(set) < rf {
		r := slices.MinFunc(pl.openRacks(), func(a, b *rack) int {
			return cmp.Or(cmp.Compare(a.used, b.used),
				cmp.Compare(a.replicas*len(b.sites), b.replicas*len(a.sites)),
				cmp.Compare(a.allReplicas*len(b.sites), b.allReplicas*len(a.sites)))
		})
		var free []*site
		for _, s := range pl.brokers {
			if s.rack == r && !slices.Contains(set, s) {
				free = append(free, s)
			}
		}
		s := slices.MinFunc(free, func(a, b *site) int {
			return cmp.Or(cmp.Compare(a.replicas, b.replicas), cmp.Compare(a.allReplicas, b.allReplicas))
		})
		s.replicas++
		r.replicas++
		r.used++
		set = append(set, s)
	}
	return set
}

// openRacks are those with a broker that the partition does not use yet.
func (pl *placement) openRacks() []*rack {
	var open []*rack
	for _, r := range pl.racks {
		if r.used < len(r.sites) {
			open = append(open, r)
		}
	}
	return open
}

// lead puts the leader of each set first. It begins greedily and then moves
// leaderships along chains of sets (from a broker to another member of a set it
// leads, from that one on, and so forth) as long as that evens them out. Sets
// whose members are within one allow leaders within one, and a chain is found
// whenever they are not.
func lead(brokers []*site, sets [][]*site) [][]*site {
	for _, set := range sets {
		best := slices.MinFunc(set, func(a, b *site) int {
			return cmp.Or(cmp.Compare(a.leaders, b.leaders), cmp.Compare(a.allLeaderships, b.allLeaderships), cmp.Compare(a.order, b.order))
		})
		best.leaders++
		promote(set, best)
	}
	for shift(brokers, sets) {
	}
	spread(sets)
	return sets
}

// shift moves one leadership from a broker with at least two more to one with
// less, if a chain leads there.
func shift(brokers []*site, sets [][]*site) bool {
	for _, from := range brokers {
		chain := make(map[*site]int) // the set through which a broker was reached
		queue := []*site{from}
		for len(queue) > 0 {
			at := queue[0]
			queue = queue[1:]
			if at.leaders <= from.leaders-2 {
				from.leaders--
				at.leaders++
				for at != from {
					i := chain[at]
					previous := sets[i][0]
					promote(sets[i], at)
					at = previous
				}
				return true
			}
			for i, set := range sets {
				if set[0] != at {
					continue
				}
				for _, s := range set[1:] {
					if _, seen := chain[s]; !seen && s != from {
						chain[s] = i
						queue = append(queue, s)
					}
				}
			}
		}
	}
	return false
}

func promote(set []*site, leader *site) {
	i := slices.Index(set, leader)
	set[0], set[i] = set[i], set[0]
}

// spread rotates the followers of each leader's partitions in turn, so that the
// leaderships of a broker that fails go to all others.
func spread(sets [][]*site) {
	turn := make(map[*site]int)
	for _, set := range sets {
		followers := set[1:]
		if len(followers) == 0 {
			continue
		}
		slices.SortFunc(followers, func(a, b *site) int { return compareOrder(a.order, b.order, a.node, b.node) })
		n := turn[set[0]] % len(followers)
		turn[set[0]]++
		rotated := slices.Concat(followers[n:], followers[:n])
		copy(followers, rotated)
	}
}

func assignments(sets [][]*site) []*metav1.PartitionAssignment {
	out := make([]*metav1.PartitionAssignment, len(sets))
	for i, set := range sets {
		a := &metav1.PartitionAssignment{Replicas: make([]int32, len(set))}
		for j, s := range set {
			a.Replicas[j] = s.node
		}
		out[i] = a
	}
	return out
}
