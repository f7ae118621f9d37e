// Command report measures how Penstock scales, a short run a point, and draws a curve
// for each question: how the rate depends on the number of partitions, of producers, of
// consumers, of nodes, on the size of records, and on the codec. `make bench-report` at
// the top of the repository runs it; docs/performance.md shows the curves.
//
// The points are for their shape. A figure to be quoted needs longer and more runs,
// which is what internal/benchrun is for.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/internal/chaos"
)

type options struct {
	binary, dir, out, docs string

	curves   []string
	duration time.Duration
	warmup   time.Duration
	runs     int
	touch    int // GiB
	plotOnly bool
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	var curves string
	f.StringVar(&o.binary, "penstock", "bin/penstock", "the binary of Penstock")
	f.StringVar(&o.dir, "dir", "", "where the data goes; a new folder in it is used and removed (default: TMPDIR, or bin/ when that is tmpfs)")
	f.StringVar(&o.out, "out", "docs/performance", "where the JSON and the plots go")
	f.StringVar(&o.docs, "docs", "docs/performance.md", "the page that shows the plots; empty: none")
	f.StringVar(&curves, "curves", strings.Join(curveNames(), ","), "which")
	f.DurationVar(&o.duration, "point", 4*time.Second, "how long a point is measured")
	f.DurationVar(&o.warmup, "warmup", time.Second, "not counted, first")
	f.IntVar(&o.runs, "runs", 1, "runs of each point")
	f.IntVar(&o.touch, "touch", 2, "GiB of memory touched before each run; 0: none")
	f.BoolVar(&o.plotOnly, "plot-only", false, "draw what the JSON holds, measure nothing")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.curves = strings.Split(curves, ",")
	for _, name := range o.curves {
		if !slices.Contains(curveNames(), name) {
			return nil, fmt.Errorf("-curves names %q, want some of %s", name, strings.Join(curveNames(), ","))
		}
	}
	if f.NArg() > 0 || o.duration <= 0 || o.warmup < 0 || o.runs < 1 || o.touch < 0 {
		return nil, errors.New("point and runs must be positive, warmup and touch not negative, and no argument may follow the flags")
	}
	return o, nil
}

// eachPoint says how a point was measured.
func (o *options) eachPoint() string {
	s := fmt.Sprintf("%s after %s", o.duration, o.warmup)
	if o.touch > 0 {
		s += fmt.Sprintf(" and after touching %d GiB of memory", o.touch)
	}
	if o.runs == 1 {
		return s + ", once"
	}
	return s + fmt.Sprintf(", %d times, the middle one shown", o.runs)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err == nil:
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// report is what the JSON holds. Curves that are not measured anew stay as they were,
// each with its own revision and date.
type report struct {
	Curves []*curve `json:"curves"`
}

// curve is one plot.
type curve struct {
	Name    string    `json:"name"`
	Title   string    `json:"title"`
	X       string    `json:"x"`
	Y       string    `json:"y"`
	LogY    bool      `json:"log_y,omitempty"`
	Setting string    `json:"setting"` // what its runs said of themselves
	Machine string    `json:"machine"`
	FS      string    `json:"fs"`
	GitRev  string    `json:"git_rev"`
	Date    string    `json:"date"`
	Point   string    `json:"point"` // how long each was measured, after what, how often
	Series  []*series `json:"series"`
}

type series struct {
	Name   string  `json:"name"`
	Points []point `json:"points"`
}

// point has a label instead of a place where the x axis is no number.
type point struct {
	X      float64   `json:"x"`
	Label  string    `json:"label,omitempty"`
	Values []float64 `json:"values"` // one a run
}

// add puts a value where it belongs.
func (c *curve) add(name string, x float64, label string, value float64) {
	i := slices.IndexFunc(c.Series, func(s *series) bool { return s.Name == name })
	if i < 0 {
		i = len(c.Series)
		c.Series = append(c.Series, &series{Name: name})
	}
	s := c.Series[i]
	if n := len(s.Points); n > 0 && s.Points[n-1].X == x {
		s.Points[n-1].Values = append(s.Points[n-1].Values, value)
		return
	}
	s.Points = append(s.Points, point{X: x, Label: label, Values: []float64{value}})
}

func run(ctx context.Context, o *options) error {
	file := filepath.Join(o.out, "curves.json")
	r, err := read(file)
	if err != nil {
		return err
	}
	if o.docs != "" { // what would fail in the end fails now
		if _, _, err := around(o.docs); err != nil {
			return err
		}
	}
	if !o.plotOnly {
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return err
		}
		if err := measure(ctx, o, r, func() error { return r.save(file) }); err != nil {
			return err
		}
	}
	for _, c := range r.Curves {
		if err := c.draw(filepath.Join(o.out, c.Name+".svg")); err != nil {
			return fmt.Errorf("plot %s: %w", c.Name, err)
		}
	}
	if o.docs == "" {
		return nil
	}
	return r.show(o.docs, o.out)
}

