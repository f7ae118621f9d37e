package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

// cli runs the binary against the cluster.
func (w *world) cli(args ...string) string {
	w.t.Helper()
	out, err := w.nodes.CLI(w.ctx, nil, args...)
	require.NoError(w.t, err)
	return out
}

// refused runs the binary and returns why it failed.
func (w *world) refused(status int, args ...string) string {
	w.t.Helper()
	_, err := w.nodes.CLI(w.ctx, nil, args...)
	var exit *exec.ExitError
	require.ErrorAs(w.t, err, &exit, "%v was not refused", args)
	require.Equal(w.t, status, exit.ExitCode(), "%v", err)
	return err.Error()
}

func (w *world) waitFenced(node int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		c, err := w.client.Admin().Cluster(w.ctx)
		if err != nil {
			return false
		}
		for _, b := range c.Brokers {
			if int(b.NodeID) == node {
				return b.Fenced
			}
		}
		return false
	}, testWait, 20*time.Millisecond, "node %d is not fenced", node)
}

func (w *world) waitVoters(want string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		c, err := w.client.Admin().Cluster(w.ctx)
		if err != nil {
			return false
		}
		var got []string
		for _, b := range c.Brokers {
			if b.Voter {
				got = append(got, fmt.Sprint(b.NodeID))
			}
		}
		return strings.Join(got, ",") == want
	}, testWait, 20*time.Millisecond, "the voters are not %s", want)
}

// A disk is lost under load, that of a voter. The node is refused until it is
// replaced by command, then it catches up and votes again; no record is missing,
// and the replicas are equal.
func TestReplaceADisk(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3})
	w.createTopic("orders", 3, 3)
	w.createTopic("solo", 3, 1)
	for p := range int32(3) {
		w.produceTo("solo", p, "kept")
	}
	l := w.startLoad("orders")
	l.waitMore(t, 2000)
	lost := w.leader("orders", false)
	require.NoError(t, w.nodes.Kill(lost))
	require.NoError(t, os.RemoveAll(w.nodes.DataDir(lost)))
	w.waitFenced(lost)

	// The node with an empty directory ends with an error that says what to do.
	require.NoError(t, w.nodes.Start(lost))
	require.Eventually(t, func() bool { return w.nodes.Pid(lost) == 0 }, testWait, 20*time.Millisecond, "it was let in")
	printed, err := os.ReadFile(w.nodes.LogFile(lost))
	require.NoError(t, err)
	node := fmt.Sprint(lost)
	require.Contains(t, string(printed), "is known with storage id")
	require.Contains(t, string(printed), "run `penstock cluster replace "+node+"` against another node")
	require.Contains(t, w.refused(1, "cluster", "remove", node), "move them to other brokers first")
	var solo int32 = -1 // the partition that only the lost disk had
	for p := range w.leads("solo", -1) {
		solo = p
	}
	require.NotEqual(t, int32(-1), solo)
	require.Contains(t, w.refused(1, "cluster", "replace", node), fmt.Sprintf("(solo-%d is one)", solo))
	require.Contains(t, w.cli("cluster", "replace", node, "--accept-loss"), "gets its vote back")
	require.Contains(t, w.cli("cluster", "status"), "waits for a disk")
	require.NoError(t, w.nodes.Start(lost))
	w.waitVoters("1,2,3")

	// The partition that is lost begins anew by order alone.
	refusal := w.refused(2, "topic", "elect", "solo", "--partition", fmt.Sprint(solo), "--unclean", "--leader", node)
	require.Contains(t, refusal, "was given up")
	require.Eventually(t, func() bool {
		_, err := w.nodes.CLI(w.ctx, nil, "topic", "elect", "solo", "--partition", fmt.Sprint(solo), "--unclean", "--leader", node, "--yes")
		return err == nil
	}, testWait, 100*time.Millisecond, "the order is not accepted once the node is up")
	w.waitHealthy()
	w.produceTo("solo", solo, "new")
	require.Equal(t, "new\n", w.cli("consume", "solo", "--partition", fmt.Sprint(solo), "--from", "earliest", "--exit-at-end"))
	require.Equal(t, 1, w.uncleanElections())

	l.waitMore(t, 2000)
	l.finish(t)
	l.verify(w)
	w.waitHealthy()
	w.requireEqualReplicas("orders", 3)
}

