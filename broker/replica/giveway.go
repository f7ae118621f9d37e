package replica

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/log/record"
)

// Catching up takes what disks and network give, as long as nobody else wants
// them. While producers write, or a leader pushes to this node's in-sync replicas,
// it keeps to a rate: each node for what it sends as a leader, and for what it
// receives as a follower, over all its streams. The rate is that of coming closer:
// what producers add to a partition meanwhile is free (growth), or a follower of
// partitions that are written faster than the rate would never arrive.

// quiet is how long after the last traffic of others catching up keeps to its rate.
const quiet = time.Second

const defaultCatchUpRate = 64 << 20

// Traffic knows when something went through a node that somebody waits for. The two
// sides of replication share one, and its owner notes what producers send. The zero
// value is ready.
type Traffic struct {
	last atomic.Int64 // Unix ns
}

// Note says that there is such traffic at this time.
func (t *Traffic) Note(now time.Time) { t.last.Store(now.UnixNano()) }

func (t *Traffic) recent(now time.Time) bool {
	ago := now.UnixNano() - t.last.Load()
	return ago >= 0 && ago < int64(quiet) // or the clock was set back
}

// giveWay is the rate of one direction.
type giveWay struct {
	traffic *Traffic
	rate    int64

	mu     sync.Mutex // guards bucket; a leaf
	bucket tokenBucket
}

func newGiveWay(traffic *Traffic, rate int64) *giveWay {
	return &giveWay{traffic: traffic, rate: rate, bucket: newTokenBucket(rate)}
}

// wait returns how long catching up has to wait for others; 0: go on.
func (g *giveWay) wait(now time.Time) time.Duration {
	if !g.traffic.recent(now) {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bucket.wait(now)
}

// take counts bytes that go; negative ones are given back.
func (g *giveWay) take(now time.Time, n int64) {
	if n == 0 || !g.traffic.recent(now) {
		return // what went while nobody else was there is no debt
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bucket.take(n)
}

// growth is about how many bytes producers added to a partition while its high
// watermark went from one offset to another, where n bytes hold the offsets [from, to).
func growth(before, after, from, to record.Offset, n int64) int64 {
	if before == record.UnknownOffset || after <= before || to <= from {
		return 0
	}
	return int64(float64(n) * float64(after-before) / float64(to-from))
}
