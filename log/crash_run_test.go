package log

import (
	"flag"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	crashSeed  = flag.Uint64("crash.seed", 0, "the one history that TestCrash runs; 0: some")
	crashSeeds = flag.Uint64("crash.seeds", 0, "how many histories TestCrash runs; 0: a few")
	crashSteps = flag.Int("crash.steps", 60, "operations of a history")
	crashKinds = flag.Bool("crash.kinds", false, "print how often the power was cut at what")
)

// crashPoints must have been hit for the test to mean anything: the places where an
// operation is half finished.
func crashPoints() map[string][]string {
	return map[string][]string{
		"append and flush":    {"append: write log", "append: sync log", "append: rename epochs", "append: sync epochs"},
		"roll":                {"append: sync index", "append: sync timeindex", "append: rename snapshot", "append: folder sync folder", "append: create log"},
		"truncation":          {"truncate: sync checkpoint", "truncate: remove log", "truncate: truncate log", "truncate: sync log", "truncate: remove snapshot", "truncate: rename epochs"},
		"log start":           {"advance start: sync checkpoint", "advance start: remove log", "advance start: remove snapshot"},
		"retention":           {"retain: sync checkpoint", "retain: remove log", "retain: folder sync folder"},
		"reset":               {"reset: rename reset", "reset: sync checkpoint", "reset: remove log", "reset: remove snapshot", "reset: create log", "reset: remove reset"},
		"deletion":            {"remove: rename deleted", "remove: folder sync directory", "remove: remove deleted", "remove: sync checkpoint"},
		"set aside":           {"set aside: rename stray", "set aside: folder sync directory", "set aside: sync checkpoint"},
		"creation":            {"remove: create folder", "remove: sync metadata", "remove: folder sync folder"},
		"checkpoint":          {"checkpoint: write checkpoint", "checkpoint: sync checkpoint"},
		"stop":                {"close dir: sync index", "close dir: rename snapshot", "close dir: sync marker", "close dir: remove marker"},
		"journal":             {"group: write journal", "group: sync journal", "truncate: sync journal", "remove: sync journal", "reset: sync journal"},
		"recovery":            {"recovery: truncate log", "recovery: sync log", "recovery: write log", "recovery: write torn", "recovery: sync checkpoint", "recovery: rename epochs"},
		"recovery of a reset": {"recovery: remove log", "recovery: remove reset"},
		"recovery, journal":   {"recovery: write journal", "recovery: sync journal"},
		"damage to a disk":    {"failed flush: sync log"},
	}
}

// Random histories, the power cut at every change: what was flushed is there, byte
// for byte, and nothing behind a gap is believed; the start, the leader epochs and
// the producers are those of the records; and the recovered log goes on.
func TestCrash(t *testing.T) {
	first, n := uint64(1), uint64(16)
	switch {
	case *crashSeed > 0:
		first, n = *crashSeed, 1
	case *crashSeeds > 0:
		n = *crashSeeds
	case testing.Short():
		n = 4
	}
	clones := 0
	kinds := map[string]int{}
	began := time.Now()
	for seed := first; seed < first+n && !t.Failed(); seed++ {
		opts := testOptions(nil)
		opts.Flusher.Workers = 1
		opts.Flusher.JournalBytes = -1
		if seed%2 == 0 { // groups go through a small journal
			opts.Flusher.JournalAt, opts.Flusher.JournalBytes = 2, 4000
		}
		if seed%4 != 2 {
			opts.resumeBytes = 1500 // places to resume at in the midst of segments
		}
		w := newCrashWorld(seed, opts)
		w.seen = kinds
		if *crashSeed == 0 && *crashSeeds == 0 {
			w.often = 40
		}
		if err := w.run(*crashSteps); err != nil {
			t.Errorf("run it again with -run 'TestCrash$' -crash.seed %d: %v", seed, err)
		}
		clones += w.clones
	}
	t.Logf("%d histories, %d power cuts in %v", n, clones, time.Since(began).Round(time.Second))
	if *crashKinds {
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			t.Logf("%7d %s", kinds[kind], kind)
		}
	}
	if n < 16 || *crashSteps < 60 {
		return
	}
	for what, points := range crashPoints() {
		for _, point := range points {
			require.Positive(t, kinds[point], "%s: the power was never cut at %q", what, point)
		}
	}
}

// The same seed is the same history.
func TestCrashHistoriesRepeat(t *testing.T) {
	var histories []string
	for range 2 {
		opts := testOptions(nil)
		opts.Flusher.Workers = 1
		opts.Flusher.JournalBytes = -1
		w := newCrashWorld(7, opts)
		require.NoError(t, w.run(15))
		histories = append(histories, strings.Join(w.trace, "\n"))
	}
	require.Equal(t, histories[0], histories[1])
}
