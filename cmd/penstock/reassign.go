package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
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

func newTopicReassign(s *shared) *cobra.Command {
	var (
		partition int32
		replicas  string
		plan      string
		cancel    bool
		move      moveFlags
	)
	cmd := &cobra.Command{
		Use: "reassign [TOPIC]", Short: "Move the replicas of partitions to other brokers",
		Long: "Give partitions other replicas. The new ones copy the records, in the background;\n" +
			"when all are in sync the partition switches to them, and the brokers that are no\n" +
			"longer named delete their copy. The first replica is the preferred leader. Until\n" +
			"the switch --cancel goes back to the replicas from before.\n\n" +
			"A plan is a JSON file as Kafka's tools write it:\n" +
			"  {\"version\":1,\"partitions\":[{\"topic\":\"orders\",\"partition\":0,\"replicas\":[1,2,3]}]}",
		Example: "  penstock topic reassign orders --partition 0 --replicas 2,3,4 --throttle 50MiB --wait\n" +
			"  penstock topic reassign --plan plan.json\n" +
			"  penstock topic reassign orders --cancel",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("got %d arguments, want one TOPIC, or --plan", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			throttle, err := move.rate()
			if err != nil {
				return err
			}
			asked := reassignFlags{partition, replicas, plan, cancel}
			if err := asked.check(args); err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				changes, err := asked.changes(cmd.Context(), a, args)
				if err != nil {
					return err
				}
				return s.reassign(cmd, a, changes, throttle, move.wait)
			})
		},
	}
	cmd.Flags().Int32Var(&partition, "partition", -1, "this partition; -1, with --cancel: all that are being moved")
	cmd.Flags().StringVar(&replicas, "replicas", "", "node ids of all replicas that the partition is to have, e.g. 1,2,3")
	cmd.Flags().StringVar(&plan, "plan", "", "file with a plan, - for standard input; with --cancel: the partitions in it")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "go back to the replicas from before")
	move.add(cmd)
	return cmd
}

// reassignFlags say which partitions and where to.
type reassignFlags struct {
	partition      int32
	replicas, plan string
	cancel         bool
}

func (f *reassignFlags) check(args []string) error {
	switch {
	case f.plan != "" && (len(args) > 0 || f.partition >= 0 || f.replicas != ""):
		return usagef("--plan names topics, partitions and replicas: give it alone")
	case f.plan != "":
		return nil
	case len(args) == 0:
		return usagef("TOPIC is missing, or --plan")
	case f.cancel && f.replicas != "":
		return usagef("--cancel goes back to the replicas from before: --replicas makes no sense with it")
	case f.cancel:
		return nil
	case f.partition < 0:
		return usagef("--partition is missing: one is moved at a time, or several by a --plan")
	case f.replicas == "":
		return usagef("--replicas is missing, e.g. --replicas 1,2,3")
	}
	return nil
}

func (f *reassignFlags) changes(ctx context.Context, a *client.Admin, args []string) ([]client.Reassignment, error) {
	switch {
	case f.plan != "":
		changes, err := readPlan(f.plan)
		if f.cancel {
			for i := range changes {
				changes[i].Replicas, changes[i].Cancel = nil, true
			}
		}
		return changes, err
	case f.cancel && f.partition < 0:
		return movingOf(ctx, a, args[0])
	}
	c := client.Reassignment{TopicPartition: client.TopicPartition{Topic: args[0], Partition: f.partition}, Cancel: f.cancel}
	if f.cancel {
		return []client.Reassignment{c}, nil
	}
	for field := range strings.SplitSeq(f.replicas, ",") {
		id, err := strconv.ParseInt(strings.TrimSpace(field), 10, 32)
		if err != nil {
			return nil, usagef("--replicas is %q, want node ids such as 1,2,3", f.replicas)
		}
		c.Replicas = append(c.Replicas, int32(id))
	}
	return []client.Reassignment{c}, nil
}

