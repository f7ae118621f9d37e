package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// figure is one line of the table.
type figure struct {
	What    string    `json:"what"`
	Setting string    `json:"setting"`
	Unit    string    `json:"unit"`
	Values  []float64 `json:"values"` // one a run, in their order
}

// table is what a run found.
type table struct {
	Machine string   `json:"machine"`
	FS      string   `json:"fs"`
	GitRev  string   `json:"git_rev"`
	Quote   bool     `json:"quote"` // by the rule for quoted figures
	Date    string   `json:"date"`
	Figures []figure `json:"figures"`
	Notes   []string `json:"notes"`
}

func (t *table) add(f figure) { t.Figures = append(t.Figures, f) }

func (t *table) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(t.Notes, n) {
		t.Notes = append(t.Notes, n)
	}
}

// summary is the median, and with several values the least and the greatest.
func (f *figure) summary() string {
	v := slices.Sorted(slices.Values(f.Values))
	if len(v) == 0 {
		return "-"
	}
	m := median(v)
	if len(v) == 1 {
		return number(m)
	}
	return fmt.Sprintf("%s [%s-%s]", number(m), number(v[0]), number(v[len(v)-1]))
}

// median of sorted values.
func median(v []float64) float64 {
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// number has three digits that count, and thousands apart.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 10_000:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func (t *table) heading() string {
	rule := "fewer or shorter than the rule for quoted figures asks for"
	if t.Quote {
		rule = "by the rule for quoted figures"
	}
	t.Date = time.Now().UTC().Format(time.DateOnly)
	return fmt.Sprintf("%s; data on %s; revision %s; %s; %s", t.Machine, t.FS, t.GitRev, t.Date, rule)
}

func (t *table) writeText(w io.Writer) error {
	fmt.Fprintln(w, t.heading())
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tsetting\tunit\tmedian [min-max]\tn")
	for i := range t.Figures {
		f := &t.Figures[i]
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\n", f.What, f.Setting, f.Unit, f.summary(), len(f.Values))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, n := range t.Notes {
		fmt.Fprintln(w, "*", n)
	}
	return nil
}

func (t *table) writeMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s.\n\n| what | setting | unit | median [min-max] | n |\n|---|---|---|---|---|\n", t.heading())
	for i := range t.Figures {
		f := &t.Figures[i]
		fmt.Fprintf(b, "| %s | %s | %s | %s | %d |\n", f.What, f.Setting, f.Unit, f.summary(), len(f.Values))
	}
	if len(t.Notes) > 0 {
		fmt.Fprintln(b)
	}
	for _, n := range t.Notes {
		fmt.Fprintf(b, "* %s.\n", n)
	}
	return b.Flush()
}
