package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newClusterDecommission(s *shared) *cobra.Command {
	var (
		move           moveFlags
		cancel, dryRun bool
	)
	cmd := &cobra.Command{
		Use: "decommission NODE", Short: "Move all replicas off a broker, so that it can go", Args: exactArgs("NODE"),
		Long: "Move all replicas of a broker to others, and place none on it meanwhile. The\n" +
			"command shows how far it is until the broker is empty. Ending it changes nothing:\n" +
			"the cluster goes on, and the same command shows again how far it is. --cancel\n" +
			"lets the broker stay: what is still being moved goes back to it.\n\n" +
			"An empty broker is forgotten when it stops, and its data directory does not come\n" +
			"back. A voter of the metadata quorum keeps its vote, and is not forgotten before\n" +
			"`penstock cluster voter remove`.",
		Example: "  penstock cluster decommission 4 --dry-run\n" +
			"  penstock cluster decommission 4 --throttle 50MiB\n" +
			"  penstock cluster decommission 4 --cancel",
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := nodeArg(args[0])
			if err != nil {
				return err
			}
			throttle, err := move.rate()
			if err != nil {
				return err
			}
			if cancel && (dryRun || throttle > 0) {
				return usagef("--cancel goes with neither --dry-run nor --throttle")
			}
			d := client.Decommission{NodeID: node, Cancel: cancel, Throttle: throttle, DryRun: dryRun}
			return s.withAdmin(func(a *client.Admin) error { return s.decommission(cmd, a, d, move.wait) })
		},
	}
	cmd.Flags().BoolVar(&cancel, "cancel", false, "the broker stays")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan, change nothing")
	move.add(cmd)
	cmd.Flag("wait").Usage = "return when the broker is empty; --wait=false: at once"
	cmd.Flag("wait").DefValue, move.wait = "true", true
	return cmd
}

func (s *shared) decommission(cmd *cobra.Command, a *client.Admin, d client.Decommission, wait bool) error {
	ctx := cmd.Context()
	moves, err := a.DecommissionBroker(ctx, d)
	if err != nil {
		return err
	}
	if d.DryRun {
		rows := planned(moves)
		return s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error { return printPlan(w, rows) })
	}
	b, err := waitMarked(ctx, a, d, wait && !d.Cancel)
	if err != nil {
		return err
	}
	out := map[string]any{"node_id": d.NodeID, "decommissioning": !d.Cancel, "replicas": 0, "voter": false}
	text := fmt.Sprintf("broker %d is empty and forgotten", d.NodeID)
	if b != nil {
		out["replicas"], out["voter"] = b.Replicas, b.Voter
		text = decommissionLine(b)
	}
	return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, text)
		return err
	})
}

func brokerOf(c *client.Cluster, node int32) *client.Broker {
	i := slices.IndexFunc(c.Brokers, func(b client.Broker) bool { return b.NodeID == node })
	if i < 0 {
		return nil
	}
	return &c.Brokers[i]
}

// decommissionLine says where a decommission is, and what comes next.
func decommissionLine(b *client.Broker) string {
	switch {
	case !b.Decommissioning:
		return fmt.Sprintf("broker %d stays, with %d replicas", b.NodeID, b.Replicas)
	case b.Replicas > 0:
		return fmt.Sprintf("broker %d: %d replicas are still to move; the cluster goes on with it", b.NodeID, b.Replicas)
	case b.Voter:
		return fmt.Sprintf("broker %d holds no replica any more. It votes in the metadata quorum: take its vote (penstock cluster voter remove %d) and stop it", b.NodeID, b.NodeID)
	case b.Fenced:
		return fmt.Sprintf("broker %d holds no replica any more and is down: it is about to be forgotten", b.NodeID)
	default:
		return fmt.Sprintf("broker %d holds no replica any more: stop it, and it is forgotten", b.NodeID)
	}
}

// waitMarked waits until a broker is seen as it was asked to be and, if empty is set,
// shows how far its decommission is until it holds no replica. It returns the broker
// as it is then; nil: it is forgotten.
func waitMarked(ctx context.Context, a *client.Admin, d client.Decommission, empty bool) (*client.Broker, error) {
	bar := newProgressBar(os.Stderr)
	defer bar.clear()
	tick := time.NewTicker(movePoll)
	defer tick.Stop()
	most, marked := 0, time.Now()
	for {
		cluster, err := a.Cluster(ctx)
		if err != nil {
			return nil, err
		}
		b := brokerOf(cluster, d.NodeID)
		switch {
		case b == nil:
			return nil, nil
		case b.Decommissioning == d.Cancel:
			// A broker answered that has not heard of it yet, or it was changed again.
			if time.Since(marked) > moveStale {
				return nil, fmt.Errorf("the decommission of broker %d was cancelled or begun again meanwhile", d.NodeID)
			}
		case !empty || b.Replicas == 0:
			return b, nil
		default:
			marked, most = time.Now(), max(most, b.Replicas)
			bar.count(int64(most-b.Replicas), int64(most), "replicas")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; the cluster goes on with the decommission", ctx.Err())
		}
	}
}
