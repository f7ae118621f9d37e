package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newClusterReplace(s *shared) *cobra.Command {
	var acceptLoss bool
	cmd := &cobra.Command{
		Use: "replace NODE", Short: "Give up the disk of a broker that is down, so that it may come back with an empty one", Args: exactArgs("NODE"),
		Long: "Give up the data directory of a broker that is down. Whatever comes with it is\n" +
			"refused from then on, for good. The node may start once with an empty directory\n" +
			"under the same node.id: its replicas catch up from their leaders, and it gets\n" +
			"its vote in the metadata quorum back when it had one.\n\n" +
			"Refused where no other replica surely holds every acknowledged record.",
		Example: "  penstock cluster replace 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := nodeArg(args[0])
			if err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				vote, err := a.ReplaceBroker(cmd.Context(), node, acceptLoss)
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), map[string]any{"replaced": node, "vote": vote}, func(w io.Writer) error {
					fmt.Fprintf(w, "the old disk of node %d is given up; start the node with an empty data.dir\n", node)
					if vote {
						fmt.Fprintln(w, "it gets its vote back when it has caught up")
					}
					return nil
				})
			})
		},
	}
	cmd.Flags().BoolVar(&acceptLoss, "accept-loss", false, "also where acknowledged records, or whole partitions, are lost by it")
	return cmd
}
