package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// plannedJSON is a line of a plan.
type plannedJSON struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	From      []int32 `json:"from"`
	To        []int32 `json:"to"`
}

func planned(moves []client.PlannedMove) []plannedJSON {
	rows := make([]plannedJSON, len(moves))
	for i, m := range moves {
		rows[i] = plannedJSON{m.Topic, m.Partition, m.From, m.To}
	}
	return rows
}

func printPlan(w io.Writer, rows []plannedJSON) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "nothing has to move")
		return err
	}
	return table(w, func(row func(...any)) {
		row("PARTITION", "FROM", "TO")
		for _, r := range rows {
			row(fmt.Sprintf("%s-%d", r.Topic, r.Partition), ids(r.From), ids(r.To))
		}
	})
}

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

func newClusterRebalance(s *shared) *cobra.Command {
	var (
		move   moveFlags
		topics []string
		dryRun bool
	)
	cmd := &cobra.Command{
		Use: "rebalance", Short: "Even out what the brokers have, after one was added", Args: exactArgs(),
		Long: "Even replicas and preferred leaderships out over all brokers that are alive and\n" +
			"stay, with few moves: a replica moves only from a broker that has more than its\n" +
			"share, and no partition is on fewer racks than before. What is moving already is\n" +
			"left alone. Leaderships follow by themselves, or by `penstock topic elect`.",
		Example: "  penstock cluster rebalance --dry-run\n" +
			"  penstock cluster rebalance --throttle 50MiB --wait\n" +
			"  penstock cluster rebalance --topic orders",
		RunE: func(cmd *cobra.Command, _ []string) error {
			throttle, err := move.rate()
			if err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				moves, err := a.Rebalance(cmd.Context(), client.Rebalance{Topics: topics, Throttle: throttle, DryRun: dryRun})
				if err != nil {
					return err
				}
				if move.wait && !dryRun && len(moves) > 0 {
					to := make(map[client.TopicPartition][]int32, len(moves))
					for _, m := range moves {
						to[m.TopicPartition] = m.To
					}
					if err := waitMoved(cmd.Context(), a, to); err != nil {
						return err
					}
				}
				rows := planned(moves)
				return s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error { return printPlan(w, rows) })
			})
		},
	}
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "only this topic; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan, change nothing")
	move.add(cmd)
	return cmd
}

// electedJSON is a line of the output of `topic elect`.
type electedJSON struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Leader    int32  `json:"leader"`
}

// electPreferred asks for the preferred leaders of a partition, a topic or all
// topics. That one leads already is an error only where that one was named.
func (s *shared) electPreferred(cmd *cobra.Command, a *client.Admin, args []string, partition int32) error {
	parts, preferred, err := electable(cmd.Context(), a, args, partition)
	if err != nil {
		return err
	}
	rows := []electedJSON{}
	var failed []error
	for part := range slices.Chunk(parts, 1000) {
		results, err := a.ElectPreferredLeaders(cmd.Context(), part...)
		if err != nil {
			return err
		}
		for _, r := range results {
			e, typed := errors.AsType[*client.Error](r.Err)
			switch {
			case r.Err == nil:
				rows = append(rows, electedJSON{r.Topic, r.Partition, preferred[r.TopicPartition]})
			case typed && e.Code == client.CodeElectionNotNeeded && partition < 0:
			default:
				failed = append(failed, r.Err)
			}
		}
	}
	err = s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error {
		for _, r := range rows {
			fmt.Fprintf(w, "%s-%d: broker %d leads\n", r.Topic, r.Partition, r.Leader)
		}
		if len(rows) == 0 && len(failed) == 0 {
			fmt.Fprintln(w, "the preferred leaders lead already")
		}
		return nil
	})
	return errors.Join(errors.Join(failed...), err)
}

// electable lists the partitions whose preferred leader does not lead.
func electable(ctx context.Context, a *client.Admin, args []string, partition int32) ([]client.TopicPartition, map[client.TopicPartition]int32, error) {
	topics, err := a.ListTopics(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	var parts []client.TopicPartition
	preferred := make(map[client.TopicPartition]int32)
	for _, t := range topics {
		if len(args) > 0 && t.Name != args[0] {
			continue
		}
		for _, p := range t.Partitions {
			tp := client.TopicPartition{Topic: t.Name, Partition: p.Partition}
			if preferred[tp] = p.Replicas[0]; partition < 0 && p.Leader != p.Replicas[0] {
				parts = append(parts, tp)
			}
		}
	}
	if partition >= 0 {
		return []client.TopicPartition{{Topic: args[0], Partition: partition}}, preferred, nil
	}
	if len(args) > 0 && !slices.ContainsFunc(topics, func(t client.Topic) bool { return t.Name == args[0] }) {
		_, err := a.DescribeTopic(ctx, args[0]) // says so
		return nil, nil, err
	}
	return parts, preferred, nil
}

// brokerState is a broker's state in a word or two.
func brokerState(b *client.Broker) string {
	state := "alive"
	switch {
	case b.Replaced:
		state = "waits for a disk"
	case b.Fenced:
		state = "fenced"
	}
	if b.Decommissioning {
		state += ", leaves"
	}
	return state
}