const (
	docsBegin = "<!-- curves -->\n"
	docsEnd   = "<!-- end of curves -->\n"
)

// around is what a page has before and after its plots.
func around(page string) (before, after string, err error) {
	b, err := os.ReadFile(page)
	if err != nil {
		return "", "", err
	}
	before, rest, begins := strings.Cut(string(b), docsBegin)
	_, after, ends := strings.Cut(rest, docsEnd)
	if !begins || !ends {
		return "", "", fmt.Errorf("%s has no place for the plots: a line %q and a line %q", page, strings.TrimSpace(docsBegin), strings.TrimSpace(docsEnd))
	}
	return before, after, nil
}

// show puts the plots between two marks of a page.
func (r *report) show(page, plots string) error {
	before, after, err := around(page)
	if err != nil {
		return err
	}
	folder, err := filepath.Rel(filepath.Dir(page), plots)
	if err != nil {
		return err
	}
	var s strings.Builder
	for _, c := range r.Curves {
		fmt.Fprintf(&s, "![%s](%s)\n\n%s; each point %s; revision %s, %s; %s, data on %s.\n\n",
			c.Title, filepath.ToSlash(filepath.Join(folder, c.Name+".svg")), c.Setting, c.Point, c.GitRev, c.Date, c.Machine, c.FS)
	}
	return os.WriteFile(page, []byte(before+docsBegin+s.String()+docsEnd+after), 0o644)
}

func read(file string) (*report, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return &report{}, nil
	}
	if err != nil {
		return nil, err
	}
	r := &report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

func (r *report) save(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// put replaces the curve of the same name, or adds it at its place.
func (r *report) put(c *curve) {
	r.Curves = append(slices.DeleteFunc(r.Curves, func(old *curve) bool { return old.Name == c.Name }), c)
	slices.SortFunc(r.Curves, func(a, b *curve) int {
		return slices.Index(curveNames(), a.Name) - slices.Index(curveNames(), b.Name)
	})
}

// measure saves each curve as soon as it is there.
func measure(ctx context.Context, o *options, r *report, save func() error) (err error) {
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	dir, err := bench.DataFolder(o.dir, "penstock-report-")
	if err != nil {
		return err
	}
	l := &lab{options: o, dir: dir}
	defer func() { err = errors.Join(err, l.close(), os.RemoveAll(dir)) }()
	for _, d := range definitions() {
		if !slices.Contains(o.curves, d.curve.Name) {
			continue
		}
		c := d.curve
		c.Machine, c.FS, c.GitRev, c.Date = chaos.Machine(), bench.FileSystem(dir), chaos.Revision(ctx), time.Now().UTC().Format(time.DateOnly)
		c.Point = o.eachPoint()
		l.reports = nil
		if err := d.measure(ctx, l, &c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		c.Setting = setting(l.reports)
		r.put(&c)
		if err := save(); err != nil {
			return err
		}
	}
	return nil
}
