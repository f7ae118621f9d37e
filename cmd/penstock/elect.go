package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newTopicElect(s *shared) *cobra.Command {
	var partition, leader int32
	var unclean, yes bool
	cmd := &cobra.Command{
		Use: "elect [TOPIC]", Short: "Let the preferred leaders lead, or order a leader where nobody else can lead",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("got %d arguments, want one TOPIC or none", len(args))
			}
			return nil
		},
		Long: "Let the first replica of each partition lead it, if it is in sync. That happens by\n" +
			"itself when a broker has been back for a while; this command does not wait.\n\n" +
			"With --unclean: order a leader for a partition that has none, although the replica may lack\n" +
			"acknowledged records. What others have and it has not is lost: they are cut to\n" +
			"its log when they come back. Refused while a replica can lead without loss.\n\n" +
			"Without --yes the command says what would be lost, and does nothing.",
		Example: "  penstock topic elect\n" +
			"  penstock topic elect orders --partition 0\n" +
			"  penstock topic elect orders --partition 3 --unclean --leader 2 --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !unclean && (yes || cmd.Flags().Changed("leader")):
				return usagef("--leader and --yes go with --unclean: the preferred leader is the first replica")
			case len(args) == 0 && (unclean || cmd.Flags().Changed("partition")):
				return usagef("TOPIC is missing")
			case !unclean && cmd.Flags().Changed("partition") && partition < 0:
				return usagef("--partition is negative")
			case !unclean:
				return s.withAdmin(func(a *client.Admin) error { return s.electPreferred(cmd, a, args, partition) })
			case !cmd.Flags().Changed("partition") || partition < 0:
				return usagef("--partition is missing or negative")
			case leader < 1:
				return usagef("--leader is missing, want a node id of at least 1")
			}
			return s.withAdmin(func(a *client.Admin) error {
				t, err := a.DescribeTopic(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return s.electUnclean(cmd, a, t, partition, leader, yes)
			})
		},
	}
	f := cmd.Flags()
	f.Int32Var(&partition, "partition", -1, "partition")
	f.Int32Var(&leader, "leader", 0, "node id of the replica that is to lead")
	f.BoolVar(&unclean, "unclean", false, "acknowledged records may be lost")
	f.BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// partitionOf is a partition of a topic, or the error that there is none of that number.
func partitionOf(t *client.Topic, partition int32) (client.PartitionState, error) {
	if int(partition) >= len(t.Partitions) {
		return client.PartitionState{}, fmt.Errorf("topic %s has partitions 0 to %d, not %d", t.Name, len(t.Partitions)-1, partition)
	}
	return t.Partitions[partition], nil
}

// electUnclean orders a leader, or says without --yes what that would cost.
func (s *shared) electUnclean(cmd *cobra.Command, a *client.Admin, t *client.Topic, partition, leader int32, yes bool) error {
	p, err := partitionOf(t, partition)
	if err != nil {
		return err
	}
	switch {
	case yes: // the controller knows whether that is needed
	case p.Leader >= 0:
		return fmt.Errorf("%s-%d is led by node %d and needs no election", t.Name, partition, p.Leader)
	default:
		return &unsureError{uncleanCost(t.Name, p, leader), fmt.Sprintf("elect node %d all the same", leader)}
	}
	if err := a.ElectUnclean(cmd.Context(), client.TopicPartition{Topic: t.Name, Partition: partition}, leader, p.PartitionEpoch); err != nil {
		return err
	}
	out := map[string]any{"topic": t.Name, "partition": partition, "leader": leader, "unclean": true}
	return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "node %d leads %s-%d; records that it did not have are lost\n", leader, t.Name, partition)
		return err
	})
}

// uncleanCost says who may hold what the new leader lacks.
func uncleanCost(topic string, p client.PartitionState, leader int32) string {
	var holders strings.Builder
	for _, set := range []struct {
		name  string
		nodes []int32
	}{{"in sync", p.ISR}, {"eligible", p.ELR}, {"of the last complete in-sync set", p.LastISR}} {
		if len(set.nodes) > 0 {
			fmt.Fprintf(&holders, ", %s: %s", set.name, ids(set.nodes))
		}
	}
	if p.Lost {
		return fmt.Sprintf("every replica of %s-%d that held all acknowledged records was given up; node %d leads with what it has",
			topic, p.Partition, leader)
	}
	return fmt.Sprintf("%s-%d has no leader%s; when those come back they can lead without loss, and node %d may lack what they hold",
		topic, p.Partition, holders.String(), leader)
}

// electedJSON is a line of the output of `topic elect`.
type electedJSON struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Leader    int32  `json:"leader"`
}

// electPreferred asks for the preferred leaders of a partition, a topic or all
// topics. That one leads already is an error only where that one was named.
func (s *shared) electPreferred(cmd *cobra.Command, a *client.Admin, args []string, partition int32) error {
	parts, preferred, err := electable(cmd.Context(), a, args, partition)
	if err != nil {
		return err
	}
	rows := []electedJSON{}
	var failed []error
	for part := range slices.Chunk(parts, 1000) {
		results, err := a.ElectPreferredLeaders(cmd.Context(), part...)
		if err != nil {
			return err
		}
		for _, r := range results {
			e, typed := errors.AsType[*client.Error](r.Err)
			switch {
			case r.Err == nil:
				rows = append(rows, electedJSON{r.Topic, r.Partition, preferred[r.TopicPartition]})
			case typed && e.Code == client.CodeElectionNotNeeded && partition < 0:
			default:
				failed = append(failed, r.Err)
			}
		}
	}
	err = s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error {
		for _, r := range rows {
			fmt.Fprintf(w, "%s-%d: broker %d leads\n", r.Topic, r.Partition, r.Leader)
		}
		if len(rows) == 0 && len(failed) == 0 {
			fmt.Fprintln(w, "the preferred leaders lead already")
		}
		return nil
	})
	return errors.Join(errors.Join(failed...), err)
}

// electable lists the partitions whose preferred leader does not lead.
func electable(ctx context.Context, a *client.Admin, args []string, partition int32) ([]client.TopicPartition, map[client.TopicPartition]int32, error) {
	topics, err := a.ListTopics(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	var parts []client.TopicPartition
	preferred := make(map[client.TopicPartition]int32)
	for _, t := range topics {
		if len(args) > 0 && t.Name != args[0] {
			continue
		}
		for _, p := range t.Partitions {
			tp := client.TopicPartition{Topic: t.Name, Partition: p.Partition}
			if preferred[tp] = p.Replicas[0]; partition < 0 && p.Leader != p.Replicas[0] {
				parts = append(parts, tp)
			}
		}
	}
	if partition >= 0 {
		return []client.TopicPartition{{Topic: args[0], Partition: partition}}, preferred, nil
	}
	if len(args) > 0 && !slices.ContainsFunc(topics, func(t client.Topic) bool { return t.Name == args[0] }) {
		_, err := a.DescribeTopic(ctx, args[0]) // says so
		return nil, nil, err
	}
	return parts, preferred, nil
}
