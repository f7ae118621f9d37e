package load

import (
	"sync"
	"time"
)

// outageFloor is the shortest silence of a partition that is kept: bursts come every
// 20 ms, and a busy machine has pauses of its own.
const outageFloor = 150 * time.Millisecond

// Outage is a time in which a partition acknowledged nothing with acks=all.
type Outage struct {
	Partition int32
	From, To  time.Time
}

// Outages notes when the partitions of the strict topic took writes.
type Outages struct {
	began time.Time

	mu      sync.Mutex // guards what follows
	last    []time.Time
	ends    []int64 // after the greatest offset that was acknowledged
	long    []Outage
	seconds map[int64]map[int32]bool // since began -> partitions that acknowledged
	total   int64
	ended   time.Time
}

func newOutages(partitions int32) *Outages {
	now := time.Now()
	o := &Outages{began: now, last: make([]time.Time, partitions), ends: make([]int64, partitions), seconds: map[int64]map[int32]bool{}}
	for i := range o.last {
		o.last[i] = now
	}
	return o
}

func (o *Outages) acked(partition int32, offset int64, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ends[partition] = max(o.ends[partition], offset+1)
	o.silence(partition, at)
	o.last[partition] = at
	second := int64(at.Sub(o.began) / time.Second)
	if o.seconds[second] == nil {
		o.seconds[second] = map[int32]bool{}
	}
	o.seconds[second][partition] = true
	o.total++
}

// silence keeps the time since the last acknowledgement if it was long. The caller
// holds mu.
func (o *Outages) silence(partition int32, at time.Time) {
	if at.Sub(o.last[partition]) >= outageFloor {
		o.long = append(o.long, Outage{partition, o.last[partition], at})
	}
}

// end says that nothing is written any more.
func (o *Outages) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended.IsZero() {
		return
	}
	o.ended = time.Now()
	for p := range o.last {
		o.silence(int32(p), o.ended)
	}
}

// logEnd is the offset after the greatest that was acknowledged.
func (o *Outages) logEnd(partition int32) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ends[partition]
}

// Acked is how many records were acknowledged with acks=all so far.
func (o *Outages) Acked() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.total
}

// Writable counts the seconds in which every partition, and in which any, took
// writes, of all seconds.
func (o *Outages) Writable() (every, anyOf, all int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	until := o.ended
	if until.IsZero() {
		until = time.Now()
	}
	for _, parts := range o.seconds {
		anyOf++
		if len(parts) == len(o.last) {
			every++
		}
	}
	return every, anyOf, int(until.Sub(o.began)/time.Second) + 1
}

// Between lists the outages that touch a time, the ones under way cut at its end.
func (o *Outages) Between(from, to time.Time) (found []Outage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, out := range o.long {
		if out.To.After(from) && out.From.Before(to) {
			found = append(found, out)
		}
	}
	for p, last := range o.last {
		if o.ended.IsZero() && to.Sub(last) >= outageFloor && last.Before(to) {
			found = append(found, Outage{int32(p), last, to})
		}
	}
	return found
}
