package storm

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/check"
)

func goodReport() *Report {
	return &Report{
		Seed: 5, MinAcked: 100, Deletions: 1, Deleted: 1, Retentions: 1, History: &check.Report{Ops: 1000, Acked: 100},
		Events: []Event{{Name: "kill -9 + pause", Kinds: []Kind{Kill, Pause}, Longest: time.Second}, {Name: "kill -9", Kinds: []Kind{Kill}}},
	}
}

func lastLine(r *Report) string {
	lines := strings.Split(strings.TrimSpace(r.Text()), "\n")
	return lines[len(lines)-1]
}

// A run fails on an anomaly, on no fault, on too little, and on what the history does
// not show.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Report)
		good  bool
	}{
		{"all is well", func(*Report) {}, true},
		{"an anomaly", func(r *Report) { r.History.Anomalies = 1 }, false},
		{"no fault", func(r *Report) { r.Events = nil }, false},
		{"too few records", func(r *Report) { r.History.Acked = 99 }, false},
		{"no deletion", func(r *Report) { r.Deletions, r.Deleted = 0, 0 }, false},
		{"no retention", func(r *Report) { r.Retentions = 0 }, false},
		{"no history", func(r *Report) { r.History = nil }, false},
		{"a node panicked", func(r *Report) { r.Failures = append(r.Failures, "node1.log: panic: oh") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := goodReport()
			c.spoil(r)
			r.finish()
			require.Equal(t, c.good, r.Good())
			require.Equal(t, c.good, strings.HasPrefix(lastLine(r), "chaos passed: seed 5"), "%s", lastLine(r))
		})
	}
}

func TestTheLastLineCounts(t *testing.T) {
	r := goodReport()
	r.History.Anomalies = 3
	r.finish()
	require.Contains(t, lastLine(r), "100 acked, 3 faults in 2 steps, anomalies: 3")
	require.Contains(t, r.Text(), "faults: kill -9 2, pause 1;")
}
