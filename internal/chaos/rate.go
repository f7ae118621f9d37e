package chaos

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Narrow is a link of so many bytes a second, each way: what a node sends shares them,
// and so does what it gets, whoever it is from.
type Narrow struct {
	Node int
	Rate int64
}

const (
	// narrowBurst goes through at once: the kernel needs room for what comes between two
	// of its ticks, and for the large packets that a veth carries.
	narrowBurst = 32 << 10
	// narrowWait is how long a packet may wait for its turn; one that would wait longer is
	// dropped, as by a router, and TCP slows down.
	narrowWait = 300 * time.Millisecond
)

// shaper are the arguments of tc that narrow a device.
func (w Narrow) shaper(device string) []string {
	return strings.Fields(fmt.Sprintf("qdisc replace dev %s root tbf rate %dbit burst %d latency %dms",
		device, 8*w.Rate, narrowBurst, narrowWait.Milliseconds()))
}

// NarrowLink is a link that is narrow, until it is closed.
type NarrowLink struct {
	n     *Network
	w     Narrow
	began time.Time
}

// Narrow narrows a node's link. The kernel shapes what leaves a device, so both ends of
// the node's cable are narrow: its own for what it sends, the bridge's for what it gets.
func (n *Network) Narrow(ctx context.Context, w Narrow) (*NarrowLink, error) {
	l := &NarrowLink{n: n, w: w, began: time.Now()}
	for _, end := range n.ends(w.Node) {
		if err := end.tc(ctx, w.shaper(end.device)...); err != nil {
			return nil, errors.Join(err, n.Widen(ctx, w.Node))
		}
	}
	return l, nil
}

// Widen ends Narrow; a link that is not narrow stays as it is.
func (n *Network) Widen(ctx context.Context, node int) error {
	var errs []error
	for _, end := range n.ends(node) {
		list, err := end.list(ctx)
		if err == nil && strings.Contains(list, " tbf ") {
			err = end.tc(ctx, "qdisc", "del", "dev", end.device, "root")
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Passed is what went through a narrow link, of the direction that carried more.
type Passed struct {
	Bytes int64
	// Held counts the times that a packet had to wait, both ways, Dropped those that would
	// have waited too long.
	Held, Dropped int64
	Took          time.Duration
}

// Rate is how many bytes a second went through, what may go at once left out of account.
func (p Passed) Rate() int64 {
	return int64(float64(max(0, p.Bytes-narrowBurst)) / max(p.Took.Seconds(), 0.001))
}

// Close makes the link as wide as before, and says what went through.
func (l *NarrowLink) Close(ctx context.Context) (p Passed, err error) {
	for _, end := range l.n.ends(l.w.Node) {
		list, listErr := end.list(ctx)
		bytes, held, dropped := shaped(list)
		p.Bytes, p.Held, p.Dropped = max(p.Bytes, bytes), p.Held+held, p.Dropped+dropped
		err = errors.Join(err, listErr)
	}
	p.Took = time.Since(l.began)
	return p, errors.Join(err, l.n.Widen(ctx, l.w.Node))
}

// sent is what tc says of a queue.
var sent = regexp.MustCompile(`(?s) tbf .*?Sent (\d+) bytes \d+ pkt \(dropped (\d+), overlimits (\d+)`)

// shaped finds the counters of the shaper in what tc lists; 0: there is none.
func shaped(list string) (bytes, held, dropped int64) {
	found := sent.FindStringSubmatch(list)
	if found == nil {
		return 0, 0, 0
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(found[i], 10, 64) // only digits match; more than fit are many
		return n
	}
	return number(1), number(3), number(2)
}

// linkEnd is one end of a node's cable.
type linkEnd struct{ namespace, device string }

func (n *Network) ends(node int) [2]linkEnd {
	return [2]linkEnd{{namespace(node), "eth0"}, {"", fmt.Sprintf("%sv%d", bridge, node)}}
}

func (e linkEnd) tc(ctx context.Context, args ...string) error {
	return inNamespace(e.namespace, func() error { return run(ctx, "tc", args...) })
}

func (e linkEnd) list(ctx context.Context) (list string, err error) {
	err = inNamespace(e.namespace, func() error {
		list, err = output(ctx, "tc", "-s", "qdisc", "show", "dev", e.device)
		return err
	})
	return list, err
}

// CanNarrow is beside CanLose.
func CanNarrow() bool {
	return trial(func() error { return run(context.Background(), "tc", Narrow{Rate: 1 << 20}.shaper("lo")...) })
}
