package wire

import "sync/atomic"

// Delivery follows answers on their way to one peer: whether it takes them. Set
// it in the messages that are sent to the peer.
type Delivery struct {
	pending atomic.Int64
	moves   atomic.Uint64
}

// Pending is how many buffers of answers the transport holds.
func (d *Delivery) Pending() int64 { return d.pending.Load() }

// Moves counts the buffers that it was done with. While some are pending and this
// does not change the peer takes nothing.
func (d *Delivery) Moves() uint64 { return d.moves.Load() }

func (d *Delivery) sent(buffers int) {
	if d != nil {
		d.pending.Add(int64(buffers))
	}
}

func (d *Delivery) moved() {
	if d != nil {
		d.pending.Add(-1)
		d.moves.Add(1)
	}
}
