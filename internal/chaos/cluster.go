package chaos

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options describe a cluster of processes.
type Options struct {
	Binary string // the penstock binary
	Dir    string // configuration, data and logs go here
	Nodes  int
	// Voters is how many of the nodes, from the first, form the metadata quorum; 0: all.
	Voters int
	// Extra lines for every configuration file.
	Config []string
	// Hosts, one a node, give each node an address, a network namespace and a
	// disk of its own; none: all share the loopback, on free ports.
	Hosts []Host
}

// Host is where a node runs.
type Host struct {
	IP        string
	Namespace string // name of its network namespace; empty: ours
	DataDir   string
	Env       []string // added to the environment of its process
	Group     string   // folder of the memory group that its process is in; empty: ours
}

// The ports of a node on a Host of its own.
const (
	PortGRPC = 7070
	PortRaft = 7071
	PortHTTP = 7072
	PortPeer = 7073
)

// Cluster is a set of server processes. It is not safe for concurrent use.
type Cluster struct {
	opts  Options
	nodes []*node
}

type node struct {
	id                     int
	grpc, raft, http, peer string
	config, logPath, data  string
	namespace, group       string
	env                    []string
	cmd                    *exec.Cmd
	exited                 chan struct{} // closed when the process has ended
	err                    error         // how it ended; readable once exited is closed
}

// New lays a cluster out, on free ports of the loopback or on its hosts; nothing
// runs yet.
func New(opts Options) (*Cluster, error) {
	nodes, err := places(opts)
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, nodes: nodes}
	for _, n := range c.nodes {
		n.config = filepath.Join(opts.Dir, fmt.Sprintf("node%d.yaml", n.id))
		n.logPath = filepath.Join(opts.Dir, fmt.Sprintf("node%d.log", n.id))
	}
	voters := make([]string, 0, opts.Nodes)
	for _, n := range c.nodes[:cmp.Or(opts.Voters, opts.Nodes)] {
		voters = append(voters, fmt.Sprintf("%d@%s", n.id, n.raft))
	}
	for _, n := range c.nodes {
		lines := []string{
			fmt.Sprintf("node.id: %d", n.id),
			"data.dir: " + c.DataDir(n.id),
			"voters: " + strings.Join(voters, ","),
			"listen.grpc: " + n.grpc,
			"listen.raft: " + n.raft,
			"listen.http: " + n.http,
			"listen.peer: " + n.peer,
		}
		lines = append(lines, opts.Config...)
		if err := os.WriteFile(n.config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("chaos: write configuration: %w", err)
		}
	}
	return c, nil
}

// places gives each node its addresses and its disk.
func places(opts Options) (nodes []*node, err error) {
	if len(opts.Hosts) > 0 {
		if len(opts.Hosts) != opts.Nodes {
			return nil, fmt.Errorf("chaos: %d hosts for %d nodes", len(opts.Hosts), opts.Nodes)
		}
		for i, h := range opts.Hosts {
			addr := func(port int) string { return fmt.Sprintf("%s:%d", h.IP, port) }
			nodes = append(nodes, &node{
				id: i + 1, grpc: addr(PortGRPC), raft: addr(PortRaft), http: addr(PortHTTP), peer: addr(PortPeer),
				data: h.DataDir, namespace: h.Namespace, env: h.Env, group: h.Group,
			})
		}
		return nodes, nil
	}
	ports, err := freePorts(4 * opts.Nodes)
	if err != nil {
		return nil, err
	}
	for i := range opts.Nodes {
		addr := func(k int) string { return fmt.Sprintf("127.0.0.1:%d", ports[4*i+k]) }
		nodes = append(nodes, &node{
			id: i + 1, grpc: addr(0), raft: addr(1), http: addr(2), peer: addr(3),
			data: filepath.Join(opts.Dir, fmt.Sprintf("node%d", i+1)),
		})
	}
	return nodes, nil
}

// Ports are taken from here: below the range from which Linux serves outgoing
// connections, so that a killed node finds its ports free when it comes back.
const firstPort, lastPort = 10_000, 32_000

// freePorts finds n ports that nothing listens on at this moment.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	var lastErr error
	for range 100 * n {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			lastErr = err
			continue
		}
		held = append(held, l)
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("chaos: find %d free ports: %w", n, lastErr)
}

// DataDir is the data directory of a node.
func (c *Cluster) DataDir(id int) string { return c.nodes[id-1].data }

// Nodes is how many nodes there are, running or not.
func (c *Cluster) Nodes() int { return len(c.nodes) }

// Running reports whether a node's process runs.
func (c *Cluster) Running(id int) bool { return c.nodes[id-1].running() }

// ConfigFile is the configuration file of a node.
func (c *Cluster) ConfigFile(id int) string { return c.nodes[id-1].config }

// LogFile holds what a node printed, over all its lives.
func (c *Cluster) LogFile(id int) string { return c.nodes[id-1].logPath }

// Addr is the gRPC address of a node.
func (c *Cluster) Addr(id int) string { return c.nodes[id-1].grpc }

