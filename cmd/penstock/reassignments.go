package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// reassignmentJSON is a line of the output of `cluster reassignments`.
type reassignmentJSON struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Leader    int32         `json:"leader"`
	Replicas  []int32       `json:"replicas"`
	Adding    []int32       `json:"adding"`
	Removing  []int32       `json:"removing"`
	Target    []int32       `json:"target"`
	ISR       []int32       `json:"isr"`
	Throttle  int64         `json:"throttle"`
	Progress  []catchUpJSON `json:"progress"`
}

type catchUpJSON struct {
	NodeID        int32 `json:"node_id"`
	Offset        int64 `json:"offset"`
	End           int64 `json:"log_end_offset"`
	BytesBehind   int64 `json:"bytes_behind"`
	RecordsBehind int64 `json:"records_behind"`
	LogBytes      int64 `json:"log_bytes"`
}

func newClusterReassignments(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "reassignments", Short: "Show which replicas are being moved and how far they are", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				list, err := a.ListPartitionReassignments(cmd.Context())
				if err != nil {
					return err
				}
				rows := make([]reassignmentJSON, len(list))
				for i := range list {
					rows[i] = reassignmentRow(&list[i])
				}
				return s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error { return printReassignments(w, rows) })
			})
		},
	}
}

func reassignmentRow(r *client.ReassignmentState) reassignmentJSON {
	row := reassignmentJSON{
		Topic: r.Topic, Partition: r.Partition, Leader: r.Leader, Replicas: list(r.Replicas), Adding: list(r.Adding),
		Removing: list(r.Removing), Target: list(r.Target), ISR: list(r.ISR), Throttle: r.Throttle, Progress: []catchUpJSON{},
	}
	for _, c := range r.Progress {
		row.Progress = append(row.Progress, catchUpJSON(c))
	}
	return row
}

func printReassignments(w io.Writer, rows []reassignmentJSON) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "no replica is being moved")
		return err
	}
	return table(w, func(row func(...any)) {
		row("PARTITION", "TO", "ADDING", "REMOVING", "IN SYNC", "BEHIND")
		for i := range rows {
			r := &rows[i]
			var behind []string
			for _, c := range r.Progress {
				behind = append(behind, fmt.Sprintf("%d: %d records, %.1f MiB", c.NodeID, c.RecordsBehind, float64(c.BytesBehind)/(1<<20)))
			}
			if len(behind) == 0 {
				behind = []string{"-"}
			}
			row(fmt.Sprintf("%s-%d", r.Topic, r.Partition), ids(r.Target), ids(r.Adding), ids(r.Removing), ids(r.ISR), strings.Join(behind, "; "))
		}
	})
}
