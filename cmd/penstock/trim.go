package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// trimJSON is a line of the output of `topic trim`.
type trimJSON struct {
	Topic        string `json:"topic"`
	Partition    int32  `json:"partition"`
	LowWatermark int64  `json:"low_watermark"` // -1: unknown
}

func newTopicTrim(s *shared) *cobra.Command {
	var (
		before    string
		partition int32
	)
	cmd := &cobra.Command{
		Use: "trim TOPIC", Short: "Delete a topic's oldest records", Args: exactArgs("TOPIC"),
		Long: "Delete the records before an offset, or those that are older than a time, in every\n" +
			"replica. Nobody reads them any more; their disk space comes back segment by\n" +
			"segment. There is no way to undo it.",
		Example: "  penstock topic trim orders --before @2026-01-02T15:04:05Z\n" +
			"  penstock topic trim orders --before 1000 --partition 2\n" +
			"  penstock topic trim orders --before latest",
		RunE: func(cmd *cobra.Command, args []string) error {
			if before == "" {
				return usagef("--before is missing")
			}
			if before == "earliest" {
				return usagef("--before is \"earliest\", before which there is nothing; want latest, @TIME or an offset")
			}
			where, err := parseOffset("before", before)
			if err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				parts := []client.TopicPartition{{Topic: args[0], Partition: partition}}
				if partition < 0 {
					if parts, err = a.Partitions(cmd.Context(), args[0]); err != nil {
						return err
					}
				}
				deleted, err := a.DeleteRecords(cmd.Context(), where, parts...)
				failed, showErr := s.showTrimmed(cmd.OutOrStdout(), deleted)
				if err == nil {
					err = failed
				}
				return errors.Join(err, showErr)
			})
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "latest, @TIME or an offset: the first that is kept")
	cmd.Flags().Int32Var(&partition, "partition", -1, "this partition alone; -1: all")
	return cmd
}

// showTrimmed prints where the partitions begin. failed are the errors of those
// that were not trimmed.
func (s *shared) showTrimmed(w io.Writer, deleted []client.DeletedRecords) (failed, err error) {
	if len(deleted) == 0 {
		return nil, nil
	}
	rows := make([]trimJSON, 0, len(deleted))
	var errs []error
	for _, d := range deleted {
		errs = append(errs, d.Err)
		rows = append(rows, trimJSON{d.Topic, d.Partition, d.LowWatermark})
	}
	err = s.show(w, rows, func(w io.Writer) error {
		return table(w, func(row func(...any)) {
			row("TOPIC", "PARTITION", "BEGINS AT")
			for _, d := range rows {
				row(d.Topic, d.Partition, known(d.LowWatermark))
			}
		})
	})
	return errors.Join(errs...), err
}