// produceTo sends a record to a partition.
func (w *world) produceTo(topic string, partition int32, value string) {
	w.t.Helper()
	p, err := w.client.NewProducer(client.WithPartitioner(client.ManualPartitioner()))
	require.NoError(w.t, err)
	require.NoError(w.t, p.ProduceSync(w.ctx, &client.Record{Topic: topic, Partition: partition, Value: []byte(value)}))
	require.NoError(w.t, p.Close(w.ctx))
}

// uncleanElections sums the metric over the nodes that run.
func (w *world) uncleanElections() int {
	w.t.Helper()
	sum := 0
	for id := 1; id <= len(w.nodes.Addrs()); id++ {
		if w.nodes.Pid(id) == 0 {
			continue
		}
		resp, err := http.Get("http://" + w.nodes.HTTPAddr(id) + "/metrics")
		require.NoError(w.t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(w.t, errors.Join(err, resp.Body.Close()))
		for line := range strings.Lines(string(body)) {
			if n, ok := strings.CutPrefix(line, "penstock_unclean_elections_total "); ok {
				var v int
				_, err := fmt.Sscan(n, &v)
				require.NoError(w.t, err)
				sum += v
			}
		}
	}
	return sum
}

// A broker that is away while topics are deleted removes their folders when it
// comes back, and only theirs: a topic of the same name was created meanwhile.
func TestDeletionSurvivesAnAbsentBroker(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3})
	w.createTopic("again", 2, 3)
	w.createTopic("gone", 2, 3)
	w.createTopic("stays", 1, 3)
	for _, topic := range []string{"again", "gone", "stays"} {
		w.produceTo(topic, 0, "old")
	}
	away := w.leader("again", false)
	require.NoError(t, w.nodes.Kill(away)) // without a word, and with all its folders
	w.waitFenced(away)
	w.cli("topic", "delete", "again")
	w.cli("topic", "delete", "gone")
	_, err := w.client.Admin().CreateTopic(w.ctx, client.TopicSpec{Name: "again", Partitions: 1, ReplicationFactor: 3})
	require.Error(t, err, "three replicas need three brokers")
	require.NoError(t, w.nodes.Start(away))
	w.waitHealthy()
	w.requireFolders(away, "stays-0")

	// And while it is away a topic of the same name comes to be.
	w.createTopic("again", 2, 2)
	for p := range int32(2) {
		w.produceTo("again", p, "first")
	}
	away = int(w.partitions("again")[0].Replicas[1])
	require.NoError(t, w.nodes.Kill(away))
	w.waitFenced(away)
	w.cli("topic", "delete", "again")
	_, err = w.client.Admin().CreateTopic(w.ctx, client.TopicSpec{Name: "again", Partitions: 1, ReplicationFactor: 2})
	require.NoError(t, err)
	w.produceTo("again", 0, "second")
	// Growing places the new partition on the broker that comes back, at the name
	// of a folder that it has to give up.
	require.NoError(t, w.nodes.Start(away))
	w.waitHealthy()
	w.cli("topic", "alter", "again", "--partitions", "4")
	w.waitHealthy()
	for id := 1; id <= 3; id++ {
		var want []string
		for _, p := range w.partitions("again") {
			for _, r := range p.Replicas {
				if int(r) == id {
					want = append(want, fmt.Sprintf("again-%d", p.Partition))
				}
			}
		}
		w.requireFolders(id, append(want, "stays-0")...)
	}
	var values []string
	w.readAll("again", func(r *client.Record) { values = append(values, string(r.Value)) })
	require.Equal(t, []string{"second"}, values)
	// Nothing is remembered of the deletions any more once all have removed them:
	// another restart finds nothing to do, and sets nothing aside.
	require.NoError(t, w.nodes.Stop(away, 20*time.Second))
	require.NoError(t, w.nodes.Start(away))
	w.waitHealthy()
	printed, err := os.ReadFile(w.nodes.LogFile(away))
	require.NoError(t, err)
	require.NotContains(t, string(printed), "set aside")
}

