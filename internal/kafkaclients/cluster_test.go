package kafkaclients

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cluster is some penstock processes, three but for some figures.
type cluster struct {
	t       *testing.T
	binary  string
	dir     string
	ports   []int // of node i+1: gRPC, Raft, HTTP, peers, Kafka
	behind  []int // where the nodes' Kafka ports are while a recorder has the known ones
	nodes   []*exec.Cmd
	started int
	// recorder: one writes down what the clients ask.
	recorder bool
}

const (
	nodes        = 3 // of a cluster that does not say how many
	portsPerNode = 5
	kafkaPort    = 9092 // of the first node: where every tutorial looks
)

// penstock is the program under test.
func penstock(t *testing.T) string {
	t.Helper()
	if os.Getenv("PENSTOCK_BINARY") == "" {
		t.Skip("scripts/kafka-clients runs it")
	}
	binary, err := filepath.Abs(os.Getenv("PENSTOCK_BINARY"))
	require.NoError(t, err)
	require.FileExists(t, binary, "PENSTOCK_BINARY names the program under test")
	return binary
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	return startNodes(t, nodes)
}

func startNodes(t *testing.T, nodes int) *cluster {
	t.Helper()
	c := &cluster{t: t, binary: penstock(t), dir: t.TempDir(), nodes: make([]*exec.Cmd, nodes)}
	var open []net.Listener
	for i := range nodes * portsPerNode {
		address := "127.0.0.1:0"
		if i%portsPerNode == portsPerNode-1 {
			address = "127.0.0.1:" + strconv.Itoa(kafkaPort+i/portsPerNode)
		}
		lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		require.NoError(t, err, "the clusters of these tests need the ports 9092 to 9094")
		open = append(open, lis)
		c.ports = append(c.ports, lis.Addr().(*net.TCPAddr).Port)
	}
	for range nodes {
		lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		open = append(open, lis)
		c.behind = append(c.behind, lis.Addr().(*net.TCPAddr).Port)
	}
	for _, lis := range open {
		require.NoError(t, lis.Close())
	}
	t.Cleanup(c.stop)
	if c.recorder = os.Getenv("RECORD") != "" && slices.Contains([]string{"TestClients", "TestAdmin"}, t.Name()); c.recorder {
		r := &recorder{into: recorded(t.Name()), lines: make(map[request][]byte)}
		for i := range nodes {
			r.between(t, c.address(i, 4), c.kafka(i)) // opened before the clients come
		}
		t.Cleanup(func() { r.save(t) })
	}
	for i := range nodes {
		c.start(i)
	}
	for i := range nodes {
		c.awaitReady(i)
	}
	return c
}

func (c *cluster) port(node, kind int) int { return c.ports[node*portsPerNode+kind] }

func (c *cluster) address(node, kind int) string {
	return "127.0.0.1:" + strconv.Itoa(c.port(node, kind))
}

// kafka is where a node listens for Kafka clients.
func (c *cluster) kafka(node int) string {
	if c.recorder {
		return "127.0.0.1:" + strconv.Itoa(c.behind[node])
	}
	return c.address(node, 4)
}

func (c *cluster) start(i int) {
	c.t.Helper()
	var voters []string
	for v := range c.nodes {
		voters = append(voters, fmt.Sprintf("%d@%s", v+1, c.address(v, 1)))
	}
	c.started++
	log, err := os.Create(filepath.Join(c.dir, fmt.Sprintf("node-%d-%d.log", i+1, c.started)))
	require.NoError(c.t, err)
	cmd := exec.Command(c.binary, "server")
	ours := func(e string) bool { return strings.HasPrefix(e, "PENSTOCK_") } // the program takes them for its own
	cmd.Env = append(slices.DeleteFunc(os.Environ(), ours),
		"PENSTOCK_NODE_ID="+strconv.Itoa(i+1), "PENSTOCK_DATA_DIR="+filepath.Join(c.dir, fmt.Sprintf("data-%d", i+1)),
		"PENSTOCK_VOTERS="+strings.Join(voters, ","), "PENSTOCK_DISK_RESERVE=64MiB",
		"PENSTOCK_LISTEN_GRPC="+c.address(i, 0), "PENSTOCK_LISTEN_RAFT="+c.address(i, 1), "PENSTOCK_LISTEN_HTTP="+c.address(i, 2),
		"PENSTOCK_LISTEN_PEER="+c.address(i, 3), "PENSTOCK_LISTEN_KAFKA="+c.kafka(i), "PENSTOCK_ADVERTISE_KAFKA="+c.address(i, 4),
		"PENSTOCK_HTTP_PPROF="+strconv.FormatBool(os.Getenv("PROFILES") != ""), "PENSTOCK_AUTO_CREATE_TOPICS_ENABLE=true", "PENSTOCK_NUM_PARTITIONS=3", "PENSTOCK_LOG_RETENTION_CHECK_INTERVAL=500ms", "PENSTOCK_OFFSETS_TOPIC_NUM_PARTITIONS=6",
		"PENSTOCK_OFFSETS_TOPIC_REPLICATION_FACTOR="+strconv.Itoa(min(3, len(c.nodes))),
	)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	require.NoError(c.t, cmd.Start())
	require.NoError(c.t, log.Close())
	c.nodes[i] = cmd
}

func (c *cluster) awaitReady(i int) {
	c.t.Helper()
	url := "http://" + c.address(i, 2) + "/readyz"
	require.Eventually(c.t, func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, 30*time.Second, 50*time.Millisecond, "node %d: %s", i+1, c.dir)
}

// kill ends a node as a crash does.
func (c *cluster) kill(i int) {
	_ = c.nodes[i].Process.Kill()
	_ = c.nodes[i].Wait()
	c.nodes[i] = nil
}

func (c *cluster) stop() {
	for i, cmd := range c.nodes {
		if cmd != nil {
			c.kill(i)
		}
	}
	if c.t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(c.dir, "*.log"))
		for _, name := range logs {
			if text, err := os.ReadFile(name); err == nil {
				c.t.Logf("%s\n%s", filepath.Base(name), text[max(0, len(text)-4000):])
			}
		}
	}
}

// brokers are the Kafka addresses.
func (c *cluster) brokers() string {
	var out []string
	for i := range c.nodes {
		out = append(out, c.address(i, 4))
	}
	return strings.Join(out, ",")
}
