package controller

import (
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// judgePartitions elects leaders where none is or the leader leaves, and, when
// there is nothing to fence or elect, moves leaderships to preferred leaders.
func (d *decider) judgePartitions() {
	leaderless := func(t *metadata.Topic) bool { return t.Pending().Leaderless > 0 || len(d.leaving) > 0 }
	d.eachPartition(leaderless, func(t *metadata.Topic, i int, p *metadata.Partition) {
		switch {
		case p.Leader == metadata.NoNode:
			c := d.elect(p, d.avoided)
			if c.Leader == metadata.NoNode {
				// A broker whose disk hangs stays where it is the last that could
				// lead; where there is no leader it is better than none, too.
				c = d.elect(p, d.going)
			}
			if c.Leader != metadata.NoNode {
				d.change(t, i, p, c.Leader, "from "+c.Source.String(), c.Source == metadata.FromLastISR)
			}
		case d.leaving[p.Leader]:
			if to := d.successor(p); to != metadata.NoNode {
				d.change(t, i, p, to, "leader leaves", false)
			}
		}
	})
	if len(d.elections) > 0 || len(d.fences) > 0 {
		return
	}
	displaced := func(t *metadata.Topic) bool { return t.Pending().Displaced > 0 }
	d.eachPartition(displaced, func(t *metadata.Topic, i int, p *metadata.Partition) {
		if len(d.elections) < d.opts.MaxMoves && d.shouldReturn(p) {
			d.change(t, i, p, p.Preferred(), "preferred leader", false)
		}
	})
}

// eachPartition calls visit by topic name and partition number, in topics that are
// worth it, until the elections fill a command. Partitions of a broker that is fenced or unfenced in
// this decision are left for the next one: those commands elect by themselves.
func (d *decider) eachPartition(worth func(*metadata.Topic) bool, visit func(*metadata.Topic, int, *metadata.Partition)) {
	for t := range d.im.Topics() {
		if !worth(t) {
			continue
		}
		for i, p := range t.Partitions {
			if len(d.elections) >= d.opts.MaxChanges {
				return
			}
			if !d.touched(p) {
				visit(t, i, p)
			}
		}
	}
}

func (d *decider) touched(p *metadata.Partition) bool {
	if len(d.changing) == 0 {
		return false
	}
	for i := range p.Replicas {
		if d.changing[p.Replicas[i].NodeID] {
			return true
		}
	}
	return false
}

func (d *decider) change(t *metadata.Topic, i int, p *metadata.Partition, leader int32, reason string, lastISR bool) {
	d.electing[partitionKey{t.ID, i}] = true
	d.elections = append(d.elections, &metav1.LeaderChange{
		TopicId: t.ID[:], Partition: int32(i), PartitionEpoch: p.PartitionEpoch,
		Leader: leader, Reason: reason, FromLastIsr: lastISR,
	})
}

// elect chooses the leader of a partition that has none. Where records may be lost by
// it, what the replicas told must be of processes that are there: the registration of one that has
// ended may be applied late, and would make those that follow look empty-handed.
func (d *decider) elect(p *metadata.Partition, avoid func(int32) bool) metadata.Choice {
	c := d.im.Elect(p, metadata.ElectOptions{Waited: d.waited(p, avoid), LastISR: true, Avoid: avoid})
	if c.Source == metadata.FromLastISR && !d.confirmed(p) {
		return metadata.Choice{Leader: metadata.NoNode}
	}
	return c
}

// confirmed reports whether every present replica of p has been heard of in its broker's
// present session.
func (d *decider) confirmed(p *metadata.Partition) bool {
	for i := range p.Replicas {
		b := d.im.Broker(p.Replicas[i].NodeID)
		if b == nil || b.Fenced {
			continue
		}
		if n := d.live.node(b); n == nil || !n.confirmed {
			return false
		}
	}
	return true
}

// going are the nodes that will not be there in a moment.
func (d *decider) going(node int32) bool {
	if d.fencing[node] {
		return true
	}
	b := d.im.Broker(node)
	if b == nil {
		return true
	}
	n := d.live.node(b)
	return n != nil && n.wantShutdown
}

// avoided are the nodes that should not be given a leadership now.
func (d *decider) avoided(node int32) bool { return d.leaving[node] || d.fencing[node] }

// successor is the in-sync member that should lead p in place of its leaving
// leader; NoNode: there is none.
func (d *decider) successor(p *metadata.Partition) int32 {
	c := d.im.Elect(p, metadata.ElectOptions{Waited: true, Avoid: d.avoided})
	if c.Source == metadata.FromISR || c.Source == metadata.FromRestarted {
		return c.Leader
	}
	return metadata.NoNode
}

// waited reports whether absent in-sync members had their time: somebody who
// could lead has been there for ElectionWait.
func (d *decider) waited(p *metadata.Partition, avoid func(int32) bool) bool {
	for i := range p.Replicas {
		id := p.Replicas[i].NodeID
		if !p.InISR(id) && !p.InELR(id) {
			continue
		}
		b := d.im.Broker(id)
		if b.Fenced || avoid(id) {
			continue
		}
		if n := d.live.node(b); n != nil && d.now.Sub(n.aliveSince) >= d.opts.ElectionWait {
			return true
		}
	}
	return false
}

// shouldReturn reports whether p's preferred leader should get it back.
func (d *decider) shouldReturn(p *metadata.Partition) bool {
	preferred := p.Preferred()
	if p.Leader == metadata.NoNode || p.Leader == preferred || !p.InISR(preferred) || d.avoided(preferred) {
		return false
	}
	b := d.im.Broker(preferred)
	n := d.live.node(b)
	return !b.Fenced && n != nil && n.confirmed && d.now.Sub(n.aliveSince) >= d.opts.BalanceDelay
}

// PreferredLeader is the change that makes the preferred leader of a partition lead
// it, or why there is none.
func PreferredLeader(im *metadata.Image, topicID []byte, partition int32) (*metav1.LeaderChange, *metadata.Error) {
	id, _ := metadata.ParseID(topicID)
	t := im.TopicByID(id)
	switch {
	case t == nil:
		return nil, metadata.Errorf(metadata.CodeUnknownTopic, "there is no topic with id %.16x", topicID)
	case partition < 0 || int(partition) >= len(t.Partitions):
		return nil, metadata.Errorf(metadata.CodeUnknownPartition, "topic %s has partitions 0 to %d, not %d", t.Name, len(t.Partitions)-1, partition)
	}
	p := t.Partitions[partition]
	preferred := p.Preferred()
	switch b := im.Broker(preferred); {
	case p.Leader == preferred:
		return nil, metadata.Errorf(metadata.CodeElectionNotNeeded, "broker %d leads already", preferred)
	case b == nil || b.Fenced:
		return nil, metadata.Errorf(metadata.CodePreferredLeaderNotAvailable, "broker %d is fenced", preferred)
	case !p.InISR(preferred):
		return nil, metadata.Errorf(metadata.CodePreferredLeaderNotAvailable, "broker %d is not in sync; in sync are %v", preferred, p.ISR)
	}
	return &metav1.LeaderChange{
		TopicId: topicID, Partition: partition, PartitionEpoch: p.PartitionEpoch, Leader: preferred, Reason: "asked for",
	}, nil
}
