package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// resetTarget is what --to says.
type resetTarget struct {
	offset client.Offset
	shift  int64
	file   string
	kind   resetKind
}

type resetKind int8

const (
	resetToOffset resetKind = iota
	resetByShift
	resetFromFile
)

// parseReset reads earliest, latest, @TIME, an offset, "shift N" or "from-file PATH".
func parseReset(to string) (resetTarget, error) {
	word, rest, _ := strings.Cut(to, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "shift":
		n, err := strconv.ParseInt(rest, 10, 64)
		if err != nil || n == 0 {
			return resetTarget{}, usagef("--to is %q: after shift want a number of records, such as 'shift 100' or 'shift -100'", to)
		}
		return resetTarget{kind: resetByShift, shift: n}, nil
	case "from-file":
		if rest == "" {
			return resetTarget{}, usagef("--to is %q: after from-file want a path, with lines of TOPIC,PARTITION,OFFSET", to)
		}
		return resetTarget{kind: resetFromFile, file: rest}, nil
	}
	offset, err := parseOffset("to", to)
	if err != nil {
		return resetTarget{}, usagef("--to is %q, want earliest, latest, @TIME, an offset, 'shift N' or 'from-file PATH'", to)
	}
	return resetTarget{offset: offset}, nil
}

// moveJSON is a line of the output of `group reset`.
type moveJSON struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Before    int64  `json:"before"` // -1: nothing was committed
	After     int64  `json:"after"`
	Clamped   bool   `json:"clamped,omitempty"` // what was asked for is not in the log
	Error     string `json:"error,omitempty"`
}

func newGroupReset(s *shared) *cobra.Command {
	var topic, to string
	var dryRun bool
	cmd := &cobra.Command{
		Use: "reset GROUP", Short: "Move the offsets of a group that has no members", Args: exactArgs("GROUP"),
		Long: "Moves the committed offsets of a group. It is refused while the group has members: stop them first.\n" +
			"--dry-run shows what a reset would do, and does nothing. An offset outside the log is brought to its nearest end.",
		Example: "  penstock group reset billing --topic orders --to earliest --dry-run\n" +
			"  penstock group reset billing --topic orders --to @2026-01-02T15:04:05Z\n" +
			"  penstock group reset billing --topic orders --to 'shift -100'\n" +
			"  penstock group reset billing --to 'from-file offsets.csv'",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := parseReset(to)
			if err != nil {
				return err
			}
			if topic == "" && target.kind != resetFromFile {
				return usagef("--topic is missing")
			}
			return s.withAdmin(func(a *client.Admin) error {
				moves, err := planReset(cmd.Context(), a, args[0], topic, target)
				if err == nil && !dryRun {
					moves, err = applyReset(cmd.Context(), a, args[0], moves)
				}
				if err != nil {
					return err
				}
				return s.showMoves(cmd.OutOrStdout(), moves)
			})
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "topic whose offsets move")
	cmd.Flags().StringVar(&to, "to", "", "earliest, latest, @TIME, an offset, 'shift N' or 'from-file PATH'")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would move, and move nothing")
	return cmd
}

func planReset(ctx context.Context, a *client.Admin, group, topic string, target resetTarget) ([]client.OffsetMove, error) {
	if target.kind == resetFromFile {
		moves, err := readMoves(target.file, topic)
		if err != nil {
			return nil, err
		}
		return a.PlanOffsets(ctx, group, moves)
	}
	parts, err := a.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	if target.kind == resetByShift {
		return a.PlanShift(ctx, group, target.shift, parts...)
	}
	return a.PlanReset(ctx, group, target.offset, parts...)
}

// applyReset carries a plan out, unless some partition of it cannot be moved:
// the errors are shown then.
func applyReset(ctx context.Context, a *client.Admin, group string, plan []client.OffsetMove) ([]client.OffsetMove, error) {
	if slices.ContainsFunc(plan, func(m client.OffsetMove) bool { return m.Err != nil }) {
		return plan, nil
	}
	return a.ApplyReset(ctx, group, plan)
}

// readMoves reads lines of TOPIC,PARTITION,OFFSET; empty ones and those that
// begin with # are passed over. A topic, if given, picks its lines.
func readMoves(path, topic string) ([]client.OffsetMove, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var moves []client.OffsetMove
	seen := map[client.TopicPartition]int{}
	scanner := bufio.NewScanner(f)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m, err := parseMove(line)
		if err != nil {
			return nil, usagef("%s:%d: %q: %v; want TOPIC,PARTITION,OFFSET", path, n, line, err)
		}
		if first := seen[m.TopicPartition]; first != 0 {
			return nil, usagef("%s:%d: %s stands in line %d already", path, n, m.TopicPartition, first)
		}
		seen[m.TopicPartition] = n
		if topic == "" || m.Topic == topic {
			moves = append(moves, m)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(moves) == 0 {
		return nil, usagef("%s has no offset of what is to be reset", path)
	}
	return moves, nil
}

func parseMove(line string) (m client.OffsetMove, err error) {
	fields := strings.Split(line, ",")
	if len(fields) != 3 {
		return m, fmt.Errorf("%d fields", len(fields))
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	partition, err := strconv.ParseInt(fields[1], 10, 32)
	if err != nil || partition < 0 || fields[0] == "" {
		return m, fmt.Errorf("partition %q", fields[1])
	}
	offset, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || offset < 0 {
		return m, fmt.Errorf("offset %q", fields[2])
	}
	m.TopicPartition, m.After = client.TopicPartition{Topic: fields[0], Partition: int32(partition)}, offset
	return m, nil
}

func (s *shared) showMoves(w io.Writer, moves []client.OffsetMove) error {
	rows := make([]moveJSON, 0, len(moves))
	var errs []error
	for _, m := range moves {
		row := moveJSON{Topic: m.Topic, Partition: m.Partition, Before: m.Before, After: m.After, Clamped: m.Clamped}
		if m.Err != nil {
			row.Error = m.Err.Error()
			errs = append(errs, m.Err)
		}
		rows = append(rows, row)
	}
	err := s.show(w, rows, func(w io.Writer) error {
		return table(w, func(row func(...any)) {
			row("TOPIC", "PARTITION", "BEFORE", "AFTER", "")
			for _, m := range rows {
				note := m.Error
				if m.Clamped {
					note = "brought into the log"
				}
				row(m.Topic, m.Partition, known(m.Before), known(m.After), note)
			}
		})
	})
	return errors.Join(append(errs, err)...)
}
