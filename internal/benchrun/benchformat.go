package main

import (
	"bufio"
	"fmt"
	"io"
	"runtime"
	"strings"
	"unicode"
)

// writeBench writes the table in Go's benchmark format, a line a run, so that benchstat
// compares two revisions: benchrun -bench-format on each, then benchstat OLD NEW, which
// scripts/bench-compare does by turns. The revision is a comment, because benchstat
// compares nothing whose key: value lines differ.
func (t *table) writeBench(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "goos: %s\ngoarch: %s\npkg: github.com/penstock/penstock/internal/benchrun\ncpu: %s\n# revision %s\n", runtime.GOOS, runtime.GOARCH, t.Machine, t.GitRev)
	units := map[string]bool{}
	for i := range t.Figures {
		f := &t.Figures[i]
		unit, better := benchUnit(f.Unit)
		if !units[unit] {
			units[unit] = true
			fmt.Fprintf(b, "Unit %s better=%s\n", unit, better)
		}
		for _, v := range f.Values {
			fmt.Fprintf(b, "Benchmark%s 1 %g %s\n", benchName(f.What), v, unit)
		}
	}
	return b.Flush()
}

// benchUnit has no space, and says which way is better.
func benchUnit(unit string) (name, better string) {
	switch unit {
	case "records/s", "MB/s", "%":
		better = "higher"
	default:
		better = "lower"
	}
	return strings.ReplaceAll(unit, " ", "-"), better
}

// benchName writes the words of a figure as one: "latency p50" becomes LatencyP50.
func benchName(what string) string {
	var b strings.Builder
	for word := range strings.FieldsFuncSeq(what, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}
