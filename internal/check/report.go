package check

import (
	"fmt"
	"strings"
	"time"
)

// Report is the verdict on a history.
type Report struct {
	Ops        int64         `json:"ops"`
	Processes  int           `json:"processes"`
	Partitions int           `json:"partitions"`
	Duration   time.Duration `json:"duration"`

	Acked      int64 `json:"acked"`      // records with acks=all
	AckedWeak  int64 `json:"acked_weak"` // records with acks=1 and 0
	Indefinite int64 `json:"indefinite"` // records whose sends may have taken place
	Failed     int64 `json:"failed"`     // records that were refused

	Polls        int64 `json:"polls"`
	Reads        int64 `json:"reads"`         // records in polls that ended OK
	FinalReaders int   `json:"final_readers"` // assignments that began a part of the final phase
	Commits      int64 `json:"commits"`       // partitions in commits that were accepted
	// Consumed counts the acked records that members of groups read not at all,
	// once, twice, and three times or more.
	Consumed [4]int64 `json:"consumed"`
	WorstLag Lag      `json:"worst_lag"`

	Findings  []Finding `json:"findings"`
	Anomalies int       `json:"anomalies"` // that are not allowed
}

// Finding is all there is of one anomaly.
type Finding struct {
	Anomaly  Anomaly   `json:"anomaly"`
	Count    int       `json:"count"`
	Allowed  bool      `json:"allowed,omitempty"`
	Examples []Example `json:"examples"` // the first ones
}

// Example is one case of an anomaly.
type Example struct {
	Text    string  `json:"text"`
	Key     Key     `json:"key"`
	Ops     []int64 `json:"ops,omitempty"` // their indexes in the history
	Offsets []int64 `json:"offsets,omitempty"`
	Values  []Value `json:"values,omitempty"`
}

// Count is how often a was found.
func (r *Report) Count(a Anomaly) int {
	for i := range r.Findings {
		if r.Findings[i].Anomaly == a {
			return r.Findings[i].Count
		}
	}
	return 0
}

// Text is the report for people. Its last line is "anomalies: N".
func (r *Report) Text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("history: %d ops of %d processes on %d partitions in %s", r.Ops, r.Processes, r.Partitions, r.Duration.Round(time.Millisecond))
	line("sent: %d acked, %d acked with acks=1 or 0, %d indefinite, %d failed", r.Acked, r.AckedWeak, r.Indefinite, r.Failed)
	line("read: %d records in %d polls, %d final readers, %d commits", r.Reads, r.Polls, r.FinalReaders, r.Commits)
	if n := r.Consumed; n[1]+n[2]+n[3] > 0 {
		line("consumed by groups: %d records once, %d twice, %d more often, %d never", n[1], n[2], n[3], n[0])
	}
	if l := r.WorstLag; l.Behind > 0 {
		line("worst lag: process %d was %s behind in %s (op %d)", l.Process, l.Behind.Round(time.Millisecond), l.Key, l.Op)
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		note := ""
		if f.Allowed {
			note = " (allowed)"
		}
		line("%s: %d%s", f.Anomaly, f.Count, note)
		for _, ex := range f.Examples {
			if ex.Key.Topic == "" {
				line("  %s", ex.Text)
			} else {
				line("  %s: %s", ex.Key, ex.Text)
			}
		}
	}
	line("anomalies: %d", r.Anomalies)
	return b.String()
}
