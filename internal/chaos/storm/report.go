package storm

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/chaos/load"
	"github.com/penstock/penstock/internal/check"
)

// Event is a step that was played.
type Event struct {
	Name             string        `json:"name"`
	Kinds            []Kind        `json:"kinds"`
	From, Healed, To time.Time     // injected, taken back, whole again
	Longest          time.Duration `json:"longest_outage"` // of a partition, acks=all
}

// Report is what came of a run.
type Report struct {
	Began    time.Time     `json:"began"`
	Took     time.Duration `json:"took"`
	Seed     uint64        `json:"seed"`
	Machine  string        `json:"machine,omitempty"`
	Revision string        `json:"revision,omitempty"`

	Events      []Event        `json:"events"`
	FlippedBits int            `json:"flipped_bits"`
	Exits       int            `json:"exits"` // nodes that had ended by themselves and that no heal had restarted
	Errors      map[string]int `json:"client_errors"`

	// Log starts that moved under the load: by requests to delete records that were
	// acknowledged, with the records that went, and by retention.
	Deletions  int   `json:"deletions"`
	Deleted    int64 `json:"deleted_records"`
	Retentions int   `json:"retentions"`

	WritableEvery int `json:"seconds_every_partition_writable"`
	WritableAny   int `json:"seconds_any_partition_writable"`
	Seconds       int `json:"seconds"`

	History  *check.Report `json:"history"`
	Failures []string      `json:"failures,omitempty"` // all that is wrong beside the history
	MinAcked int64         `json:"min_acked"`

	Schedule *Schedule `json:"-"`
	Dir      string    `json:"-"`
	Kept     string    `json:"-"`
}

// finish judges the run as a whole.
func (r *Report) finish() {
	r.Took = time.Since(r.Began)
	if len(r.Events) == 0 {
		r.Failures = append(r.Failures, "no fault was injected")
	}
	if r.Deletions == 0 || r.Deleted == 0 || r.Retentions == 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("log starts stood still: %d deletions of %d records, %d times retention", r.Deletions, r.Deleted, r.Retentions))
	}
	if acked := r.acked(); acked < r.MinAcked {
		r.Failures = append(r.Failures, fmt.Sprintf("%d records were acknowledged with acks=all, at least %d are asked for", acked, r.MinAcked))
	}
}

func (r *Report) acked() int64 {
	if r.History == nil {
		return 0
	}
	return r.History.Acked
}

// Anomalies counts what the checker found.
func (r *Report) Anomalies() int {
	if r.History == nil {
		return 0
	}
	return r.History.Anomalies
}

// Good reports whether the cluster kept its promises and the run showed that.
func (r *Report) Good() bool { return r.Anomalies() == 0 && len(r.Failures) == 0 && r.History != nil }

// kindLine sums up the events of a name.
type kindLine struct {
	count           int
	longest         time.Duration // outage
	slowestRecovery time.Duration
}

func (r *Report) byName() map[string]*kindLine {
	lines := map[string]*kindLine{}
	for i := range r.Events {
		e := &r.Events[i]
		l := lines[e.Name]
		if l == nil {
			l = &kindLine{}
			lines[e.Name] = l
		}
		l.count++
		l.longest = max(l.longest, e.Longest)
		l.slowestRecovery = max(l.slowestRecovery, e.To.Sub(e.Healed))
	}
	return lines
}

// ByKind counts the faults of each kind, alone or in pairs.
func (r *Report) ByKind() map[Kind]int {
	n := map[Kind]int{}
	for i := range r.Events {
		for _, k := range r.Events[i].Kinds {
			n[k]++
		}
	}
	return n
}

// Text is the report for people; its last line has the count of anomalies.
func (r *Report) Text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("")
	line("%-44s %5s  %14s  %14s", "fault", "times", "longest outage", "slowest repair")
	lines := r.byName()
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		l := lines[name]
		line("%-44s %5d  %14s  %14s", name, l.count, l.longest.Round(time.Millisecond), l.slowestRecovery.Round(time.Millisecond))
	}
	kinds := r.ByKind()
	counts := make([]string, 0, len(kinds))
	total := 0
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		counts = append(counts, fmt.Sprintf("%s %d", k, kinds[k]))
		total += kinds[k]
	}
	line("faults: %s; nodes found ended when it was healed: %d", strings.Join(counts, ", "), r.Exits)
	if len(r.Errors) > 0 {
		told := make([]string, 0, len(r.Errors))
		for _, e := range slices.Sorted(maps.Keys(r.Errors)) {
			told = append(told, fmt.Sprintf("%s %d", e, r.Errors[e]))
		}
		line("clients were told: %s", strings.Join(told, ", "))
	}
	line("writable: every partition in %d, any in %d of %d seconds", r.WritableEvery, r.WritableAny, r.Seconds)
	line("log starts: moved %d times by deletions, of %d records, and %d times by retention", r.Deletions, r.Deleted, r.Retentions)
	if r.History != nil {
		b.WriteString(r.History.Text())
	}
	for _, f := range r.Failures {
		line("FAILED: %s", f)
	}
	if r.Kept != "" {
		line("history, schedule, logs and disks are kept in %s", r.Kept)
		judged := load.Judged()
		line("judge again: go run ./internal/check/cmd/checkhistory -retained %s -read-first -stale %s %s/history.jsonl; play again: make chaos SCHEDULE=%s/schedule.json",
			strings.Join(judged.Retained, ","), judged.Stale, r.Kept, r.Kept)
	}
	verdict := "passed"
	if !r.Good() {
		verdict = "FAILED"
	}
	ops := int64(0)
	if r.History != nil {
		ops = r.History.Ops
	}
	line("chaos %s: seed %d, %.0f s, %d ops, %d acked, %d faults in %d steps, anomalies: %d",
		verdict, r.Seed, r.Took.Seconds(), ops, r.acked(), total, len(r.Events), r.Anomalies())
	return b.String()
}

func (r *Report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}
