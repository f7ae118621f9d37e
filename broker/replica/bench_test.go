package replica

import (
	"fmt"
	"testing"

	"github.com/penstock/penstock/broker/partition"
)

// BenchmarkReplicate measures batches from the leader's append to their ack by two
// followers, over loopback, with logs in memory: one at a time, and a window of them.
// Allocations are those of all three nodes.
func BenchmarkReplicate(b *testing.B) {
	for _, transport := range []string{"framed", "grpc"} {
		for _, c := range []struct{ size, window int }{{1000, 1}, {1000, 64}, {256 << 10, 1}, {256 << 10, 5}} {
			b.Run(fmt.Sprintf("%s/bytes=%d/window=%d", transport, c.size, c.window), func(b *testing.B) {
				nodes := newNodes(b, 3, nil)
				for _, n := range nodes {
					n.old = transport == "grpc"
				}
				parts := spread(nodes, 0, assignment(1, 1, 3, 1, 2, 3))
				parts[0].produce(0, c.size)
				acked := func(n int) func() bool { return func() bool { return len(parts[0].outcomes) >= n } }
				parts[0].wait(b, "acknowledged", acked(1))
				b.ReportAllocs()
				b.SetBytes(int64(c.size))
				for i := 1; b.Loop(); i++ {
					if o := parts[0].produce(uint64(i), c.size); o != partition.OutcomeOK {
						b.Fatal(o)
					}
					parts[0].wait(b, "acknowledged", acked(i+2-c.window))
				}
			})
		}
	}
}
