package controller

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Move is one partition of a plan: the replicas that it has, or is about to have,
// and those that it should have.
type Move struct {
	Topic     *metadata.Topic
	Partition int32
	From, To  []int32
}

// Reassignment is the move as a change that holds for the partition as it is now.
func (m Move) Reassignment(throttle int64) *metav1.PartitionReassignment {
	epoch := m.Topic.Partitions[m.Partition].PartitionEpoch
	return &metav1.PartitionReassignment{
		TopicId: m.Topic.ID[:], Partition: m.Partition, Replicas: m.To, Throttle: throttle, PartitionEpoch: &epoch,
	}
}

// Evacuate plans the moves that take replicas off the brokers that are being
// decommissioned, and nothing else: each replica goes to the broker that keeps the
// partition on most racks and has least to do, and leaves its place in the order of
// preference to it. A partition that is on its way already is left alone, unless
// stuck says so of a broker that it is moving to. At most so many partitions are
// under way with the plan as most says.
//
// The result depends on the arguments alone. A partition for which there are not
// enough brokers has no move.
func Evacuate(im *metadata.Image, most int, stuck func(node int32) bool) []Move {
	leaving := make(map[int32]bool)
	for b := range im.Brokers() {
		if b.Decommissioning {
			leaving[b.NodeID] = true
		}
	}
	if len(leaving) == 0 {
		return nil
	}
	var moves []Move
	var f *fleet // counted when it is needed
	most -= underWay(im, leaving)
	for t := range im.Topics() {
		for i, p := range t.Partitions {
			if !onAny(p, leaving) {
				continue
			}
			final := p.Final()
			var leave []int32
			redirected := false
			for _, id := range final {
				lost := slices.Contains(p.Adding, id) && !holds(p, id) && stuck != nil && stuck(id)
				if leaving[id] || lost {
					leave = append(leave, id)
				}
				redirected = redirected || lost
			}
			if len(leave) == 0 || len(moves) >= most && !redirected {
				continue
			}
			if f == nil {
				f = newFleet(im)
			}
			if to := f.replaceAll(t, p, leave); to != nil {
				moves = append(moves, Move{Topic: t, Partition: int32(i), From: final, To: to})
			}
		}
	}
	return moves
}

// underWay is how many partitions are moving off brokers.
func underWay(im *metadata.Image, leaving map[int32]bool) int {
	n := 0
	for t := range im.Topics() {
		for _, p := range t.Partitions {
			if p.Moving() && slices.ContainsFunc(p.Removing(), func(id int32) bool { return leaving[id] }) {
				n++
			}
		}
	}
	return n
}

// holds reports whether a replica may hold acknowledged records that no other does.
func holds(p *metadata.Partition, id int32) bool {
	return p.InISR(id) || p.InELR(id) || slices.Contains(p.LastISR, id)
}

func onAny(p *metadata.Partition, nodes map[int32]bool) bool {
	for i := range p.Replicas {
		if nodes[p.Replicas[i].NodeID] {
			return true
		}
	}
	return false
}

// fleet is what the brokers have, counted by where replicas are to be in the end.
type fleet struct {
	hosts  []*host // by node id: those that may be given replicas
	byNode map[int32]*host
	racks  map[int32]string // of every registered broker
}

type host struct {
	node              int32
	replicas, leaders int
	ofTopic           map[metadata.ID]int
}

func newFleet(im *metadata.Image) *fleet {
	f := &fleet{byNode: make(map[int32]*host), racks: make(map[int32]string)}
	for b := range im.Brokers() {
		f.racks[b.NodeID] = "rack " + b.Rack
		if b.Rack == "" {
			f.racks[b.NodeID] = fmt.Sprintf("broker %d", b.NodeID)
		}
		if b.Fenced || b.Decommissioning {
			continue
		}
		h := &host{node: b.NodeID, ofTopic: make(map[metadata.ID]int)}
		f.byNode[b.NodeID] = h
		f.hosts = append(f.hosts, h)
	}
	for t := range im.Topics() {
		for _, p := range t.Partitions {
			f.count(t.ID, p.Final(), 1)
		}
	}
	return f
}

// count adds n times the replicas of a partition of a topic.
func (f *fleet) count(topic metadata.ID, replicas []int32, n int) {
	for i, node := range replicas {
		h := f.byNode[node]
		if h == nil {
			continue
		}
		h.replicas += n
		h.ofTopic[topic] += n
		if i == 0 {
			h.leaders += n
		}
	}
}

// spread is on how many racks replicas are.
func (f *fleet) spread(replicas []int32) int {
	n := 0
	for i, node := range replicas {
		if !slices.ContainsFunc(replicas[:i], func(other int32) bool { return f.racks[other] == f.racks[node] }) {
			n++
		}
	}
	return n
}

// replaceAll gives the replicas that leave to other brokers; nil: there are not
// enough. The fleet counts the result.
func (f *fleet) replaceAll(t *metadata.Topic, p *metadata.Partition, leave []int32) []int32 {
	to := p.Final()
	for _, old := range leave {
		if to = f.replace(t, p, to, old); to == nil {
			return nil
		}
	}
	f.count(t.ID, p.Final(), -1)
	f.count(t.ID, to, 1)
	return to
}

// replace puts the best broker in the place of old; nil: there is none. One that the
// partition is leaving anyway is none.
func (f *fleet) replace(t *metadata.Topic, p *metadata.Partition, replicas []int32, old int32) []int32 {
	var best []int32
	var bestHost *host
	at := slices.Index(replicas, old)
	for _, h := range f.hosts {
		leaves := p.Replica(h.node) != nil && !slices.Contains(p.Final(), h.node)
		if leaves || slices.Contains(replicas, h.node) || slices.Contains(p.Final(), h.node) {
			continue
		}
		to := replaced(replicas, at, h.node)
		if best == nil || f.better(t.ID, at == 0, h, bestHost, f.spread(to), f.spread(best)) {
			best, bestHost = to, h
		}
	}
	return best
}

func (f *fleet) better(topic metadata.ID, leads bool, a, b *host, spreadA, spreadB int) bool {
	order := cmp.Or(cmp.Compare(spreadB, spreadA), cmp.Compare(a.replicas, b.replicas))
	if order == 0 && leads {
		order = cmp.Compare(a.leaders, b.leaders)
	}
	return cmp.Or(order, cmp.Compare(a.ofTopic[topic], b.ofTopic[topic]), cmp.Compare(a.node, b.node)) < 0
}
