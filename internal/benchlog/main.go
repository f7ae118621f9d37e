// Command benchlog runs the benchmarks of package log and prints one table of
// what they found beside what they should reach. Each has its raw twin in the
// same run, on memory that was touched right before, so that most targets are
// ratios and hold on any machine; only one that does nothing else tells the truth.
//
//	go run ./internal/benchlog                      # `make bench-log`
//	go run ./internal/benchlog -runs 3 -markdown    # for docs/performance.md
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

const dirEnv = "PENSTOCK_BENCH_DIR"

type options struct {
	dir      string
	only     string
	runs     int
	markdown bool
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "where the benchmarks write, a disk and not tmpfs (default: "+dirEnv+", or TMPDIR)")
	flag.StringVar(&o.only, "only", "", "part of the names of benchmarks: only these")
	flag.IntVar(&o.runs, "runs", 1, "runs of each benchmark")
	flag.BoolVar(&o.markdown, "markdown", false, "print the table for docs/performance.md")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "benchlog:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	if o.runs < 1 || flag.NArg() > 0 {
		return errors.New("runs must be positive, and no argument may follow the flags")
	}
	if !slices.ContainsFunc(groups(), func(g group) bool { return strings.Contains(g.name, o.only) }) {
		var names []string
		for _, g := range groups() {
			names = append(names, g.name)
		}
		return fmt.Errorf("-only is %q, want a part of one of %s", o.only, strings.Join(names, ", "))
	}
	folder, err := os.MkdirTemp("", "benchlog-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // a temporary folder
	binary := filepath.Join(folder, "log.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "./log")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the benchmarks: %w", err)
	}
	found := results{}
	for _, g := range groups() {
		if !strings.Contains(g.name, o.only) {
			continue
		}
		for range o.runs {
			if err := o.measure(ctx, binary, g, found); err != nil {
				return fmt.Errorf("%s: %w", g.name, err)
			}
		}
	}
	return o.print(out, found)
}

// measure runs one group of benchmarks once.
func (o *options) measure(ctx context.Context, binary string, g group, found results) error {
	cmd := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.bench=^"+g.name+"$", "-test.benchtime="+g.time, "-test.timeout=30m")
	cmd.Dir = "log"
	cmd.Env = os.Environ()
	if o.dir != "" {
		dir, err := filepath.Abs(o.dir)
		if err != nil {
			return err
		}
		cmd.Env = append(cmd.Env, dirEnv+"="+dir)
	}
	var text bytes.Buffer
	cmd.Stdout = io.MultiWriter(&text, os.Stderr)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	return found.parse(&text)
}

func (o *options) print(out io.Writer, found results) error {
	heading := fmt.Sprintf("%d CPUs, %s, %s, revision %s", runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly), revision())
	var missed []string
	var rows [][]string
	for _, f := range figures() {
		values := found[key{f.bench, f.metric}]
		if len(values) == 0 {
			continue
		}
		target := f.target
		if f.reached != nil {
			if f.reached(found) {
				target += ": reached"
			} else {
				target += ": MISSED"
				missed = append(missed, f.what)
			}
		}
		rows = append(rows, []string{f.what, summary(values), f.unit, target})
	}
	if o.markdown {
		fmt.Fprintf(out, "%s.\n\n| what | median [min-max] | unit | target |\n|---|---|---|---|\n", heading)
		for _, r := range rows {
			fmt.Fprintf(out, "| %s |\n", strings.Join(r, " | "))
		}
	} else {
		fmt.Fprintln(out, heading)
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "what\tmedian [min-max]\tunit\ttarget")
		for _, r := range rows {
			fmt.Fprintln(w, strings.Join(r, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(missed, "; "))
	}
	return nil
}

// summary is the median, and with several values the least and the greatest.
func summary(values []float64) string {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 1 {
		return fmt.Sprintf("%.4g", v[0])
	}
	return fmt.Sprintf("%.4g [%.4g-%.4g]", median(v), v[0], v[len(v)-1])
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func revision() string {
	b, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output() //nolint:noctx // at once
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
