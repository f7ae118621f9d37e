//go:build race

package client

// raceEnabled: the race detector allocates, and lets pools forget.
const raceEnabled = true
