package log

import "time"

// flushBounds are the upper bounds of what FlushTimes counts.
var flushBounds = [...]time.Duration{ //nolint:gochecknoglobals // a constant, but for the language
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

// FlushTimes is how long syncs of segments and of the flush journal took, those that failed
// included, since the directory was opened. The zero value has none.
type FlushTimes struct {
	counts [len(flushBounds) + 1]uint64 // the last one: of those beyond all bounds
	total  time.Duration
}

func (t *FlushTimes) add(took time.Duration) {
	i := 0
	for i < len(flushBounds) && took > flushBounds[i] {
		i++
	}
	t.counts[i]++
	t.total += max(took, 0)
}

// Total is how long all of them took together.
func (t *FlushTimes) Total() time.Duration { return t.total }

// Count is how many there were.
func (t *FlushTimes) Count() (n uint64) {
	for _, c := range t.counts {
		n += c
	}
	return n
}

// Buckets has, by upper bound, how many took at most so long: what a histogram of
// Prometheus takes, but that the bounds are times.
func (t *FlushTimes) Buckets() map[time.Duration]uint64 {
	buckets, n := make(map[time.Duration]uint64, len(flushBounds)), uint64(0)
	for i, bound := range flushBounds {
		n += t.counts[i]
		buckets[bound] = n
	}
	return buckets
}