// HTTPAddr is the admin HTTP address of a node.
func (c *Cluster) HTTPAddr(id int) string { return c.nodes[id-1].http }

// Addrs are the gRPC addresses of all nodes.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, 0, len(c.nodes))
	for _, n := range c.nodes {
		addrs = append(addrs, n.grpc)
	}
	return addrs
}

// Pid is the process of a node, 0 when it does not run.
func (c *Cluster) Pid(id int) int {
	if n := c.nodes[id-1]; n.running() {
		return n.cmd.Process.Pid
	}
	return 0
}

// Pids are the processes that run.
func (c *Cluster) Pids() (pids []int) {
	for _, n := range c.nodes {
		if n.running() {
			pids = append(pids, n.cmd.Process.Pid)
		}
	}
	return pids
}

func (n *node) running() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// ErrRunning means that a node was started twice.
var ErrRunning = errors.New("chaos: the node runs already")

// Start starts a node's process.
func (c *Cluster) Start(id int) error {
	n := c.nodes[id-1]
	if n.running() {
		return fmt.Errorf("%w: %d", ErrRunning, id)
	}
	out, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("chaos: open log: %w", err)
	}
	defer out.Close() //nolint:errcheck // the child has its own descriptor
	n.cmd = exec.CommandContext(context.Background(), c.opts.Binary, "server", "-c", n.config)
	n.cmd.Stdout, n.cmd.Stderr = out, out
	if len(n.env) > 0 {
		n.cmd.Env = append(os.Environ(), n.env...)
	}
	// A harness that dies takes its processes along.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := inNamespace(n.namespace, n.cmd.Start); err != nil {
		n.cmd = nil
		return fmt.Errorf("chaos: start node %d: %w", id, err)
	}
	n.exited = make(chan struct{})
	go func() { // ends with the process, which Kill, Stop and Close wait for
		n.err = n.cmd.Wait()
		close(n.exited)
	}()
	if n.group == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(n.group, "cgroup.procs"), []byte(strconv.Itoa(n.cmd.Process.Pid)), 0o600); err != nil {
		return errors.Join(fmt.Errorf("chaos: memory group of node %d: %w", id, err), c.Kill(id))
	}
	return nil
}

// StartAll starts every node that does not run, whether or not it is a voter.
func (c *Cluster) StartAll() error {
	for _, n := range c.nodes {
		if n.running() {
			continue
		}
		if err := c.Start(n.id); err != nil {
			return err
		}
	}
	return nil
}

// Kill ends a node at once (SIGKILL) and waits for its end.
func (c *Cluster) Kill(id int) error {
	n := c.nodes[id-1]
	if !n.running() {
		return nil
	}
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("chaos: kill node %d: %w", id, err)
	}
	<-n.exited
	return nil
}

// KillAll ends all nodes at once: every one has its signal before the first is waited for.
func (c *Cluster) KillAll() error {
	var errs []error
	for _, n := range c.nodes {
		if n.running() {
			if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, fmt.Errorf("chaos: kill node %d: %w", n.id, err))
			}
		}
	}
	for _, n := range c.nodes {
		if n.cmd != nil {
			<-n.exited
		}
	}
	return errors.Join(errs...)
}

// Stop asks a node to end (SIGTERM) and returns how it ended; past the timeout it is killed.
func (c *Cluster) Stop(id int, timeout time.Duration) error {
	n := c.nodes[id-1]
	if !n.running() {
		return nil
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("chaos: stop node %d: %w", id, err)
	}
	select {
	case <-n.exited:
		if n.err != nil {
			return fmt.Errorf("chaos: node %d: %w", id, n.err)
		}
		return nil
	case <-time.After(timeout):
		return errors.Join(fmt.Errorf("chaos: node %d did not stop within %s", id, timeout), c.Kill(id))
	}
}

// Ended waits for a node's process to end by itself, and says how it did; false: it still
// runs.
func (c *Cluster) Ended(id int, within time.Duration) (ended bool, how error) {
	n := c.nodes[id-1]
	if n.cmd == nil {
		return true, nil
	}
	select {
	case <-n.exited:
		return true, n.err
	case <-time.After(within):
		return false, nil
	}
}

// Signal sends a signal, such as SIGSTOP and SIGCONT, to a node.
func (c *Cluster) Signal(id int, sig syscall.Signal) error {
	if n := c.nodes[id-1]; n.running() {
		return n.cmd.Process.Signal(sig)
	}
	return fmt.Errorf("chaos: node %d does not run", id)
}

// Close kills what runs.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, c.Kill(n.id))
	}
	return errors.Join(errs...)
}

// CLI runs the binary with arguments against the cluster and returns what it
// printed on standard output.
func (c *Cluster) CLI(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	args = append(args, "-b", strings.Join(c.Addrs(), ","))
	cmd := exec.CommandContext(ctx, c.opts.Binary, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("penstock %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// WaitHealthy returns once every partition has a leader and a full in-sync set.
func (c *Cluster) WaitHealthy(ctx context.Context, wait time.Duration) error {
	_, err := c.CLI(ctx, nil, "cluster", "health", "--wait", wait.String())
	return err
}
