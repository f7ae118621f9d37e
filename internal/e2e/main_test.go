package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

const binaryEnv = "PENSTOCK_BINARY"

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "penstock-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = provideBinary(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "e2e: goroutines left over:", err)
		return 1
	}
	return code
}

// provideBinary puts a binary called penstock first in PATH, where scripts find
// it too.
func provideBinary(dir string) error {
	path := os.Getenv(binaryEnv)
	if path == "" {
		path = filepath.Join(dir, "penstock")
		build := exec.CommandContext(context.Background(), "go", "build", "-o", path, "github.com/penstock/penstock/cmd/penstock")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build penstock: %w\n%s", err, out)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s: %w", binaryEnv, err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return err
	}
	// A server refuses variables of its prefix that it does not know.
	return errors.Join(os.Symlink(path, filepath.Join(bin, "penstock")), os.Unsetenv(binaryEnv),
		os.Setenv("PATH", bin+":"+os.Getenv("PATH")))
}

const (
	healthWait = 30 * time.Second
	testWait   = 60 * time.Second // the longest that any one condition is waited for
)

// world is a running cluster and a client of it.
type world struct {
	t      *testing.T
	ctx    context.Context
	nodes  *chaos.Cluster
	client *client.Client
}

// start runs a cluster until the end of the test; the nodes of opts that run
// are those up to the number of voters.
func start(t *testing.T, opts chaos.Options) *world {
	t.Helper()
	return startPrepared(t, opts, func(*chaos.Cluster) {})
}

// startPrepared does so after prepare, which sees the cluster laid out.
func startPrepared(t *testing.T, opts chaos.Options, prepare func(*chaos.Cluster)) *world {
	t.Helper()
	binary, err := exec.LookPath("penstock")
	require.NoError(t, err)
	opts.Binary, opts.Dir = binary, t.TempDir()
	// Without a quorum the last nodes to stop would wait longer in vain.
	opts.Config = append(opts.Config, "shutdown.timeout: 2s")
	nodes, err := chaos.New(opts)
	require.NoError(t, err)
	prepare(nodes)
	t.Cleanup(func() {
		if t.Failed() {
			for id := 1; id <= opts.Nodes; id++ {
				tail(t, nodes.LogFile(id))
			}
		}
		require.NoError(t, nodes.Close())
	})
	running := opts.Voters
	if running == 0 {
		running = opts.Nodes
	}
	for id := 1; id <= running; id++ {
		require.NoError(t, nodes.Start(id))
	}
	c, err := client.New(nodes.Addrs())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	w := &world{t: t, ctx: t.Context(), nodes: nodes, client: c}
	w.waitHealthy()
	return w
}

// tail shows the end of what a node printed.
func tail(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return // it never ran
	}
	t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-4000):])
}

func (w *world) waitHealthy() {
	w.t.Helper()
	require.NoError(w.t, w.nodes.WaitHealthy(w.ctx, healthWait))
}

func (w *world) createTopic(name string, partitions, replicas int32) {
	w.t.Helper()
	_, err := w.client.Admin().CreateTopic(w.ctx, client.TopicSpec{Name: name, Partitions: partitions, ReplicationFactor: replicas})
	require.NoError(w.t, err)
	w.waitHealthy()
}

func (w *world) partitions(topic string) []client.PartitionState {
	w.t.Helper()
	d, err := w.client.Admin().DescribeTopic(w.ctx, topic)
	require.NoError(w.t, err)
	return d.Partitions
}

// leads lists the partitions of a topic that a node leads.
func (w *world) leads(topic string, node int) map[int32]bool {
	w.t.Helper()
	led := map[int32]bool{}
	for _, p := range w.partitions(topic) {
		if int(p.Leader) == node {
			led[p.Partition] = true
		}
	}
	return led
}

func (w *world) controller() int {
	w.t.Helper()
	c, err := w.client.Admin().Cluster(w.ctx)
	require.NoError(w.t, err)
	require.Positive(w.t, c.Controller)
	return int(c.Controller)
}

// leader finds a node that leads partitions of the topic and is, or is not, the controller.
func (w *world) leader(topic string, controller bool) int {
	w.t.Helper()
	ctl := w.controller()
	for _, p := range w.partitions(topic) {
		if (int(p.Leader) == ctl) == controller {
			return int(p.Leader)
		}
	}
	w.t.Fatalf("no leader of %s with controller=%t; the controller is %d", topic, controller, ctl)
	return 0
}

// penstock runs the binary and returns what it printed on standard output.
func (w *world) penstock(args ...string) string {
	w.t.Helper()
	out, err := exec.CommandContext(w.ctx, "penstock", args...).Output()
	require.NoError(w.t, err, "penstock %v", args)
	return string(out)
}
