package record_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

// history writes the ops of n records: each sent by an op of its own, and read by
// two readers, 100 a poll.
func history(n int) []byte {
	var b bytes.Buffer
	rec := record.New(&b)
	producer, readers := rec.Process(), []*record.Process{rec.Process(), rec.Process()}
	part := check.Part{Key: key, Bounds: &check.Bounds{LeaderEpoch: -1}}
	for i := range int64(n) {
		s := check.Send{Key: key, Value: check.Value(1<<40 | i), Offset: -1}
		producer.Append(check.Op{Type: check.Invoke, F: check.FSend, Sends: []check.Send{s}})
		s.Offset = i
		producer.Append(check.Op{Type: check.OK, F: check.FSend, Sends: []check.Send{s}})
		part.Reads = append(part.Reads, check.Read{Offset: i, Value: s.Value})
		if len(part.Reads) < 100 && i < int64(n)-1 {
			continue
		}
		part.Bounds.HighWatermark = i + 1
		for _, r := range readers {
			r.Append(check.Op{Type: check.Invoke, F: check.FPoll})
			r.Append(check.Op{Type: check.OK, F: check.FPoll, Parts: []check.Part{part}})
		}
		part.Reads = part.Reads[:0]
	}
	return b.Bytes()
}

// BenchmarkCheckFile reads and checks a recorded history.
func BenchmarkCheckFile(b *testing.B) {
	const records = 50_000
	file := history(records)
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		c := check.New(check.Options{})
		for op, err := range record.Read(bytes.NewReader(file)) {
			require.NoError(b, err)
			c.Add(op)
		}
		require.EqualValues(b, records, c.Report().Acked)
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds()*float64(b.N), "records/s")
}

// BenchmarkAppend records sends on all processors.
func BenchmarkAppend(b *testing.B) {
	rec, err := record.Create(b.TempDir() + "/history.jsonl")
	require.NoError(b, err)
	b.RunParallel(func(pb *testing.PB) {
		p := rec.Process()
		s := []check.Send{{Key: key, Value: 1<<40 | 1, Offset: -1}}
		for pb.Next() {
			p.Append(check.Op{Type: check.Invoke, F: check.FSend, Sends: s})
		}
	})
	require.NoError(b, rec.Close())
}
