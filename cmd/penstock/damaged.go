package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// damagedJSON is a line of the output of `cluster damaged`.
type damagedJSON struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	NodeID    int32  `json:"node_id"`
	Kept      string `json:"kept,omitempty"`
	Leads     bool   `json:"leads"`
	Damage    string `json:"damage,omitempty"`
	WholeTo   int64  `json:"whole_to"`
	End       int64  `json:"log_end_offset"`
	CanGiveUp bool   `json:"can_give_up"`
}

func newClusterDamaged(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "damaged", Short: "Show damaged replicas, and what is kept of earlier ones", Args: exactArgs(),
		Long: "Show the replicas whose logs are damaged, and the folders in which what is left of\n" +
			"damaged ones is kept. One that leads takes no records. Where it says so,\n" +
			"`penstock topic mend` gets the partition going again, at the price of what is\n" +
			"behind the damage.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				all, failed := a.Damaged(cmd.Context())
				if failed != nil && len(all) == 0 {
					return failed
				}
				if err := s.showDamaged(cmd.OutOrStdout(), all); err != nil {
					return err
				}
				return failed
			})
		},
	}
}

func (s *shared) showDamaged(w io.Writer, all []client.DamagedReplica) error {
	rows := make([]damagedJSON, 0, len(all))
	for _, r := range all {
		rows = append(rows, damagedJSON{r.Topic, r.Partition, r.NodeID, r.Kept, r.Leads, r.Damage, r.WholeTo, r.End, r.CanGiveUp})
	}
	return s.show(w, rows, func(w io.Writer) error {
		if len(rows) == 0 {
			_, err := fmt.Fprintln(w, "no damaged replica is known")
			return err
		}
		return table(w, func(row func(...any)) {
			row("NODE", "PARTITION", "WHOLE TO", "END", "STATE")
			for i := range all {
				r := &all[i]
				row(r.NodeID, r.TopicPartition, known(r.WholeTo), known(r.End), damagedState(r))
			}
		})
	})
}

// damagedState says what a damaged replica is about to do, or waits for.
func damagedState(r *client.DamagedReplica) string {
	switch {
	case r.Kept != "":
		return "kept in " + r.Kept
	case r.CanGiveUp:
		return r.Damage + "; leads, and nobody can take over: see penstock topic mend"
	case r.Leads:
		return r.Damage + "; leads until another can take over"
	default:
		return r.Damage + "; is to be copied anew"
	}
}
