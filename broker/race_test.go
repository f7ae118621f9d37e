//go:build race

package broker

// raceEnabled: the race detector allocates, and lets pools forget.
const raceEnabled = true
