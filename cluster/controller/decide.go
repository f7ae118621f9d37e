package controller

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Options are the times and bounds of Decide.
type Options struct {
	// SessionTimeout of silence fences a broker (broker.session.timeout).
	SessionTimeout time.Duration
	// RefusedAfter a reset connection whose re-dials are refused, too.
	RefusedAfter time.Duration
	// ElectionWait is how long an election waits for absent in-sync members.
	ElectionWait time.Duration
	// BalanceDelay is how long a preferred leader must have been alive and in
	// sync before it gets its partitions back; above replica.lag.time.max.ms.
	BalanceDelay time.Duration
	// MaxChanges bounds the changes of one ElectLeaders, and with it the bytes
	// of the command; MaxMoves those of them that only balance. What is left is
	// decided next time.
	MaxChanges, MaxMoves int
	// MaxReassigning bounds the partitions that decommissions move at a time.
	MaxReassigning int
	// StuckAfter is how long a broker may be away before what a decommission moves
	// there goes to another; GoneAfter, before one that holds nothing is forgotten.
	StuckAfter, GoneAfter time.Duration
	// Votes tells the voters of the metadata quorum, which are not forgotten; nil:
	// there are none. It must not depend on anything that changes during Decide.
	Votes func(node int32) bool
}

// DefaultOptions are those of DESIGN: 3 s, 100 ms, 2 s.
func DefaultOptions() Options {
	return Options{
		SessionTimeout: 3 * time.Second, RefusedAfter: 100 * time.Millisecond, ElectionWait: 2 * time.Second,
		BalanceDelay: 15 * time.Second, MaxChanges: 4000, MaxMoves: 100,
		MaxReassigning: 50, StuckAfter: time.Minute, GoneAfter: 10 * time.Second,
	}
}

// Decision is what the controller should propose, in this order.
type Decision struct {
	Commands []*metav1.Command // without version and id
	// PossibleLoss counts the elections from LastISR among them: each may lose
	// acknowledged records and must be logged.
	PossibleLoss int
}

// Decide says what should be proposed now. The liveness must have observed im.
func Decide(im *metadata.Image, live *Liveness, now time.Time, opts Options) Decision {
	d := decider{
		im: im, live: live, now: now, opts: opts, leaving: make(map[int32]bool),
		fencing: make(map[int32]bool), changing: make(map[int32]bool), electing: make(map[partitionKey]bool),
	}
	d.judgeBrokers()
	d.judgePartitions()
	d.judgeMoves()
	d.judgeDecommissions()
	out := Decision{Commands: d.fences}
	if len(d.elections) > 0 {
		out.Commands = append(out.Commands, &metav1.Command{
			TimeMs: now.UnixMilli(),
			Kind:   &metav1.Command_ElectLeaders{ElectLeaders: &metav1.ElectLeaders{Changes: d.elections}},
		})
	}
	out.Commands = append(out.Commands, d.moves...)
	for _, c := range d.elections {
		if c.GetFromLastIsr() {
			out.PossibleLoss++
		}
	}
	return out
}

// MayShutdown reports whether a broker that asked to stop has nothing left: it
// is fenced, so it leads nothing and is in no in-sync set of others.
func MayShutdown(im *metadata.Image, nodeID int32) bool {
	b := im.Broker(nodeID)
	return b == nil || b.Fenced
}

// decider holds what the steps of one Decide share.
type decider struct {
	im   *metadata.Image
	live *Liveness
	now  time.Time
	opts Options

	leaving   map[int32]bool // get no leadership and hand over theirs
	fencing   map[int32]bool // fenced in this decision
	changing  map[int32]bool // fenced or unfenced in this decision
	fences    []*metav1.Command
	elections []*metav1.LeaderChange
	electing  map[partitionKey]bool // in elections
	moves     []*metav1.Command     // about reassignments
}

type partitionKey struct {
	topic     metadata.ID
	partition int
}

// judgeBrokers fences and unfences. Brokers that leave by their own wish are
// fenced once they lead nothing that another could.
func (d *decider) judgeBrokers() {
	var asked []*metadata.Broker
	for b := range d.im.Brokers() {
		n := d.live.node(b)
		if n == nil {
			continue
		}
		reason := d.deathOf(n)
		switch {
		case b.Fenced && reason == "" && n.confirmed && !n.wantShutdown && !n.flushStalled:
			d.unfence(b)
		case b.Fenced:
		case reason != "":
			d.fence(b, reason)
		case n.wantShutdown || n.flushStalled:
			d.leaving[b.NodeID] = true
			asked = append(asked, b)
		}
	}
	d.letGo(asked)
}

// letGo fences leaving brokers that have handed over what they could. A broker
// with a stalled flush that is the last in-sync member somewhere goes on
// leading there: reads still work, and nobody else could do better.
func (d *decider) letGo(asked []*metadata.Broker) {
	if len(asked) == 0 {
		return
	}
	movable, leads := make(map[int32]bool), make(map[int32]bool)
	for t := range d.im.Topics() {
		for _, p := range t.Partitions {
			if !d.leaving[p.Leader] {
				continue
			}
			leads[p.Leader] = true
			if d.successor(p) != metadata.NoNode {
				movable[p.Leader] = true
			}
		}
	}
	for _, b := range asked {
		switch n := d.live.node(b); {
		case movable[b.NodeID]:
		case n.wantShutdown:
			d.fence(b, "it asked to shut down")
		case !leads[b.NodeID]:
			d.fence(b, "its disk does not complete a flush")
		}
	}
}

// deathOf says why a session counts as dead; empty: it does not.
func (d *decider) deathOf(n *node) string {
	if silence := d.live.silence(n, d.now); silence >= d.opts.SessionTimeout {
		return fmt.Sprintf("silent for %d ms", silence.Milliseconds())
	}
	if !n.refused.IsZero() && d.now.Sub(n.refused) >= d.opts.RefusedAfter {
		return fmt.Sprintf("connection reset, dialling refused for %d ms", d.now.Sub(n.refused).Milliseconds())
	}
	return ""
}

func (d *decider) fence(b *metadata.Broker, reason string) {
	d.fencing[b.NodeID], d.changing[b.NodeID] = true, true
	d.fences = append(d.fences, &metav1.Command{
		TimeMs: d.now.UnixMilli(),
		Kind: &metav1.Command_FenceBroker{
			FenceBroker: &metav1.FenceBroker{NodeId: b.NodeID, BrokerEpoch: b.Epoch, Reason: reason},
		},
	})
}

func (d *decider) unfence(b *metadata.Broker) {
	d.changing[b.NodeID] = true
	d.fences = append(d.fences, &metav1.Command{
		TimeMs: d.now.UnixMilli(),
		Kind: &metav1.Command_UnfenceBroker{
			UnfenceBroker: &metav1.UnfenceBroker{NodeId: b.NodeID, BrokerEpoch: b.Epoch},
		},
	})
}
