package sim

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	seedFlag   = flag.Uint64("sim.seed", 0, "run this seed alone, with its trace")
	seedsFlag  = flag.Int("sim.seeds", 200, "how many seeds")
	firstFlag  = flag.Uint64("sim.first", 1, "the first seed")
	eventsFlag = flag.Int("sim.events", 5000, "events of the safety phase of each seed")
)

func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		r := Run(Options{Seed: *seedFlag, Events: *eventsFlag, Trace: os.Stdout})
		t.Logf("%+v", r)
		require.NoError(t, r.Err)
		return
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards total and bad
		total Counts
		steps int
		bad   []Result
		next  = make(chan uint64)
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range next {
				r := Run(Options{Seed: seed, Events: *eventsFlag})
				mu.Lock()
				total.add(&r.Counts)
				steps += r.Steps
				if r.Err != nil {
					bad = append(bad, r)
				}
				mu.Unlock()
			}
		})
	}
	for i := range uint64(*seedsFlag) {
		next <- *firstFlag + i
	}
	close(next)
	wg.Wait()
	t.Logf("%d seeds, %d events: %+v", *seedsFlag, steps, total)
	checkCoverage(t, &total, *seedsFlag)
	for i, r := range bad {
		if i == 10 {
			break
		}
		t.Errorf("seed %d with %d nodes: %v", r.Seed, r.Nodes, r.Err)
	}
	if len(bad) > 0 {
		t.Errorf("%d of %d seeds break a promise; make sim SEED=%d shows one", len(bad), *seedsFlag, bad[0].Seed)
	}
}

// enough is how often each thing must have happened in so many seeds, or the
// run has shown nothing about it.
const enough, enoughSeeds = 20, 2000

func checkCoverage(t *testing.T, c *Counts, seeds int) {
	t.Helper()
	least := int64(enough * seeds / enoughSeeds)
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if got := v.Field(i).Int(); got < least && name != "RefusedTruncations" { // that one must not happen
			t.Errorf("%s: %d times in %d seeds, want %d", name, got, seeds, least)
		}
	}
}

// add sums the counts field by field.
func (c *Counts) add(o *Counts) {
	v, u := reflect.ValueOf(c).Elem(), reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(v.Field(i).Int() + u.Field(i).Int())
	}
}

func TestASeedReplays(t *testing.T) {
	for seed := range uint64(5) {
		o := Options{Seed: 1000 + seed, Events: 2000}
		a, b := Run(o), Run(o)
		require.Equal(t, a.Hash, b.Hash, fmt.Sprint(o.Seed))
		require.Equal(t, a.Counts, b.Counts)
	}
}
