package chaos

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Loss is a share of a node's packets that get lost at random, in both directions,
// whoever they are from or for.
type Loss struct {
	Node    int
	Percent int
}

// rules are the arguments of iptables that lose the packets.
func (l Loss) rules() (rules [][]string) {
	for _, way := range []string{"INPUT -i", "OUTPUT -o"} {
		rules = append(rules, strings.Fields(fmt.Sprintf("-w -A %s eth0 -m statistic --mode random --probability %.2f -j DROP", way, float64(l.Percent)/100)))
	}
	return rules
}

// Lose begins to lose packets, until Mend.
func (n *Network) Lose(ctx context.Context, l Loss) error {
	for _, rule := range l.rules() {
		if err := n.iptables(ctx, l.Node, rule...); err != nil {
			return err
		}
	}
	return nil
}

// Lost counts the packets that were lost by Lose, or by cuts, since the last Mend.
func (n *Network) Lost(ctx context.Context, node int) (packets int64, err error) {
	err = inNamespace(namespace(node), func() error {
		out, err := output(ctx, "iptables", "-w", "-nvxL")
		if err != nil {
			return err
		}
		packets, err = dropped(out)
		return err
	})
	return packets, err
}

// dropped sums the packets of the rules that drop or refuse, in what iptables lists.
func dropped(list string) (packets int64, err error) {
	for line := range strings.Lines(list) {
		fields := strings.Fields(line) // packets, bytes, verdict, ...
		if len(fields) < 3 || fields[2] != "DROP" && fields[2] != "REJECT" {
			continue
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("chaos: iptables lists %q", line)
		}
		packets += n
	}
	return packets, nil
}

// Delay holds each packet of a node back, in both directions, for Least at least and
// up to Most: what comes later may overtake it.
type Delay struct {
	Node        int
	Least, Most time.Duration
}

// Line is a network that delays, until it is closed.
type Line struct {
	n     *Network
	node  int
	queue *packetQueue
}

// delayQueue is the number of the kernel's queue in which delayed packets wait. Each
// namespace has its own.
const delayQueue = 1

// delayRules lead the packets through the queue; without somebody who serves it they
// pass (queue-bypass), so that a harness that dies leaves no dead network.
func delayRules(add string) (rules [][]string) {
	for _, way := range []string{"INPUT -i", "OUTPUT -o"} {
		rules = append(rules, strings.Fields(fmt.Sprintf("-w %s %s eth0 -j NFQUEUE --queue-num %d --queue-bypass", add, way, delayQueue)))
	}
	return rules
}

// Slow begins to delay packets. The kernel's own delaying queue, netem, is not to be had
// everywhere; a packet filter that asks a process is.
func (n *Network) Slow(ctx context.Context, d Delay) (line *Line, err error) {
	line = &Line{n: n, node: d.Node}
	err = inNamespace(namespace(d.Node), func() (err error) {
		line.queue, err = openPacketQueue(delayQueue, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("chaos: delay packets of node %d: %w", d.Node, err)
	}
	for _, rule := range delayRules("-A") {
		if err := n.iptables(ctx, d.Node, rule...); err != nil {
			return nil, errors.Join(err, line.Close(ctx))
		}
	}
	return line, nil
}

// Close lets the packets pass again; those that wait pass at once. The rules are gone
// already where the node's network was mended.
func (l *Line) Close(ctx context.Context) error {
	for _, rule := range delayRules("-D") {
		_ = l.n.iptables(ctx, l.node, rule...) // Mend has removed it
	}
	return l.queue.close()
}

// Delayed counts the packets that were held back.
func (l *Line) Delayed() int64 { return l.queue.delayed.Load() }

// CanLose and CanSlow report whether this machine's kernel has what Lose and Slow need.
func CanLose() bool { return tryRules(Loss{Percent: 1}.rules()) }

// CanSlow is beside CanLose.
func CanSlow() bool {
	return tryRules(delayRules("-A")) && trial(func() error {
		q, err := openPacketQueue(delayQueue, Delay{})
		if err != nil {
			return err
		}
		return q.close()
	})
}

func tryRules(rules [][]string) bool {
	return trial(func() error {
		var errs []error
		for _, rule := range rules {
			errs = append(errs, run(context.Background(), "iptables", rule...))
		}
		return errors.Join(errs...)
	})
}

// trial reports whether f succeeds in a namespace of its own.
func trial(f func() error) bool {
	ctx := context.Background()
	const name = netPrefix + "-trial"
	if run(ctx, "ip", "netns", "add", name) != nil {
		return false
	}
	err := inNamespace(name, f)
	return errors.Join(err, run(ctx, "ip", "netns", "del", name)) == nil
}
