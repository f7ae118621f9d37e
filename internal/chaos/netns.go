package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names that a Network gives to what it makes. They are fixed, so that the next
// run finds and removes what a run that was killed left behind; Lock keeps two runs
// from sharing them.
const (
	netPrefix = "pschaos"
	bridge    = netPrefix + "0"
	subnet    = "10.213.77."
	clientIP  = subnet + "254" // of the harness, and of the clients in it
)

// Network is a set of network namespaces, one a node, joined by a bridge:
//
//	ns pschaos1        ns pschaos2        ns pschaos3
//	10.213.77.1        10.213.77.2        10.213.77.3
//	   eth0               eth0               eth0
//	     |                  |                  |
//	pschaos0v1         pschaos0v2         pschaos0v3
//	     +--- bridge pschaos0, 10.213.77.254: the clients ---+
//
// Each namespace has rules of its own, so cutting a node off is a matter of that
// node's, and no rule outlives its namespace.
type Network struct{ nodes int }

// NewNetwork makes the namespaces of so many nodes.
func NewNetwork(ctx context.Context, nodes int) (*Network, error) {
	n := &Network{nodes: nodes}
	steps := []string{
		"link add " + bridge + " type bridge",
		"link set " + bridge + " up",
		"addr add " + clientIP + "/24 dev " + bridge,
	}
	for id := 1; id <= nodes; id++ {
		ns, veth := namespace(id), fmt.Sprintf("%sv%d", bridge, id)
		steps = append(steps,
			"netns add "+ns,
			"link add "+veth+" type veth peer name eth0 netns "+ns,
			"link set "+veth+" master "+bridge+" up",
			"-n "+ns+" addr add "+nodeIP(id)+"/24 dev eth0",
			"-n "+ns+" link set eth0 up",
			"-n "+ns+" link set lo up",
		)
	}
	for _, s := range steps {
		if err := run(ctx, "ip", strings.Fields(s)...); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

func namespace(id int) string { return netPrefix + strconv.Itoa(id) }

func nodeIP(id int) string { return subnet + strconv.Itoa(id) }

// Close removes the namespaces; processes in them keep theirs until they end.
func (n *Network) Close() error { return removeNetwork() }

// removeNetwork removes every network, of this run or of an earlier one.
func removeNetwork() error {
	ctx := context.Background()
	var errs []error
	// The links first: those of a namespace that is deleted go some time later.
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		errs = append(errs, err)
	}
	for _, e := range links {
		if strings.HasPrefix(e.Name(), bridge+"v") {
			errs = append(errs, run(ctx, "ip", "link", "del", e.Name()))
		}
	}
	left, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), netPrefix) {
			errs = append(errs, run(ctx, "ip", "netns", "del", e.Name()))
		}
	}
	if _, err := os.Stat("/sys/class/net/" + bridge); err == nil {
		errs = append(errs, run(ctx, "ip", "link", "del", bridge))
	}
	return errors.Join(errs...)
}

// Direction says which way a cut works, seen from the node that is cut.
type Direction string

// The directions.
const (
	Both Direction = "both" // nothing gets through
	In   Direction = "in"   // it hears nothing, but is heard
	Out  Direction = "out"  // it is not heard, but hears
)

// Cut is a piece of network that does not work.
type Cut struct {
	Node      int
	Peers     []int // node numbers; 0 stands for the clients
	Direction Direction
	Port      int  // 0: all
	Reset     bool // TCP resets come back; otherwise packets are dropped in silence
}

// rules are the arguments of iptables that make the cut.
func (c Cut) rules() (rules [][]string) {
	match, verdict := []string{}, []string{"-j", "DROP"}
	if c.Reset {
		match, verdict = []string{"-p", "tcp"}, []string{"-j", "REJECT", "--reject-with", "tcp-reset"}
	}
	if c.Port > 0 {
		match = []string{"-p", "tcp"}
	}
	add := func(chain, side, ip string, port ...string) {
		rules = append(rules, slices.Concat([]string{"-w", "-A", chain, side, ip}, match, port, verdict))
	}
	for _, peer := range c.Peers {
		ip := clientIP
		if peer > 0 {
			ip = nodeIP(peer)
		}
		for _, way := range []struct {
			direction   Direction
			chain, side string
		}{{In, "INPUT", "-s"}, {Out, "OUTPUT", "-d"}} {
			if c.Direction != Both && c.Direction != way.direction {
				continue
			}
			if c.Port == 0 {
				add(way.chain, way.side, ip)
				continue
			}
			// The server of a connection may be at either end.
			for _, end := range []string{"--dport", "--sport"} {
				add(way.chain, way.side, ip, end, strconv.Itoa(c.Port))
			}
		}
	}
	return rules
}

// Cut makes a cut.
func (n *Network) Cut(ctx context.Context, c Cut) error {
	for _, rule := range c.rules() {
		if err := n.iptables(ctx, c.Node, rule...); err != nil {
			return err
		}
	}
	return nil
}

// Mend undoes all cuts of a node.
func (n *Network) Mend(ctx context.Context, node int) error {
	return n.iptables(ctx, node, "-w", "-F")
}

func (n *Network) iptables(ctx context.Context, node int, args ...string) error {
	return inNamespace(namespace(node), func() error { return run(ctx, "iptables", args...) })
}

// inNamespace calls f on a thread that is in a network namespace; what f starts
// stays there. It is not `ip netns exec`, which also gives its child a copy of all
// mounts: a disk that a sleeping process still holds cannot be taken away.
func inNamespace(name string, f func() error) error {
	if name == "" {
		return f()
	}
	ours, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ours.Close() //nolint:errcheck // only a handle
	theirs, err := os.Open("/run/netns/" + name)
	if err != nil {
		return err
	}
	defer theirs.Close()   //nolint:errcheck // only a handle
	runtime.LockOSThread() // Every other thread stays where it is.
	if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("chaos: enter namespace %s: %w", name, err)
	}
	err = f()
	if back := unix.Setns(int(ours.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread ends with its goroutine and is not used again.
		return errors.Join(err, fmt.Errorf("chaos: leave namespace %s: %w", name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// run runs a tool and turns what it said into the error.
func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// output is run for tools that have something to say.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("chaos: %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
