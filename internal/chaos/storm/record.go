package storm

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Record writes the result to folder/chaos.md, for people to see when this was last
// done, on what, and with which outcome.
func (r *Report) Record(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // a folder of the documentation
		return err
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	verdict := "passed"
	if !r.Good() {
		verdict = "FAILED"
	}
	line("# Chaos: the last long run\n\nWritten by `make chaos`.\n")
	line("* %s: %s, seed %d, %s, revision %s", verdict, r.Began.UTC().Format(time.RFC3339), r.Seed, r.Took.Round(time.Second), r.Revision)
	line("* %s", r.Machine)
	line("* nodes found ended when the fault was healed: %d; flipped bits: %d", r.Exits, r.FlippedBits)
	line("* seconds in which every partition took writes: %d, any: %d, of %d", r.WritableEvery, r.WritableAny, r.Seconds)
	line("* log starts moved %d times by deletions, of %d records, and %d times by retention", r.Deletions, r.Deleted, r.Retentions)
	if h := r.History; h != nil {
		line("* %d operations; %d records acknowledged with acks=all, %d with acks=1, %d of unknown outcome, %d refused; %d reads, %d commits",
			h.Ops, h.Acked, h.AckedWeak, h.Indefinite, h.Failed, h.Reads, h.Commits)
		for i := range h.Findings {
			if f := &h.Findings[i]; f.Allowed {
				line("* allowed: %s %d", f.Anomaly, f.Count)
			} else {
				line("* **%s: %d**", f.Anomaly, f.Count)
			}
		}
	}
	line("* **anomalies: %d**", r.Anomalies())
	for _, f := range r.Failures {
		line("* **failed**: %s", f)
	}
	line("\n| kind of fault | times | longest outage of a partition |\n|---|---|---|")
	longest := map[Kind]time.Duration{}
	for i := range r.Events {
		for _, k := range r.Events[i].Kinds {
			longest[k] = max(longest[k], r.Events[i].Longest)
		}
	}
	kinds := r.ByKind()
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		line("| %s | %d | %.1f s |", k, kinds[k], longest[k].Seconds())
	}
	line("\nOf pairs, both kinds have the outage. An outage lasts from the last acknowledgement before it to the first after it, the time in\n" +
		"which the fault is held included.")
	return os.WriteFile(filepath.Join(folder, "chaos.md"), []byte(b.String()), 0o644) //nolint:gosec // documentation
}
