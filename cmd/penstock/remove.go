package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newClusterRemove(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "remove NODE", Short: "Forget a broker that is down and holds no replica", Args: exactArgs("NODE"),
		Long: "Forget a broker that is down for good and holds no replica, with its vote in the\n" +
			"metadata quorum. Its data directory does not come back; a new node may take the\n" +
			"node.id.",
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := nodeArg(args[0])
			if err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				if err := a.RemoveBroker(cmd.Context(), node); err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), map[string]any{"removed": node}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "removed node %d\n", node)
					return err
				})
			})
		},
	}
}
