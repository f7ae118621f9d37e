package kafka

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

// intake counts the memory of requests that have not arrived as a whole. Whoever
// says that much will come may be lying, and whoever sends half of it may never send
// the rest.
//
//   - Up to believed bytes are taken from the arena at a request's word, so that the
//     bytes go straight to where they stay.
//   - Beyond that they gather on the heap, as they come, and are copied once.
//   - When that is more than gathered bytes, connections whose request has been
//     arriving for long are cut, the oldest first.
type intake struct {
	believed, gathered int64 // the limits

	inArena, onHeap atomic.Int64
}

// believe takes n bytes of the arena's share, if there are so many.
func (i *intake) believe(n int) bool {
	if i.inArena.Add(int64(n)) <= i.believed {
		return true
	}
	i.inArena.Add(int64(-n))
	return false
}

func (i *intake) arrived(n int) { i.inArena.Add(int64(-n)) }

func (i *intake) gather(n int) { i.onHeap.Add(int64(n)) }

// lingering is how long a request may be arriving before it is cut for its memory.
const lingering = 2 * time.Second

// relieve cuts the connections that hold memory for longest, when it is too much.
func (d *Door) relieve(now time.Time, conns []*conn) {
	over := d.intake.onHeap.Load() - d.intake.gathered
	if over <= 0 {
		return
	}
	slices.SortFunc(conns, func(a, b *conn) int {
		return cmp.Compare(a.began.Load(), b.began.Load())
	})
	for _, c := range conns {
		began := c.began.Load()
		if over <= 0 || began != 0 && now.Sub(time.Unix(0, began)) < lingering {
			return
		}
		if held := c.source.held.Load(); began != 0 && held > 0 {
			d.logger.Warn("a Kafka connection is cut: "+cutHoarding.String(), "client", c.host, "client_id", *c.clientID.Load(), "bytes", held)
			d.metrics.cut[cutHoarding].Add(1)
			c.cut()
			over -= held
		}
	}
}
