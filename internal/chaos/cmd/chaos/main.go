// Command chaos breaks a cluster of real processes while clients use it, and checks
// that it kept its promises. It needs root, see scripts/chaos.
//
//	chaos -penstock bin/penstock [-duration 30m] [-seed N | -schedule FILE] [-only KINDS] [-short]
//
// It exits 0 when all is well; 1 on an anomaly, on a cluster that did not recover, when
// no fault was injected or too little acknowledged; 2 on wrong use; 3 when this
// machine cannot run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/chaos/storm"
)

func main() {
	o, record, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := chaos.Probe(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	report, err := storm.Run(ctx, *o)
	if report != nil && report.History != nil || err == nil {
		fmt.Print(report.Text())
	}
	if err == nil && record != "" {
		err = report.Record(record)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	if !report.Good() {
		os.Exit(1)
	}
}

func parse() (o *storm.Options, record string, err error) {
	o = &storm.Options{Out: os.Stdout}
	var seed uint64
	var schedule, only string
	var clock bool
	flag.StringVar(&o.Binary, "penstock", "bin/penstock", "the binary")
	flag.StringVar(&o.Parent, "dir", "/var/tmp", "where a folder for data, logs and history is made; on a disk")
	flag.DurationVar(&o.Duration, "duration", 30*time.Minute, "how long faults are injected")
	flag.Uint64Var(&seed, "seed", 0, "chooses the schedule; 0: any")
	flag.StringVar(&schedule, "schedule", "", "play this file, which an earlier run left")
	flag.StringVar(&only, "only", "", "draw these kinds of fault alone, with commas between them")
	flag.BoolVar(&o.Short, "short", false, "quick faults only, each held for a moment")
	flag.IntVar(&o.Rate, "rate", 2000, "records a second")
	flag.Int64Var(&o.MinAcked, "min-acked", -1, "fewer acknowledged records are a failure; -1: 10000 in a short run, 555 a second in others")
	flag.BoolVar(&o.Keep, "keep", false, "keep the folder even if all is well")
	flag.BoolVar(&clock, "clock", true, "build the server with a clock that can be moved, for long runs")
	flag.StringVar(&record, "record", "", "write the result to chaos.md in this folder")
	flag.Parse()
	if flag.NArg() > 0 || o.Duration <= 0 || o.Rate <= 0 {
		return nil, "", errors.New("duration and rate must be positive, and no argument may follow the flags")
	}
	if o.Binary, err = filepath.Abs(o.Binary); err != nil {
		return nil, "", err
	}
	if o.MinAcked < 0 {
		o.MinAcked = 10_000
		if !o.Short {
			o.MinAcked = int64(o.Duration.Seconds() * 1_000_000 / 1800)
		}
	}
	if o.Nodes = 4; o.Short {
		o.Nodes = 3
	}
	if seed == 0 {
		seed = rand.Uint64() >> 40
	}
	skewed := false
	if clock && !o.Short {
		moving := o.Binary + "-clock"
		if err := chaos.BuildSkewed(context.Background(), moving); err != nil {
			fmt.Println(err)
		} else {
			o.Binary, skewed = moving, true
		}
	}
	if schedule != "" {
		o.Schedule, err = storm.ReadSchedule(schedule)
		return o, record, err
	}
	can, missing := storm.Kinds(o.Nodes, skewed)
	for _, k := range slices.Sorted(maps.Keys(missing)) {
		if !o.Short {
			fmt.Printf("no %s: %s\n", k, missing[k])
		}
	}
	if only != "" {
		if can, err = storm.Only(can, strings.Split(only, ",")); err != nil {
			return nil, "", err
		}
	}
	// A step takes a second at least.
	o.Schedule = storm.Draw(seed, int(o.Duration.Seconds())+1, o.Short, can)
	return o, record, nil
}
