package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A benchmark lingers as the client does, but where the latency at a low rate is asked for.
func TestLingerOfBenchmarks(t *testing.T) {
	found := map[string]string{}
	for _, cmd := range newBench(&shared{}).Commands() {
		found[cmd.Name()] = cmd.Flag("linger").DefValue
	}
	require.Equal(t, map[string]string{"produce": "5ms", "consume": "5ms", "single": "5ms", "latency": "0s", "e2e": "0s"}, found)
}
