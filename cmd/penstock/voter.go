package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

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
