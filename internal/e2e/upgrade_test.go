package e2e

import (
	"fmt"
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

// upgradeEnv names the revisions of this repository to upgrade from. `make
// upgrade-e2e` sets it to the pinned ones, which have to be built.
const upgradeEnv = "UPGRADE_FROM"

// oldBinary builds the binary of an earlier revision.
func oldBinary(t *testing.T, revision string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	run := func(dir, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := run(root, "git", "rev-parse", "--verify", "--quiet", revision+"^{commit}"); err != nil {
		t.Skipf("revision %s is not in this clone (a shallow clone, or no git): %v %s", revision, err, out)
	}
	dir := t.TempDir()
	src, archive, binary := filepath.Join(dir, "src"), filepath.Join(dir, "src.tar"), filepath.Join(dir, "penstock-old")
	require.NoError(t, os.Mkdir(src, 0o700))
	// An archive, and no work tree of git's: nothing is left behind in the clone.
	for _, step := range []struct {
		dir  string
		args []string
	}{
		{root, []string{"git", "archive", "-o", archive, revision}},
		{src, []string{"tar", "-xf", archive}},
		// As make build does, so that what it compiled of others' packages serves.
		{src, []string{"env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-o", binary, "./cmd/penstock"}},
	} {
		out, err := run(step.dir, step.args[0], step.args[1:]...)
		require.NoError(t, err, "%v: %s", step.args, out)
	}
	return binary
}

// A cluster of an earlier revision is upgraded one node at a time, under load: no
// acknowledged record is missing, groups keep their offsets, what only the new
// release knows is refused until the last node runs it. The first node goes back
// to the old release once, which is allowed until then.
func TestRollingUpgrade(t *testing.T) {
	revisions := strings.Fields(os.Getenv(upgradeEnv))
	if len(revisions) == 0 {
		t.Skipf("%s is not set: no revision to upgrade from; make upgrade-e2e sets it", upgradeEnv)
	}
	for _, revision := range revisions {
		t.Run(revision, func(t *testing.T) { testUpgrade(t, oldBinary(t, revision)) })
	}
}

func testUpgrade(t *testing.T, before string) {
	t.Helper()
	after, err := exec.LookPath("penstock")
	require.NoError(t, err)
	w := startPrepared(t, chaos.Options{Nodes: 3}, func(c *chaos.Cluster) { c.UseBinary(before) })
	w.createTopic("orders", 6, 3)
	l := w.startLoad("orders")
	l.waitMore(t, 2000)
	committed := w.commitAll("readers", "orders")
	level := w.featureLevel()

	replace := func(id int, binary string) {
		t.Helper()
		require.NoError(t, w.nodes.Stop(id, 30*time.Second))
		w.nodes.UseBinary(binary)
		require.NoError(t, w.nodes.Start(id))
		w.waitHealthy()
		l.waitMore(t, 2000)
	}
	replace(1, after)
	replace(1, before)
	for id := 1; id <= 3; id++ {
		replace(id, after)
		if id == 3 {
			break
		}
		require.Equal(t, level, w.featureLevel())
		if level < 2 { // which has the command
			// Either controller refuses it: an old one does not know the command, a new
			// one knows who does not.
			out, err := exec.CommandContext(w.ctx, after, "topic", "alter", "orders", "--partitions", "8", "-b", w.nodes.Addr(id)).CombinedOutput()
			require.Error(t, err, "%s", out)
			require.Regexp(t, "feature level|does not know|not (implemented|supported)|unsupported", string(out))
		}
	}
	require.Greater(t, w.featureLevel(), level)
	require.Equal(t, committed, w.committed("readers"))
	l.finish(t)
	l.verify(w)
	w.cli("topic", "alter", "orders", "--partitions", "8")
	w.waitHealthy()
	w.produceTo("orders", 6, "after the upgrade")
	w.produceTo("orders", 7, "after the upgrade")
	w.requireEqualReplicas("orders", 3)
}

// featureLevel is what the cluster says it works at; brokers of the first one do not say.
func (w *world) featureLevel() uint32 {
	w.t.Helper()
	c, err := w.client.Admin().Cluster(w.ctx)
	require.NoError(w.t, err)
	return max(c.FeatureLevel, 1)
}

// commitAll reads a topic as a group as far as there is something now, commits,
// and returns what is committed.
func (w *world) commitAll(group, topic string) map[client.TopicPartition]int64 {
	w.t.Helper()
	k, err := w.client.NewConsumer(client.WithGroup(group), client.WithTopics(topic), client.WithStart(client.Earliest()))
	require.NoError(w.t, err)
	for read := 0; read < 1000; {
		polled, err := k.Poll(w.ctx)
		require.NoError(w.t, err)
		for range polled.All() {
			read++
		}
		require.NoError(w.t, polled.Err())
		polled.Release()
	}
	require.NoError(w.t, k.Commit(w.ctx))
	require.NoError(w.t, k.Close(w.ctx))
	committed := w.committed(group)
	require.NotEmpty(w.t, committed)
	return committed
}

func (w *world) committed(group string) map[client.TopicPartition]int64 {
	w.t.Helper()
	out := make(map[client.TopicPartition]int64)
	g, err := w.client.Admin().DescribeGroup(w.ctx, group)
	require.NoError(w.t, err, fmt.Sprint("group ", group))
	for _, o := range g.Offsets {
		out[o.TopicPartition] = o.Offset
	}
	return out
}
