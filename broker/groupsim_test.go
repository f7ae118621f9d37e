package broker

// The simulation of consumer groups: one group with members that come and go, three
// brokers, and the trouble between them, from a seed.
//
// The product's are consumergroup/coordinator with all that it does (shards, loading,
// appends under way, what waits for them), the state machines in it, and the calls of
// groupcalls.go with the session and the read barrier that they ask. Simulated are what is
// around:
//
//	groupsim_log_test.go     the replicas of one partition of __consumer_offsets, which
//	                         replicate, cut and count by the rules of DESIGN section 5, and
//	                         the metadata, by the product's images
//	groupsim_world_test.go   brokers with their sessions; time
//	groupsim_client_test.go  members and calls, whose messages take their time
//	groupsim_classic_test.go members of the classic protocol, who assign among themselves
//	groupsim_driver_test.go  what happens, and in the end the peace in which all must rest
//	groupsim_pattern_test.go subscriptions by pattern
//	groupsim_check_test.go   what must always hold
//	groupsim_classic_check_test.go  what must of the classic protocol
//
// internal/sim does not host it: its logs are of one-record entries, and what runs groups
// has goroutines. All of that is in a synctest bubble here; the driver does one thing at a
// time and waits until everything rests, so a seed runs alike each time.
//
// # What happens
//
// Leaders are moved, cut off, stopped and killed, so that an old coordinator goes on beside
// the new one, and is asked; appends are refused, or end with an outcome that nobody knows,
// and survive, or are cut with the log of a replica that was left behind; brokers learn of
// elections and topics late; load while commits come. Members lose their streams, whose
// messages arrive yet, stand still past their sessions and go on as if nothing had been, die,
// start again under their ids, leave, never give anything up. They roll from one protocol to
// the other, so that the group goes from those who assign among themselves, eagerly or
// cooperatively, to the coordinator and back. Topics grow, go and come
// again. Operators look, and reset. A run in which any of that hardly came up fails.
//
// # What is checked
//
// The committed log is the truth: it is read record by record as it grows, and what a
// coordinator says is held against it, when it says it. A commit beside which the log does
// not have its member as the owner was one of a former owner; what is told and is not in
// the log was shown too early; what is said to be committed must have been at some time
// between the question and the answer.

import (
	"flag"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

var (
	groupSeeds = flag.Int("groups.seeds", 200, "how many seeds of TestGroupHunt")
	groupFirst = flag.Uint64("groups.first", 1, "the first of them")
	groupSeed  = flag.Uint64("groups.seed", 0, "this seed alone, with its trace")
	groupSteps = flag.Int("groups.steps", 3000, "what happens to each group, beside time")
)

// TestGroupHunt runs groups from seeds; make group-sim SEED=n shows one.
func TestGroupHunt(t *testing.T) {
	if *groupSeed != 0 {
		w := simulateGroup(t, *groupSeed, os.Stdout)
		t.Logf("%+v", w.counts)
		if w.err != nil {
			t.Fatal(w.err)
		}
		return
	}
	var sum simCounts
	seeds := *groupSeeds
	if testing.Short() { // as under the race detector
		seeds = min(seeds, 20)
	}
	for i := range seeds {
		seed := *groupFirst + uint64(i)
		fmt.Printf("SEED\t%d\n", seed)
		w := simulateGroup(t, seed, nil)
		if w.err != nil {
			fmt.Printf("CAUGHT\t%d\t%s\n", seed, w.promise)
			t.Fatalf("seed %d: %v; make group-sim SEED=%d shows it", seed, w.err, seed)
		}
		if i%10 == 0 {
			if again := simulateGroup(t, seed, nil); again.hash.Sum64() != w.hash.Sum64() {
				t.Errorf("seed %d does not run alike", seed)
			}
		}
		sum.add(w.counts)
	}
	fmt.Printf("SURVIVED\t%d\n", seeds)
	t.Logf("%+v", sum)
	for _, name := range sum.missing(int64(seeds) / 20) {
		t.Errorf("%s: less than once in twenty groups: the simulation hardly sees what it is there for", name)
	}
}

func simulateGroup(t *testing.T, seed uint64, trace io.Writer) (w *simWorld) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed) // of which coordinators make the ids of members
		w = newSimWorld(seed, trace)
		defer w.close()
		w.run(*groupSteps)
		if w.err != nil {
			w.notef("BROKEN: %v", w.err)
		}
	})
	return w
}
