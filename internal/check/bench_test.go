package check_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/check"
)

// BenchmarkMillion checks a history of 1,000,000 acked records: one send an op, on
// twelve partitions, each record read by two readers along the way and by two in
// the final phase, 100 a poll. Heap is what the checker holds at the end.
func BenchmarkMillion(b *testing.B) {
	const records, partitions, perPoll = 1_000_000, 12, 100
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		c := check.New(check.Options{})
		index := int64(0)
		add := func(op check.Op) {
			index++
			op.Index, op.Time = index, time.Duration(index)*time.Microsecond
			c.Add(&op)
		}
		var next [partitions]int64
		poll := func(process int32, p int32, from, to int64) {
			part := check.Part{Key: orders(p), Bounds: &check.Bounds{HighWatermark: to, LeaderEpoch: -1}}
			for o := from; o < to; o++ {
				part.Reads = append(part.Reads, check.Read{Offset: o, Value: check.Value(o)})
			}
			add(check.Op{Process: process, Type: check.Invoke, F: check.FPoll})
			add(check.Op{Process: process, Type: check.OK, F: check.FPoll, Parts: []check.Part{part}})
		}
		for i := range int64(records) {
			p := int32(i % partitions)
			s := []check.Send{{Key: orders(p), Value: check.Value(next[p]), Offset: next[p]}}
			next[p]++
			add(check.Op{Process: int32(i % 50), Type: check.Invoke, F: check.FSend, Sends: s})
			add(check.Op{Process: int32(i % 50), Type: check.OK, F: check.FSend, Sends: s})
			if next[p]%perPoll == 0 {
				poll(100, p, next[p]-perPoll, next[p])
				poll(101, p, next[p]-perPoll, next[p])
			}
		}
		for process := range int32(2) {
			assign := check.Op{Process: 102 + process, Type: check.OK, F: check.FAssign, Final: true}
			for p := range int32(partitions) {
				assign.Keys = append(assign.Keys, check.Position{Key: orders(p)})
			}
			add(assign)
			for p := range int32(partitions) {
				for from := int64(0); from < next[p]; from += perPoll {
					poll(102+process, p, from, min(from+perPoll, next[p]))
				}
			}
		}
		r := c.Report()
		runtime.GC()
		runtime.ReadMemStats(&after)
		require.Zero(b, r.Anomalies, r.Text())
		require.EqualValues(b, records, r.Acked)
		runtime.KeepAlive(c)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "heap-MiB")
	b.ReportMetric(float64(records)/b.Elapsed().Seconds()*float64(b.N), "records/s")
}
