package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

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
