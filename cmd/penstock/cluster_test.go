package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
)

// Whatever makes a cluster not healthy has a word in the message that says so.
func TestAmissNamesAllThatIsAmiss(t *testing.T) {
	damaged := make([]client.DamagedReplica, 1)
	for want, c := range map[string]client.Cluster{
		"":                                       {Controller: 1, Brokers: []client.Broker{{NodeID: 1}}},
		"no controller confirms it":              {Controller: -1},
		"broker 3: fenced":                       {Controller: 1, Brokers: []client.Broker{{NodeID: 1}, {NodeID: 3, Fenced: true}}},
		"broker 3: waits for a disk":             {Controller: 1, Brokers: []client.Broker{{NodeID: 3, Fenced: true, Replaced: true}}},
		"1 partition without a leader":           {Controller: 1, Leaderless: 1},
		"2 partitions under-replicated":          {Controller: 1, UnderReplicated: 2},
		"2 partitions below min.insync.replicas": {Controller: 1, UnderMinISR: 2},
		"1 partition led by a damaged replica":   {Controller: 1, DamagedLeaders: damaged},
		"no controller confirms it, 1 partition under-replicated": {Controller: 1, Unconfirmed: true, UnderReplicated: 1},
	} {
		require.Equal(t, want, strings.Join(amiss(&c), ", "))
		require.Equal(t, want == "", c.Healthy(), want)
	}
}
