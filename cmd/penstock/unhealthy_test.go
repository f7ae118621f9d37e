package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
)

// What health counts is listed, and nothing else, with whom it waits for.
func TestUnhealthyPartitions(t *testing.T) {
	topics := []client.Topic{
		{Name: "fine", Partitions: []client.PartitionState{
			{Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}},
			{Partition: 1, Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2}, Adding: []int32{3}, Removing: []int32{2}},
		}},
		{Name: "t", Partitions: []client.PartitionState{
			{Leader: 2, Replicas: []int32{1, 2, 3}, ISR: []int32{2}, ELR: []int32{3}},
			{Partition: 1, Leader: -1, Replicas: []int32{1, 2, 3}, ISR: []int32{3}, ELR: []int32{1}},
			{Partition: 2, Leader: -1, Replicas: []int32{1, 2, 3}, LastISR: []int32{2}},
			{Partition: 3, Leader: -1, Replicas: []int32{1, 2, 3}, Lost: true},
			{Partition: 4, Leader: 1, Replicas: []int32{1, 2}, ISR: []int32{1, 2}},
		}},
	}
	var out strings.Builder
	require.NoError(t, printUnhealthy(&out, unhealthy(topics)))
	require.Equal(t, strings.Join([]string{
		"TOPIC  PARTITION  LEADER  REPLICAS  IN SYNC  OUT OF SYNC  WAITS FOR",
		"t      0          2       1,2,3     2        1,3          -",
		"t      1          none    1,2,3     3        1,2          1 or 3",
		"t      2          none    1,2,3     -        1,2,3        2",
		"t      3          none    1,2,3     -        1,2,3        topic elect --unclean",
		"",
	}, "\n"), out.String())

	out.Reset()
	require.NoError(t, printUnhealthy(&out, unhealthy(topics[:1])))
	require.Equal(t, "every partition has a leader, and all of its replicas in sync\n", out.String())
}