// movingOf cancels what is under way in a topic.
func movingOf(ctx context.Context, a *client.Admin, topic string) ([]client.Reassignment, error) {
	t, err := a.DescribeTopic(ctx, topic)
	if err != nil {
		return nil, err
	}
	list, err := a.ListPartitionReassignments(ctx)
	if err != nil {
		return nil, err
	}
	var out []client.Reassignment
	for i := range list {
		if list[i].Topic == t.Name {
			out = append(out, client.Reassignment{TopicPartition: list[i].TopicPartition, Cancel: true})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no reassignment is under way", topic)
	}
	return out, nil
}

// planFile is a reassignment plan as Kafka's tools write it.
type planFile struct {
	Version    int             `json:"version"`
	Partitions []planPartition `json:"partitions"`
}

type planPartition struct {
	Topic     string  `json:"topic"`
	Partition *int32  `json:"partition"`
	Replicas  []int32 `json:"replicas"`
	// LogDirs is in Kafka's plans. A node has one data directory here.
	LogDirs []string `json:"log_dirs,omitempty"`
}

func readPlan(path string) ([]client.Reassignment, error) {
	data, err := readFileOrStdin(path)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("--plan: %w", err)}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var plan planFile
	if err := dec.Decode(&plan); err != nil {
		return nil, usagef("--plan %s: %v", path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, usagef("--plan %s: something follows the plan", path)
	}
	if plan.Version != 1 {
		return nil, usagef("--plan %s: version %d, want 1", path, plan.Version)
	}
	if len(plan.Partitions) == 0 {
		return nil, usagef("--plan %s: it has no partitions", path)
	}
	out := make([]client.Reassignment, len(plan.Partitions))
	seen := make(map[client.TopicPartition]bool)
	for i, p := range plan.Partitions {
		if p.Topic == "" || p.Partition == nil {
			return nil, usagef("--plan %s: partition %d of the list has no topic or no number", path, i+1)
		}
		for _, dir := range p.LogDirs {
			if dir != "any" {
				return nil, usagef("--plan %s: %s-%d: log_dirs has %q; a node has one data directory, only \"any\" is taken", path, p.Topic, *p.Partition, dir)
			}
		}
		tp := client.TopicPartition{Topic: p.Topic, Partition: *p.Partition}
		if seen[tp] {
			return nil, usagef("--plan %s: %s is named twice", path, tp)
		}
		seen[tp] = true
		out[i] = client.Reassignment{TopicPartition: tp, Replicas: p.Replicas}
	}
	return out, nil
}

func readFileOrStdin(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(path)
}

// reassignJSON is a line of the output of `topic reassign`.
type reassignJSON struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Replicas  []int32 `json:"replicas,omitempty"`
	Cancelled bool    `json:"cancelled,omitempty"`
	Error     string  `json:"error,omitempty"`
}

// reassign asks for the changes, shows what became of each, and waits if asked to.
func (s *shared) reassign(cmd *cobra.Command, a *client.Admin, changes []client.Reassignment, throttle int64, wait bool) error {
	results, err := a.AlterPartitionReassignments(cmd.Context(), throttle, changes...)
	if err != nil {
		return err
	}
	var failed []error
	begun := make(map[client.TopicPartition][]int32)
	rows := make([]reassignJSON, len(changes))
	for i, c := range changes {
		rows[i] = reassignJSON{Topic: c.Topic, Partition: c.Partition, Replicas: c.Replicas, Cancelled: c.Cancel}
		if i < len(results) && results[i].Err != nil {
			failed = append(failed, results[i].Err)
			rows[i].Error = results[i].Err.Error()
			continue
		}
		if !c.Cancel { // that is done at once
			begun[c.TopicPartition] = c.Replicas
		}
	}
	if wait && len(begun) > 0 {
		if err := waitMoved(cmd.Context(), a, begun); err != nil {
			return err
		}
	}
	err = s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error {
		for i, r := range rows {
			switch {
			case r.Error != "":
			case r.Cancelled:
				fmt.Fprintf(w, "%s: cancelled\n", changes[i].TopicPartition)
			case wait:
				fmt.Fprintf(w, "%s: moved to %s\n", changes[i].TopicPartition, ids(r.Replicas))
			default:
				fmt.Fprintf(w, "%s: moving to %s\n", changes[i].TopicPartition, ids(r.Replicas))
			}
		}
		return nil
	})
	return errors.Join(errors.Join(failed...), err)
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
		Topic: r.Topic, Partition: r.Partition, Leader: r.Leader, Replicas: r.Replicas, Adding: r.Adding,
		Removing: r.Removing, Target: r.Target, ISR: r.ISR, Throttle: r.Throttle, Progress: []catchUpJSON{},
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
