package replica

import (
	"testing"

	"github.com/penstock/penstock/broker/partition"
)

// BenchmarkReplicate measures one batch from the leader's append to its ack by
// two followers, over loopback; allocations are those of all three.
func BenchmarkReplicate(b *testing.B) {
	nodes := newNodes(b, 3, nil)
	parts := spread(nodes, 0, assignment(1, 1, 3, 1, 2, 3))
	parts[0].produce(0, 1000)
	acked := func(n int) func() bool { return func() bool { return len(parts[0].outcomes) >= n } }
	parts[0].wait(b, "acknowledged", acked(1))
	b.ReportAllocs()
	const window = 64
	for i := 1; b.Loop(); i++ {
		if o := parts[0].produce(uint64(i), 1000); o != partition.OutcomeOK {
			b.Fatal(o)
		}
		parts[0].wait(b, "acknowledged", acked(i+1-window))
	}
}
