package metadata

import (
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// decommissionBroker marks a broker, or takes the mark back. The moves themselves
// are decided by the controller, for as long as the mark is there.
func (im *Image) decommissionBroker(c *metav1.DecommissionBroker) *Error {
	b := im.Broker(c.GetNodeId())
	switch {
	case b == nil:
		return Errorf(CodeUnknownBroker, "no broker %d is registered", c.GetNodeId())
	case c.GetThrottle() < 0:
		return Errorf(CodeInvalidArgument, "a throttle of %d bytes a second: must be 0 or greater", c.GetThrottle())
	case c.GetCancel():
		if b.Decommissioning {
			im.setDecommissioning(b, false, 0)
			im.cancelMovesFrom(b.NodeID)
		}
		return nil
	}
	if err := im.CheckDecommission(c.GetNodeId()); err != nil {
		return err
	}
	im.setDecommissioning(b, true, c.GetThrottle())
	return nil
}

// CheckDecommission says why the other brokers could not hold what a broker has;
// nil: they can.
func (im *Image) CheckDecommission(node int32) *Error {
	others := 0
	for b := range im.Brokers() {
		if b.NodeID != node && !b.Fenced && !b.Decommissioning {
			others++
		}
	}
	if others == 0 {
		return Errorf(CodeInvalidReplicaAssignment, "broker %d is the last one: nothing could be moved anywhere", node)
	}
	for t := range im.Topics() {
		for i, p := range t.Partitions {
			if p.Replica(node) == nil {
				continue
			}
			if rf := len(p.Final()); rf > others {
				return Errorf(CodeInvalidReplicaAssignment, "%s has %d replicas, but without broker %d only %d brokers are there to hold them "+
					"(alive and not being decommissioned); add a broker, or give the topic fewer replicas",
					partitionName(t, int32(i)), rf, node, others)
			}
		}
	}
	return nil
}

func (im *Image) setDecommissioning(b *Broker, on bool, throttle int64) {
	c := *b
	c.Decommissioning, c.DecommissionThrottle = on, throttle
	im.brokers = im.brokers.set(b.NodeID, &c)
}

// cancelMovesFrom takes back the reassignments under way that remove a replica
// from node. One that cannot be taken back goes on.
func (im *Image) cancelMovesFrom(node int32) {
	im.editReplicas(node, func(t *Topic, _ int, p *Partition) *Partition {
		for _, gone := range p.Removing() {
			if gone == node {
				if q, err := im.retarget(t, p, p.Original(), 0); err == nil {
					return q
				}
			}
		}
		return p
	})
}

// ReplicasOn is the number of replicas that a broker has.
func (im *Image) ReplicasOn(node int32) int {
	n := 0
	for t := range im.Topics() {
		for _, p := range t.Partitions {
			if p.Replica(node) != nil {
				n++
			}
		}
	}
	return n
}
