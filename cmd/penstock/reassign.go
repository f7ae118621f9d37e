package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

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
