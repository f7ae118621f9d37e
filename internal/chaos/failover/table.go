package failover

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// Figure is a measured quantity beside its budget.
type Figure struct {
	Name   string  `json:"name"`
	What   string  `json:"what"`
	Unit   string  `json:"unit"`
	Values []Value `json:"values"`
	// The budgets; 0: none, but for a unit of counts, where nothing may be counted.
	MedianBudget float64 `json:"median_budget,omitempty"`
	WorstBudget  float64 `json:"worst_budget,omitempty"`
}

// Value is one measurement.
type Value = float64

const (
	seconds = "s"
	count   = "count"
)

func (f *Figure) median() Value {
	v := slices.Sorted(slices.Values(f.Values))
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}

func (f *Figure) worst() Value {
	if len(f.Values) == 0 {
		return 0
	}
	return slices.Max(f.Values)
}

// Met reports whether the figure is within its budgets.
func (f *Figure) Met() bool {
	if f.Unit == count {
		return f.worst() == 0
	}
	return (f.MedianBudget == 0 || f.median() < f.MedianBudget) && (f.WorstBudget == 0 || f.worst() < f.WorstBudget)
}

// Result is what a run found.
type Result struct {
	Date     time.Time `json:"date"`
	Machine  string    `json:"machine"`
	Revision string    `json:"revision"`
	Load     int       `json:"load_records_per_second"`
	Figures  []Figure  `json:"figures"`
	Notes    []string  `json:"notes,omitempty"`
}

// Met reports whether every figure is within its budgets.
func (r *Result) Met() bool {
	return !slices.ContainsFunc(r.Figures, func(f Figure) bool { return !f.Met() })
}

func (r *Result) add(f Figure) { r.Figures = append(r.Figures, f) }

// cells are the columns of a figure.
func (f *Figure) cells() [5]string {
	number := func(v float64) string {
		if f.Unit == count {
			return fmt.Sprintf("%.0f", v)
		}
		return fmt.Sprintf("%.2f %s", v, f.Unit)
	}
	budget, verdict := "0", "met"
	if f.Unit != count {
		budget = "worst < " + number(f.WorstBudget)
		if f.MedianBudget > 0 {
			budget = "median < " + number(f.MedianBudget) + ", " + budget
		}
	}
	if !f.Met() {
		verdict = "MISSED"
	}
	return [5]string{f.What, fmt.Sprint(len(f.Values)), number(f.median()), number(f.worst()), budget + ": " + verdict}
}

// WriteText writes the table for people.
func (r *Result) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "\n%s; revision %s; %s; load %d records/s of 100 bytes\n", r.Machine, r.Revision, r.Date.UTC().Format(time.DateOnly), r.Load)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tn\tmedian\tworst\tbudget")
	for i := range r.Figures {
		c := r.Figures[i].cells()
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", c[0], c[1], c[2], c[3], c[4])
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, "*", n)
	}
	return nil
}

// Record writes the result to folder/failover.md and .json.
func (r *Result) Record(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // a folder of the documentation
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(folder+"/failover.json", append(b, '\n'), 0o644); err != nil { //nolint:gosec // documentation
		return err
	}
	f, err := os.Create(folder + "/failover.md")
	if err != nil {
		return err
	}
	fmt.Fprintf(f, "# Failover: the last measured run\n\nWritten by `make failover`.\n\n%s; revision %s; %s; under %d records/s of 100 bytes, 3 nodes,\n"+
		"6 partitions, 3 replicas, acks=all, synced.\n\n| what | n | median | worst | budget |\n|---|---|---|---|---|\n",
		r.Machine, r.Revision, r.Date.UTC().Format(time.RFC3339), r.Load)
	for i := range r.Figures {
		c := r.Figures[i].cells()
		fmt.Fprintf(f, "| %s | %s | %s | %s | %s |\n", c[0], c[1], c[2], c[3], c[4])
	}
	fmt.Fprintln(f)
	for _, n := range r.Notes {
		fmt.Fprintf(f, "* %s\n", n)
	}
	return f.Close()
}