// requireFolders waits until a node's data directory has the folders of these
// partitions and no other, set aside or not.
func (w *world) requireFolders(node int, want ...string) {
	w.t.Helper()
	var got []string
	require.Eventually(w.t, func() bool {
		entries, err := os.ReadDir(w.nodes.DataDir(node))
		require.NoError(w.t, err)
		got = nil
		for _, e := range entries {
			if e.IsDir() && e.Name() != "raft" {
				got = append(got, e.Name())
			}
		}
		have := make(map[string]bool)
		for _, name := range got {
			have[name] = true
		}
		for _, name := range want {
			if !have[name] {
				return false
			}
		}
		return len(got) == len(want)
	}, testWait, 20*time.Millisecond, "node %d does not have the folders %v", node, want)
	_, err := os.Stat(filepath.Join(w.nodes.DataDir(node), "stays-0", "partition.metadata"))
	require.NoError(w.t, err)
}

// A replica that lacks acknowledged records leads by order alone; the one that
// had them is cut to its log when it comes back, and consumers go on.
func TestUncleanElectionByOrder(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 3})
	_, err := w.client.Admin().CreateTopic(w.ctx, client.TopicSpec{
		Name: "risky", Partitions: 1, ReplicationFactor: 2, Configs: map[string]string{"min.insync.replicas": "1"},
	})
	require.NoError(t, err)
	w.waitHealthy()
	w.produceTo("risky", 0, "both have it")
	p := w.partitions("risky")[0]
	leader, follower := int(p.Leader), int(p.Replicas[1])
	require.Contains(t, w.refused(1, "topic", "elect", "risky", "--partition", "0", "--unclean", "--leader", fmt.Sprint(follower)), "needs no election")
	require.Contains(t, w.refused(1, "topic", "elect", "risky", "--partition", "0", "--unclean", "--leader", fmt.Sprint(follower), "--yes"), "leads it")

	require.NoError(t, w.nodes.Kill(follower))
	w.waitFenced(follower)
	w.produceTo("risky", 0, "the leader alone has it")
	require.NoError(t, w.nodes.Kill(leader))
	require.NoError(t, w.nodes.Start(follower))
	require.Eventually(t, func() bool {
		c, err := w.client.Admin().Cluster(w.ctx)
		return err == nil && c.Leaderless == 1
	}, testWait, 20*time.Millisecond)
	order := []string{"topic", "elect", "risky", "--partition", "0", "--unclean", "--leader", fmt.Sprint(follower)}
	require.Contains(t, w.refused(2, order...), fmt.Sprintf("in sync: %d", leader))
	third := 6 - leader - follower
	require.Contains(t, w.refused(1, append(order[:len(order)-1:len(order)-1], fmt.Sprint(third), "--yes")...), "has no replica")
	require.Contains(t, w.refused(1, append(order[:len(order)-1:len(order)-1], fmt.Sprint(leader), "--yes")...), "is fenced")
	require.Eventually(t, func() bool {
		_, err := w.nodes.CLI(w.ctx, nil, append(order, "--yes")...)
		return err == nil
	}, testWait, 100*time.Millisecond)
	require.Equal(t, 1, w.uncleanElections())
	w.produceTo("risky", 0, "after")
	require.NoError(t, w.nodes.Start(leader))
	w.waitHealthy()
	var values []string
	w.readAll("risky", func(r *client.Record) { values = append(values, string(r.Value)) })
	require.Equal(t, []string{"both have it", "after"}, values)
	w.requireEqualReplicas("risky", 3)
}
