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
	"github.com/penstock/penstock/node"
)

// moveFlags are those of every command that moves replicas.
type moveFlags struct {
	throttle string
	wait     bool
}

func (m *moveFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&m.throttle, "throttle", "", "how much a leader sends a second to the replicas that catch up, e.g. 50MiB; default: reassignment.throttle.bytes of its broker")
	cmd.Flags().BoolVar(&m.wait, "wait", false, "return when the replicas are where they should be")
}

// rate is the throttle in bytes; 0: not given.
func (m *moveFlags) rate() (int64, error) {
	if m.throttle == "" {
		return 0, nil
	}
	n, err := node.ParseSize(m.throttle)
	if err != nil || n < 1 {
		return 0, usagef("--throttle is %q, want a size such as 50MiB, from 1", m.throttle)
	}
	return n, nil
}

const (
	movePoll = 200 * time.Millisecond
	// moveStale is how long an answer may come from a broker that has not heard yet of
	// what another one confirmed.
	moveStale = 5 * time.Second
)

// waitMoved returns when the partitions have the replicas that they are to have.
// Brokers answer by what they know: one that has not heard of the move yet shows
// none, too.
func waitMoved(ctx context.Context, a *client.Admin, to map[client.TopicPartition][]int32) error {
	bar := newProgressBar(os.Stderr)
	defer bar.clear()
	tick := time.NewTicker(movePoll)
	defer tick.Stop()
	idle := time.Now() // since when none of those that are left is seen to move
	for {
		left, moving, err := leftToMove(ctx, a, to)
		switch {
		case err != nil:
			return err
		case len(left) == 0:
			return nil
		case len(moving) > 0:
			idle = time.Now()
			bar.set(copied(moving))
		case time.Since(idle) > moveStale:
			return fmt.Errorf("%s has the replicas %s, not %s, and does not move: that was cancelled or redirected",
				left[0].TopicPartition, ids(left[0].From), ids(left[0].To))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; the replicas go on moving", ctx.Err())
		}
	}
}

// leftToMove are the partitions that do not have the replicas yet that they are to
// have, and the reassignments of those that are seen to move.
func leftToMove(ctx context.Context, a *client.Admin, to map[client.TopicPartition][]int32) ([]client.PlannedMove, []client.ReassignmentState, error) {
	topics, err := a.ListTopics(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	var left []client.PlannedMove
	var parts []client.TopicPartition
	for _, t := range topics {
		for _, p := range t.Partitions {
			tp := client.TopicPartition{Topic: t.Name, Partition: p.Partition}
			want, asked := to[tp]
			if !asked || slices.Equal(p.Replicas, want) && len(p.Adding)+len(p.Removing) == 0 {
				continue
			}
			left = append(left, client.PlannedMove{TopicPartition: tp, From: p.Replicas, To: want})
			parts = append(parts, tp)
		}
	}
	if len(left) == 0 {
		return nil, nil, nil
	}
	moving, err := a.ListPartitionReassignments(ctx, parts...)
	return left, moving, err
}

// copied is how much of what has to be copied is there.
func copied(list []client.ReassignmentState) (done, total int64) {
	for i := range list {
		for _, c := range list[i].Progress {
			done += c.LogBytes - min(c.BytesBehind, c.LogBytes)
			total += c.LogBytes
		}
	}
	return done, total
}

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
		rows[i] = plannedJSON{m.Topic, m.Partition, list(m.From), list(m.To)}
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
