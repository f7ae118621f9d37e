// Command checkhistory judges a recorded history again: of a run that was killed
// before it could, or with other options.
//
//	go run ./internal/check/cmd/checkhistory [-unfinished] [-allow A,B] [-compacted T,U] [-retained T,U] [-read-first] [-stale 15s] [-json] FILE
//
// It exits 1 when there are anomalies, 2 when the file cannot be read.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

func main() {
	failed, err := run(os.Args[1:], os.Stdout)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "checkhistory:", err)
		os.Exit(2)
	case failed:
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) (failed bool, err error) {
	var o check.Options
	flags := flag.NewFlagSet("checkhistory", flag.ContinueOnError)
	flags.BoolVar(&o.Unfinished, "unfinished", false, "the run had no whole final phase")
	flags.IntVar(&o.Examples, "examples", 8, "how many to show of each anomaly")
	allow := flags.String("allow", "", "anomalies that do not count, with commas")
	compacted := flags.String("compacted", "", "topics that are compacted, with commas")
	retained := flags.String("retained", "", "topics whose oldest records go by themselves, with commas")
	flags.BoolVar(&o.ReadFirst, "read-first", false, "other records are deleted only after all readers have read them")
	flags.DurationVar(&o.Stale, "stale", 0, "for how long a leader that was replaced may serve what was deleted since")
	asJSON := flags.Bool("json", false, "print the report as JSON")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	if flags.NArg() != 1 {
		return false, fmt.Errorf("one file is needed, %d were given", flags.NArg())
	}
	for name := range strings.SplitSeq(*allow, ",") {
		if a := check.Anomaly(name); slices.Contains(check.Anomalies(), a) {
			o.Allow = append(o.Allow, a)
		} else if name != "" {
			return false, fmt.Errorf("anomaly %q is none of %q", name, check.Anomalies())
		}
	}
	if *compacted != "" {
		o.Compacted = strings.Split(*compacted, ",")
	}
	if *retained != "" {
		o.Retained = strings.Split(*retained, ",")
	}
	r, err := record.Check(flags.Arg(0), o)
	if err != nil {
		return false, err
	}
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		_, err = io.WriteString(out, r.Text())
	}
	return r.Anomalies > 0, err
}
