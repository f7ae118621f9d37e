package sim

import (
	"math/rand/v2"
	"time"
)

// mix is how rough a run is. It differs from seed to seed, so that some runs
// have much of one trouble and none of another.
type mix struct {
	// pause is the longest time between two faults.
	pause time.Duration
	// weights has a factor for each of faults().
	weights []int
	// drop, again and stall are percentages of the messages of replication streams.
	drop, again, stall float64
	// unknown, late and twice are percentages of the commands to the metadata log.
	unknown, late, twice float64
	// images is how late an image usually is at most.
	images time.Duration
	// window is how many requests a producer has under way at most.
	window int
	// trims is the longest time between two log starts that move, and two requests to
	// delete records, of a partition.
	trims time.Duration
	// beyond: the disks of all replicas of a partition may lose bytes.
	beyond bool
	// rest is the longest time between two records of a producer.
	rest time.Duration
}

func newMix(rng *rand.Rand) mix {
	pick := func(values ...float64) float64 { return values[rng.IntN(len(values))] }
	m := mix{
		pause: time.Duration(pick(300, 1500, 1500, 4000)) * time.Millisecond,
		drop:  pick(0, 0.05, 0.1, 1), again: pick(0, 0.5, 2, 10), stall: pick(0, 0.1, 0.5, 2),
		unknown: pick(1, 2, 5, 25), late: pick(2, 10, 40), twice: pick(1, 5, 20),
		images: time.Duration(pick(10, 30, 30, 300)) * time.Millisecond,
		window: 1 + rng.IntN(maxWindow),
		trims:  time.Duration(pick(1000, 4000, 12000)) * time.Millisecond,
		rest:   time.Duration(pick(30, 150, 600)) * time.Millisecond,
	}
	m.beyond = rng.IntN(8) == 0
	for range faults() {
		m.weights = append(m.weights, int(pick(0, 1, 1, 1, 4)))
	}
	return m
}
