// Command failover measures for how long writes stop when a node dies, sleeps, is cut
// off or loses its power, and compares that with what is promised. It needs root, see
// scripts/chaos.
//
//	failover -penstock bin/penstock [-kills 20] [-stops 5] [-cuts 5] [-steady 10m] [-only leader,power]
//
// It exits 1 when a figure misses its budget or a record is missing, 2 on wrong use, 3
// when this machine cannot run it.
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

	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/chaos/failover"
)

type options struct {
	failover.Options

	asJSON bool
	record string
}

func main() {
	o, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := chaos.Probe(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	result, err := failover.Run(ctx, o.Options)
	if o.asJSON {
		err = errors.Join(err, json.NewEncoder(os.Stdout).Encode(result))
	} else {
		err = errors.Join(err, result.WriteText(os.Stdout))
	}
	if err != nil {
		return err
	}
	if o.record != "" {
		if err := result.Record(o.record); err != nil {
			return err
		}
	}
	if !result.Met() {
		return errors.New("a figure missed its budget")
	}
	return nil
}

func parse() (*options, error) {
	o := &options{Options: failover.Options{Out: os.Stderr}}
	var only string
	flag.StringVar(&o.Binary, "penstock", "bin/penstock", "the binary")
	flag.StringVar(&o.Parent, "dir", "/var/tmp", "where a folder for data and logs is made; on a disk")
	flag.StringVar(&only, "only", "", "some of "+strings.Join(failover.Names(), ",")+" (default all)")
	flag.IntVar(&o.Kills, "kills", 20, "kills of each kind")
	flag.IntVar(&o.Stops, "stops", 5, "times a leader is stopped, and cut off")
	flag.IntVar(&o.Cuts, "cuts", 5, "power cuts of the whole cluster")
	flag.DurationVar(&o.Steady, "steady", 10*time.Minute, "how long full load runs without a fault")
	flag.IntVar(&o.Load, "load", 0, "records/s during faults; 0: half of what the cluster takes")
	flag.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	flag.StringVar(&o.record, "record", "", "write the result to failover.md and .json in this folder")
	flag.Parse()
	if flag.NArg() > 0 || o.Kills < 1 || o.Stops < 1 || o.Cuts < 1 || o.Steady <= 0 || o.Load < 0 {
		return nil, errors.New("counts and times must be positive, and no argument may follow the flags")
	}
	if only != "" {
		o.Only = strings.Split(only, ",")
	}
	for _, name := range o.Only {
		if !slices.Contains(failover.Names(), name) {
			return nil, fmt.Errorf("-only names %q, want some of %s", name, strings.Join(failover.Names(), ","))
		}
	}
	var err error
	o.Binary, err = filepath.Abs(o.Binary)
	return o, err
}
