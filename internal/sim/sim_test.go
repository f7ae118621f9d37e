package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	seedFlag    = flag.Uint64("sim.seed", 0, "run this seed alone, with its trace")
	seedsFlag   = flag.Int("sim.seeds", 200, "how many seeds")
	firstFlag   = flag.Uint64("sim.first", 1, "the first seed")
	eventsFlag  = flag.Int("sim.events", 6000, "events of the safety phase of each seed")
	twiceFlag   = flag.Bool("sim.twice", false, "run each seed twice and compare")
	forFlag     = flag.Duration("sim.for", 0, "run seeds for so long instead of a number of them")
	reportFlag  = flag.String("sim.report", "", "write the result to this file")
	huntLogFlag = flag.Bool("sim.hunt.log", false, "hunt in clusters with the logs of package log")
	huntFlag    = flag.Int("sim.hunt", 0, "run so many seeds one by one until one breaks a promise")
)

// campaign is a run of many seeds.
type campaign struct {
	seeds  int
	events int
	counts Counts
	bad    []Result
	took   time.Duration
}

func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		r := run(t, Options{Seed: *seedFlag, Events: *eventsFlag, Trace: os.Stdout})
		t.Logf("%+v", r)
		require.NoError(t, r.Err)
		return
	}
	c := runSeeds(t)
	t.Logf("%d seeds, %d events: %+v", c.seeds, c.events, c.counts)
	least := enough * min(c.seeds, enoughSeeds) / enoughSeeds
	for _, name := range c.counts.Missing(least) {
		t.Errorf("%s: less than %d times in %d seeds", name, least, c.seeds)
	}
	for _, r := range c.bad[:min(10, len(c.bad))] {
		t.Errorf("seed %d with %d nodes: %v", r.Seed, r.Nodes, r.Err)
	}
	if len(c.bad) > 0 {
		t.Errorf("%d of %d seeds break a promise; make sim SEED=%d shows one", len(c.bad), c.seeds, c.bad[0].Seed)
	}
	if *reportFlag != "" {
		require.NoError(t, os.WriteFile(*reportFlag, []byte(c.report(t)), 0o644))
	}
}

// enough is how often each thing must have happened in so many seeds, or the
// run has shown nothing about it.
const enough, enoughSeeds = 20, 2000

// runSeeds runs seeds on all processors.
func runSeeds(t *testing.T) *campaign {
	t.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards c
		c     campaign
		next  = make(chan uint64)
		begin = time.Now()
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range next {
				r := runSeed(t, seed)
				mu.Lock()
				c.seeds++
				c.counts.Add(&r.Counts)
				c.events += r.Steps
				if r.Err != nil {
					c.bad = append(c.bad, r)
				}
				mu.Unlock()
			}
		})
	}
	seeds := *seedsFlag
	if testing.Short() {
		seeds = min(seeds, 60)
	}
	for i := 0; i < seeds && *forFlag == 0 || time.Since(begin) < *forFlag; i++ {
		next <- *firstFlag + uint64(i)
	}
	close(next)
	wg.Wait()
	c.took = time.Since(begin)
	return &c
}

// runSeed runs a seed, and once more if asked to: it must replay.
func runSeed(t *testing.T, seed uint64) Result {
	t.Helper()
	o := Options{Seed: seed, Events: *eventsFlag}
	r := run(t, o)
	if *twiceFlag && r.Err == nil {
		if again := run(t, o); again.Hash != r.Hash || again.Counts != r.Counts {
			r.Err = fmt.Errorf("the trace has the hash %x, and the second time %x", r.Hash, again.Hash)
		}
	}
	return r
}

func TestASeedReplays(t *testing.T) {
	for seed := range uint64(5) {
		o := Options{Seed: 1000 + seed, Events: 2000}
		a, b := run(t, o), run(t, o)
		require.Equal(t, a.Hash, b.Hash, fmt.Sprint(o.Seed))
		require.Equal(t, a.Counts, b.Counts)
	}
	require.NotEqual(t, Run(Options{Seed: 1, Events: 2000}).Hash, Run(Options{Seed: 2, Events: 2000}).Hash)
}

// TestHunt is for internal/mutants: seed after seed until a promise is broken.
func TestHunt(t *testing.T) {
	if *huntFlag == 0 {
		t.Skip("-sim.hunt says how many seeds; TestSeeds runs without")
	}
	for i := range uint64(*huntFlag) {
		seed := *firstFlag + i
		if *huntLogFlag {
			seed *= realEvery
		}
		fmt.Printf("SEED\t%d\n", seed) // should it panic
		r := run(t, Options{Seed: seed, Events: *eventsFlag})
		if r.Err != nil {
			fmt.Printf("CAUGHT\t%d\t%s\n", r.Seed, r.Broken)
			t.Log(r.Err)
			return
		}
	}
	fmt.Println("SURVIVED")
}

// realEvery: each so many'th seed runs with the logs of package log.
const realEvery = 10

// run runs a seed. It may be called from several goroutines.
func run(t *testing.T, o Options) (r Result) {
	t.Helper()
	if o.Seed%realEvery != 0 {
		return Run(o)
	}
	t.Run(fmt.Sprintf("log %d", o.Seed), func(t *testing.T) {
		synctest.Test(t, func(*testing.T) {
			o.Quiet = synctest.Wait
			r = Run(o)
		})
	})
	return r
}
