package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newCluster(s *shared) *cobra.Command {
	return s.prints(s.connects(group("cluster", "Show brokers and health, move replicas, change who votes, replace and remove brokers", "",
		newClusterStatus(s), newClusterHealth(s), newClusterReassignments(s), newClusterDamaged(s), newClusterDecommission(s), newClusterRebalance(s),
		newClusterVoter(s), newClusterReplace(s), newClusterRemove(s))))
}

// clusterJSON is the output of `cluster status -o json` and `cluster health -o json`.
type clusterJSON struct {
	ClusterID       string       `json:"cluster_id"`
	Controller      int32        `json:"controller"`
	Healthy         bool         `json:"healthy"`
	Unconfirmed     bool         `json:"unconfirmed"`
	Topics          int          `json:"topics"`
	Partitions      int          `json:"partitions"`
	Leaderless      int          `json:"leaderless_partitions"`
	UnderReplicated int          `json:"under_replicated_partitions"`
	UnderMinISR     int          `json:"under_min_isr_partitions"`
	DamagedLeaders  int          `json:"damaged_leaders"`
	FeatureLevel    uint32       `json:"feature_level"`
	Brokers         []brokerJSON `json:"brokers"`
}

type brokerJSON struct {
	NodeID      int32  `json:"node_id"`
	Address     string `json:"address"`
	Rack        string `json:"rack,omitempty"`
	Fenced      bool   `json:"fenced"`
	BrokerEpoch int64  `json:"broker_epoch"`
	Voter       bool   `json:"voter"`
	Version     string `json:"version"`
	Replaced    bool   `json:"replaced"`
	VotePending bool   `json:"vote_pending"`
	Level       uint32 `json:"feature_level"`
	Replicas    int    `json:"replicas"`
	Leaves      bool   `json:"decommissioning"`
}

func describeCluster(c *client.Cluster) clusterJSON {
	out := clusterJSON{
		ClusterID: c.ID, Controller: c.Controller, Healthy: c.Healthy(), Unconfirmed: c.Unconfirmed, Topics: c.Topics, Partitions: c.Partitions,
		Leaderless: c.Leaderless, UnderReplicated: c.UnderReplicated, UnderMinISR: c.UnderMinISR, DamagedLeaders: len(c.DamagedLeaders),
		FeatureLevel: c.FeatureLevel,
	}
	for _, b := range c.Brokers {
		out.Brokers = append(out.Brokers, brokerJSON{
			b.NodeID, b.Address, b.Rack, b.Fenced, b.BrokerEpoch, b.Voter, b.Version, b.Replaced, b.VotePending, b.FeatureLevel,
			b.Replicas, b.Decommissioning,
		})
	}
	return out
}

func newClusterStatus(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the brokers and count what is amiss", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				c, err := a.Cluster(cmd.Context())
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), describeCluster(c), func(w io.Writer) error { return printCluster(w, c) })
			})
		},
	}
}

func printCluster(w io.Writer, c *client.Cluster) error {
	fmt.Fprintf(w, "cluster %s, controller %s, feature level %d\n%s\n\n", c.ID, nodeName(c.Controller), c.FeatureLevel, healthLine(c))
	return table(w, func(row func(...any)) {
		row("NODE", "ADDRESS", "STATE", "REPLICAS", "VOTER", "RACK", "EPOCH", "VERSION")
		for _, b := range c.Brokers {
			row(b.NodeID, b.Address, brokerState(&b), b.Replicas, b.Voter, b.Rack, b.BrokerEpoch, b.Version)
		}
	})
}

func healthLine(c *client.Cluster) string {
	fenced := 0
	for _, b := range c.Brokers {
		if b.Fenced {
			fenced++
		}
	}
	line := fmt.Sprintf("%d topics, %d partitions: %d without a leader, %d under-replicated, %d below min.insync.replicas; %d of %d brokers fenced",
		c.Topics, c.Partitions, c.Leaderless, c.UnderReplicated, c.UnderMinISR, fenced, len(c.Brokers))
	if n := len(c.DamagedLeaders); n > 0 {
		line += fmt.Sprintf("; %d led by a damaged replica (penstock cluster damaged)", n)
	}
	if c.Unconfirmed {
		line += "; no controller confirms it, this is what a broker heard last"
	}
	return line
}

const healthPoll = 100 * time.Millisecond

func newClusterHealth(s *shared) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "health", Short: "Exit 0 if every partition has a leader and a full in-sync set", Args: exactArgs(),
		Long: "Exit 0 if there is a controller that confirms it, no broker is fenced, and every\n" +
			"partition has a leader, which is not damaged, and a full in-sync set; 1 otherwise.",
		Example: "  penstock cluster health --wait 30s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				c, err := waitHealthy(cmd.Context(), a, wait)
				if err != nil {
					return err
				}
				err = s.show(cmd.OutOrStdout(), describeCluster(c), func(w io.Writer) error {
					_, err := fmt.Fprintln(w, healthLine(c))
					return err
				})
				if err == nil && !c.Healthy() {
					err = fmt.Errorf("not healthy: %s", strings.Join(amiss(c), ", "))
				}
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "ask again until healthy, for this long")
	return cmd
}

// amiss lists what keeps a cluster from being healthy.
func amiss(c *client.Cluster) []string {
	var out []string
	if c.Unconfirmed || c.Controller < 0 {
		out = append(out, "no controller confirms it")
	}
	for i := range c.Brokers {
		if b := &c.Brokers[i]; b.Fenced {
			out = append(out, fmt.Sprintf("broker %d: %s", b.NodeID, brokerState(b)))
		}
	}
	for _, n := range []struct {
		count int
		what  string
	}{
		{c.Leaderless, "without a leader"},
		{c.UnderReplicated, "under-replicated"},
		{c.UnderMinISR, "below min.insync.replicas"},
		{len(c.DamagedLeaders), "led by a damaged replica"},
	} {
		if n.count > 0 {
			out = append(out, count(int64(n.count), "partition", "partitions")+" "+n.what)
		}
	}
	return out
}

// waitHealthy asks until the cluster is healthy or the time is up, and returns
// the last answer; an error only when the last try had none.
func waitHealthy(ctx context.Context, a *client.Admin, wait time.Duration) (*client.Cluster, error) {
	deadline := time.Now().Add(wait)
	tick := time.NewTicker(healthPoll)
	defer tick.Stop()
	for {
		asked, cancel := context.WithDeadline(ctx, time.Now().Add(max(time.Until(deadline), 2*time.Second)))
		c, err := a.Cluster(asked)
		cancel()
		if err == nil && c.Healthy() || !time.Now().Before(deadline) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return c, ctx.Err()
		case <-tick.C:
		}
	}
}

// brokerState is a broker's state in a word or two.
func brokerState(b *client.Broker) string {
	state := "alive"
	switch {
	case b.Replaced:
		state = "waits for a disk"
	case b.Fenced:
		state = "fenced"
	}
	if b.Decommissioning {
		state += ", leaves"
	}
	return state
}

// nodeArg reads a node id.
func nodeArg(arg string) (int32, error) {
	n, err := strconv.ParseInt(arg, 10, 32)
	if err != nil || n < 1 {
		return 0, usagef("NODE is %q, want a node id of at least 1", arg)
	}
	return int32(n), nil
}
