package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newTopicMend(s *shared) *cobra.Command {
	var partition int32
	var yes bool
	cmd := &cobra.Command{
		Use: "mend TOPIC", Short: "Let a partition go on whose last holder is damaged, without what is behind the damage", Args: exactArgs("TOPIC"),
		Long: "Let a partition go on whose leader is damaged, when no other replica can copy past\n" +
			"the damage. The best copy of all leads then, as far as it is whole. The records\n" +
			"behind the damage are lost to the partition, and new ones get their offsets. As\n" +
			"long as this is not ordered, consumers that seek past the damage can read them;\n" +
			"afterwards the files are still kept (`penstock cluster damaged` says where).\n\n" +
			"Of __consumer_offsets only the batches that cannot be read are given up: the same\n" +
			"replica leads on, with what is in front of them and behind. Offsets that were\n" +
			"committed in them may be missing or older; the groups are told so.\n\n" +
			"Without --yes the command says what would be lost, and does nothing. Refused\n" +
			"while a replica that may hold more is away, but for __consumer_offsets.",
		Example: "  penstock topic mend orders --partition 3\n  penstock topic mend orders --partition 3 --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if partition < 0 {
				return usagef("--partition is missing or negative")
			}
			tp := client.TopicPartition{Topic: args[0], Partition: partition}
			return s.withAdmin(func(a *client.Admin) error { return s.mend(cmd, a, tp, yes) })
		},
	}
	cmd.Flags().Int32Var(&partition, "partition", -1, "partition")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (s *shared) mend(cmd *cobra.Command, a *client.Admin, tp client.TopicPartition, yes bool) error {
	ctx := cmd.Context()
	t, err := a.DescribeTopic(ctx, tp.Topic)
	if err != nil {
		return err
	}
	p, err := partitionOf(t, tp.Partition)
	if err != nil {
		return err
	}
	if !yes {
		return s.mendCost(ctx, a, tp, p.Leader)
	}
	if err := a.GiveUpDamaged(ctx, tp, p.PartitionEpoch); err != nil {
		return err
	}
	leader := awaitLeader(ctx, a, tp)
	out := map[string]any{"topic": tp.Topic, "partition": tp.Partition, "leader": leader}
	return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error {
		if leader < 0 {
			_, err := fmt.Fprintf(w, "%s has no leader yet: one is elected when all replicas have told what they hold\n", tp)
			return err
		}
		kept := "what was behind the damage is kept (penstock cluster damaged)"
		if tp.Topic == offsetsTopic {
			kept = "bytes that could not be read are kept beside its segments (*.torn), and its log says which offsets they were"
		}
		_, err := fmt.Fprintf(w, "node %d leads %s; %s\n", leader, tp, kept)
		return err
	})
}

// mendCost is the refusal to do without --yes what loses records.
func (s *shared) mendCost(ctx context.Context, a *client.Admin, tp client.TopicPartition, leader int32) error {
	all, failed := a.Damaged(ctx)
	for i := range all {
		r := &all[i]
		if r.TopicPartition != tp || !r.Leads || r.NodeID != leader {
			continue
		}
		if !r.CanGiveUp {
			return &unsureError{fmt.Sprintf("node %d leads %s and cannot read offset %d, but what is behind it cannot be given up now",
				r.NodeID, tp, r.WholeTo), "have the broker say why"}
		}
		if tp.Topic == offsetsTopic {
			return &unsureError{fmt.Sprintf("node %d leads %s and cannot read offset %d; that batch, and others that it cannot read, would be given up, with what groups committed in them "+
				"(a replica that is away may have them whole: bring it back first)", r.NodeID, tp, r.WholeTo), "go on without"}
		}
		return &unsureError{fmt.Sprintf("node %d leads %s and cannot read offset %d; what it has behind that, up to %d, would be lost",
			r.NodeID, tp, r.WholeTo, r.End), "go on without"}
	}
	if failed != nil {
		return failed
	}
	return fmt.Errorf("no damage is known of the leader of %s, node %s: there is nothing to mend", tp, nodeName(leader))
}

// awaitLeader returns who leads next; -1: nobody yet.
func awaitLeader(ctx context.Context, a *client.Admin, tp client.TopicPartition) int32 {
	ctx, cancel := context.WithTimeout(ctx, mendWait)
	defer cancel()
	tick := time.NewTicker(healthPoll)
	defer tick.Stop()
	for {
		t, err := a.DescribeTopic(ctx, tp.Topic)
		if err == nil && int(tp.Partition) < len(t.Partitions) && t.Partitions[tp.Partition].Leader >= 0 {
			return t.Partitions[tp.Partition].Leader
		}
		select {
		case <-ctx.Done():
			return -1
		case <-tick.C:
		}
	}
}

// offsetsTopic is the topic of the consumer groups.
const offsetsTopic = "__consumer_offsets"

// mendWait bounds how long `topic mend` waits for the leader that follows.
const mendWait = 10 * time.Second
