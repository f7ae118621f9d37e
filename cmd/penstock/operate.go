package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// nodeArg reads a node id.
func nodeArg(arg string) (int32, error) {
	n, err := strconv.ParseInt(arg, 10, 32)
	if err != nil || n < 1 {
		return 0, usagef("NODE is %q, want a node id of at least 1", arg)
	}
	return int32(n), nil
}

func newClusterVoter(s *shared) *cobra.Command {
	return s.prints(s.connects(group("voter", "Show and change who votes in the metadata quorum",
		"The `voters` of the configuration founded the cluster; since then who votes is\n"+
			"changed here, one broker at a time.",
		newVoterList(s),
		newVoterChange(s, "add NODE", "Give a broker a vote", true, (*client.Admin).AddVoter,
			"The broker must be alive and have applied the metadata log; one that is new\n"+
				"catches up first."),
		newVoterChange(s, "remove NODE", "Take a broker's vote; it stays a broker", false, (*client.Admin).RemoveVoter,
			"Refused when most of the remaining voters are not alive, which would stop the\n"+
				"cluster for good. The controller hands over first when the vote is its own."),
	)))
}

type voterJSON struct {
	NodeID      int32  `json:"node_id"`
	RaftAddress string `json:"raft_address"`
	Fenced      bool   `json:"fenced"`
	Controller  bool   `json:"controller"`
	Voter       bool   `json:"voter"`
	VotePending bool   `json:"vote_pending"`
}

func newVoterList(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the voters", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				c, err := a.Cluster(cmd.Context())
				if err != nil {
					return err
				}
				rows := []voterJSON{}
				for _, b := range c.Brokers {
					if b.Voter || b.VotePending {
						rows = append(rows, voterJSON{b.NodeID, b.RaftAddress, b.Fenced, b.NodeID == c.Controller, b.Voter, b.VotePending})
					}
				}
				return s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error {
					return table(w, func(row func(...any)) {
						row("NODE", "RAFT ADDRESS", "STATE", "CONTROLLER", "VOTE")
						for _, v := range rows {
							state, vote := "alive", "yes"
							if v.Fenced {
								state = "fenced"
							}
							if !v.Voter {
								vote = "when it has caught up"
							}
							row(v.NodeID, v.RaftAddress, state, v.Controller, vote)
						}
					})
				})
			})
		},
	}
}

// voterChange is a method of client.Admin.
type voterChange func(a *client.Admin, ctx context.Context, node int32) ([]int32, error)

func newVoterChange(s *shared, use, short string, vote bool, change voterChange, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: exactArgs("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := nodeArg(args[0])
			if err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				voters, err := change(a, cmd.Context(), node)
				if err != nil {
					return err
				}
				if len(voters)%2 == 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "warning: %d voters survive the loss of %d, as %d would: add or remove one\n",
						len(voters), (len(voters)-1)/2, len(voters)-1)
				}
				out := map[string]any{"node_id": node, "vote": vote, "voters": voters}
				return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "voters: %s\n", ids(voters))
					return err
				})
			})
		},
	}
}

func newClusterReplace(s *shared) *cobra.Command {
	var acceptLoss bool
	cmd := &cobra.Command{
		Use: "replace NODE", Short: "Give up the disk of a broker that is down, so that it may come back with an empty one", Args: exactArgs("NODE"),
		Long: "Give up the data directory of a broker that is down. Whatever comes with it is\n" +
			"refused from then on, for good. The node may start once with an empty directory\n" +
			"under the same node.id: its replicas catch up from their leaders, and it gets\n" +
			"its vote in the metadata quorum back when it had one.\n\n" +
			"Refused where no other replica surely holds every acknowledged record.",
		Example: "  penstock cluster replace 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := nodeArg(args[0])
			if err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				vote, err := a.ReplaceBroker(cmd.Context(), node, acceptLoss)
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), map[string]any{"replaced": node, "vote": vote}, func(w io.Writer) error {
					fmt.Fprintf(w, "the old disk of node %d is given up; start the node with an empty data.dir\n", node)
					if vote {
						fmt.Fprintln(w, "it gets its vote back when it has caught up")
					}
					return nil
				})
			})
		},
	}
	cmd.Flags().BoolVar(&acceptLoss, "accept-loss", false, "also where acknowledged records, or whole partitions, are lost by it")
	return cmd
}

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
				if int(partition) >= len(t.Partitions) {
					return usagef("topic %s has partitions 0 to %d, not %d", t.Name, len(t.Partitions)-1, partition)
				}
				p := t.Partitions[partition]
				if !yes {
					return usagef("%s; give --yes to elect node %d all the same", uncleanCost(t.Name, p, leader), leader)
				}
				if err := a.ElectUnclean(cmd.Context(), client.TopicPartition{Topic: t.Name, Partition: partition}, leader, p.PartitionEpoch); err != nil {
					return err
				}
				out := map[string]any{"topic": t.Name, "partition": partition, "leader": leader, "unclean": true}
				return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "node %d leads %s-%d; records that it did not have are lost\n", leader, t.Name, partition)
					return err
				})
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
	switch {
	case p.Leader >= 0:
		return fmt.Sprintf("%s-%d is led by node %d and needs no election", topic, p.Partition, p.Leader)
	case p.Lost:
		return fmt.Sprintf("every replica of %s-%d that held all acknowledged records was given up; node %d leads with what it has",
			topic, p.Partition, leader)
	default:
		return fmt.Sprintf("%s-%d has no leader%s; when those come back they can lead without loss, and node %d may lack what they hold",
			topic, p.Partition, holders.String(), leader)
	}
}
