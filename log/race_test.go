//go:build race

package log

// raceEnabled: the race detector allocates, and lets pools forget.
const raceEnabled = true
