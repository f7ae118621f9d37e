package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

// Replicas move from node 3 to node 4 under load while the broker that receives
// them, and then the controller, are killed on the way: nothing is lost, and the
// moves come to their end.
func TestMoveThroughKills(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 4, Voters: 3})
	w.createTopic(loadTopic, loadPartitions, 3)
	l := w.startLoad(loadTopic)
	l.waitMore(t, 10*warm)
	require.NoError(t, w.nodes.Start(4))
	w.alive(4)

	plan := filepath.Join(t.TempDir(), "plan.json")
	require.NoError(t, os.WriteFile(plan, []byte(movePlan(w.partitions(loadTopic), 3, 4)), 0o600))
	brokers := strings.Join(w.nodes.Addrs()[:3], ",")
	w.penstock("topic", "reassign", "--plan", plan, "--throttle", "20KiB", "-b", brokers)
	w.underWay(t, 4)
	require.NoError(t, w.nodes.Kill(4))
	l.waitMore(t, warm)
	for _, p := range w.partitions(loadTopic) {
		require.Equal(t, []int32{1, 2, 3}, slices.Sorted(slices.Values(p.ISR)), "the old replicas go on: %+v", p)
		require.Equal(t, []int32{4}, p.Adding)
	}
	require.NoError(t, w.nodes.Start(4))
	w.alive(4)
	w.underWay(t, 4)

	victim := w.controller()
	require.NoError(t, w.nodes.Kill(victim))
	l.waitMore(t, warm)
	require.NoError(t, w.nodes.Start(victim))
	w.alive(int32(victim))
	require.Contains(t, w.penstock("cluster", "reassignments", "-b", brokers), loadTopic+"-0")

	// The same plan without a throttle lets them come to their end.
	w.penstock("topic", "reassign", "--plan", plan, "--throttle", "1GiB", "--wait", "-b", brokers)
	l.waitMore(t, warm)
	for _, p := range w.partitions(loadTopic) {
		require.NotContains(t, p.Replicas, int32(3))
		require.Contains(t, p.Replicas, int32(4))
	}
	require.Eventually(t, func() bool { return w.folders(3) == 0 }, testWait, 50*time.Millisecond, "node 3 keeps data that was moved away")
	l.finish(t)
	l.verify(w)
	w.requireEqualReplicas(loadTopic, 4)
}

// A broker that is down is decommissioned all the same; when it comes back with what
// was moved away from it, it deletes that.
func TestDecommissionOfTheDead(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 4, Voters: 3})
	require.NoError(t, w.nodes.Start(4))
	w.alive(4)
	w.createTopic(loadTopic, loadPartitions, 3)
	l := w.startLoad(loadTopic)
	l.waitMore(t, warm)
	before := w.folders(2)
	require.Positive(t, before)
	require.NoError(t, w.nodes.Kill(2))
	brokers := strings.Join([]string{w.nodes.Addr(1), w.nodes.Addr(3), w.nodes.Addr(4)}, ",")
	out := w.penstock("cluster", "decommission", "2", "-b", brokers)
	require.Contains(t, out, "broker 2 holds no replica any more. It votes in the metadata quorum")
	l.waitMore(t, warm)
	require.Equal(t, before, w.folders(2))
	require.NoError(t, w.nodes.Start(2))
	require.Eventually(t, func() bool { return w.folders(2) == 0 }, testWait, 50*time.Millisecond, "node 2 keeps data that was moved away")
	stray, err := filepath.Glob(filepath.Join(w.nodes.DataDir(2), "*.stray"))
	require.NoError(t, err)
	require.Empty(t, stray)
	w.waitHealthy()
	l.finish(t)
	l.verify(w)
	w.requireEqualReplicas(loadTopic, 4)
}

// movePlan is a plan in which one broker takes the place of another.
func movePlan(parts []client.PartitionState, from, to int32) string {
	var list []string
	for _, p := range parts {
		var replicas []string
		for _, node := range p.Replicas {
			if node == from {
				node = to
			}
			replicas = append(replicas, fmt.Sprint(node))
		}
		list = append(list, fmt.Sprintf(`{"topic":%q,"partition":%d,"replicas":[%s]}`, loadTopic, p.Partition, strings.Join(replicas, ",")))
	}
	return `{"version":1,"partitions":[` + strings.Join(list, ",") + `]}`
}

// alive waits until a node has registered and is not fenced.
func (w *world) alive(id int32) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		c, err := w.client.Admin().Cluster(w.ctx)
		return err == nil && slices.ContainsFunc(c.Brokers, func(b client.Broker) bool { return b.NodeID == id && !b.Fenced && b.BrokerEpoch > 0 })
	}, testWait, 50*time.Millisecond, "node %d is not there", id)
}

// underWay waits until a node has a part of what it is to have, and not all of it.
func (w *world) underWay(t *testing.T, node int32) {
	t.Helper()
	require.Eventually(t, func() bool {
		list, err := w.client.Admin().ListPartitionReassignments(w.ctx)
		return err == nil && slices.ContainsFunc(list, func(r client.ReassignmentState) bool {
			return slices.ContainsFunc(r.Progress, func(c client.CatchUp) bool { return c.NodeID == node && c.Offset > 0 && c.RecordsBehind > 0 })
		})
	}, testWait, 20*time.Millisecond, "no record came to node %d", node)
}

// folders counts the partitions of the load that a node has on disk.
func (w *world) folders(id int) int {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.nodes.DataDir(id), loadTopic+"-[0-9]*"))
	require.NoError(w.t, err)
	return len(found)
}
