package controller

import (
	"time"

	"github.com/penstock/penstock/cluster/metadata"
)

// Liveness is what a controller has heard of the brokers since it began. It is
// owned by one goroutine, which tells it everything with the time at which it
// happened.
type Liveness struct {
	base  time.Time
	nodes map[int32]*node // never iterated for decisions
}

// node is what was heard of one session of a broker.
type node struct {
	epoch      int64
	heard      time.Time // the last heartbeat that counted, or the begin of the deadline
	confirmed  bool      // a heartbeat of this session was heard by this controller
	aliveSince time.Time // when this session began, or was last seen fenced
	refused    time.Time // since when re-dials are refused; zero: they are not

	wantShutdown, flushStalled bool
}

// NewLiveness begins the deadlines of all brokers at base: the time at which
// the controller passed its barrier.
func NewLiveness(base time.Time) *Liveness {
	return &Liveness{base: base, nodes: make(map[int32]*node)}
}

// Heartbeat is what a heartbeat says besides being one.
type Heartbeat struct {
	NodeID      int32
	BrokerEpoch int64
	// WantShutdown: the broker is about to stop and asks to be relieved.
	WantShutdown bool
	// FlushStalled: a flush is outstanding for longer than flush.stall.ms.
	FlushStalled bool
}

// Observe begins the deadlines of sessions that the image has and l does not.
// Call it with every new image, before Decide.
func (l *Liveness) Observe(im *metadata.Image, now time.Time) {
	for b := range im.Brokers() {
		n := l.nodes[b.NodeID]
		if n != nil && n.epoch == b.Epoch {
			if b.Fenced {
				n.aliveSince = now
			}
			continue
		}
		l.nodes[b.NodeID] = &node{epoch: b.Epoch, heard: now, aliveSince: now}
	}
}

// Heard takes a heartbeat that counts: one that echoes a recent reply. stale
// says that it is not of the broker's present session, which Observe has told:
// the broker must register again.
func (l *Liveness) Heard(h Heartbeat, now time.Time) (stale bool) {
	n := l.nodes[h.NodeID]
	if n == nil || n.epoch != h.BrokerEpoch {
		return n == nil || h.BrokerEpoch < n.epoch
	}
	n.heard, n.confirmed, n.refused = now, true, time.Time{}
	n.wantShutdown, n.flushStalled = h.WantShutdown, h.FlushStalled
	return false
}

// Refused tells that the broker's connection was reset and dialling it again was
// refused.
func (l *Liveness) Refused(nodeID int32, now time.Time) {
	if n := l.nodes[nodeID]; n != nil && n.refused.IsZero() {
		n.refused = now
	}
}

// Accepted tells that dialling the broker succeeded: some process is there. It
// is not a heartbeat.
func (l *Liveness) Accepted(nodeID int32) {
	if n := l.nodes[nodeID]; n != nil {
		n.refused = time.Time{}
	}
}

// node returns what is known of a session, nil when Observe was not told of it.
func (l *Liveness) node(b *metadata.Broker) *node {
	if n := l.nodes[b.NodeID]; n != nil && n.epoch == b.Epoch {
		return n
	}
	return nil
}

// silence is how long the broker has not been heard.
func (l *Liveness) silence(n *node, now time.Time) time.Duration {
	if n.heard.Before(l.base) {
		return now.Sub(l.base)
	}
	return now.Sub(n.heard)
}
