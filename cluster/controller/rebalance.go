package controller

import (
	"cmp"
	"slices"

	"github.com/penstock/penstock/cluster/metadata"
)

// Rebalance plans moves after which the brokers that are neither fenced nor being
// decommissioned have the same number of replicas and of preferred leaderships, to
// within one as far as racks and the places of replicas allow, over all topics
// together. It moves
// little: a replica moves only from a broker that has more than its share to one
// that has less, or to bring a partition to a rack more, and a leadership by
// another order of the same replicas. No partition loses a rack. Of two replicas
// that could move, one is preferred whose topic becomes more even by it.
//
// Only partitions of topics that want accepts are touched (nil: all), and none
// that is moving already or will, off a broker that is being decommissioned; all
// are counted. The result depends on the arguments alone.
func Rebalance(im *metadata.Image, want func(*metadata.Topic) bool) []Move {
	b := &balancer{fleet: newFleet(im)}
	for t := range im.Topics() {
		if want != nil && !want(t) {
			continue
		}
		for i, p := range t.Partitions {
			if !p.Moving() && !leaves(im, p) {
				final := p.Final()
				b.parts = append(b.parts, &balanced{Move: Move{Topic: t, Partition: int32(i), From: final, To: slices.Clone(final)}})
			}
		}
	}
	if len(b.hosts) > 1 {
		b.widen()
		b.share()
		b.lead()
	}
	var out []Move
	for _, p := range b.parts {
		if !slices.Equal(p.From, p.To) {
			out = append(out, p.Move)
		}
	}
	return out
}

// leaves reports whether a decommission will move p.
func leaves(im *metadata.Image, p *metadata.Partition) bool {
	return slices.ContainsFunc(p.Final(), func(node int32) bool { return im.Broker(node).Decommissioning })
}

// balanced is a partition as the plan has it so far.
type balanced struct{ Move }

type balancer struct {
	*fleet
	parts []*balanced // by topic name and partition number
}

// put puts a broker in the place of another.
func (b *balancer) put(p *balanced, at int, node int32) {
	to := slices.Clone(p.To)
	to[at] = node
	b.order(p, to)
}

func (b *balancer) order(p *balanced, to []int32) {
	b.count(p.Topic.ID, p.To, -1)
	p.To = to
	b.count(p.Topic.ID, p.To, 1)
}

// widen brings partitions to racks that they do not use while two of their
// replicas share one.
func (b *balancer) widen() {
	for _, p := range b.parts {
		for b.widenOne(p) {
		}
	}
}

// widenOne moves the replica of the busiest broker that shares its rack.
func (b *balancer) widenOne(p *balanced) bool {
	spread := b.spread(p.To)
	from, to := -1, (*host)(nil)
	for at, node := range p.To {
		shared := slices.ContainsFunc(p.To, func(other int32) bool { return other != node && b.racks[other] == b.racks[node] })
		if !shared || b.byNode[node] == nil || from >= 0 && b.byNode[p.To[from]].replicas >= b.byNode[node].replicas {
			continue
		}
		for _, h := range b.hosts {
			if slices.Contains(p.To, h.node) || b.spread(replaced(p.To, at, h.node)) <= spread {
				continue
			}
			if to == nil || b.lighter(p.Topic.ID, h, to) || from != at && b.racks[to.node] == b.racks[h.node] {
				from, to = at, h
			}
		}
	}
	if to == nil {
		return false
	}
	b.put(p, from, to.node)
	return true
}

func replaced(set []int32, at int, node int32) []int32 {
	out := slices.Clone(set)
	out[at] = node
	return out
}

func (b *balancer) lighter(topic metadata.ID, x, y *host) bool {
	return cmp.Or(cmp.Compare(x.replicas, y.replicas), cmp.Compare(x.ofTopic[topic], y.ofTopic[topic]), cmp.Compare(x.node, y.node)) < 0
}

// share brings every broker to the even part of all replicas, rounded down or up:
// those above it give first, and those below it get first, so that none passes on
// what it was given.
func (b *balancer) share() {
	sum := 0
	for _, h := range b.hosts {
		sum += h.replicas
	}
	low := sum / len(b.hosts)
	high := (sum + len(b.hosts) - 1) / len(b.hosts)
	for _, above := range []int{high, low} {
		for _, most := range []int{low - 1, low} {
			b.even(above, most, true)
			b.even(above, most, false)
		}
	}
}

// even moves replicas from brokers with more than above to others that have at
// least two less and at most so many as most says. topics: only if the topic
// becomes more even by it. Every move brings the counts closer, so it ends.
func (b *balancer) even(above, most int, topics bool) {
	for moved := true; moved; {
		moved = false
		for _, p := range b.parts {
			for at, node := range p.To {
				from := b.byNode[node]
				if from == nil || from.replicas <= above {
					continue
				}
				if to := b.lightest(p, at, from, min(most, from.replicas-2), topics); to != nil {
					b.put(p, at, to.node)
					moved = true
				}
			}
		}
	}
}

// lightest is the broker that the replica at a place of p should move to; nil:
// it stays.
func (b *balancer) lightest(p *balanced, at int, from *host, most int, topics bool) *host {
	var best *host
	spread, id := b.spread(p.To), p.Topic.ID
	for _, h := range b.hosts {
		if h.replicas > most || topics && h.ofTopic[id] >= from.ofTopic[id] || slices.Contains(p.To, h.node) {
			continue
		}
		if (best == nil || b.lighter(id, h, best)) && b.spread(replaced(p.To, at, h.node)) >= spread {
			best = h
		}
	}
	return best
}

// lead evens the leaderships out: first from a broker straight to another replica
// of the same partition, then along chains of partitions.
func (b *balancer) lead() {
	for moved := true; moved; {
		moved = false
		for _, p := range b.parts {
			from := b.byNode[p.To[0]]
			if from == nil {
				continue
			}
			best := 0
			for at, node := range p.To {
				h := b.byNode[node]
				if h != nil && h.leaders <= from.leaders-2 && (best == 0 || h.leaders < b.byNode[p.To[best]].leaders) {
					best = at
				}
			}
			if best > 0 {
				b.promote(p, best)
				moved = true
			}
		}
	}
	for b.chain() {
	}
}

func (b *balancer) promote(p *balanced, at int) {
	to := slices.Clone(p.To)
	to[0], to[at] = to[at], to[0]
	b.order(p, to)
}

// chain moves one leadership from a broker to one with at least two less by way of
// others: each hands one on that the next can take over.
func (b *balancer) chain() bool {
	led := make(map[int32][]*balanced, len(b.hosts))
	for _, p := range b.parts {
		led[p.To[0]] = append(led[p.To[0]], p)
	}
	for _, from := range b.hosts {
		reached := map[int32]*balanced{from.node: nil} // through which partition
		for queue := []int32{from.node}; len(queue) > 0; queue = queue[1:] {
			at := queue[0]
			if b.byNode[at].leaders <= from.leaders-2 {
				for at != from.node {
					p := reached[at]
					previous := p.To[0]
					b.promote(p, slices.Index(p.To, at))
					at = previous
				}
				return true
			}
			for _, p := range led[at] {
				for _, node := range p.To[1:] {
					if _, seen := reached[node]; !seen && b.byNode[node] != nil {
						reached[node] = p
						queue = append(queue, node)
					}
				}
			}
		}
	}
	return false
}
